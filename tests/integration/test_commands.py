"""The console scripts as users type them: help, version, exit status, one clear line on standard error."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import orjson
import pytest

from a2a_zmq import FleetClient
from daemons.cli.fleet import LocalFleet, free_ports
from tests.integration.rig import (
    PATIENCE_S,
    a2actl,
    clean_environment,
    one_line,
    run,
    scrape,
    script,
    total,
    wait_until,
)

PROGRAMS = ("a2a-coordinator", "a2a-distributor", "a2a-worker", "a2a-redis", "a2actl")


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_and_version(program: str) -> None:
    shown = run(program, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "--config" in shown.stdout
    version = run(program, "--version")
    assert version.returncode == 0
    assert version.stdout.split()[0] == program


@pytest.mark.parametrize(
    "command",
    [
        "submit",
        "result",
        "status",
        "tasks",
        "task",
        "explain",
        "cancel",
        "retry",
        "drain",
        "failover",
        "history",
        "keys",
        "doctor",
        "bench",
        "demo",
    ],
)
def test_every_command_has_help(command: str) -> None:
    shown = run("a2actl", command, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")


# ---------------------------------------------------------------- success


def test_submit_and_wait(fleet: LocalFleet) -> None:
    done = a2actl(fleet, "submit", "compute", "--payload", '{"operation": "sum", "numbers": [40, 2]}', "--wait")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"result":42' in done.stdout


def test_the_way_of_a_task_in_json(fleet: LocalFleet) -> None:
    submitted = orjson.loads(a2actl(fleet, "submit", "noop", "--payload", '{"x": 1}', "--json").stdout)
    (task_id,) = submitted["task_ids"]
    result = a2actl(fleet, "result", task_id, "--json")
    assert orjson.loads(result.stdout) == {"task_id": task_id, "status": "completed", "result": {"x": 1}, "error": None}
    assert orjson.loads(a2actl(fleet, "task", task_id, "--json").stdout)["task"]["task_id"] == task_id
    found = orjson.loads(a2actl(fleet, "explain", task_id, "--json").stdout)
    assert any(line.startswith("It completed on worker-") for line in found["lines"])
    assert [hop[0] for hop in found["hops"]][:2] == ["accepted", "dispatched"]
    assert found["coordinator"]["lease"]["owner"].startswith("coordinator-1|")
    status = orjson.loads(a2actl(fleet, "status", "--json").stdout)
    assert status["coordinator"]["id"] == "coordinator-1"
    assert orjson.loads(a2actl(fleet, "history", "--json").stdout)["events"]
    assert orjson.loads(a2actl(fleet, "tasks", "--json").stdout)["total"] == 0


def test_why_a_task_waits(fleet: LocalFleet) -> None:
    a2actl(fleet, "submit", "noop", "--task-id", "unserved", "--label", "gpu=none")
    found = orjson.loads(a2actl(fleet, "explain", "unserved", "--json").stdout)
    assert found["state"] == "inbox"
    assert found["why"] == ["no worker that handles 'noop' has gpu=none"]
    assert "gpu=none" in a2actl(fleet, "explain", "unserved").stdout
    assert a2actl(fleet, "cancel", "unserved").returncode == 0


def test_tables_for_people(fleet: LocalFleet) -> None:
    for command in ("status", "tasks", "history", "keys list"):
        shown = a2actl(fleet, *command.split())
        assert (shown.returncode, shown.stderr) == (0, ""), command
        assert shown.stdout.strip()


def test_many_tasks_from_a_file_and_from_standard_input(fleet: LocalFleet, tmp_path: Path) -> None:
    lines = [orjson.dumps({"task_type": "noop", "payload": {"n": n}, "priority": n}).decode() for n in range(30)]
    text = "\n".join(lines) + "\n\n"
    file = tmp_path / "tasks.jsonl"
    file.write_text(text)
    from_file = orjson.loads(a2actl(fleet, "submit", "--file", str(file), "--wait", "--json").stdout)
    from_input = orjson.loads(a2actl(fleet, "submit", "--file", "-", "--wait", "--json", text=text).stdout)
    for answer in (from_file, from_input):
        assert (answer["submitted"], answer["completed"], answer["failed"]) == (30, 30, 0)
        assert [row["result"]["n"] for row in answer["results"]] == list(range(30))
    counted = orjson.loads(a2actl(fleet, "submit", "noop", "--count", "25", "--wait", "--json").stdout)
    assert counted["completed"] == 25


def test_cancel_and_retry(fleet: LocalFleet, client: FleetClient, tmp_path: Path) -> None:
    until = tmp_path / "never"
    handle = client.submit("held", {"until": str(until)})
    wait_until(lambda: handle.status() == "in_progress", "the task is running")
    cancelled = a2actl(fleet, "cancel", handle.task_id)
    assert (cancelled.returncode, cancelled.stderr) == (0, "")
    wait_until(handle.done, "the task is cancelled")
    until.touch()
    retried = a2actl(fleet, "retry", handle.task_id)
    assert (retried.returncode, retried.stderr) == (0, "")
    assert client.attach(handle.task_id).result(PATIENCE_S) is None


def test_doctor_finds_nothing_wrong(fleet: LocalFleet) -> None:
    found = a2actl(fleet, "doctor", "--json", REDIS_PORT=str(fleet.redis_port))
    checks = {check["name"]: check for check in orjson.loads(found.stdout)["checks"]}
    wrong = [check for name, check in checks.items() if not check["ok"] and name != "open files"]
    assert wrong == [], found.stdout
    assert {"keys", "coordinator", "workers", "redis", "store"} <= set(checks)


# ---------------------------------------------------------------- failure: status and one line


def test_a_failed_task_is_status_1(fleet: LocalFleet) -> None:
    done = a2actl(fleet, "submit", "raises", "--payload", '{"text": "no paper"}', "--max-attempts", "1", "--wait")
    assert done.returncode == 1
    assert "no paper" in one_line(done, "a2actl")
    assert done.stdout == "", "it was said twice"


def test_of_several_tasks_those_that_failed_are_on_standard_error(fleet: LocalFleet, tmp_path: Path) -> None:
    lines = [
        '{"task_type": "noop"}',
        *['{"task_type": "raises", "payload": {"text": "no paper"}, "max_attempts": 1}'] * 2,
    ]
    (tmp_path / "tasks.jsonl").write_text("\n".join(lines))
    done = a2actl(fleet, "submit", "--file", str(tmp_path / "tasks.jsonl"), "--wait")
    assert done.returncode == 1
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["completed"]
    *each, last = done.stderr.splitlines()
    assert len(each) == 2
    assert all(" failed: " in line and "no paper" in line for line in each)
    assert last == "a2actl: 2 of 3 tasks did not complete"


def test_unknown_tasks_are_status_1(fleet: LocalFleet) -> None:
    for command in ("task", "explain", "result", "cancel", "retry"):
        done = a2actl(fleet, command, "never-heard-of", "--timeout", "5")
        assert done.returncode == 1, (command, done.stderr)
        assert "never-heard-of" in one_line(done, "a2actl"), command
        assert done.stdout == "", command
    done = a2actl(fleet, "drain", "worker-77")
    assert done.returncode == 1
    assert "worker-77" in one_line(done, "a2actl")


def test_a_result_that_is_not_there_yet_is_status_75(fleet: LocalFleet, client: FleetClient, tmp_path: Path) -> None:
    until = tmp_path / "go"
    handle = client.submit("held", {"until": str(until)})
    done = a2actl(fleet, "result", handle.task_id, "--timeout", "0.3")
    until.touch()
    assert done.returncode == 75
    assert handle.task_id in one_line(done, "a2actl")
    handle.result(PATIENCE_S)


def test_no_coordinator_in_reach_is_status_69(fleet: LocalFleet) -> None:
    address = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    for arguments in (("status",), ("submit", "noop"), ("result", "some-task")):
        done = a2actl(fleet, *arguments, "--timeout", "0.5", "--address", address)
        assert done.returncode == 69, done.stderr
        assert "coordinator" in one_line(done, "a2actl")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("submit",), "TYPE"),
        (("submit", "noop", "--payload", "{not json"), "--payload is not JSON"),
        (("submit", "noop", "--payload", "[1, 2]"), "must be a JSON object"),
        (("submit", "noop", "--label", "gpu"), "NAME=VALUE"),
        (("submit", "noop", "--count", "0"), "--count"),
        (("submit", "noop", "--count", "2", "--task-id", "x"), "--task-id"),
        (("submit", "--file", "x", "--payload", "{}"), "--file"),
        (("tasks", "--status", "sleeping"), "sleeping"),
        (("result",), "ID"),
        (("launch",), "launch"),
        (("status", "--loud"), "--loud"),
        (("keys", "add", "somebody"), "role"),
    ],
)
def test_wrong_usage_is_status_2(fleet: LocalFleet, arguments: tuple[str, ...], says: str) -> None:
    done = a2actl(fleet, *arguments)
    assert done.returncode == 2
    assert says in one_line(done, "a2actl")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"payload": {', "not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"payload": {}, "colour": "red"}', "unknown member 'colour'"),
        ('{"payload": "text"}', "payload must be dict"),
        ('{"payload": {}, "priority": "high"}', "priority must be int"),
        ('{"payload": {}}', "no task_type"),
    ],
)
def test_a_wrong_line_of_a_file_is_named(fleet: LocalFleet, tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"task_type": "noop", "payload": {}}\n' + line + "\n")
    done = a2actl(fleet, "submit", "--file", str(file))
    assert done.returncode == 1
    text = one_line(done, "a2actl")
    assert says in text
    assert f"{file}, line 2" in text


def test_a_file_that_is_not_there_is_a_mistake_in_the_command(fleet: LocalFleet) -> None:
    done = a2actl(fleet, "submit", "--file", "/nowhere/tasks.jsonl")
    assert done.returncode == 2
    assert "/nowhere/tasks.jsonl" in one_line(done, "a2actl")


def test_doctor_says_what_is_wrong_and_how_to_mend_it(fleet: LocalFleet) -> None:
    (port,) = free_ports(1)
    done = a2actl(fleet, "doctor", "--json", REDIS_PORT=str(port), A2A_COORDINATOR_ADDRESS=f"tcp://127.0.0.1:{port}")
    assert done.returncode == 1
    assert "redis" in one_line(done, "a2actl")
    checks = {check["name"]: check for check in orjson.loads(done.stdout)["checks"]}
    assert checks["redis"]["ok"] is False
    assert checks[f"port tcp://127.0.0.1:{port}"]["ok"] is False
    assert all(check["fix"] for check in checks.values() if not check["ok"])


def test_ctrl_c_is_status_130(fleet: LocalFleet, client: FleetClient, tmp_path: Path) -> None:
    until = tmp_path / "go"
    handle = client.submit("held", {"until": str(until)})
    env = clean_environment({"A2A_COORDINATOR_ADDRESS": fleet.coordinator_address, "A2A_KEY_DIR": str(fleet.key_dir)})
    connected = "a2a_messages_total"
    before = total(scrape(fleet, "coordinator-1"), connected, direction="in", type="request")
    with subprocess.Popen(
        [script("a2actl"), "result", handle.task_id], env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as waiting:
        wait_until(
            lambda: total(scrape(fleet, "coordinator-1"), connected, direction="in", type="request") > before,
            "it has asked for the result",
        )
        waiting.send_signal(signal.SIGINT)
        _, errors = waiting.communicate(timeout=PATIENCE_S)
    assert waiting.returncode == 130
    assert errors == "a2actl: interrupted\n"
    until.touch()
    handle.result(PATIENCE_S)


def test_a_reader_that_has_seen_enough_is_no_error_to_tell(fleet: LocalFleet) -> None:
    arguments = f"{script('a2actl')} --address {fleet.coordinator_address} --key-dir {fleet.key_dir} history"
    done = subprocess.run(
        ["sh", "-c", f"{arguments} | head -n 1"], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_while_waiting_for_submitted_tasks_says_that_they_go_on(fleet: LocalFleet, tmp_path: Path) -> None:
    until, ledger = tmp_path / "go", tmp_path / "ledger"
    payload = orjson.dumps({"until": str(until), "ledger": str(ledger)}).decode()
    env = clean_environment({"A2A_COORDINATOR_ADDRESS": fleet.coordinator_address, "A2A_KEY_DIR": str(fleet.key_dir)})
    command = [script("a2actl"), "submit", "held", "--task-id", "goes-on", "--payload", payload, "--wait"]
    with subprocess.Popen(
        command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as waiting:
        wait_until(ledger.exists, "it runs")
        time.sleep(0.2)  # until its submission was answered
        waiting.send_signal(signal.SIGINT)
        shown, errors = waiting.communicate(timeout=PATIENCE_S)
    until.touch()
    assert waiting.returncode == 130
    assert "go on" in errors or "goes on" in errors
    if "interrupted; 1 task goes on" in errors:
        assert shown == "goes-on\n"
    assert a2actl(fleet, "result", "goes-on").returncode == 0


def test_a_distributor_that_nobody_knows_is_warned_of(fleet: LocalFleet) -> None:
    done = a2actl(fleet, "submit", "noop", "--task-id", "misdirected", "--distributor", "nope")
    assert (done.returncode, done.stdout) == (0, "misdirected\n")
    assert "no distributor 'nope' is registered (there are: distributor-1)" in one_line(done, "a2actl")
    assert a2actl(fleet, "cancel", "misdirected").returncode == 0
    assert a2actl(fleet, "submit", "noop", "--distributor", "distributor-1").stderr == ""


def test_numbers_in_errors_are_those_that_were_given(fleet: LocalFleet) -> None:
    done = a2actl(fleet, "submit", "noop", "--priority", "9" * 30)
    assert done.returncode == 1
    assert "priority must be from -1000 to 1000" in one_line(done, "a2actl")
    done = a2actl(fleet, "submit", "noop", "--task-id", "unserved-2", "--label", "a=b", "--wait", "--timeout", "0.3")
    assert done.returncode == 75
    assert "within 0.3 s" in one_line(done, "a2actl")
    assert a2actl(fleet, "cancel", "unserved-2").returncode == 0
