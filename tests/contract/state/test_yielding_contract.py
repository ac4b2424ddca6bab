"""What every implementation of the shared state promises about records that are handed in late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from a2a_zmq.interfaces import Section, SectionWrite

MakeWrite = Callable[..., SectionWrite]
COORDINATOR, DISTRIBUTOR = Section("d1", "coordinator"), Section("d1", "distributor")


def record(status: str = "pending", created_at: Any = "10:00", **metadata: Any) -> bytes:
    return orjson.dumps({"status": status, "created_at": created_at, "metadata": metadata, "payload": {"text": "ü"}})


LATE = record("late", attempt=2, retried=1)


@pytest.mark.parametrize(
    ("live", "replaced"),
    [
        (record(attempt=1, retried=1), True),
        (record(attempt=2, retried=1), False),
        (record(attempt=3, retried=1), False),
        (record(attempt=3), True),
        (record(attempt=1, retried=2), False),
        (record(created_at="09:00", attempt=9, retried=9), True),
        (record(created_at=None, attempt=9, retried=9), True),
        (orjson.dumps({"created_at": "10:00", "metadata": None}), True),
        (b"no record", True),
        (b"[1]", True),
    ],
)
async def test_a_late_record_replaces_only_an_older_one(
    backend: Any, make_write: MakeWrite, live: bytes, replaced: bool
) -> None:
    store = backend.store()
    await store.apply(make_write(section=DISTRIBUTOR, put_tasks={"t1": live}))
    late = make_write(section=COORDINATOR, put_tasks={"t1": LATE, "new": LATE}, yields=True)
    version = await store.apply(late)
    assert await store.tasks("d1", ["t1", "new"]) == {"t1": LATE if replaced else live, "new": LATE}
    assert await store.apply(late) == version, "applied once"


async def test_a_late_record_that_tells_no_time_is_put(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    for late in (record("late", created_at=None), b"unreadable"):
        await store.apply(make_write(section=DISTRIBUTOR, put_tasks={"t1": record(created_at=None, attempt=2)}))
        await store.apply(make_write(section=COORDINATOR, put_tasks={"t1": late}, yields=True))
        assert await store.tasks("d1", ["t1"]) == {"t1": late}
