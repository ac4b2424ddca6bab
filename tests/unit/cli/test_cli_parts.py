"""Parts of ``a2actl``: reading tasks, explaining one, the demo's verification, processes of a private fleet."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import typer

from a2a_zmq.interfaces import Section, SectionWrite
from daemons.cli import checks, demo
from daemons.cli.explaining import explanation
from daemons.cli.fleet import FleetStartError, LocalFleet, free_ports
from daemons.cli.fleet_view import status_lines
from daemons.cli.invocation import CommandFailed, Invocation
from daemons.cli.manual import markdown
from daemons.cli.processes import Daemon, cpu_s, pss_mb, stop_all, tree
from daemons.cli.submitting import LINE_MEMBERS, _submit, read_tasks, submit
from daemons.runtime.spool import SqliteSpool
from daemons.runtime.spool_rows import Kept
from daemons.worker.builtin.python_source_stats import python_source_stats
from tests.unit.cli.screens import texts

WaitUntil = Callable[..., None]


def tasks_of(tmp_path: Path, text: str, task_type: str | None = "noop") -> list[dict[str, Any]]:
    path = tmp_path / "tasks.jsonl"
    path.write_text(text)
    return list(read_tasks(path, task_type, {"priority": 1}))


def test_tasks_of_a_file_take_what_the_command_line_says_and_override_it(tmp_path: Path) -> None:
    text = '{"payload": {"n": 1}}\n\n{"task_type": "compute", "priority": 5, "labels": {"gpu": "1"}}\n'
    assert tasks_of(tmp_path, text) == [
        {"task_type": "noop", "payload": {"n": 1}, "priority": 1},
        {"task_type": "compute", "payload": {}, "priority": 5, "labels": {"gpu": "1"}},
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: must be a JSON object"),
        ('{"paylod": {}}', "line 2: unknown member 'paylod'"),
        ('{"payload": 3}', "line 2: payload must be dict"),
        ('{"priority": true}', "line 2: priority must be int"),
        ("{}", "line 2: no task_type"),
        ('{"task_type": "noop", "priority": 5000}', "line 2: priority must be from -1000 to 1000"),
        ('{"task_type": "noop", "timeout_s": 0}', "line 2: timeout_s must be a positive number"),
        ('{"task_type": "noop", "task_id": "no id"}', "line 2: 'no id' is not a task id"),
        ('{"task_type": "noop", "idempotency_key": ""}', "line 2: idempotency_key must be a text"),
        ('{"task_type": "noop", "labels": {"gpu": 1}}', "line 2: labels must be texts"),
        ('{"task_type": "noop", "payload": {"deep": %s}}' % ("[" * 200 + "]" * 200), "line 2: the payload nests"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(CommandFailed, match=words):
        tasks_of(tmp_path, f'{{"task_type": "noop"}}\n{line}\n', task_type=None)


def test_all_lines_of_a_file_are_checked_before_the_first_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"payload": {}}\n' * 2_000 + '{"max_attempts": 0}\n')
    with pytest.raises(CommandFailed, match="line 2001: max_attempts must be a whole number, at least 1"):
        next(read_tasks(path, "noop", {}))


class Submits(Invocation):
    """A fleet that takes everything, and a user who does not wait for it."""

    def client(self, timeout_s: float | None = None) -> Any:
        return nullcontext(self)

    def submit_tasks(self, specs: Any) -> list[Any]:
        return [Interrupted(f"t{number}") for number, _ in enumerate(specs)]


class Interrupted:
    record = None

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id

    def result(self, timeout: float | None) -> Any:
        raise KeyboardInterrupt

    def done(self) -> bool:
        return False


@pytest.mark.parametrize("wait", [False, True])
def test_that_there_was_nothing_to_submit_is_said(capsys: pytest.CaptureFixture[str], *, wait: bool) -> None:
    submit(Submits(), read_tasks(Path(os.devnull), "noop", {}), wait=wait)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "a2actl: there was nothing to submit\n")
    submit(Submits(json=True), [], wait=False)
    assert '"submitted":0' in capsys.readouterr().out


@pytest.mark.parametrize(("count", "words"), [(1, "1 task goes on"), (1001, "1,001 tasks go on")])
def test_what_goes_on_is_counted(count: int, words: str) -> None:
    with pytest.raises(CommandFailed, match=f"^interrupted; {words}: "):
        submit(Submits(), [{"task_type": "noop", "payload": {}}] * count, wait=True)


@pytest.mark.parametrize("error", [CommandFailed("standard input, line 3: not JSON"), OSError("gone")])
def test_ids_of_what_was_accepted_are_shown_whatever_ended_the_submission(
    capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    error.accepted = ("t1", "t2")  # type: ignore[attr-defined]

    class Ends:
        def submit_tasks(self, specs: Any) -> Any:
            raise error

    with pytest.raises(type(error)):
        _submit(Invocation(), Ends(), [])  # type: ignore[arg-type]
    shown = capsys.readouterr()
    assert shown.out == "t1\nt2\n"
    assert "2 tasks were accepted, with the ids above" in shown.err


def test_a_missing_file_of_tasks_is_a_mistake_in_the_command(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=r"--file .*none\.jsonl: cannot be read: No such file"):
        list(read_tasks(tmp_path / "none.jsonl", "noop", {}))


def test_the_help_of_file_names_every_member_of_a_line() -> None:
    [line] = [line for line in markdown().splitlines() if line.startswith("| `--file FILE`")]
    assert [name for name in LINE_MEMBERS if name not in line] == []


def explained(record: dict[str, Any], **found: Any) -> str:
    task = {"task_id": "t", "task_type": "noop", "created_at": "2026-01-02T03:04:04Z", **record}
    return "\n".join(explanation({"task": task, **found}))


@pytest.mark.parametrize(
    ("record", "found", "words"),
    [
        ({"status": "completed", "metadata": {"worker": "w-1", "execution_s": 0.25}}, {}, "completed on w-1"),
        ({"status": "failed", "error": "boom", "metadata": {"error_kind": "raised"}}, {}, r"\(raised\): boom"),
        (
            {"status": "in_progress", "metadata": {"worker": "w-1", "attempt": 2}},
            {},
            "with worker w-1, attempt 2 \\(try 1\\)",
        ),
        (
            {"status": "waiting", "metadata": {"interrupts": [{"id": "i", "value": "sure?"}]}},
            {},
            r"It asks: sure\? Answer: a2actl resume t --value JSON",
        ),
        (
            {"status": "waiting", "metadata": {"interrupts": [{"id": "i", "value": "A name"}]}},
            {},
            r"It asks: A name\. Answer: a2actl resume t",
        ),
        (
            {"status": "abandoned", "metadata": {"error_kind": "cancelled"}},
            {},
            "It was cancelled while no worker had it",
        ),
        (
            {"status": "abandoned", "metadata": {"error_kind": "cancelled", "worker": "w-1", "attempt": 1}},
            {},
            r"It was cancelled on w-1, attempt 1\.",
        ),
        (
            {"status": "failed", "error": "no.", "metadata": {"error_kind": "unknown_task_type"}},
            {},
            r"It failed \(unknown_task_type\): no\. `a2actl retry t`",
        ),
        ({"retry_count": 3, "metadata": {"attempt": 9}}, {"state": "inbox"}, r"inbox, attempt 9 \(try 4\)\."),
        ({}, {"state": "inbox", "why": ["nobody handles it"]}, r"inbox:\n  - nobody handles it"),
        ({}, {"distributor": {"id": "d-1", "phase": "queued", "attempt": 1}}, r"at d-1 \(queued\), attempt 1"),
        ({}, {"distributor": {"id": "d-1", "up": False, "fence": 3}}, "distributor d-1: fence 3, not connected"),
    ],
)
def test_explanations_say_where_the_task_stands(record: dict[str, Any], found: dict[str, Any], words: str) -> None:
    events = [["2026-01-02T03:04:05Z", "t", "worker_lost", {"worker": "w-2", "reason": "exited"}]]
    text = explained(record, events=events, **found)
    assert text.startswith("Task t of type 'noop'")
    assert "worker lost: worker w-2, reason exited" in text
    assert re.search(words, text), text


def test_explanations_tell_of_attempts_and_their_last_words() -> None:
    attempt = {
        "attempt": 1,
        "worker": "w-1",
        "kind": "killed",
        "signal": "SIGSEGV",
        "execution_s": 0.5,
        "error": "gone",
    }
    lease = {"owner": "d-1|host|42|1|boot", "fence": 7, "remaining_s": 2.5}
    metadata = {"error_kind": "killed", "detail": {"log": ["its last words"], "traceback": "agent.py:7 in node"}}
    text = explained(
        {"status": "failed", "error": "gone", "metadata": metadata},
        attempts=[attempt],
        hops=[["accepted", "2026-01-02T03:04:04Z", ""], ["ended", "2026-01-02T03:04:05.500Z", "failed"]],
        distributor={"id": "d-1", "lease": lease},
    )
    assert "attempt 1 on w-1: killed [SIGSEGV] after 0.500 s: gone" in text
    assert "`a2actl task t` has the last one's traceback" in text
    assert "| its last words" in text
    assert "+1.500 s" in text
    assert "lease held by d-1 (pid 42, host host) with fence 7 for 2.5 s" in text


def test_the_demo_reads_the_standard_library_and_nothing_that_was_installed() -> None:
    files = demo.standard_library_files()
    assert len(files) > 500
    assert files == sorted(set(files))
    assert any(path.endswith("/argparse.py") for path in files)
    assert not any("site-packages" in path for path in files)
    assert demo.standard_library_files(3) == files[:3]


def test_the_demos_verification_finds_wrong_missing_double_and_foreign_results() -> None:
    files = demo.standard_library_files(4)
    records = [{"result": python_source_stats({"path": path})} for path in files]
    assert demo._verify(files, records, quiet=True) == []
    wrong = [{"result": {**records[0]["result"], "lines": -1}}, *records[1:]]
    assert demo._verify(files, wrong, quiet=True) == [files[0]]
    assert demo._verify(files, records[1:], quiet=True) == [files[0]]
    assert demo._verify(files, [*records, records[2]], quiet=True) == [files[2]]
    assert demo._verify(files[:3], records, quiet=True) == [files[3]]


def test_free_ports_are_different_and_free() -> None:
    assert len(set(free_ports(20))) == 20


@pytest.fixture
def sleeper(tmp_path: Path) -> Callable[..., Daemon]:
    """Makes a daemon that writes its pid and waits; its module is written on the spot."""

    def make(name: str, code: str) -> Daemon:
        (tmp_path / f"{name}.py").write_text(code)
        env = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return Daemon(name, name, env=env, log=tmp_path / f"{name}.log", cwd=tmp_path)

    return make


WAIT = "import time\nprint('ready', flush=True)\ntime.sleep(60)\n"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAIT


def test_daemons_are_started_measured_and_stopped(sleeper: Callable[..., Daemon], wait_until: WaitUntil) -> None:
    gentle, stubborn = sleeper("gentle", WAIT), sleeper("stubborn", STUBBORN)
    for daemon in (gentle, stubborn):
        daemon.start()
        wait_until(lambda daemon=daemon: "ready" in daemon.tail(), f"{daemon.name} is ready")
    assert tree(os.getpid())[0] == os.getpid()
    assert {gentle.pid, stubborn.pid} <= set(tree(os.getpid()))
    assert pss_mb(gentle.pid) > 1
    assert cpu_s(os.getpid()) >= cpu_s(gentle.pid) > 0
    assert stop_all([gentle, stubborn], timeout_s=0.5) == ["stubborn"]
    assert (gentle.exit_status, stubborn.exit_status) == (-signal.SIGTERM, -signal.SIGKILL)
    assert gentle.pid == 0


def test_daemons_die_with_whoever_started_them(tmp_path: Path, wait_until: WaitUntil) -> None:
    (tmp_path / "sleeping.py").write_text(WAIT)
    code = (
        "import os, pathlib\n"
        "from daemons.cli.processes import Daemon\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "env = {**os.environ, 'PYTHONPATH': str(here)}\n"
        "daemon = Daemon('sleeping', 'sleeping', env=env, log=here / 'log', cwd=here)\n"
        "daemon.start()\n"
        "(here / 'pid').write_text(str(daemon.pid))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code])
    pid = int((tmp_path / "pid").read_text())

    def gone() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        return state == "Z"  # nobody reaps orphans in some containers

    wait_until(gone, "the orphan is gone")


def test_a_fleet_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fleet = LocalFleet(workers=1, env={"A2A_LOG_LEVEL": "loud"}, start_timeout_s=8)
    with pytest.raises(FleetStartError, match="loud"):
        fleet.start()
    assert not any(fleet.pids.values())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        (
            {"away_s": 12.0, "failover_in_s": 18.0, "moving": 0},
            "d1 has been away for 12 s; its tasks go to others that can run them in 18 s\n",
        ),
        ({"away_s": 31.0, "failover_in_s": 0.0, "moving": 5}, "d1 has been away for 31 s; 5 tasks are being moved\n"),
        ({"away_s": 31.0, "failover_in_s": 0.0, "moving": 1}, "d1 has been away for 31 s; 1 task is being moved\n"),
        ({"away_s": 31.0, "failover_in_s": None, "moving": 0}, "d1 has been away for 31 s\n"),
        ({}, "down"),  # as told by an older coordinator
    ],
)
def test_status_says_since_when_a_distributor_is_away(more: dict[str, Any], shown: str) -> None:
    lines = status_lines({"distributors": [{"id": "d1", "up": False, "pending": 5, "in_progress": 0, **more}]}, None)
    assert shown in "\n".join(texts(lines)) + "\n"


def test_doctor_names_spools_that_hold_something_or_were_set_aside(tmp_path: Path) -> None:
    async def fill() -> None:
        for agent, count in (("coordinator-1", 0), ("distributor-1", 2)):
            spool = SqliteSpool(tmp_path / f"{agent}.db", 1 << 20)
            await spool.append([Kept(SectionWrite(Section("d", "distributor"), 1, "m"), 1)] * max(1, count))
            if not count:
                await spool.remove(1)
            await spool.close()

    asyncio.run(fill())
    (tmp_path / "worker.db").write_bytes(b"no database" * 1000)
    (tmp_path / "coordinator-2.db.damaged-1764324000").write_bytes(b"")
    found = checks._spools(tmp_path)
    assert all(not check.ok and check.fix for check in found)
    assert [check.text.partition(" ")[0] for check in found] == [
        "distributor-1",
        f"{tmp_path / 'worker.db'}:",
        str(tmp_path / "coordinator-2.db.damaged-1764324000"),
    ]
    assert checks._spools(tmp_path / "nothing") == []
