"""A fleet that runs on this host, under a supervisor that starts again what dies: only its processes are hit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from a2a_zmq.client.sync import FleetClient
from a2a_zmq.errors import A2AError, FleetError
from daemons.cli.chaos.kinds import NEEDS
from daemons.cli.chaos.stage import Stage

PROC: Final = Path("/proc")
_LISTENS: Final = "0A"  # state of a socket in /proc/net/tcp


class NotHere(A2AError):
    """The fleet's processes cannot be told from others; the text says which."""


class RunningFleet(Stage):
    """Finds an agent's process by its command line, each time anew: it is replaced.

    Args:
        make: makes a client of the fleet, as an operator.
        watcher: another one, for questions about the fleet.
        addresses: the coordinator's, ``tcp://HOST:PORT`` or ``NAME@tcp://HOST:PORT``.

    Raises:
        NotHere: an agent of the fleet is no process of this host, or several processes could be it.
    """

    lacks: Mapping[str, str] = dict.fromkeys(NEEDS, "only on a private fleet")

    def __init__(self, make: Callable[[], FleetClient], watcher: FleetClient, addresses: Sequence[str]) -> None:
        self._make = make
        self._watcher = watcher
        self.agents = agents_of(watcher.status())
        self.pids = {name: self._only(name) for names in self.agents.values() for name in names}
        ports = {int(address.rpartition(":")[2]) for address in addresses}
        pid = self.pids[self.agents["coordinator"][0]]
        # Another host may have a fleet with the same names: the one that answers us must be the one that we hit.
        if not ports & listening_ports(pid):
            raise NotHere(
                f"the coordinator at {', '.join(addresses)} is no process of this host (process {pid} is not)"
            )

    def client(self) -> FleetClient:
        return self._make()

    def pid(self, name: str) -> int:
        found = find(self._role(name), name)
        return found[0] if len(found) == 1 else 0

    def signal(self, name: str, number: int) -> int:
        pid = self._only(name)
        os.kill(pid, number)
        return pid

    def whole(self) -> bool:
        try:
            status = self._watcher.status()
        except FleetError:
            return False
        up = {str(one.get("id")) for one in _agents(status) if one.get("up", True)}
        return all(self.pid(name) and name in up for names in self.agents.values() for name in names)

    def end_and_restart(self, name: str, timeout_s: float) -> int | None:
        raise NotHere(f"{name}: a supervisor does not start again what was drained")

    def _role(self, name: str) -> str:
        return next(role for role, names in self.agents.items() if name in names)

    def _only(self, name: str) -> int:
        found = find(self._role(name), name)
        if not found:
            raise NotHere(f"{name} is no process of this host, or not ours to kill")
        if len(found) > 1:
            raise NotHere(f"{name} may be any of the processes {', '.join(map(str, found))}: two fleets on this host?")
        return found[0]


@contextlib.contextmanager
def running_fleet(make: Callable[[], FleetClient], addresses: Sequence[str]) -> Iterator[RunningFleet]:
    with make() as watcher:
        yield RunningFleet(make, watcher, addresses)


def agents_of(status: dict[str, Any]) -> dict[str, list[str]]:
    """Ids by role, from a fleet's status; only of those that are up."""
    distributors = [one for one in status.get("distributors") or () if one.get("up")]
    workers = [worker for one in distributors for worker in one.get("workers") or () if worker.get("up")]
    return {
        "coordinator": [str(status["coordinator"]["id"])],
        "distributor": [str(one["id"]) for one in distributors],
        "worker": [str(worker["id"]) for worker in workers],
    }


def _agents(status: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield status["coordinator"]
    for one in status.get("distributors") or ():
        yield one
        yield from one.get("workers") or ()


# ---------------------------------------------------------------- processes


def find(role: str, name: str) -> list[int]:
    """Processes that run this agent and that we may signal."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if _runs(entry, role) == name and os.access(entry / "environ", os.R_OK):
                    found.append(int(entry.name))
    return sorted(found)


def _runs(entry: Path, role: str) -> str:
    """Id of the agent of that role that this process is; "" if it is none."""
    arguments = [part.decode(errors="replace") for part in (entry / "cmdline").read_bytes().split(b"\0")]
    programs = {f"a2a-{role}", f"daemons.{role}.main"}
    # python SCRIPT … or python -m MODULE …; anything that merely mentions the program (an editor) has it later.
    if not any(Path(argument).name in programs for argument in arguments[:3]):
        return ""
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--id", f"--{role}-id"):
            return value if equals else "".join(arguments[index + 1 : index + 2])
    variables = dict(part.partition(b"=")[::2] for part in (entry / "environ").read_bytes().split(b"\0"))
    return variables.get(f"{role.upper()}_ID".encode(), f"{role}-1".encode()).decode(errors="replace")


def listening_ports(pid: int) -> set[int]:
    """TCP ports on which this process listens."""
    inodes = set()
    with contextlib.suppress(OSError):
        for link in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    ports = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / str(pid) / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and fields[9] in inodes:
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports
