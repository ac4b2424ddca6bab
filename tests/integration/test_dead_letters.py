"""Dead letters of a real fleet: what they tell, and that a coordinator's death costs none."""

from __future__ import annotations

import os
import signal
from typing import Any

import orjson
import pytest

from a2a_zmq import TaskFailed
from tests.integration.rig import PATIENCE_S, client_of, run, user_fleet, wait_until


def a2actl(fleet: Any, *words: str) -> Any:
    given = fleet.client_arguments(operator=True)
    env = {"A2A_COORDINATOR_ADDRESS": given["addresses"], "A2A_KEY_DIR": str(given["key_dir"])}
    ended = run("a2actl", "--json", *words, env=env)
    assert ended.returncode == 0, ended.stderr
    return orjson.loads(ended.stdout)


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
        page = a2actl(fleet, "tasks", "--dead")
        (letter,) = page["tasks"]
        assert letter["task_id"] == handle.task_id
        metadata = letter["metadata"]
        assert (metadata["attempt"], metadata["worker"], metadata["error_kind"]) == (2, "worker-1", "killed")
        assert metadata["detail"]["signal"] == "SIGABRT"
        assert "these were its last words" in metadata["detail"]["log"]
        assert [each["signal"] for each in metadata["attempts"]] == ["SIGABRT"]
        assert len(a2actl(fleet, "tasks", "--status", "completed")["tasks"]) == 1
        assert a2actl(fleet, "retry", "--dead")["retried"] == [handle.task_id]
        wait_until(
            lambda: [each["metadata"]["attempt"] for each in a2actl(fleet, "tasks", "--dead")["tasks"]] == [4],
            "it failed again, twice, and is one dead letter",
        )
