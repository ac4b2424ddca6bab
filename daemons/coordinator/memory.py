"""Bounded memories of what is finished. The store is the truth; these only save questions to it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator


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


class DeadLetters:
    """Tasks that ended failed or abandoned: (record with payload, result record), oldest forgotten first."""

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        self._bytes = size
        self._letters: OrderedDict[str, tuple[bytes, bytes]] = OrderedDict()
        self._size = 0

    def put(self, task_id: str, record: bytes, result: bytes) -> None:
        self.take(task_id)
        self._letters[task_id] = (record, result)
        self._size += len(record) + len(result)
        while self._size > self._bytes or len(self._letters) > self._count:
            _, (old_record, old_result) = self._letters.popitem(last=False)
            self._size -= len(old_record) + len(old_result)

    def take(self, task_id: str) -> tuple[bytes, bytes] | None:
        letter = self._letters.pop(task_id, None)
        if letter is not None:
            self._size -= len(letter[0]) + len(letter[1])
        return letter

    def get(self, task_id: str) -> tuple[bytes, bytes] | None:
        return self._letters.get(task_id)

    def newest(self) -> Iterator[bytes]:
        """Result records, newest first."""
        return (self._letters[task_id][1] for task_id in reversed(self._letters))

    def __len__(self) -> int:
        return len(self._letters)
