"""How daemons of a private fleet ended unasked: its supervisor starts them again, so that nobody else sees it."""

from __future__ import annotations

import signal
from typing import Final, NamedTuple, Protocol

EX_SOFTWARE: Final = 70  # an internal error, by its own account


class Ended(Protocol):
    """What is looked at of a daemon."""

    name: str
    starts: int

    @property
    def exit_status(self) -> int | None: ...


class End(NamedTuple):
    """A daemon ended, and was not asked to.

    Attributes:
        status: as subprocess says it: negative for a signal.
    """

    name: str
    status: int

    @property
    def crashed(self) -> bool:
        """Whether no state of the fleet around it explains that: an internal error, or a signal that nobody sent."""
        return self.status == EX_SOFTWARE or self.status < 0

    def __str__(self) -> str:
        if self.status >= 0:
            return f"{self.name} ended with status {self.status}"
        try:
            return f"{self.name} was ended by {signal.Signals(-self.status).name}"
        except ValueError:
            return f"{self.name} was ended by signal {-self.status}"


class Ends:
    """Knows which signals were sent, and notes each end once. Pure.

    Attributes:
        unasked: ends that no signal of ours explains.
        over: the fleet is being stopped: what ends now was asked to.
    """

    def __init__(self) -> None:
        self.unasked: list[End] = []
        self.over = False
        self._sent: dict[tuple[str, int], set[int]] = {}
        self._noted: set[tuple[str, int]] = set()

    def sent(self, daemon: Ended, number: int) -> None:
        """This process gets a signal from us."""
        if daemon.exit_status is None:  # else it ended by itself before
            self._sent.setdefault((daemon.name, daemon.starts), set()).add(number)

    def note(self, daemon: Ended) -> None:
        """Look whether this process has ended; to be called before another one takes its place."""
        process, status = (daemon.name, daemon.starts), daemon.exit_status
        if status is None or self.over or process in self._noted:
            return
        self._noted.add(process)
        sent = self._sent.pop(process, set())
        # Who is asked to leave does so with status 0, or dies of it where it cannot listen yet.
        if -status in sent or (status == 0 and sent & {signal.SIGTERM, signal.SIGINT}):
            return
        self.unasked.append(End(daemon.name, status))
