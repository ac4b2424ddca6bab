"""What a turn of the engine wants done. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from a2a_zmq.interfaces import Section
from a2a_zmq.protocol.ports import Marks, ProbeWanted, WatchWanted
from daemons.runtime.calls import LocalAnswer
from daemons.runtime.consults import Consult
from daemons.runtime.contract import Batch, Exit, Log, Outranked, Query, StartRun, StopRun


@dataclass(slots=True)
class PendingBatch:
    """A batch on its way to the store. ``done`` counts its writes that are applied; ``versions`` are theirs."""

    batch_id: int
    batch: Batch
    marks: list[Marks]
    done: int = 0
    versions: dict[Section, int] = field(default_factory=dict)


@dataclass(slots=True)
class Outputs:
    """What a turn wants done. ``transmit`` and ``apply`` may be performed in any order: duties are kept by the
    engine."""

    transmit: list[tuple[int, bytes, bytes]] = field(default_factory=list)  # (port, route, frame)
    apply: PendingBatch | None = None
    queries: list[Query | Consult] = field(default_factory=list)
    runs: list[StartRun | StopRun] = field(default_factory=list)
    probes: list[tuple[int, ProbeWanted | WatchWanted]] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    outranked: Outranked | None = None
    answers: list[LocalAnswer] = field(default_factory=list)
    again: bool = False  # there is more to handle at once: take another turn
    exceptional: bool = False  # something happened that the supervision graph should look at now
    exit: Exit | None = None
