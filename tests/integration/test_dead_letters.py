"""Dead letters of a real fleet: what they tell, and that a coordinator's death costs none."""

from __future__ import annotations

import os
import signal
from typing import Any

import orjson
import pytest

from a2a_zmq import TaskFailed
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import PATIENCE_S, a2actl, client_of, user_fleet, wait_until


def told(fleet: LocalFleet, *words: str) -> Any:
    done = a2actl(fleet, "--json", *words)
    assert done.returncode == 0, done.stderr
    return orjson.loads(done.stdout)


def test_dead_letters_are_listed_and_retried_after_the_coordinator_was_killed() -> None:
    with user_fleet(workers=1) as fleet:
        with client_of(fleet) as client:
            handle = client.submit("dies-talking", {}, max_attempts=2)
            with pytest.raises(TaskFailed):
                handle.result(PATIENCE_S)
            client.submit("noop", {}).result(PATIENCE_S)
        pid = fleet.pids["coordinator-1"]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: fleet.pids["coordinator-1"] not in (None, pid), "the coordinator is started again")
        page = told(fleet, "tasks", "--dead")
        (letter,) = page["tasks"]
        assert letter["task_id"] == handle.task_id
        metadata = letter["metadata"]
        assert (metadata["attempt"], metadata["worker"], metadata["error_kind"]) == (2, "worker-1", "killed")
        assert metadata["detail"]["signal"] == "SIGABRT"
        assert "these were its last words" in metadata["detail"]["log"]
        assert [each["signal"] for each in metadata["attempts"]] == ["SIGABRT"]
        assert len(told(fleet, "tasks", "--status", "completed")["tasks"]) == 1
        assert told(fleet, "retry", "--dead")["retried"] == [handle.task_id]
        wait_until(
            lambda: [each["metadata"]["attempt"] for each in told(fleet, "tasks", "--dead")["tasks"]] == [4],
            "it failed again, twice, and is one dead letter",
        )
