"""``a2actl`` as one types it, without a fleet: usage, configuration, exit status, one clear line for each error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from a2a_zmq.errors import (
    ConfigError,
    FleetUnavailable,
    KeyRefused,
    RequestRefused,
    TaskFailed,
    TaskTimeout,
)
from a2a_zmq.protocol.message import Role
from a2a_zmq.security.keydir import KeyDirectory
from daemons.cli.invocation import CommandFailed
from daemons.cli.main import hoist, main, status_of


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No .env of whoever runs the tests, and keys of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("A2A_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    commands = {
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
        "top",
        "completion",
        "schema",
    }
    for command in commands | {"keys", "config", "doctor", "demo", "bench", "--json", "--address"}:
        assert command in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("a2actl ")


def test_help_loads_nothing_that_is_slow() -> None:
    heavy = "zmq redis langgraph pydantic cryptography uvloop a2a_zmq.client.sync"
    code = (
        "import sys; from daemons.cli.main import main; assert main(['--help']) == 0; "
        f"print('LOADED', [name for name in {heavy.split()!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert "LOADED []" in done.stdout


def test_a_terminal_without_unicode_gets_what_it_can_show() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "daemons.cli.main", "submit", "--help"],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"updates, custom, messages, values" in b" ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ([], 2, "Usage"),
        (["nonsense"], 2, "nonsense"),
        (["submit"], 2, "TYPE"),
        (["submit", "noop", "--payload", "{"], 2, "not JSON"),
        (["submit", "noop", "--payload", "[1]"], 2, "JSON object"),
        (["submit", "noop", "--label", "gpu"], 2, "NAME=VALUE"),
        (["submit", "noop", "--count", "2", "--task-id", "a"], 2, "--count"),
        (["submit", "noop", "--file", "-", "--payload", "{}"], 2, "--file"),
        (["submit", "noop", "--file", "missing.jsonl", "--address", "tcp://127.0.0.1:1"], 2, "missing.jsonl"),
        (["tasks", "--status", "lost"], 2, "no status"),
        (["tasks", "--older", "soon"], 2, "no time span"),
        (["tasks", "--dead", "--status", "all"], 2, "--dead"),
        (["tasks", "--limit", "5000"], 2, "--limit"),
        (["top", "--sort", "colour"], 2, "'--sort': 'colour' is not one of"),
        (["top", "--interval", "0"], 2, "--interval"),
        (["stream", "t1", "--from", "12.3"], 2, "--from '12.3' is not the id of an event"),
        (["completion", "tcsh"], 2, "tcsh"),
        (["bench", "--only", "everything"], 2, "no part"),
        (["--address", "localhost", "status"], 78, "localhost"),
        (["status", "--config", "missing.toml"], 78, "missing.toml"),
        (["status", "--timeout", "soon"], 2, "--timeout"),
        (["keys", "add", "nameless"], 2, "role"),
        (["keys", "init", "a=king"], 2, "king"),
        (["keys", "list"], 78, "key"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    line: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str], in_an_empty_directory: Path
) -> None:
    if "missing.jsonl" in line:
        assert main(["keys", "init"]) == 0
    assert main(line) == status
    said = capsys.readouterr()
    assert words in said.err
    assert "Traceback" not in said.err
    if line:
        assert len(said.err.strip().splitlines()) == 1


def test_unknown_variables_and_keys_of_files_are_errors(
    capsys: pytest.CaptureFixture[str], in_an_empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (in_an_empty_directory / "a.toml").write_text("coordinater_id = 'x'\n")
    assert main(["--config", "a.toml", "status"]) == 78
    assert "coordinater_id" in capsys.readouterr().err
    (in_an_empty_directory / ".env").write_text("A2A_COORDINATOR_ADRESS=tcp://127.0.0.1:1\n")
    assert main(["status"]) == 78
    assert "A2A_COORDINATOR_ADRESS" in capsys.readouterr().err


def test_no_coordinator_in_reach(capsys: pytest.CaptureFixture[str], free_port: Callable[[], int]) -> None:
    assert main(["keys", "init"]) == 0
    capsys.readouterr()
    port = free_port()
    assert main(["status", "--address", f"tcp://127.0.0.1:{port}", "--timeout", "0.3"]) == 69
    assert f"tcp://127.0.0.1:{port}: nothing answers" in capsys.readouterr().err


def test_a_client_makes_no_fleet_of_its_own(capsys: pytest.CaptureFixture[str], in_an_empty_directory: Path) -> None:
    assert main(["status", "--timeout", "0.3"]) == 69
    keys = in_an_empty_directory / "state" / "keys"
    assert f"key directory {keys}: there are no keys of a fleet" in capsys.readouterr().err
    assert not keys.exists()


def test_a_command_right_after_the_first_start_of_a_fleet_found_no_keys(
    capsys: pytest.CaptureFixture[str], free_port: Callable[[], int], in_an_empty_directory: Path
) -> None:
    """Its daemons make them when they have come up, seconds later on a busy host."""
    directory = KeyDirectory(in_an_empty_directory / "state" / "keys")

    def daemons() -> None:
        directory.ensure("worker-1", Role.WORKER)
        time.sleep(0.3)  # the coordinator's own come with the coordinator
        directory.ensure("coordinator-1", Role.COORDINATOR)

    starting = threading.Timer(0.3, daemons)
    starting.start()
    assert main(["status", "--address", f"tcp://127.0.0.1:{free_port()}", "--timeout", "3"]) == 69
    starting.join()
    assert "nothing answers" in capsys.readouterr().err, "it got as far as to the coordinator"
    assert directory.knows("operator"), "and acts as the operator, as it does later"


def test_keys_that_waiting_does_not_bring_are_a_wrong_setting(
    capsys: pytest.CaptureFixture[str], in_an_empty_directory: Path
) -> None:
    keys = in_an_empty_directory / "state" / "keys"
    keys.mkdir(parents=True, mode=0o755)
    assert main(["status"]) == 78
    assert f"chmod 0700 {keys}" in capsys.readouterr().err
    keys.rmdir()
    keys.write_text("")
    assert main(["status"]) == 78
    assert "not a directory" in capsys.readouterr().err
    keys.unlink()
    assert main(["keys", "init"]) == 0
    (keys / "peers.json").write_text("{")
    assert main(["status"]) == 78
    assert "peers.json" in capsys.readouterr().err


def test_the_life_of_keys(capsys: pytest.CaptureFixture[str], in_an_empty_directory: Path) -> None:
    def run(*line: str) -> dict[str, object]:
        assert main([*line, "--json"]) == 0
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return found

    assert "worker-1" in str(run("keys", "init")["added"])
    assert run("keys", "init")["added"] == []
    assert run("keys", "add", "worker-9") == {"added": "worker-9", "role": "worker"}
    assert run("keys", "add", "gpu-box", "worker") == {"added": "gpu-box", "role": "worker"}
    assert run("keys", "rotate", "worker-9") == {"agent": "worker-9", "key_id": "2"}
    run("keys", "export", "worker-9", "elsewhere")
    assert (in_an_empty_directory / "elsewhere" / "worker-9.key").exists()
    assert not (in_an_empty_directory / "elsewhere" / "issuer.key").exists()
    run("keys", "revoke", "worker-9")
    agents = run("keys", "list")["agents"]
    assert isinstance(agents, list)
    by_name = {one["agent"]: one for one in agents}
    assert by_name["worker-9"]["revoked"]
    assert by_name["worker-1"] == {
        "agent": "worker-1",
        "role": "worker",
        "key_ids": ["1"],
        "secret_here": True,
        "revoked": False,
    }
    assert main(["keys", "list"]) == 0
    assert "gpu-box" in capsys.readouterr().out


def test_keys_init_names_the_revoked_and_lets_them_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "init"]) == 0
    assert main(["keys", "revoke", "worker-2"]) == 0
    capsys.readouterr()
    assert main(["keys", "init"]) == 0
    said = capsys.readouterr().out
    assert "nothing was made; revoked, which only `a2actl keys add NAME` changes: worker-2" in said
    assert main(["keys", "init", "worker-2", "worker-3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["added"], found["revoked"]) == (["worker-3"], ["worker-2"])
    assert main(["keys", "add", "worker-2"]) == 0
    assert main(["keys", "init"]) == 0
    assert "nothing to do, all have keys" in capsys.readouterr().out


@pytest.mark.parametrize("line", [["rotate"], ["revoke"], ["export", "elsewhere"]])
def test_a_name_that_has_no_keys_is_a_mistake_in_the_command(
    capsys: pytest.CaptureFixture[str], line: list[str]
) -> None:
    assert main(["keys", "init"]) == 0
    assert main(["keys", "revoke", "worker-2"]) == 0
    capsys.readouterr()
    assert main(["keys", line[0], "worker1", *line[1:]]) == 2
    said = capsys.readouterr().err
    assert "no agent worker1 in " in said
    assert "did you mean worker-1?" in said
    assert main(["keys", line[0], "worker-2", *line[1:]]) == 2
    assert "worker-2 is revoked; `a2actl keys add worker-2` admits it again" in capsys.readouterr().err


def test_a_new_name_is_said_when_keys_are_made_for_it(
    capsys: pytest.CaptureFixture[str], free_port: Callable[[], int]
) -> None:
    assert main(["keys", "init"]) == 0
    capsys.readouterr()
    line = ["status", "--address", f"tcp://127.0.0.1:{free_port()}", "--timeout", "0.2", "--client-id", "oprator"]
    assert main([*line, "--json"]) == 69
    said = capsys.readouterr()
    assert said.err.count("oprator is new here: keys of a client were made for it in ") == 1
    assert said.out == ""
    assert main(line) == 69
    assert "is new here" not in capsys.readouterr().err


def test_revoking_who_a2actl_acts_as_needs_force_and_the_way_back_is_told(
    capsys: pytest.CaptureFixture[str], free_port: Callable[[], int]
) -> None:
    assert main(["keys", "init"]) == 0
    assert main(["keys", "revoke", "operator"]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["keys", "revoke", "client", "--client-id", "client"]) == 1
    assert main(["keys", "revoke", "operator", "--force"]) == 0
    capsys.readouterr()
    nowhere = ["--address", f"tcp://127.0.0.1:{free_port()}", "--timeout", "0.2"]
    assert main(["status", *nowhere]) == 78
    assert "operator is revoked; `a2actl keys add operator` admits it again" in capsys.readouterr().err
    assert main(["keys", "add", "operator"]) == 0
    assert main(["status", *nowhere]) == 69


@pytest.mark.parametrize(("name", "way_back"), [("coordinator-1", []), ("boss", ["coordinator"])])
def test_revoking_the_only_coordinator_needs_force_and_the_way_back_is_told(
    capsys: pytest.CaptureFixture[str], free_port: Callable[[], int], name: str, way_back: list[str]
) -> None:
    assert main(["keys", "init", f"{name}=coordinator", "coordinator-2", "operator"]) == 0
    assert main(["keys", "revoke", "coordinator-2"]) == 0, "another one can lead"
    capsys.readouterr()
    assert main(["keys", "revoke", name]) == 1
    said = capsys.readouterr().err
    back = " ".join(["a2actl keys add", name, *way_back])
    assert f"{name} is the only coordinator with keys" in said
    assert f"`{back}`" in said
    assert f"`a2actl keys revoke {name} --force`" in said
    assert main(["keys", "revoke", name, "--force"]) == 0
    nowhere = ["--address", f"{name}@tcp://127.0.0.1:{free_port()}"]
    began = time.monotonic()
    assert main(["status", *nowhere, "--timeout", "10"]) == 78
    assert time.monotonic() - began < 5.0, "nobody waits for what does not come"
    said = capsys.readouterr().err
    assert f"the keys of coordinator '{name}' were revoked" in said
    assert f"`{back}` on the issuing host" in said
    assert main(back.split()[1:]) == 0
    assert main(["status", *nowhere, "--timeout", "0.2"]) == 69


def test_doctor_without_a_fleet_says_what_to_do(
    capsys: pytest.CaptureFixture[str], free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_PORT", str(free_port()))
    line = ["doctor", "--json", "--address", f"tcp://127.0.0.1:{free_port()}"]
    assert main(line) == 1
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert not report["ok"]
    checks = {check["name"].split()[0]: check for check in report["checks"]}
    assert not checks["keys"]["ok"]
    assert "a2actl keys init" in checks["keys"]["fix"]
    assert not checks["port"]["ok"]
    assert not checks["redis"]["ok"]
    assert checks["installation"]["ok"]
    assert all(check["fix"] for check in report["checks"] if not check["ok"])
    assert main(line[:1] + line[2:]) == 1
    assert "fix:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "moved"),
    [
        (["status", "--json"], ["--json", "status"]),
        (["submit", "noop", "--timeout", "3", "--wait"], ["--timeout", "3", "submit", "noop", "--wait"]),
        (["result", "--timeout=3", "x"], ["--timeout=3", "result", "x"]),
        (["result", "--", "--json"], ["result", "--", "--json"]),
        (["status", "--address"], ["--address", "status"]),
    ],
)
def test_global_options_may_stand_anywhere(given: list[str], moved: list[str]) -> None:
    assert hoist(given) == moved


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CommandFailed("no"), 1),
        (ConfigError("bad"), 78),
        (FleetUnavailable("gone"), 69),
        (KeyRefused("who?"), 78),
        (TaskTimeout("t", 1.0), 75),
        (RequestRefused("BUSY", "full"), 75),
        (RequestRefused("UNKNOWN_TASK_TYPE", "never heard"), 1),
        (TaskFailed("t", "boom"), 1),
    ],
)
def test_exit_status_of_errors(error: Exception, status: int) -> None:
    assert status_of(error)[0] == status


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        status_of(ZeroDivisionError())
