"""Runs that tell what they do, and a client that reads along: fast, slowly, or from later on.

What a run tells is in its stream in the store before it goes upwards, and all of it before the run reports. The store
takes only rising ids. Each reader must get what is in the stream, in order, each event once, to the end of what the
recorded attempt told; gaps are allowed only where the store lost what it had.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from typing import TYPE_CHECKING, Any

import orjson

from a2a_zmq.client.streams import Stream
from a2a_zmq.state import keys
from a2a_zmq.streams import START, Chunk, EventId, StreamEvent, id_text, parse_id
from daemons.runtime.contract import RunEvents, StartRun

if TYPE_CHECKING:
    from tests.simulation.agent import Agent
    from tests.simulation.fleet import Fleet

# An event's data: large enough that a window is soon used up.
DATA_CHARS = 20_000


class Telling:
    """Everything that runs tell, and who reads it."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._fleet = fleet
        self._rng = random.Random(f"telling {seed}")
        self.every: dict[str, list[EventId]] = {}
        self.readers: dict[str, Reader] = {}

    # ------------------------------------------------------------ runs

    def begins(self, agent: Agent, run: StartRun) -> None:
        """It tells that it begins, and some more while it runs."""
        shell = agent.shell
        self.tell(agent, run, 1)
        for _ in range(self._rng.choice((0, 1, 3))):
            delay = self._rng.random() * float(run.payload.get("seconds", 0.01))
            count = self._rng.choice((1, 2, 9))
            self._fleet.loop.call_later(delay, self._later, agent, shell, run, count)

    def _later(self, agent: Agent, shell: Any, run: StartRun, count: int) -> None:
        if agent.shell is shell and agent.alive:
            self.tell(agent, run, count)

    def tell(self, agent: Agent, run: StartRun, count: int) -> None:
        told = self._fleet.redis.peek().told.setdefault(keys.stream(run.task_id), deque())
        last = told[-1].last if told else START
        if last[0] > run.attempt:
            return  # it was replaced
        number = last[1] if last[0] == run.attempt else 0
        for first in range(number + 1, number + 1 + count, 3):
            ids = [(run.attempt, each) for each in range(first, min(first + 3, number + 1 + count))]
            chunk = Chunk(
                last, ids[-1], orjson.dumps([[id_text(each), "custom", [], "x" * DATA_CHARS] for each in ids])
            )
            told.append(chunk)
            self.every.setdefault(run.task_id, []).extend(ids)
            last = ids[-1]
            agent.event(RunEvents(run.task_id, run.attempt, chunk))

    # ------------------------------------------------------------ readers

    def read(self, task_id: str) -> None:
        """The client reads what this task tells, from some time on."""
        if task_id not in self.readers:
            reader = self.readers[task_id] = Reader(self._fleet, task_id, self._rng)
            self._fleet.loop.call_later(self._rng.choice((0.0, 0.0, 0.2, 2.0)), reader.begin)

    def unread(self) -> list[str]:
        streams = {task_id: reader.stream for task_id, reader in self.readers.items()}
        return [task_id for task_id, stream in streams.items() if stream.arrived or not stream.over]

    def judge(self) -> None:
        """The last judgement."""
        for task_id, reader in self.readers.items():
            ids = [parse_id(event.id) or START for event in reader.seen if event.type == "custom"]
            if any(second <= first for first, second in itertools.pairwise(ids)):
                self._fleet.violate(f"{task_id}: its stream was read out of order: {ids}")
            if self._fleet.losses or reader.stream.error is not None:
                continue
            every = self.every.get(task_id, [])
            if ids != every[: len(ids)]:
                self._fleet.violate(f"{task_id}: its stream was read with gaps: {ids} of {every}")
            if any(event.type == "gap" for event in reader.seen):
                self._fleet.violate(f"{task_id}: a gap was told where nothing was lost")
            for ended in self._fleet.witness.ended.get(task_id, ())[:1]:
                told = [each for each in every if each[0] == ended.attempt] if ended.status == "completed" else []
                if told and told[-1] not in ids:
                    self._fleet.violate(f"{task_id}: its stream ended at {ids[-1:]}, before {told[-1]}")


class Reader:
    """Reads one stream, now quickly, now slowly."""

    def __init__(self, fleet: Fleet, task_id: str, rng: random.Random) -> None:
        self._fleet = fleet
        self._rng = rng
        self._woken = False
        self.seen: list[StreamEvent] = []
        self.stream = Stream(task_id, START, self._wake)

    def begin(self) -> None:
        self._fleet.user.connection.stream(self.stream)

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._fleet.loop.call_later(self._rng.choice((0.0, 0.001, 0.4)), self._take)

    def _take(self) -> None:
        self._woken = False
        while self.stream.arrived:
            events, size = self.stream.arrived.popleft()
            self.seen += events
            self._fleet.user.connection.took(self.stream, size)
