"""Records that are too large for a message: what is told of them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from a2a_zmq.protocol.wire import MAX_FRAME_BYTES
from daemons.runtime.shortening import sendable

LARGE = "x" * 600_000


def told(**members: Any) -> dict[str, Any]:
    record = {"task_id": "t1", "status": "failed", "result": None, "error": "boom", "metadata": {}, **members}
    raw = sendable(orjson.dumps(record))
    assert len(raw) < MAX_FRAME_BYTES
    found: dict[str, Any] = orjson.loads(raw)
    return found


def test_what_fits_is_told_as_it_is() -> None:
    raw = orjson.dumps({"task_id": "t1", "payload": LARGE})
    assert sendable(raw) is raw


def test_large_members_of_the_metadata_go_first() -> None:
    metadata = {"attempt": 3, "error_kind": "exited", "detail": {"exit_code": LARGE}, "resume": {"q": LARGE}}
    found = told(payload={"n": 1}, metadata=metadata)
    assert found["metadata"] == {"attempt": 3, "error_kind": "exited", "shortened": ["detail", "resume"]}
    assert (found["payload"], found["error"]) == ({"n": 1}, "boom")


def test_then_the_payload() -> None:
    found = told(payload=LARGE * 2, result="small")
    assert "payload" not in found
    assert (found["metadata"]["shortened"], found["result"]) == (["payload"], "small")


@pytest.mark.parametrize("error", ["boom", LARGE * 2])
def test_a_failure_stays_one_with_the_beginning_of_its_error(error: str) -> None:
    found = told(error=error, metadata={"error_kind": "raised"})
    assert (found["status"], found["metadata"]["error_kind"]) == ("failed", "raised")
    assert error.startswith(found["error"])


def test_a_result_that_no_message_carries_is_told_as_what_it_is() -> None:
    found = told(status="completed", error=None, result=LARGE * 2)
    assert (found["status"], found["result"], found["metadata"]["error_kind"]) == ("failed", None, "too_large")
    assert "is stored" in found["error"]


def test_a_live_record_keeps_its_status() -> None:
    assert told(status="waiting", metadata={"interrupts": [LARGE, LARGE]})["status"] == "waiting"
