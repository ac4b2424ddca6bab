"""Closing what a daemon has open: all of it, although some cannot be closed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any


async def close_all(closers: Iterable[Callable[[], Any]], log: Any) -> Exception | None:
    """Call these in order, and await what they give to be awaited.

    Returns:
        the first error, if there was one; all are in the log.
    """
    first: Exception | None = None
    for close in closers:
        try:
            done = close()
            if inspect.isawaitable(done):
                await done
        except Exception as error:
            log.error("not_closed", why=f"{type(error).__name__}: {error}")
            first = first or error
    return first
