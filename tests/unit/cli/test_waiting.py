"""What ``a2actl`` waits for: a task's result."""

from __future__ import annotations

import json
from typing import Any

import pytest

from a2a_zmq.errors import TaskFailed, TaskTimeout
from a2a_zmq.streams import StreamEvent
from daemons.cli.invocation import Invocation, print_json
from daemons.cli.main import main
from daemons.cli.streaming import Lines
from daemons.cli.waiting import print_value, show_result


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


def test_results_obey_nothing_on_a_terminal_and_are_whole_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = ("a\x1b[31m\n  b", {"text": "\x9b2J"})
    for value in values:
        print_value(value)
        print_json({"result": value})
    piped = capsys.readouterr().out
    assert "a\x1b[31m\n  b\n" in piped
    assert "\x9b2J" in piped
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for value in values:
        print_value(value)
    assert capsys.readouterr().out == 'a\\x1b[31m\n  b\n{\n  "text": "\\x9b2J"\n}\n'
    print_json({"result": values})
    shown = capsys.readouterr().out
    assert shown.strip().isprintable()
    assert json.loads(shown) == {"result": [values[0], values[1]]}


def test_what_a_graph_tells_is_shown_without_what_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for number, text in enumerate(("one\n\x1b", "[31m")):
        message = ({"id": "m", "content": text}, {"langgraph_node": "no\x1bde"})
        lines.show(StreamEvent(f"1-{number}", "messages", message, ("x\x1b",)))
    lines.show(StreamEvent("1-3", "custom", "\x1b[2J", ("x\x1b",)))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "one\n\\x1b[31m\n" in shown


def test_errors_are_shown_without_what_a_terminal_would_obey(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise TaskFailed("t1", "ValueError: bö\x1b[31m\nred")

    monkeypatch.setattr(Invocation, "client", fails)
    assert main(["result", "t1"]) == 1
    told = capsys.readouterr().err
    assert "bö\\x1b[31m red\n" in told
    assert "\x1b" not in told
