"""Results are encoded in the form that readers take without a second look."""

from __future__ import annotations

import orjson
import pytest

from daemons.runtime.contract import RunFinished
from daemons.worker.reports import encode


@pytest.mark.parametrize("execution_s", [0.0, 1e-6, 0.000012, 0.000123, 0.5, 5.0, 86_400.25])
@pytest.mark.parametrize("result", [b'{"n":1}', b"null", b'"\xc3\xa4"'])
def test_a_completed_run_is_encoded_as_a_parser_would_write_it_again(execution_s: float, result: bytes) -> None:
    text = encode(RunFinished("task-1", 2, "completed", result, "", "", False, 1_764_000_000.25, execution_s))
    assert orjson.dumps(orjson.loads(text)) == text
    assert orjson.loads(text) == {
        "task_id": "task-1",
        "attempt": 2,
        "outcome": "completed",
        "started_at": "2025-11-24T16:00:00.250000Z",
        "execution_s": execution_s,
        "result": orjson.loads(result),
    }


def test_a_task_id_that_needs_escapes_is_escaped() -> None:
    text = encode(RunFinished('a"\n', 1, "completed", b"1", "", "", False, 1_764_000_000.25, 0.1))
    assert orjson.loads(text)["task_id"] == 'a"\n'
