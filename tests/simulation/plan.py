"""What happens in a run, as a list of timed events that is drawn from the seed before the run begins. A plan that fails
can be cut down event by event (see :mod:`tests.simulation.shrink`)."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import Any, NamedTuple

TASKS = 40
LOAD_S = 3.0
COORDINATOR = "coordinator-1"
CLIENT = "client"
WORKERS_EACH = 2

# Kinds of events by mode; a kind that is named twice comes twice as often.
_FAULTS = (
    "crash worker",
    "crash worker",
    "crash distributor",
    "crash coordinator",
    "outage",
    "outage",
    "store cut",
    "replies lost",
    "replies lost",
    "late writes",
    "partition",
    "partition",
    "isolation",
    "drain",
    "freeze",
    "freeze",
    "zombie",
)
_USERS = ("cancel", "cancel", "cancel", "cancel", "again", "again", "clock", "freeze", "several", "long outage")
KINDS: dict[str, tuple[str, ...]] = {
    "faults": _FAULTS,
    "loss": (*_FAULTS, "wipe", "wipe", "rollback", "rollback"),
    "users": (*_FAULTS, *_USERS),
    "limits": (*_FAULTS, *_USERS),
    "outages": (
        *("crash worker", "crash worker", "crash distributor", "crash coordinator", "several"),
        *("long outage", "disk", "disk", "outage", "store cut", "replies lost", "late writes"),
        *("outage with crashes", "outage with crashes", "outage with crashes"),
        *("partition", "isolation", "drain", "freeze", "cancel", "again"),
    ),
    "spools": (
        *("outage with loss", "outage with loss", "outage with loss", "outage with loss", "wipe", "rollback"),
        *(
            "crash worker",
            "crash distributor",
            "crash coordinator",
            "several",
            "zombie",
            "zombie",
            "store cut",
            "store cut",
        ),
        *("outage", "long outage", "outage with crashes", "disk", "replies lost", "late writes"),
        *("partition", "isolation", "drain", "freeze", "cancel", "again"),
    ),
    "standbys": (
        *("leader killed", "leader killed", "leader drained", "leader frozen", "leader frozen", "leader cut off"),
        *("acting killed", "acting killed", "acting drained", "acting frozen", "acting frozen", "acting cut off"),
        *("crash worker", "crash distributor", "crash coordinator", "several", "outage", "replies lost"),
        *("late writes", "partition", "drain", "freeze", "cancel", "again"),
    ),
    "failovers": (
        *("gone", "gone", "gone", "frozen away", "cut off", "cut off", "given up"),
        *("crash worker", "crash distributor", "crash coordinator", "crash coordinator", "outage", "store cut"),
        *(
            "replies lost",
            "replies lost",
            "late writes",
            "late writes",
            "partition",
            "drain",
            "freeze",
            "cancel",
            "again",
        ),
    ),
    "retry": (
        *("cancel", "cancel", "retry", "retry"),
        *("crash worker", "crash distributor", "crash coordinator", "outage", "replies lost", "freeze"),
    ),
}
# How many of a hundred seeds run in each mode.
SHARES = {"faults": 20, "loss": 20, "users": 15, "limits": 15, "retry": 10, "outages": 10, "standbys": 5, "spools": 5}
FAILOVERS = 10  # and so many in this one instead
# Whatever the mode is, in so many of a hundred seeds tasks are runs of graphs: they wait, are moved and put off.
GRAPHS, GRAPHS_SHARE = "graphs", 20
# In so many of those with two distributors policies of the user's place the tasks, and decide on failed attempts.
POLICIES, POLICIES_SHARE = "policies", 10
# Only if asked for: graphs whose runs tell what they do, and are read.
STREAMS = "streams"
MODES = sorted((*KINDS, GRAPHS, POLICIES, STREAMS))
NEVER = 1e9  # is when a distributor that is gone for good is started again


class Event(NamedTuple):
    """``kind`` with ``args`` happens ``at_s`` seconds after the fleet was ready."""

    at_s: float
    kind: str
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at_s:.3f} {self.kind} {' '.join(map(str, self.args))}".rstrip()


@dataclass(frozen=True, slots=True)
class Plan:
    """
    Attributes:
        limits: everything is bounded so tightly that every bound is met.
        spool: owners keep on their disks what the store cannot take.
        coordinators, twins, provable, failover_s, graphs, policy, tells: see :class:`tests.simulation.fleet.Fleet`.
    """

    seed: int
    mode: str
    distributors: int
    limits: bool
    events: tuple[Event, ...]
    spool: bool = False
    coordinators: int = 1
    twins: bool = False
    provable: bool = True
    failover_s: float = 30.0
    graphs: bool = False
    policy: bool = False
    tells: bool = False


def draw(seed: int, mode: str | None = None, *, tasks: int = TASKS) -> Plan:
    """The plan of a seed. The seed chooses the mode, too, unless one is given."""
    if mode == STREAMS:
        plan = _drawn(seed, GRAPHS, tasks)
        return dataclasses.replace(plan, mode=f"{STREAMS}, {plan.mode}", tells=True)
    chance = random.Random(f"policies {seed}")
    if mode == POLICIES or (mode is None and chance.random() < POLICIES_SHARE / 100):
        plan = _drawn(seed, None, tasks)
        if plan.distributors > 1 or mode == POLICIES:
            events = tuple(_failing(event, chance) for event in plan.events)
            return dataclasses.replace(
                plan, mode=f"{POLICIES}, {plan.mode}", distributors=2, policy=True, events=events
            )
    return _drawn(seed, mode, tasks)


def _drawn(seed: int, mode: str | None, tasks: int) -> Plan:
    chance = random.Random(f"graphs {seed}")
    if mode == GRAPHS or (mode is None and chance.random() < GRAPHS_SHARE / 100):
        plan = _draw(seed, None, tasks)
        return dataclasses.replace(
            plan,
            mode=f"{GRAPHS}, {plan.mode}",
            graphs=chance.random() < 0.7,
            events=tuple(_paused(event, chance) for event in plan.events),
        )
    return _draw(seed, mode, tasks)


def _failing(event: Event, chance: random.Random) -> Event:
    """The same task, which fails oftener before it ends well."""
    if event.kind != "submit" or chance.random() < 0.4:
        return event
    task_id, seconds, _, *pauses = event.args
    return event._replace(args=(task_id, seconds, chance.choice((1, 2, 4)), *pauses))


def _paused(event: Event, chance: random.Random) -> Event:
    """The same task, which stops some times before its end."""
    if event.kind != "submit" or chance.random() < 0.4:
        return event
    pauses = chance.choices(("waiting", "waiting", "moved", "put_off"), k=chance.choice((1, 1, 2, 4)))
    return event._replace(args=(*event.args, *pauses))


def _draw(seed: int, mode: str | None, tasks: int) -> Plan:
    rng = random.Random(f"plan {seed}")
    drawn = rng.choices(list(SHARES), list(SHARES.values()))[0]
    chance = random.Random(f"failovers {seed}")
    mode = mode or ("failovers" if chance.random() < FAILOVERS / 100 else drawn)
    distributors = 2 if mode == "failovers" else rng.choice((1, 1, 2))
    events = [*_network(rng), *_faults(rng, mode, distributors)]
    last = max((event.at_s for event in events), default=0.0)
    if any(event.kind == "zombie" for event in events):
        last += 5.0  # so that something is done while both live
    events += _load(rng, mode, tasks, max(LOAD_S, last))
    plan = Plan(seed, mode, distributors, mode == "limits", tuple(sorted(events)), spool=mode in ("outages", "spools"))
    if mode == "failovers":
        return dataclasses.replace(
            plan,
            # What stands on its disk only is lost with a distributor that is gone for good.
            spool=chance.random() < 0.5 and not any(NEVER in event.args for event in events),
            limits=chance.random() < 0.3,
            provable=chance.random() < 0.5,
            failover_s=chance.choice((0.5, 2.0, 4.0)),
        )
    if mode == "standbys":
        provable, spool = rng.random() < 0.5, rng.random() < 0.5
        return dataclasses.replace(plan, coordinators=2, twins=True, provable=provable, spool=spool)
    return plan


def _load(rng: random.Random, mode: str, tasks: int, span_s: float) -> list[Event]:
    events = []
    for number in range(tasks):
        at_s = rng.uniform(0, span_s)
        if mode in ("users", "limits", "retry") and number % 8 == 7:
            args: tuple[Any, ...] = (rng.choice((1, 2)), rng.choice((0.05, 0.3)), rng.choice((0, 5, -5)))
            events.append(Event(at_s, "submit hanging", (f"task-{number}", *args)))
        else:
            seconds = rng.choice((0.0005, 0.001, 0.005, 0.05, 0.3, 1.0))
            events.append(Event(at_s, "submit", (f"task-{number}", seconds, rng.choice((0, 0, 0, 0, 1, 2)))))
    return events


def _network(rng: random.Random) -> list[Event]:
    if rng.random() < 0.5:
        return []
    faults = {
        "drop": rng.choice((0, 0, 0.01, 0.05)),
        "duplicate": rng.choice((0, 0.02, 0.1)),
        "reorder": rng.choice((0, 0, 0.02)),
        "tamper": rng.choice((0, 0, 0.01)),
        "delay_max_s": rng.choice((0.002, 0.02, 0.1)),
    }
    return [Event(0.0, "bad network", tuple(faults.items()))]


def _faults(rng: random.Random, mode: str, distributors: int) -> list[Event]:
    sites = [f"distributor-{number}" for number in range(1, distributors + 1)]
    owners = [COORDINATOR, *sites]
    if mode == "standbys":
        owners += ["coordinator-2", *(f"{each}/twin" for each in sites)]
    workers = [f"worker-{d}{w}" for d in range(1, distributors + 1) for w in range(1, WORKERS_EACH + 1)]
    zombies_of = sites if mode == "spools" else [*owners, *owners, *workers]
    draw_args = _Args(rng, owners, workers, sites, zombies_of)
    events = []
    at_s, zombies = 0.0, 0
    while (at_s := at_s + rng.uniform(0.05, 0.8)) < LOAD_S:
        kind = rng.choice(KINDS[mode])
        zombies += kind == "zombie"
        if kind != "zombie" or zombies == 1:  # one is enough for a run of bounded length
            events.append(Event(round(at_s, 3), *draw_args.of(kind)))
    return events


class _Args:
    """Draws what an event needs to be told."""

    def __init__(
        self, rng: random.Random, owners: list[str], workers: list[str], sites: list[str], zombies_of: list[str]
    ) -> None:
        """
        Args:
            sites: distributors.
            zombies_of: agents of which a second process may be started.
        """
        self._rng = rng
        self._owners = owners
        self._workers = workers
        self._sites = sites
        self._zombies_of = zombies_of

    def of(self, kind: str) -> tuple[str, tuple[Any, ...]]:
        rng, owners = self._rng, self._owners
        everybody = [*owners, *self._workers]
        if kind.startswith("crash "):
            return "crash", (rng.choice([each for each in everybody if each.startswith(kind[6:])]),)
        args: tuple[Any, ...] = ()
        if kind == "outage":
            args = (round(rng.uniform(0.05, 1.5), 3),)
        elif kind == "long outage":
            kind, args = "outage", (10.0,)
        elif kind == "outage with crashes":
            crashes = [(round(rng.uniform(0.02, 2.0), 3), rng.choice(owners)) for _ in range(rng.choice((1, 1, 2, 3)))]
            # The last of them perhaps in the midst of handing in.
            args = (rng.choice((0.5, 2.0, 8.0)), rng.choice((*owners, "")), round(rng.uniform(0.0, 0.7), 3), *crashes)
        elif kind == "outage with loss":
            crashes = [(round(rng.uniform(0.02, 1.0), 3), rng.choice(owners)) for _ in range(rng.choice((0, 0, 1, 2)))]
            args = (rng.choice((0.0, 0.3, 1.0)), rng.choice((0.3, 2.0, 8.0)), rng.random() < 0.5)
            args += (rng.choice((*owners, "", "")), round(rng.uniform(0.0, 0.7), 3), *crashes)
        elif kind == "disk":
            args = (rng.choice(owners), rng.choice((0, 0, 2_000, 10_000)), rng.choice((0.5, 2.0, 6.0)))
        elif kind in ("store cut", "isolation", "late writes"):
            args = (rng.choice(owners), rng.choice((0.3, 1.0, 2.0, 4.0, 6.0)))
        elif kind == "replies lost":
            args = (rng.choice(owners), rng.randint(1, 3), rng.random() < 0.5)
        elif kind == "partition":
            args = (*rng.sample([*everybody, CLIENT], 2), round(rng.uniform(0.1, 1.5), 3), rng.random() < 0.5)
        elif kind == "drain":
            args = (rng.choice(everybody[1:]),)
        elif kind.startswith(("leader", "acting")):
            who, _, how = kind.partition(" ")
            seconds = rng.choice((1.0, 6.0, 12.0)) if how in ("frozen", "cut off") else 0.0
            kind, args = "acting", ("" if who == "leader" else rng.choice(self._sites), how, seconds)
        elif kind == "gone":
            site, seconds = rng.choice(self._sites), rng.choice((1.0, 6.0, 8.0, 12.0, 20.0, NEVER, NEVER))
            args = (site, seconds if site == self._sites[0] else min(seconds, 20.0))  # one of them must be left
        elif kind == "frozen away":
            args = (rng.choice(self._sites), rng.choice((6.0, 8.0, 12.0, 20.0)))
        elif kind == "cut off":
            args = (rng.choice(self._sites), rng.choice((6.0, 8.0, 12.0)), rng.choice((6.0, 12.0, 20.0)))
        elif kind == "given up":
            args = (rng.choice(self._sites),)
        elif kind == "freeze":
            args = (rng.choice(everybody), rng.choice((0.1, 0.6, 1.0, 2.0, 6.0)))
        elif kind == "zombie":
            args = (rng.choice(self._zombies_of), rng.choice(("frozen", "no store", "alone")))
            args += (rng.choice((6.0, 7.0)), rng.choice((0.5, 2.0)), rng.randrange(4))
        elif kind == "several":
            args = tuple(rng.sample(everybody, rng.choice((2, 3, len(everybody)))))
        elif kind == "rollback":
            args = (rng.choice((0.05, 0.3, 1.0)),)
        elif kind == "clock":
            args = (rng.choice((-3600, -40, -5, 5, 40, 3600)),)
        elif kind == "cancel":
            args = tuple(sorted({f"task-{rng.randrange(TASKS)}" for _ in range(rng.choice((1, 3, 10)))}))
        elif kind == "again":
            args = (rng.randrange(1 << 16),)
        return kind, args
