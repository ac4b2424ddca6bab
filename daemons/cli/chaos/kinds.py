"""Every kind of fault: whom it hits, for how long, and what is promised about it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from a2a_zmq.errors import ConfigError

# What a kind needs of the fleet that it is done to.
RELAYS = "relays"  # links that lead through relays of ours
OWN = "own"  # a fleet that we started: its files and its Redis are ours
TMPFS = "tmpfs"  # the server's files are on a small file system of ours
NETNS = "netns"  # workers in network namespaces of their own
CHILDREN = "children"  # tasks whose executor children we know

NEEDS: Final = (RELAYS, OWN, TMPFS, NETNS, CHILDREN)

# When the clock of a recovery starts.
FAULT = "fault"
HEAL = "heal"

# What a recovery is.
TASKS = "tasks"  # each task that was running on the victim runs again elsewhere
FLEET = "fleet"  # a task that was submitted afterwards has its result at the client
WORKER = "worker"  # the victim begins a task again
EXIT = "exit"  # the victim has left with status 0

LEASE_TTL_MS: Final = 5000.0


@dataclass(frozen=True, slots=True)
class Limit:
    """A promise about a time, in milliseconds; None where nothing is promised."""

    p50_ms: float | None = None
    p99_ms: float | None = None

    def __str__(self) -> str:
        parts = [
            f"{name} ≤ {value:g}" for name, value in (("p50", self.p50_ms), ("p99", self.p99_ms)) if value is not None
        ]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    Attributes:
        name: as the user says it.
        what: one line for the report.
        victim: role of whom it hits; "" for the host or for Redis.
        weight: how often it comes, against the others.
        lasts_s: shortest and longest time between fault and healing.
        since: when the clock of the recovery starts.
        recovery: what the recovery is.
        detect: promise about the time to detection.
        recover: promise about the time to recovery.
        reruns: tasks that run at that moment may be run again; otherwise each such run breaks a promise.
        suspects: roles whose death may be reported because of this fault; the victim's, or of all where "*" is given.
        needs: what the fleet must have for it.
    """

    name: str
    what: str
    victim: str = ""
    weight: int = 1
    lasts_s: tuple[float, float] = (0.0, 0.0)
    since: str = FAULT
    recovery: str = FLEET
    detect: Limit = Limit()
    recover: Limit = Limit()
    reruns: bool = False
    suspects: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


_AGAIN: Final = Limit(20, 200)
_LED: Final = Limit(None, LEASE_TTL_MS + 1000)
_STORE: Final = Limit(None, 3000)
_HEALED: Final = Limit(None, 2000)

KINDS: Final[tuple[Kind, ...]] = (
    Kind("worker-kill", "a worker is killed (SIGKILL)", "worker", 10, recovery=TASKS, recover=_AGAIN, reruns=True,
         suspects=("worker",)),
    Kind("child-kill", "the child that runs a task is killed (SIGKILL)", "", 3, recovery=TASKS, recover=_AGAIN,
         reruns=True, needs=(CHILDREN,)),
    Kind("freeze", "a worker is frozen (SIGSTOP), and wakes later", "worker", 3, (1.5, 6.0), recovery=TASKS,
         detect=Limit(None, 1000), reruns=True, suspects=("worker",)),
    Kind("drain", "a worker is asked to end (SIGTERM), and started again", "worker", 2, recovery=EXIT,
         recover=Limit(None, 10_000), suspects=("worker",), needs=(OWN,)),
    Kind("distributor-kill", "a distributor is killed (SIGKILL)", "distributor", 3, recover=_LED,
         suspects=("distributor",)),
    Kind("coordinator-kill", "the coordinator is killed (SIGKILL)", "coordinator", 3, recover=_LED,
         suspects=("coordinator",)),
    Kind("detector-freeze", "a distributor is frozen for 5 s and wakes", "distributor", 1, (5.0, 5.0), HEAL,
         recover=_HEALED, suspects=("distributor",)),
    Kind("busy", "all cores are loaded", "", 1, (5.0, 60.0), HEAL),
    Kind("cut-worker", "a worker's connection is cut", "worker", 1, needs=(RELAYS,), reruns=True, recovery=WORKER,
         recover=_HEALED, suspects=("worker",)),
    Kind("part-worker", "nothing passes between a worker and its distributor", "worker", 2, (1.5, 30.0), HEAL,
         recovery=WORKER, detect=Limit(None, 1000), recover=_HEALED, reruns=True, suspects=("worker",),
         needs=(RELAYS,)),
    Kind("link-worker", "a worker's network link is taken down (in a network namespace)", "worker", 2, (1.5, 30.0),
         HEAL, recovery=WORKER, detect=Limit(None, 1000), recover=_HEALED, reruns=True, suspects=("worker",),
         needs=(NETNS,)),
    Kind("part-distributor", "nothing passes between a distributor and the coordinator", "distributor", 2,
         (1.5, 30.0), HEAL, recover=_HEALED, suspects=("distributor", "coordinator"), needs=(RELAYS,)),
    Kind("part-one-way", "only one direction passes between a distributor and the coordinator", "distributor", 1,
         (1.5, 30.0), HEAL, recover=_HEALED, suspects=("distributor", "coordinator"), needs=(RELAYS,)),
    Kind("part-redis", "nothing passes between the daemons and Redis", "", 1, (1.5, 30.0), HEAL, recover=_STORE,
         needs=(RELAYS,)),
    Kind("redis-lossy", "Redis' replies to transactions get lost", "", 1, (1.0, 5.0), HEAL, recover=_STORE,
         needs=(RELAYS,)),
    Kind("redis-kill", "Redis is killed (SIGKILL) and started again", "", 1, since=HEAL, recover=_STORE, needs=(OWN,)),
    Kind("redis-down", "Redis is stopped, stays away, and is started again", "", 1, (2.0, 10.0), HEAL,
         recover=_STORE, needs=(OWN,)),
    Kind("redis-freeze", "Redis is frozen (SIGSTOP), and wakes later", "", 1, (1.0, 8.0), HEAL, recover=_STORE,
         needs=(OWN,)),
    Kind("redis-wipe", "Redis is stopped, its data removed, and started empty", "", 1, since=HEAL, recover=_STORE,
         needs=(OWN,)),
    Kind("redis-memory", "Redis refuses writes: out of memory", "", 1, (1.0, 5.0), HEAL, recover=_STORE,
         needs=(OWN,)),
    Kind("redis-disk", "Redis' disk is full", "", 1, (2.0, 5.0), HEAL, recover=_STORE, needs=(OWN, TMPFS)),
)  # fmt: skip
BY_NAME: Final = {kind.name: kind for kind in KINDS}


def chosen(names: Sequence[str] | None) -> dict[Kind, int | None]:
    """The kinds of these names, all by default, and how often each is to come; None where chance decides.

    Args:
        names: ``NAME`` or ``NAME=COUNT``; if one has a count, those without come once.

    Raises:
        ConfigError: there is no such kind, or the count is no whole number from 1.
    """
    if names is None:
        return dict.fromkeys(KINDS)
    counted = any("=" in name for name in names)
    found: dict[Kind, int | None] = {}
    for text in names:
        name, _, count = text.partition("=")
        if name not in BY_NAME:
            raise ConfigError(f"--faults: {name!r} is no fault; there are {', '.join(BY_NAME)}")
        if "=" in text and not (count.isascii() and count.isdigit() and int(count)):
            raise ConfigError(f"--faults: {text!r}: how often is a whole number, 1 or more")
        found[BY_NAME[name]] = int(count or 1) if counted else None
    return found
