"""The load: a steady, bounded stream of tasks from one client, and what became of each at that client."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from a2a_zmq.client.base import TaskSpec
from a2a_zmq.client.handles import TaskHandle
from a2a_zmq.client.sync import FleetClient
from a2a_zmq.errors import FleetError
from daemons.cli.chaos.tasks import CHILD, NAP, TICK

# A group of tasks is submitted this often; the rate says how large a group is. It bounds how exact recoveries are.
GROUP_S = 0.02
COLLECT_S = 0.005
# Tasks without a result, at most: seconds of the load. What comes on top waits, as an honest client does.
WAITING_S = 10.0
# Many deaths of workers are what this is about: none of them may use a task's attempts up.
MAX_ATTEMPTS = 20


@dataclass(slots=True)
class Sent:
    """One accepted task; times are of the monotonic clock."""

    number: int
    task_id: str
    task_type: str
    submitted: float
    handle: TaskHandle | None
    accepted: float
    arrived: float = 0.0
    outcome: str = ""  # "" while there is none, "ok", or what was wrong
    record: dict[str, Any] | None = None


class Mix(Protocol):
    """Makes the tasks of a load."""

    def __call__(self, number: int) -> tuple[str, dict[str, Any]]:
        """Task type and payload; the task's value must be its number, or what :func:`value_is_right` takes."""
        ...


def counted_mix(seed: int) -> Mix:
    """For a fleet with the handlers of :mod:`daemons.cli.chaos.tasks`: short ones, long ones, some in children."""
    chance = Random(seed)

    def make(number: int) -> tuple[str, dict[str, Any]]:
        throw = chance.random()
        if throw < 0.04:
            return CHILD, {"n": number, "seconds": 0.2 + 0.8 * chance.random()}
        if throw < 0.30:
            return NAP, {"n": number, "seconds": 0.2 + 0.6 * chance.random()}
        return TICK, {"n": number, "seconds": 0.004 * chance.random()}

    return make


def builtin_mix(seed: int) -> Mix:
    """For any fleet: task types that every worker has."""
    chance = Random(seed)

    def make(number: int) -> tuple[str, dict[str, Any]]:
        if chance.random() < 0.3:
            return "sleep", {"n": number, "seconds": 0.2 + 0.6 * chance.random()}
        return "noop", {"n": number}

    return make


def value_is_right(task_type: str, number: int, value: Any) -> bool:
    if task_type == "sleep":
        return isinstance(value, dict) and "slept_s" in value
    return bool(value == ({"n": number} if task_type == "noop" else number))


class Load:
    """Runs between ``with``; :meth:`finish` stops it and waits for what is under way.

    Args:
        rate: tasks a second, as long as the fleet takes them.

    Attributes:
        sent: every accepted task, in order.
        errors: what the client raised on a submission; an honest client sees none.
    """

    def __init__(self, client: FleetClient, rate: float, mix: Mix) -> None:
        self.sent: list[Sent] = []
        self.errors: list[str] = []
        self.results = 0
        self.longest_wait_s = 0.0
        self._client = client
        self._rate = rate
        self._mix = mix
        self._waiting: list[Sent] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._feed, name="chaos-load", daemon=True),
            threading.Thread(target=self._collect, name="chaos-results", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        self._end.set()

    def finish(self, timeout_s: float) -> None:
        """Submit no more, and wait for all results, at most so long."""
        self._stop.set()
        until = time.monotonic() + timeout_s
        self._threads[0].join(timeout_s)
        while self.waiting and time.monotonic() < until:
            time.sleep(COLLECT_S)
        self._end.set()
        self._threads[1].join(5.0)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def under_way(self) -> list[Sent]:
        """Accepted tasks whose results are not here."""
        with self._lock:
            return [sent for sent in self._waiting if sent.handle is not None]

    def first_result_after(self, moment: float, start: int = 0, distributor: str = "") -> Sent | None:
        """The first good result to arrive of a task that was submitted after that moment, tasks from ``start`` on.

        Args:
            distributor: only of tasks that this one had.
        """
        found = [
            sent
            for sent in self.sent[start:]
            if sent.submitted > moment
            and sent.arrived
            and sent.outcome == "ok"
            and (not distributor or (sent.record or {}).get("distributor") == distributor)
        ]
        return min(found, key=lambda sent: sent.arrived, default=None)

    # ------------------------------------------------------------ threads

    def _feed(self) -> None:
        number, due = 0, time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            # What was missed while the fleet took nothing is not made up for: the rate is a bound.
            due = max(due, now - GROUP_S)
            self._stop.wait(max(0.0, due + 1 / self._rate - now, GROUP_S if self._crowded() else 0.0))
            now = time.monotonic()
            count = max(1, int((now - due) * self._rate))
            due += count / self._rate
            if self._crowded():
                continue
            made = [(number + i, *self._mix(number + i)) for i in range(count)]
            number += count
            self._submit(made, now)

    def _submit(self, made: list[tuple[int, str, dict[str, Any]]], began: float) -> None:
        specs: list[TaskSpec] = [
            {"task_type": task_type, "payload": payload, "max_attempts": MAX_ATTEMPTS} for _, task_type, payload in made
        ]
        try:
            handles = self._client.submit_tasks(specs)
        except FleetError as error:
            self.errors.append(f"{type(error).__name__}: {error}")
            return
        now = time.monotonic()
        self.longest_wait_s = max(self.longest_wait_s, now - began)
        sent = [
            Sent(number, handle.task_id, task_type, began, handle, now)
            for (number, task_type, _), handle in zip(made, handles, strict=True)
        ]
        with self._lock:
            self.sent += sent
            self._waiting += sent

    def _crowded(self) -> bool:
        return self.waiting >= self._rate * WAITING_S

    def _collect(self) -> None:
        while not self._end.wait(COLLECT_S):
            done = [sent for sent in self._waiting if sent.handle is not None and sent.handle.done()]
            if not done:
                continue
            now = time.monotonic()
            for sent in done:
                self._take(sent, now)
            with self._lock:
                self._waiting = [sent for sent in self._waiting if sent.handle is not None]

    def _take(self, sent: Sent, now: float) -> None:
        assert sent.handle is not None
        handle, sent.handle = sent.handle, None
        sent.outcome = _outcome(sent, handle)
        sent.record = slim(handle.record)
        sent.arrived = now
        self.results += 1


def _outcome(sent: Sent, handle: TaskHandle) -> str:
    try:
        value = handle.result(0)
    except FleetError as error:
        return f"{type(error).__name__}: {error}"
    return "ok" if value_is_right(sent.task_type, sent.number, value) else f"wrong value {value!r:.60}"


def slim(record: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the checker compares: who says to have done it, and when."""
    if record is None:
        return None
    metadata = record.get("metadata") or {}
    return {
        "status": record.get("status"),
        "attempt": metadata.get("attempt"),
        "worker": metadata.get("worker"),
        "distributor": metadata.get("distributor"),
        "started_at": record.get("started_at"),
        "completed_at": record.get("completed_at"),
        "retry_count": record.get("retry_count"),
    }
