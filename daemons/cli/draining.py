"""``a2actl drain --wait``: until the agent has left."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from a2a_zmq.client.limits import TRANSIENT
from a2a_zmq.client.sync import FleetClient
from a2a_zmq.config import split_address
from a2a_zmq.errors import FleetError, FleetUnavailable, KeyRefused, RequestRefused
from daemons.cli.invocation import DEFAULT_TIMEOUT_S, EX_TEMPFAIL, EX_UNAVAILABLE, CommandFailed, Invocation
from daemons.cli.output import counted
from daemons.cli.progress import Busy

POLL_S = 0.25
# An agent may be away for a moment (its connection broke, a standby takes over): so long it must be seen as gone.
SURE_S: Final = 1.0
# One that is not listed at all may not have joined again yet, after its distributor or the coordinator was replaced.
UNLISTED_S: Final = 5.0
# So long a coordinator that is new may take to hear of those that are there.
NEW_S: Final = 5.0
# So long a coordinator that is asked whether it is still there may take to answer, before it is asked again.
LOOK_S: Final = 1.0
# A proxy or a host that restarts refuses connections for a moment, too: so long nobody must listen there.
REFUSED_S: Final = 3.0


class Look(NamedTuple):
    """What one status says of an agent that was told to drain.

    Attributes:
        tasks: how many it still has; None where nobody can tell.
        gone_s: it is not there, or not that process any more, and counts as gone once that was seen for so long; None:
            it is there, or nobody can tell.
    """

    tasks: int | None = None
    gone_s: float | None = None


UNKNOWN: Final = Look()
GONE: Final = Look(gone_s=SURE_S)


def wait_left(run: Invocation, client: FleetClient, agent_id: str, before: dict[str, Any]) -> bool:
    """Wait; a terminal shows how much it still has.

    Args:
        client: who told it to drain: a coordinator's good-bye comes on that connection.
        before: the fleet's status as it was told to drain.

    Raises:
        CommandFailed: it has not left within ``--timeout``, or nobody can tell.
        FleetUnavailable: nobody is left to ask, and it was not the coordinator that was drained.
    """
    leaving = Leaving(agent_id, before, time.monotonic())
    busy = Busy(f"{agent_id} drains", enabled=not run.json)
    if not leaving.is_coordinator:
        with busy:
            return _poll(run, client, leaving, busy, None)
    # Whoever asks the coordinator itself must not wait for the answer for as long as the user would.
    with busy, run.client(LOOK_S) as asked:
        return _poll(run, asked, leaving, busy, Silence(agent_id, client, _addresses(run, agent_id)))


def _poll(run: Invocation, client: FleetClient, leaving: Leaving, busy: Busy, silence: Silence | None) -> bool:
    """Look until it has left.

    Args:
        silence: what is made of no answer; None: that is an error.
    """
    agent_id = leaving.agent_id
    until = None if run.timeout_s is None else time.monotonic() + run.timeout_s
    while True:
        if silence is not None and silence.said_goodbye():
            return True
        try:
            status = client.status(load=True)
        except FleetError as error:
            if silence is None:
                raise
            if silence.shows_end(error, until):
                return True
            time.sleep(POLL_S)
            continue
        if leaving.has_left(status, time.monotonic()):
            return True
        if silence is not None:
            silence.ended()
        count = leaving.tasks
        busy.say(f"{agent_id} drains" if count is None else f"{agent_id} drains: {counted(count, 'task')} left")
        if until is not None and time.monotonic() >= until:
            text = f"{agent_id} drains still"
            raise CommandFailed(text if count is None else f"{text}, with {counted(count, 'task')}", EX_TEMPFAIL)
        time.sleep(POLL_S)


class Silence:
    """A coordinator that was told to drain does not answer (it may have left, or only be out of reach for a moment).

    Args:
        client: has, or had, a session with it.
        addresses: where it listens, as far as that can be tried.
    """

    def __init__(self, agent_id: str, client: FleetClient, addresses: list[tuple[str, int]]) -> None:
        self._agent_id = agent_id
        self._client = client
        self._addresses = addresses
        self._since: float | None = None
        self._refused_since: float | None = None

    def said_goodbye(self) -> bool:
        """It does that as the last thing before its process ends."""
        return self._client.departed == self._agent_id

    def ended(self) -> None:
        """A coordinator answers."""
        self._since = self._refused_since = None

    def shows_end(self, error: FleetError, until: float | None) -> bool:
        """Whether it has left.

        Args:
            error: what became of a question.
            until: monotonic time at which waiting ends; None: when the silence has lasted for too long.

        Raises:
            KeyRefused: it is there, and says nothing of who else is.
            RequestRefused: for good.
            CommandFailed: nobody can tell in time.
        """
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if not isinstance(error, FleetUnavailable) or not refused(self._addresses):
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        if self.said_goodbye() or (self._refused_since is not None and now - self._refused_since >= REFUSED_S):
            return True
        if isinstance(error, KeyRefused) or (isinstance(error, RequestRefused) and error.code not in TRANSIENT):
            raise error
        if now >= (self._since + DEFAULT_TIMEOUT_S if until is None else until):
            text = f"{self._agent_id} was told to drain; whether it has left is not known: {error}"
            raise CommandFailed(text, EX_UNAVAILABLE)
        return False


def _addresses(run: Invocation, agent_id: str) -> list[tuple[str, int]]:
    """Where the coordinator listens, by the settings; what is no TCP cannot be tried."""
    named = [split_address(text) for text in run.settings.coordinator_address]
    own = [address for name, address in named if (name or run.settings.coordinator_id) == agent_id]
    parts = [address.removeprefix("tcp://").rpartition(":") for address in own if address.startswith("tcp://")]
    return [(host.strip("[]"), int(port)) for host, _, port in parts]


def refused(addresses: list[tuple[str, int]]) -> bool:
    """Each of them is reached, and nobody listens there. (Whoever cannot be reached may live.)"""
    for address in addresses:
        try:
            with socket.create_connection(address, LOOK_S):
                return False
        except ConnectionRefusedError:
            continue
        except OSError:
            return False
    return bool(addresses)


class Leaving:
    """Follows one agent from status to status. Pure.

    Args:
        before: the fleet's status as it was told to drain, at ``now`` (monotonic).

    Attributes:
        agent_id: the one that is followed.
        is_coordinator: it was the coordinator that led then.
        tasks: how many it has by the last status; None where nobody can tell.
    """

    def __init__(self, agent_id: str, before: dict[str, Any], now: float) -> None:
        coordinator = before.get("coordinator") or {}
        self.is_coordinator = coordinator.get("id") == agent_id
        self.tasks: int | None = None
        self.agent_id = agent_id
        self._home = next((str(site.get("id")) for site, _ in _workers(before, agent_id)), "")
        self._gone_since: float | None = None
        self._term = _term(coordinator)
        self._known_since = now - float(coordinator.get("uptime_s") or 0.0)

    def has_left(self, status: dict[str, Any], now: float) -> bool:
        """Whether this status, and those before it, show that it has."""
        term = _term(status.get("coordinator") or {})
        if term != self._term:
            self._term, self._known_since, self._gone_since = term, now, None
        found = self._look(status, new=now - self._known_since < NEW_S)
        self.tasks = found.tasks
        if found.gone_s is None:
            self._gone_since = None
            return False
        if self._gone_since is None:
            self._gone_since = now
        return now - self._gone_since >= found.gone_s

    def _look(self, status: dict[str, Any], *, new: bool) -> Look:
        coordinator = status.get("coordinator") or {}
        if self.is_coordinator:
            if coordinator.get("id") == self.agent_id:
                return Look(0) if coordinator.get("draining") is True else GONE
            return UNKNOWN if coordinator.get("leading") is False else GONE
        found = look(status, self.agent_id, self._home)
        away = found.gone_s is not None and (new or coordinator.get("leading") is False)
        return UNKNOWN if away else found


def look(status: dict[str, Any], agent_id: str, home: str) -> Look:
    """What a status of a coordinator that knows its fleet says of a distributor, or of a worker of ``home`` ("": not
    known of which)."""
    sites = {str(site.get("id")): site for site in status.get("distributors") or ()}
    if agent_id in sites:
        site = sites[agent_id]
        draining = site.get("up") and site.get("status") == "draining"
        return Look(int(site.get("in_progress") or 0)) if draining else GONE
    found = [worker for site, worker in _workers(status, agent_id) if site.get("up")]
    here = next((worker for worker in found if worker.get("up", True)), None)
    if here is not None:
        load = here.get("load")
        if not isinstance(load, dict):
            return UNKNOWN  # its distributor was not asked, or has not answered in time
        return Look(int(load.get("held") or 0)) if load.get("draining") is True else GONE
    asked = [sites.get(home, {})] if home else list(sites.values())
    if not all(site.get("up") for site in asked):
        return UNKNOWN  # it works without its distributor, and nobody else knows of it
    return GONE if found else Look(gone_s=UNLISTED_S)


def _workers(status: dict[str, Any], agent_id: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(distributor, worker) of each that has this id; where it is up before others."""
    sites = status.get("distributors") or ()
    found = [(site, each) for site in sites for each in site.get("workers") or () if each.get("id") == agent_id]
    yield from sorted(found, key=lambda pair: not pair[1].get("up", True))


def _term(coordinator: dict[str, Any]) -> tuple[Any, Any]:
    """Another one leads where this differs, or the same one anew."""
    return coordinator.get("id"), coordinator.get("fence")
