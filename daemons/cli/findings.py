"""What a check of ``a2actl doctor`` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Check(NamedTuple):
    """One check: what was looked at, what was found, and what would mend it; ``findings`` are details of the state.

    With ``ok`` and a ``fix`` it is a note: it works, and could be better.
    """

    name: str
    ok: bool
    text: str
    fix: str = ""
    findings: Sequence[Mapping[str, Any]] = ()
