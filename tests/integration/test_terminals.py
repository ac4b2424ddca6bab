"""``a2actl`` with a real fleet on terminals: what fits, what can be copied, what moves, and that it ends cleanly."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from a2a_zmq import FleetClient
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import PATIENCE_S, a2actl, user_fleet, wait_until
from tests.integration.terminal import Terminal

LONG_ID = "a-task-with-an-id-that-is-as-long-as-ids-may-be." + "0123456789" * 8
Open = Callable[..., Terminal]


@pytest.fixture(scope="module")
def fleet(no_orphans: Path) -> Iterator[LocalFleet]:
    """Two distributors with a worker each."""
    with user_fleet(workers=2, distributors=2, env_of={"worker-2": {"A2A_WORKER_LABELS": "gpu=yes"}}) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def tasks(fleet: LocalFleet) -> list[str]:
    """Tasks that wait, failed and ended; one with the longest id."""
    with FleetClient(**fleet.client_arguments(operator=True)) as client:
        client.submit("noop", {}, task_id=LONG_ID, labels={"site": "nowhere"})
        failed = client.submit("raises", {"text": "no paper \x1b[31m" + " and no ink" * 20}, max_attempts=1)
        wait_until(failed.done, "it failed")
        done = client.submit("noop", {})
        done.result(PATIENCE_S)
        return [LONG_ID, failed.task_id, done.task_id]


@pytest.fixture
def terminal(fleet: LocalFleet, tmp_path: Path) -> Iterator[Open]:
    """Starts ``a2actl`` with the fleet on a terminal."""
    made: list[Terminal] = []

    def start(*arguments: str, columns: int = 80, lines: int = 24, **env: str) -> Terminal:
        where = {
            "A2A_COORDINATOR_ADDRESS": fleet.coordinator_address,
            "A2A_STATE_DIR": str(fleet.directory),
            "REDIS_PORT": str(fleet.redis_port),
            **env,
        }
        made.append(Terminal("a2actl", *arguments, columns=columns, lines=lines, env=where, cwd=tmp_path))
        return made[-1]

    yield start
    for each in made:
        each.__exit__(None, None, None)


def shown(terminal: Terminal, status: int = 0) -> str:
    assert terminal.wait_end() == status, terminal.everything()
    return terminal.everything()


LINES = ("status", "tasks --status all --owner operator", "tasks --dead", "history", "keys list", "doctor")


@pytest.mark.parametrize(("line", "columns"), [*((line, 80) for line in LINES), ("doctor", 200), (LINES[1], 200)])
def test_no_line_is_broken_by_the_terminal(terminal: Open, tasks: list[str], line: str, columns: int) -> None:
    """A line that reaches the last column was probably too long; ids that are longer than it stand alone."""
    seen = shown(terminal(*line.split(), columns=columns, lines=60))
    for number, text in enumerate(seen.splitlines()):
        assert len(text) < columns or LONG_ID.startswith(text.strip()), f"line {number}: {text!r}"
    assert "\x1b" not in seen
    assert "Traceback" not in seen


@pytest.mark.parametrize("columns", [80, 200])
def test_ids_of_tasks_can_be_copied(terminal: Open, tasks: list[str], columns: int) -> None:
    seen = shown(terminal("tasks", "--status", "all", "--owner", "operator", columns=columns, lines=60))
    joined = seen.replace("\n", "")
    for task_id in tasks:
        assert task_id in (joined if len(task_id) > columns else seen)
    text = shown(terminal("explain", LONG_ID, columns=columns, lines=60))
    assert LONG_ID in text.replace("\n", "")
    assert "no worker that handles 'noop' has site=nowhere" in text


def test_what_others_wrote_does_not_reach_the_terminal(terminal: Open, tasks: list[str]) -> None:
    failed = terminal("tasks", "--status", "failed", columns=200)
    assert "no paper \\x1b[31m" in shown(failed)
    explained = terminal("explain", tasks[1], lines=60)
    assert "\\x1b[31m" in shown(explained)
    waited = terminal("result", tasks[1], lines=60)
    assert "\\x1b[31m" in shown(waited, 1)
    for each in (failed, explained, waited):
        assert b"\x1b[31m and" not in each.raw


def test_colours_are_there_unless_they_are_not_wanted(terminal: Open) -> None:
    green = b"\x1b[32m"
    for env, expected in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        each = terminal("status", **env)
        shown(each)
        assert (green in each.raw) is expected, env
        assert (b"\x1b" in each.raw) is (env.get("TERM") != "dumb")


def test_a_pipe_gets_plain_lines_of_any_length(fleet: LocalFleet, tasks: list[str]) -> None:
    done = a2actl(fleet, "tasks", "--status", "all", "--owner", "operator", COLUMNS="40")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:-1]}
    assert set(tasks) <= set(rows)
    assert "ValueError: no paper" in rows[tasks[1]]
    assert "\x1b" not in done.stdout


# ---------------------------------------------------------------- top


def completed(top: Terminal) -> int:
    """So many tasks, as it shows."""
    top.wait_for(" completed")
    found = re.search(r"([\d,]+) completed", top.text())
    return int(found[1].replace(",", "")) if found else 0


def test_top_refreshes_in_place_and_obeys_its_keys(terminal: Open, client: FleetClient) -> None:
    top = terminal("top", "--interval", "0.3")
    top.wait_for("q quit")
    for name in ("distributor-1", "worker-1", "worker-2"):
        top.wait_for(name)
    before = completed(top)
    for value in client.map("noop", ({"n": number} for number in range(200))):
        assert "n" in value
    wait_until(lambda: completed(top) >= before + 200, "new numbers are shown")
    assert len(top.text().splitlines()) == 24, "it fills the screen and scrolls nothing"
    assert top.text().count("AGENT") == 1
    for key, words in (("s", "sort: rate"), ("s", "sort: load"), ("p", "paused"), ("q", "")):
        top.press(key)
        if words:
            top.wait_for(words)
    assert top.wait_end() == 0
    assert top.echoes()


def test_top_follows_the_size_of_its_terminal(terminal: Open) -> None:
    top = terminal("top", "--interval", "0.3", columns=200, lines=50)
    top.wait_for("q quit")
    top.resize(60, 12)
    wait_until(lambda: "q quit" in top.text().splitlines()[-1], "the last line is the keys'")
    assert len(top.text().splitlines()) == 12
    top.press("q")
    assert top.wait_end() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_top_leaves_the_terminal_as_it_was(terminal: Open, number: int, status: int) -> None:
    top = terminal("top", "--interval", "0.3")
    top.wait_for("q quit")
    assert not top.echoes()
    os.kill(top.pid, number)
    assert top.wait_end() == status
    assert top.echoes()
    assert top.raw.rstrip().endswith(b"\x1b[?25h\x1b[?1049l"), "the first screen, and a cursor"
    assert b"interrupted" not in top.raw


def test_top_without_a_terminal_measures_once(fleet: LocalFleet, terminal: Open) -> None:
    done = a2actl(fleet, "top", "--interval", "0.3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("AGENT") == 1
    assert "over 0." in done.stdout
    assert "\x1b" not in done.stdout
    dumb = terminal("top", "--interval", "0.3", TERM="dumb")
    assert shown(dumb).count("AGENT") == 1
    twice = a2actl(fleet, "top", "--interval", "0.3", "--count", "2", "--json")
    assert len(twice.stdout.splitlines()) == 2


def test_top_shows_that_the_coordinator_is_away_and_goes_on(terminal: Open, fleet: LocalFleet) -> None:
    top = terminal("top", "--interval", "0.3", "--timeout", "1")
    top.wait_for("worker-1")
    fleet.kill("coordinator-1", restart=False)
    try:
        top.wait_for("no news for")
        assert "worker-1" in top.text(), "what is known stays"
    finally:
        fleet.restart("coordinator-1")
    wait_until(lambda: "no news" not in top.text() and "no answer" not in top.text(), "it goes on")
    top.press("q")
    assert top.wait_end() == 0


# ---------------------------------------------------------------- while one waits


def test_what_takes_long_shows_what_is_done_and_leaves_no_trace(
    terminal: Open, client: FleetClient, tmp_path: Path
) -> None:
    until = tmp_path / "go"
    handle = client.submit("held", {"until": str(until)})
    waiting = terminal("result", handle.task_id)
    waiting.wait_for(f"waiting for {handle.task_id}")
    until.touch()
    assert shown(waiting).strip() == "None"


def test_errors_are_one_line_on_a_terminal_too(terminal: Open) -> None:
    seen = shown(terminal("status", "--address", "tcp://127.0.0.1:1", "--timeout", "1.5"), 69)
    joined = seen.replace("\n", "")
    assert joined.startswith("a2actl: no coordinator was reachable"), seen
    assert "tcp://127.0.0.1:1: nothing answers" in joined


def test_drain_returns_when_the_agent_has_left(fleet: LocalFleet, client: FleetClient, tmp_path: Path) -> None:
    until, ledger = tmp_path / "go", tmp_path / "ledger"
    handle = client.submit("held", {"until": str(until), "ledger": str(ledger)}, labels={"gpu": "yes"})
    wait_until(ledger.exists, "it runs on worker-2")
    busy = a2actl(fleet, "drain", "worker-2", "--wait", "--timeout", "0.5")
    assert busy.returncode == 75
    assert busy.stderr == "a2actl: worker-2 drains still, with 1 task\n"
    until.touch()
    done = a2actl(fleet, "drain", "worker-2", "--wait")
    assert done.returncode in (0, 1), "1: it had left already, and was not started again yet"
    handle.result(PATIENCE_S)
    fleet.wait_ready(["worker-2"])


def test_drain_of_the_only_coordinator_returns_when_it_has_left(no_orphans: Path) -> None:
    with user_fleet(workers=1, supervise=False) as fleet:
        began = time.monotonic()
        done = a2actl(fleet, "drain", "coordinator-1", "--wait", "--timeout", "20")
        assert (done.returncode, done.stdout) == (0, "coordinator-1 has left\n"), done.stderr
        assert time.monotonic() - began < 8.0
        wait_until(lambda: not fleet.pids["coordinator-1"], "its process is gone")
