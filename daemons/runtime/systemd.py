"""Tells systemd how a daemon is (``sd_notify``); where systemd did not start it, nothing is said.

A unit with ``Type=notify`` counts as started when the agent is ready, or has waited so long that what it waits for is
somebody else's to mend: then ``systemctl status`` says what that is. With ``WatchdogSec=`` the messaging loop itself
reports; when it hangs, systemd kills and restarts the daemon.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import Callable
from typing import Final, Protocol

# An agent that is not ready after this long counts as started all the same: a standby never is, and a worker whose
# distributor is away would be started over and over.
PATIENCE_S: Final = 10.0
# How often readiness is asked for, before the start is reported and later.
LOOK_S: Final = 0.05
LOOK_AGAIN_S: Final = 1.0
# systemd cuts longer messages of one datagram; a status is for one line.
STATUS_CHARACTERS: Final = 200


class Notices:
    """What is to be said, and when; seconds are monotonic."""

    def __init__(self, watchdog_s: float = 0.0) -> None:
        """
        Args:
            watchdog_s: systemd kills a daemon that says nothing for this long; 0: it does not look.
        """
        self._watchdog_s = watchdog_s
        self._began = math.nan
        self._beat_at = -math.inf
        self._look_at = -math.inf
        self._started = self._leaving = False
        self._status = ""

    def at(self, mono: float, ready: Callable[[], tuple[bool, str]], leaving: str) -> list[str]:
        """Assignments for systemd, as the messaging loop goes round.

        Args:
            ready: (the agent is ready, why not).
            leaving: why the daemon ends, "" if it does not.
        """
        said = []
        if self._watchdog_s and mono >= self._beat_at:
            self._beat_at = mono + self._watchdog_s / 4
            said.append("WATCHDOG=1")
        if leaving and not self._leaving:
            self._leaving = True
            said += ["STOPPING=1", f"STATUS=leaving: {leaving}"]
        if not self._leaving and mono >= self._look_at:
            said += self._look(mono, *ready())
        return said

    def _look(self, mono: float, ready: bool, why_not: str) -> list[str]:
        if math.isnan(self._began):
            self._began = mono
        said = []
        status = "ready" if ready else " ".join(why_not.split())[:STATUS_CHARACTERS]
        if status != self._status:
            self._status = status
            said.append(f"STATUS={status}")
        if not self._started and (ready or mono - self._began >= PATIENCE_S):
            self._started = True
            said.append("READY=1")
        self._look_at = mono + (LOOK_AGAIN_S if self._started else LOOK_S)
        return said


class Beating(Protocol):
    """A shell, which says when its loop goes round."""

    on_beat: Callable[[float], None]


class Notifier:
    """Sends notices to the systemd that started this process."""

    def __init__(self, address: str, watchdog_s: float = 0.0) -> None:
        self._notices = Notices(watchdog_s)
        self._unsent: dict[str, str] = {}
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    @classmethod
    def of_environment(cls) -> Notifier | None:
        """The one that systemd asked for, if it did; what this process starts is not asked."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        watchdog, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return None
        watched = watchdog.isdigit() and pid in ("", str(os.getpid()))
        return cls(address, int(watchdog) / 1e6 if watched else 0.0)

    def follow(self, shell: Beating, *, ready: Callable[[], tuple[bool, str]], leaving: Callable[[], str]) -> None:
        """Report for as long as the shell's loop goes round."""
        former = shell.on_beat

        def on_beat(mono: float) -> None:
            former(mono)
            self._send(self._notices.at(mono, ready, leaving()))

        shell.on_beat = on_beat

    def close(self) -> None:
        self._socket.close()

    def _send(self, said: list[str]) -> None:
        for line in said:
            name, _, value = line.partition("=")
            self._unsent[name] = value
        if not self._unsent:
            return
        text = "\n".join(f"{name}={value}" for name, value in self._unsent.items())
        # A systemd that is busy, or being restarted, hears it at the next round.
        with contextlib.suppress(OSError):
            self._socket.sendto(text.encode(), self._address)
            self._unsent.clear()
