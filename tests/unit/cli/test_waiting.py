"""What ``a2actl`` waits for: a task's result."""

from __future__ import annotations

from typing import Any

import pytest

from a2a_zmq.errors import TaskTimeout
from daemons.cli.invocation import Invocation
from daemons.cli.waiting import show_result


class Late:
    """A handle whose record comes in the moment in which the waiting for it ends."""

    task_id = "t1"

    def __init__(self) -> None:
        self.record: dict[str, Any] | None = None

    def result(self, timeout: float) -> Any:
        self.record = {"task_id": "t1", "status": "completed", "result": {"n": 7}}
        raise TaskTimeout(self.task_id, timeout)


@pytest.mark.parametrize(("json", "shown"), [(False, '"n": 7'), (True, '"result":{"n":7}')])
def test_a_result_that_comes_in_the_last_moment_is_printed(
    capsys: pytest.CaptureFixture[str], json: bool, shown: str
) -> None:
    show_result(Invocation(json=json), Late())  # type: ignore[arg-type]
    assert shown in capsys.readouterr().out
