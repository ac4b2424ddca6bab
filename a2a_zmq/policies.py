"""What the fleet asks of users' policies, as state of a LangGraph graph: ``StateGraph(PlacementState)``."""

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
