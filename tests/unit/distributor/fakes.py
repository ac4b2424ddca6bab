"""What stands around a distributor core in its tests: the section's shared state."""

from __future__ import annotations

from typing import Any

import orjson

from a2a_zmq.interfaces import Loaded, Section, SectionWrite

DISTRIBUTOR = "site-1"
SECTION = Section(DISTRIBUTOR, "distributor")


class Store:
    """The section's shared state, as much of it as a distributor can see or break."""

    def __init__(self) -> None:
        self.version = 0
        self.told_version = 0  # of the coordinator's section
        self.fence = 1
        self.header: dict[str, str] = {}
        self.live: dict[str, dict[str, Any]] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.history: list[list[Any]] = []
        self.recorded: dict[str, list[int]] = {}  # task id → attempts whose result was recorded
        self.accepted: set[str] = set()
        self.dispatched: set[tuple[str, int]] = set()  # by every process that ever owned the section

    def apply(self, write: SectionWrite) -> int:
        assert write.section == SECTION
        assert write.fence >= self.fence, "a fenced writer must not write"
        self.header.update(write.header)
        for task_id, raw in write.put_tasks.items():
            record = orjson.loads(raw)
            assert record["task_id"] == task_id
            old = self.live.get(task_id, {}).get("metadata", {}).get("attempt", 0)
            assert record["metadata"]["attempt"] >= old, f"attempt of {task_id} went back"
            self.live[task_id] = record
        for task_id in write.drop_tasks:
            self.live.pop(task_id, None)
        for task_id, raw in write.results.items():
            record = orjson.loads(raw)
            self.results[task_id] = record
            self.recorded.setdefault(task_id, []).append(record["metadata"]["attempt"])
        self.history.extend(orjson.loads(raw) for raw in write.history)
        self.version += 1
        return self.version

    def loaded(self) -> Loaded:
        tasks = {task_id: orjson.dumps(record) for task_id, record in self.live.items()}
        return Loaded(self.version, self.fence, "epoch", dict(self.header), tasks)

    def results_of(self, task_ids: list[str]) -> dict[str, bytes]:
        return {task_id: orjson.dumps(self.results[task_id]) for task_id in task_ids if task_id in self.results}

    def events(self, name: str) -> list[list[Any]]:
        return [event for event in self.history if event[2] == name]
