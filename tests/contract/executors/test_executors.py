"""Executors for real: whatever a handler does, its run ends once, with the right words, and the next one runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from a2a_zmq import llm
from daemons.worker.builtin.python_source_stats import analyse_file
from tests.contract.executors.conftest import START_S

# ------------------------------------------------------------ what works


def test_two_thousand_noops_come_back_in_few_batches(rig: Any) -> None:
    for n in range(2000):
        rig.start("noop", {"n": n}, f"t{n}")
    rig.wait(lambda: len(rig.finished) == 2000, "2,000 results")
    assert rig.finished["t1234"][0].result == b'{"n":1234}'
    assert len(rig.batches) < 200


def test_coroutines_run_at_the_same_time(rig: Any) -> None:
    for n in range(200):
        rig.start("sleep", {"seconds": 0.2}, f"t{n}")
    rig.wait(lambda: len(rig.finished) == 200, "200 sleeps of 0.2 s", timeout_s=5.0)


def test_built_in_types_run_in_children(rig: Any) -> None:
    assert rig.value("compute", {"operation": "sum", "numbers": [1, 2, 3]})["result"] == 6
    path = os.__file__
    assert rig.value("python_source_stats", {"path": path}) == {"path": path, **analyse_file(path)}
    outcome = rig.run("compute", {"operation": "shred"})
    assert (outcome.error_kind, outcome.retryable) == ("invalid_input", False)


def test_payload_and_result_pass_unchanged(rig: Any) -> None:
    payload = {"text": "é✓\n", "deep": [[{"n": 2**63}]], "float": 0.1, "none": None, "big": "x" * 200_000}
    assert rig.value("echo", payload) == payload
    assert rig.value("noop", payload) == payload


def test_many_small_runs_through_two_children_end_in_order_of_a_fair_queue(rig: Any) -> None:
    for n in range(300):
        rig.start("echo", {"n": n}, f"t{n}")
    rig.wait(lambda: len(rig.finished) == 300, "300 results of children")
    # One that was asked back just as it came to the front of its child is told twice, and runs once.
    assert set(rig.begun) == set(rig.finished)
    assert len(rig.executor.child_pids()) <= 3, "one for each slot, and a spare"


def test_short_run_does_not_wait_behind_a_long_one(rig: Any) -> None:
    """Naps are taken for short ones after a few; then one of them is long, with another already given to its child."""
    for n in range(20):
        rig.start("nap", {"seconds": 0.001}, f"warm{n}")
    rig.wait(lambda: len(rig.finished) == 20, "20 short naps")
    rig.start("nap", {"seconds": 4}, "long")
    for n in range(6):
        rig.start("nap", {"seconds": 0.01}, f"short{n}")
    rig.wait(lambda: len(rig.finished) == 26, "six short naps beside a long one", timeout_s=2.5)
    assert "long" not in rig.finished
    rig.stop("long")
    rig.end_of("long")


@pytest.mark.parametrize("make_rig", ["started"], indirect=True)
def test_child_is_lean_and_apart(rig: Any) -> None:
    rig.value("compute", {"operation": "sum"})
    # The test's own handlers import asyncio, so the built-in types' imports are looked at from outside.
    modules = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, daemons.worker.executors.child, daemons.worker.builtin.compute; print(*sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ).stdout.split()
    heavy = {"zmq", "redis", "pydantic", "langgraph", "asyncio", "structlog", "multiprocessing", "prometheus_client"}
    assert heavy.isdisjoint(modules)
    about = rig.value("about-me", {"look_for": ["zmq", "redis", "langgraph", "prometheus_client"]})
    assert about["heavy"] == []
    assert about["pid"] == about["group"] == about["session"]
    assert about["pid"] != os.getpid()
    assert (about["stdin"], about["sigint_ignored"]) == ("/dev/null", True)
    assert about["python_path"] == os.environ.get("PYTHONPATH")


def test_async_handler_may_ask_for_a_process(rig: Any) -> None:
    assert rig.value("async-in-process") in rig.executor.child_pids()


def test_children_start_late_and_idle_ones_leave(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(child_idle_s=0.2)
    assert rig.executor.child_pids() == []
    rig.value("echo", {})
    pids = rig.executor.child_pids()
    assert 1 <= len(pids) <= 2
    rig.wait(lambda: rig.executor.child_pids() == [], "the idle child has left")
    rig.wait(lambda: all(rig.gone(pid) for pid in pids), "its process is gone")
    assert rig.value("echo", {"again": 1}) == {"again": 1}


# ------------------------------------------------------------ what fails


@pytest.mark.parametrize("task_type", ["raise", "raise-thread", "raise-async"])
def test_raising(rig: Any, task_type: str) -> None:
    outcome = rig.run(task_type)
    assert (outcome.outcome, outcome.error_kind, outcome.error) == ("failed", "raised", "ValueError: no good")
    assert outcome.retryable
    assert "trouble.py" in outcome.detail["traceback"]
    assert outcome.result == b"null"


@pytest.mark.parametrize(
    ("task_type", "error"),
    [
        ("half", "ValueError: bad \ufffd text"),
        ("half-thread", "ValueError: bad \ufffd text"),
        ("half-async", "ValueError: bad \ufffd text"),
        ("half-exit", "the handler called sys.exit('bad \\ud800 text')"),
        ("half-refused", "bad \ufffd text"),
    ],
)
def test_an_error_with_half_a_character_is_told_like_any_other(rig: Any, task_type: str, error: str) -> None:
    """Symptom: a lone surrogate in an exception's text killed the child, and the task failed as ``its process exited
    with status 1``."""
    outcome = rig.run(task_type)
    assert outcome.error == error
    orjson.dumps(outcome.detail)  # can be recorded, too
    if task_type == "half":
        assert outcome.detail["log"][0] == "noted bad \ufffd text"
        assert "printed bad \\ud800 text" in outcome.detail["log"]
    assert rig.value("echo", {"after": 1}) == {"after": 1}
    if task_type == "raise":
        assert outcome.detail["log"] == ["noted before", "printed before"]


@pytest.mark.parametrize(
    ("task_type", "payload", "kind", "says"),
    [
        ("typed", {"count": "many"}, "invalid_input", "count: Input should be a valid integer"),
        ("typed", {}, "invalid_input", "count: Field required"),
        ("unserializable", {}, "unserializable", "set"),
        ("large", {"bytes": 300_000}, "unserializable", "at most 262144"),
        ("sleep", {"seconds": -1}, "invalid_input", "seconds must be"),
        ("noop", {"x": float("nan")}, "unserializable", "NaN"),
        ("nonesuch", {}, "unknown_task_type", "nonesuch"),
        ("echo", {"x": object()}, "invalid_input", "not JSON"),
    ],
)
def test_failures_that_another_attempt_cannot_mend(
    rig: Any, task_type: str, payload: dict[str, Any], kind: str, says: str
) -> None:
    outcome = rig.run(task_type, payload)
    assert (outcome.outcome, outcome.error_kind, outcome.retryable) == ("failed", kind, False)
    assert says in outcome.error
    assert "\n" not in outcome.error


@pytest.mark.parametrize("task_type", ["exit", "exit-async"])
def test_sys_exit_ends_the_run_only(rig: Any, task_type: str) -> None:
    outcome = rig.run(task_type)
    assert (outcome.error_kind, outcome.detail["exit_code"], outcome.retryable) == ("exited", 3, True)
    assert rig.value("sleep", {"seconds": 0}) == {"slept_s": 0.0}


@pytest.mark.parametrize("by", ["exit", "interrupt"])
def test_sys_exit_in_a_part_of_an_async_handler_ends_its_run_only(rig: Any, tmp_path: Path, by: str) -> None:
    """Asyncio lets it through to whoever runs the loop, on which all the others are."""
    mark, release = tmp_path / "mark", tmp_path / "release"
    rig.start("stubborn-async", {"mark": str(mark), "release": str(release)}, "bystander")
    rig.wait(mark.exists, "the other one runs")
    assert rig.run("exit-subtask", {"by": by}).outcome == "failed"
    assert rig.value("sleep", {"seconds": 0}) == {"slept_s": 0.0}
    release.write_text("")
    assert rig.end_of("bystander").outcome == "completed"


def test_async_handler_that_stops_the_loop_stops_nobody(rig: Any) -> None:
    rig.start("sleep", {"seconds": 0.1}, "bystander")
    assert rig.value("stop-loop") == "still here"
    assert rig.end_of("bystander").outcome == "completed"
    assert rig.value("sleep", {"seconds": 0}) == {"slept_s": 0.0}


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_an_exception_that_has_no_text_is_reported_and_costs_no_thread(make_rig: Callable[..., Any], kind: str) -> None:
    rig = make_rig(thread_slots=1)
    for n in range(3):
        assert rig.run(f"silent-{kind}", task_id=f"t{n}").outcome == "failed"
    assert rig.run(f"raise-{kind}").error_kind == "raised"


def test_os_exit_is_reported_with_its_last_words(rig: Any) -> None:
    outcome = rig.run("os-exit")
    assert (outcome.outcome, outcome.error_kind, outcome.error) == (
        "failed",
        "exited",
        "its process exited with status 7",
    )
    assert outcome.detail == {"log": ["last words", "unfinished"], "exit_code": 7, "process_died": True}
    assert rig.value("echo", {"after": 1}) == {"after": 1}


@pytest.mark.parametrize(("task_type", "name"), [("segfault", "SIGSEGV"), ("kill-self", "SIGKILL")])
def test_death_by_signal_is_reported_with_the_signal(rig: Any, task_type: str, name: str) -> None:
    outcome = rig.run(task_type)
    assert (outcome.outcome, outcome.error_kind, outcome.detail["signal"]) == ("failed", "killed", name)
    assert name in outcome.error
    assert outcome.retryable
    if task_type == "segfault":
        assert any("trouble.py" in line for line in outcome.detail["log"])  # where it happened
    assert rig.value("echo", {"after": 1}) == {"after": 1}


def test_killed_child_costs_the_run_in_it_and_no_other(make_rig: Callable[..., Any], tmp_path: Path) -> None:
    rig = make_rig(slots=1)
    rig.value("echo", {})
    mark = tmp_path / "pid"
    rig.start("polite", {"mark": str(mark)}, "victim")
    for n in range(5):
        rig.start("echo", {"n": n}, f"next{n}")
    rig.wait(lambda: mark.exists() and mark.read_text(), "the victim runs")
    os.kill(int(mark.read_text()), signal.SIGKILL)
    assert rig.end_of("victim").error_kind == "killed"
    for n in range(5):
        assert rig.end_of(f"next{n}").outcome == "completed"


def test_child_that_closes_its_socket_is_replaced(rig: Any) -> None:
    outcome = rig.run("close-everything")
    assert (outcome.outcome, outcome.error_kind) == ("failed", "exited")
    assert "cannot report" in outcome.detail["log"][-1]
    assert rig.value("echo", {"after": 1}) == {"after": 1}


def test_huge_output_is_drained_and_its_end_kept(rig: Any) -> None:
    assert rig.value("noisy") == 20_000
    outcome = rig.run("noisy", {"fail": True}, task_id="noisy2")
    assert outcome.error == "RuntimeError: after 20 MB"
    assert outcome.detail["log"][-1] == "the end of it"
    assert len(outcome.detail["log"]) <= 20
    assert max(map(len, outcome.detail["log"])) <= 400


@pytest.mark.parametrize("make_rig", ["started"], indirect=True)  # a fork imports nothing that could be broken
def test_children_that_cannot_start_fail_their_runs_and_show_it(make_rig: Callable[..., Any], tmp_path: Path) -> None:
    rig = make_rig(slots=1)
    broken = tmp_path / "orjson.py"
    broken.write_text("raise RuntimeError('half an installation')")
    sys.path.insert(0, str(tmp_path))
    outcome = rig.run("echo", {})
    assert (outcome.outcome, outcome.error_kind) == ("failed", "exited")
    assert "did not start" in outcome.error
    assert outcome.detail["log"][-1] == "RuntimeError: half an installation"
    assert "did not start" in rig.executor.problem()
    sys.path.remove(str(tmp_path))
    rig.wait(lambda: rig.executor.problem() == "", "it found out by itself that children start again")
    assert rig.value("echo", {"after": 1}, task_id="after") == {"after": 1}


@pytest.mark.parametrize("name", ["pid-async", "pid-thread"])
def test_a_task_that_is_to_run_apart_gets_a_process_whatever_its_handler_says(rig: Any, name: str) -> None:
    assert rig.value(name) == os.getpid()
    assert rig.value(name, metadata={"apart": True}) in rig.executor.child_pids()


@pytest.mark.parametrize("name", ["model", "model-async"])
def test_chat_models_that_change_are_known_to_whatever_runs_next(
    rig: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm, "_process", llm._Process())
    models = {"providers": {"fast": {"model": "m"}}, "redis_url": "", "connection": {}}

    def known(task_id: str) -> str:
        rig.start(name, task_id=task_id)
        rig.wait(lambda: task_id in rig.finished, "it has looked", timeout_s=START_S)  # LangChain is loaded for it
        (outcome,) = rig.finished[task_id]
        return str(outcome.result)

    rig.executor.use_models(models)
    assert "known: fast" in known("one")
    children = rig.executor.child_pids()
    rig.executor.use_models({**models, "providers": {"slow": {"model": "m"}}})
    assert "known: slow" in known("two")
    assert rig.executor.child_pids() == children, "no child was started anew for it"
