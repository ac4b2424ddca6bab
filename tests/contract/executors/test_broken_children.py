"""Whatever a handler does to its process: its run is reported, and the next one is as it would be anywhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from daemons.runtime.contract import RunFinished
from daemons.worker.reports import encode


def test_a_child_that_cannot_report_leaves_though_a_thread_is_left(rig: Any) -> None:
    """Symptom: the interpreter waited for the thread, the worker for the child."""
    outcome = rig.run("leave-thread")
    assert (outcome.outcome, outcome.error_kind, outcome.detail["exit_code"]) == ("failed", "exited", 1)
    assert "cannot report" in outcome.detail["log"][-1]
    assert rig.value("echo", {"after": 1}) == {"after": 1}


def test_a_report_goes_into_no_file_of_the_handler(rig: Any, tmp_path: Path) -> None:
    outcome = rig.run("reuse-descriptors", {"directory": str(tmp_path)})
    assert (outcome.outcome, outcome.error_kind) == ("failed", "exited")
    assert "cannot report to the worker: its socket was closed" in outcome.detail["log"][-1]
    assert [file for file in tmp_path.iterdir() if file.read_bytes()] == []
    assert rig.value("echo", {"after": 1}) == {"after": 1}


def test_a_child_that_can_read_no_more_does_not_swallow_a_run(make_rig: Callable[..., Any]) -> None:
    """Symptom: the thread that reads had ended, the child was there still, and its run was never heard of again."""
    rig = make_rig(slots=1, spare_children=0)
    assert rig.value("break-frames") is None
    outcome = rig.run("echo", {}, task_id="lost")
    assert (outcome.outcome, outcome.retryable, outcome.detail["process_died"]) == ("failed", True, True)
    assert rig.value("echo", {"after": 1}) == {"after": 1}


def test_a_stop_while_the_result_is_encoded_ends_the_run_and_no_other(rig: Any, tmp_path: Path) -> None:
    """Symptom: it was reported as a result that is not JSON, which no attempt can mend, and the next run was lost."""
    mark = tmp_path / "mark"
    rig.start("endless-result", {"mark": str(mark)})
    rig.wait(mark.exists, "the result is being encoded")
    rig.stop("endless-result", "timeout")
    outcome = rig.end_of("endless-result")
    assert (outcome.error_kind, outcome.retryable) == ("timeout", True)
    assert rig.value("echo", {"after": 1}) == {"after": 1}


@pytest.mark.parametrize("task_type", ["exit-with", "exit-with-thread", "exit-with-async"])
@pytest.mark.parametrize("payload", [{"chars": 5_000_000}, {"digits": 30}, {"digits": 5000}])
def test_an_exit_code_of_any_size_is_told_in_few_words(rig: Any, task_type: str, payload: dict[str, int]) -> None:
    outcome = rig.run(task_type, payload)
    assert isinstance(outcome, RunFinished)
    assert (outcome.error_kind, outcome.retryable) == ("exited", True)
    assert len(orjson.dumps(outcome.detail)) < 1000
    assert orjson.loads(encode(outcome))["detail"] == outcome.detail


@pytest.mark.parametrize("task_type", ["mute", "mute-thread", "mute-async"])
def test_an_error_without_a_text_is_told(rig: Any, task_type: str) -> None:
    outcome = rig.run(task_type)
    assert (outcome.error_kind, outcome.error, outcome.retryable) == (
        "invalid_input",
        "(its text cannot be made)",
        False,
    )


@pytest.mark.parametrize("what", ["timer", "clock", "stream", "no-stderr", "broken-stderr"])
def test_what_a_run_leaves_behind_harms_no_other(make_rig: Callable[..., Any], what: str) -> None:
    rig = make_rig(slots=1, spare_children=0)
    first = rig.value("leave", {"what": what})
    second = rig.value("look-around", {})
    assert (first != second) == (what in ("no-stderr", "broken-stderr")), "another process where this one is beyond use"
    outcome = rig.run("look-around", {"die": True}, task_id="dies")
    assert outcome.detail["exit_code"] == 7
    assert outcome.detail["log"] == ["looked around"]


def test_a_line_that_a_run_left_unfinished_is_its_own(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(slots=1, spare_children=0)
    rig.value("leave", {"what": "unfinished"})
    assert rig.run("os-exit").detail["log"] == ["last words", "unfinished"]


def test_what_waits_behind_a_run_that_holds_the_interpreter_runs_elsewhere_and_once(rig: Any, tmp_path: Path) -> None:
    """Symptom: it waited as long as the other one ran, though a child was free: asked to give it back the child could
    not answer."""
    notes = tmp_path / "notes"

    def start(name: str, **more: Any) -> None:
        rig.start("brief", {"notes": str(notes), "name": name, **more}, name)

    for n in range(20):
        start(f"warm{n}")
    rig.wait(lambda: len(rig.finished) == 20, "20 short runs")
    start("holds", hold_s=2)
    for n in range(6):
        start(f"short{n}")
    rig.wait(lambda: len(rig.finished) == 26, "six short runs beside it")
    assert "holds" not in rig.finished
    rig.end_of("holds")
    for n in range(20):
        start(f"after{n}")
    rig.wait(lambda: len(rig.finished) == 47, "the child takes up others")
    ran = Counter(json.loads(line)[0] for line in notes.read_text().splitlines())
    assert set(ran.values()) == {1}
    assert len(ran) == 47


def test_what_waits_behind_a_run_that_holds_the_interpreter_can_be_cancelled(
    make_rig: Callable[..., Any], tmp_path: Path
) -> None:
    rig = make_rig(slots=1, spare_children=0)
    notes = tmp_path / "notes"
    payload = {"notes": str(notes), "name": "warm"}
    for n in range(20):
        rig.start("brief", payload, f"warm{n}")
    rig.wait(lambda: len(rig.finished) == 20, "20 short runs")
    rig.start("brief", {**payload, "name": "holds", "hold_s": 2}, "holds")
    rig.start("brief", {**payload, "name": "behind"}, "behind")
    rig.wait(lambda: '"holds"' in notes.read_text(), "it holds the interpreter")
    rig.stop("behind")
    assert rig.end_of("behind").outcome == "abandoned"
    assert "holds" not in rig.finished
    assert rig.end_of("holds").outcome == "completed"
    assert rig.value("echo", {"after": 1}) == {"after": 1}
    assert "behind" not in notes.read_text()
