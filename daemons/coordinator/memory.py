"""Bounded memories of what is finished. The store is the truth; these only save questions to it."""

from __future__ import annotations


class Recent:
    """Result records of what finished lately: two generations, so that forgetting costs nothing a record."""

    def __init__(self, count: int, size: int) -> None:
        self._count = max(1, count // 2)
        self._bytes = size // 2
        self._young: dict[str, bytes] = {}
        self._old: dict[str, bytes] = {}
        self._size = 0

    def put(self, task_id: str, record: bytes) -> None:
        self._young[task_id] = record
        self._size += len(record)
        if self._size > self._bytes or len(self._young) > self._count:
            self._old = self._young
            self._young = {}
            self._size = 0

    def get(self, task_id: str) -> bytes | None:
        return self._young.get(task_id) or self._old.get(task_id)

    def forget(self, task_id: str) -> None:
        """The task lives again."""
        self._young.pop(task_id, None)
        self._old.pop(task_id, None)
