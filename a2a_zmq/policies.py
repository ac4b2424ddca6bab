"""What the fleet asks of users' policies, as states of LangGraph graphs: ``StateGraph(PlacementState)`` or
``StateGraph(RetryState)``."""

from __future__ import annotations

from typing import Any, TypedDict


class PlacementTask(TypedDict):
    """A task that is to be placed.

    Attributes:
        bytes: of its record, which is little more than its payload.
        waited_s: since it was accepted.
        candidates: ids of the distributors that can run it now, two or more.
    """

    task_id: str
    task_type: str
    priority: int
    labels: dict[str, str]
    client: str
    bytes: int
    waited_s: float
    candidates: list[str]


class PlacementSite(TypedDict):
    """A distributor that is a candidate of some task.

    Attributes:
        load: its unfinished tasks. slots: runs that its workers can hold at a time.
        suspect: its connection broke a moment ago.
        host: equal for agents on the same host.
        workers: ``task_types`` and ``labels`` of each worker that has labels.
    """

    id: str
    load: int
    slots: int
    suspect: bool
    host: str
    task_types: list[str]
    workers: list[dict[str, Any]]


class PlacementState(TypedDict, total=False):
    """Input (``tasks``, ``distributors``) and output (``placements``) of a placement policy.

    Attributes:
        placements: task id → id of one of its candidates. Tasks that are left out go the built-in way.
    """

    tasks: list[PlacementTask]
    distributors: list[PlacementSite]
    placements: dict[str, str]


class FailedTask(TypedDict):
    """A task whose attempt failed, and that has another one left.

    Attributes:
        attempt: the one that failed.
        failures: how many of its attempts failed. max_attempts: how many may.
        kind, error: of this failure: ``raised``, ``timeout``, ``exited``, ``killed`` …, and its text, cut.
        worker: where it ran. execution_s: how long, if the worker said so.
        earlier: ``worker`` and ``kind`` of the failures before, oldest first, ten at most.
        delay_s: when the next attempt begins if you do not say otherwise.
        least_s: it begins no sooner, because too many attempts of this task type fail.
        candidates: ids of the connected workers that can run it.
    """

    task_id: str
    task_type: str
    priority: int
    labels: dict[str, str]
    client: str
    created_at: str
    attempt: int
    failures: int
    max_attempts: int
    kind: str
    error: str
    worker: str
    execution_s: float | None
    earlier: list[dict[str, str]]
    delay_s: float
    least_s: float
    candidates: list[str]


class RetryWorker(TypedDict):
    """A connected worker.

    Attributes:
        load: tasks that it holds. limit: how many it takes. slots: how many run at a time.
        suspect: it may be dead. draining: it takes no more.
    """

    id: str
    load: int
    limit: int
    slots: int
    suspect: bool
    draining: bool
    task_types: list[str]
    labels: dict[str, str]


class RetryDecision(TypedDict, total=False):
    """What is to become of a task. Empty: what the built-in rules say.

    Attributes:
        after_s: the next attempt begins after so many seconds, a day at most.
        avoid: ids of workers that it is kept away from, as long as there are others that can run it.
        priority: its new priority, from -1000 to 1000, for good.
        give_up: why there is to be no further attempt; goes alone. The task fails with this text, as a dead letter.
    """

    after_s: float
    avoid: list[str]
    priority: int
    give_up: str


class RetryState(TypedDict, total=False):
    """Input (``tasks``, ``workers``) and output (``retries``) of a retry policy.

    Attributes:
        retries: task id → decision. Tasks that are left out go the built-in way.
    """

    tasks: list[FailedTask]
    workers: list[RetryWorker]
    retries: dict[str, RetryDecision]
