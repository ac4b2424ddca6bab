"""An asyncio event loop on virtual time: nothing ever waits, timers fire in order, every run with the same seed is
the same."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from a2a_zmq.clock import Now

T = TypeVar("T")

# The simulated wall clock starts here (2025-11-28T10:00:00Z), so that traces show plausible times.
WALL_EPOCH_S = 1764324000.0


class Deadlock(RuntimeError):
    """Everybody waits and no timer is armed."""


class _InstantSelector(selectors.BaseSelector):
    """Never blocks: the time that select() would have waited passes at once."""

    def __init__(self, pass_time: Callable[[float], None]) -> None:
        self._pass_time = pass_time
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return self._keys[fd]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("no timer is armed and nothing is ready")
        if timeout > 0:
            self._pass_time(timeout)
        return []

    def close(self) -> None:
        self._keys.clear()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """Event loop whose clock moves only when there is nothing left to do."""

    def __init__(self) -> None:
        self._virtual_s = 0.0
        super().__init__(_InstantSelector(self._advance))

    def _advance(self, seconds: float) -> None:
        self._virtual_s += seconds

    def time(self) -> float:
        return self._virtual_s

    def now(self) -> Now:
        return Now(self._virtual_s, WALL_EPOCH_S + self._virtual_s)


def run_virtual(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run ``main(loop)`` to its end on virtual time."""
    loop = VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main(loop))
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()
