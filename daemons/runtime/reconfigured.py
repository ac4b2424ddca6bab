"""Settings that change while a daemon runs, as its core hears of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(slots=True)
class Reconfigured:
    """The settings were read again. ``config`` is the role's own, whole; what it says holds from now on."""

    config: Any


def adopt(ours: Any, new: Any) -> None:
    """Make our configuration say what ``new`` says; all parts of a core share the one object."""
    for member in fields(new):
        setattr(ours, member.name, getattr(new, member.name))
