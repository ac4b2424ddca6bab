"""What ``--json`` prints is what the schemas say, with a real fleet."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from a2a_zmq import FleetClient
from daemons.cli.fleet import LocalFleet
from daemons.cli.schemas import OUTPUTS
from tests.integration.rig import PATIENCE_S, a2actl, wait_until


@pytest.fixture(scope="module")
def tasks(fleet: LocalFleet) -> dict[str, str]:
    """Tasks by how they stand."""
    with FleetClient(**fleet.client_arguments(operator=True)) as client:
        failed = client.submit("raises", {"text": "no paper"}, max_attempts=1)
        wait_until(failed.done, "it failed")
        done = client.submit("noop", {"n": 1}, labels={"gpu": "yes"}, priority=3)
        done.result(PATIENCE_S)
        held = client.submit("noop", {}, labels={"site": "nowhere"})
        return {"failed": failed.task_id, "completed": done.task_id, "pending": held.task_id}


def checked(fleet: LocalFleet, path: str, *arguments: str, status: int = 0) -> None:
    """The command prints one object, and every member of it is described."""
    done = a2actl(fleet, *path.split(), *arguments, "--json")
    assert done.returncode == status, done.stderr
    for line in done.stdout.splitlines():
        OUTPUTS[path].model_validate(orjson.loads(line))
    assert done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "status", "top --interval 0.3", "top --interval 0.3 --count 2", "tasks", "tasks --status completed",
        "tasks --status all --sort type", "tasks --dead", "tasks --worker nobody", "history", "keys list",
        "submit noop", "submit noop --count 3 --wait",
    ],
)  # fmt: skip
def test_outputs(fleet: LocalFleet, tasks: dict[str, str], line: str) -> None:
    words = line.split()
    size = 2 if words[0] == "keys" else 1
    checked(fleet, " ".join(words[:size]), *words[size:])


@pytest.mark.parametrize("kind", ["pending", "failed", "completed"])
@pytest.mark.parametrize("path", ["task", "explain", "history"])
def test_outputs_about_a_task(fleet: LocalFleet, tasks: dict[str, str], path: str, kind: str) -> None:
    checked(fleet, path, tasks[kind])


def test_results(fleet: LocalFleet, tasks: dict[str, str]) -> None:
    checked(fleet, "result", tasks["completed"])
    checked(fleet, "result", tasks["failed"], status=1)
    checked(fleet, "submit", "raises", "--max-attempts", "1", "--wait", status=1)


def test_outcomes(fleet: LocalFleet, tasks: dict[str, str]) -> None:
    checked(fleet, "retry", tasks["failed"])
    checked(fleet, "retry", "never-heard-of", status=1)
    checked(fleet, "cancel", tasks["pending"], tasks["completed"])
    checked(fleet, "drain", "nobody", status=1)


def test_the_doctor(fleet: LocalFleet, tmp_path: Path) -> None:
    done = a2actl(fleet, "doctor", "--json")
    OUTPUTS["doctor"].model_validate(orjson.loads(done.stdout))
    nowhere = a2actl(fleet, "doctor", "--json", A2A_KEY_DIR=str(tmp_path), REDIS_PORT="1")
    assert nowhere.returncode == 1
    OUTPUTS["doctor"].model_validate(orjson.loads(nowhere.stdout))
