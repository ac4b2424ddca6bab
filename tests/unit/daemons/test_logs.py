"""Logs: the form of a line, secrets, repetition, and what libraries say."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from a2a_zmq.handlers import TaskContext, running
from daemons import logs


@pytest.fixture
def stream() -> Iterator[io.TextIOWrapper]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    text = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    yield text
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(stream: io.TextIOWrapper) -> list[dict[str, Any]]:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return [json.loads(line) for line in buffer.getvalue().splitlines()]


def test_a_line_says_when_who_and_what(stream: io.TextIOWrapper) -> None:
    early = structlog.get_logger("made before configuration")
    logs.configure(role="worker", agent_id="worker-1", log_format="json", stream=stream)
    logs.get_logger("shell").info("started", port=9570)
    early.info("seen", tasks={"a"})
    first, second = lines(stream)
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "level": "info",
        "agent": "worker-1",
        "role": "worker",
        "event": "started",
        "part": "shell",
        "port": 9570,
    }
    assert second["event"] == "seen"


def test_other_threads_are_bound_too(stream: io.TextIOWrapper) -> None:
    logs.configure(role="worker", agent_id="worker-1", log_format="json", stream=stream)
    thread = threading.Thread(target=lambda: logs.get_logger("health").warning("slow"))
    thread.start()
    thread.join(5)
    assert lines(stream)[0]["agent"] == "worker-1"


def test_levels(stream: io.TextIOWrapper) -> None:
    logs.configure(role="worker", agent_id="w", level="warning", log_format="json", stream=stream)
    log = logs.get_logger("x")
    log.debug("no")
    log.info("no")
    log.error("yes")
    assert [line["event"] for line in lines(stream)] == ["yes"]


def test_secrets_do_not_get_out(stream: io.TextIOWrapper) -> None:
    logs.configure(role="worker", agent_id="w", log_format="json", stream=stream)
    logs.get_logger("x").info(
        "connecting",
        redis_password="hunter2",
        token="hunter2",
        token_secret="hunter2",
        url="redis://user:hunter2@host:6379/0",
        key_id="k-3",
        task_id="t-1",
        token_errors=4,
    )
    (line,) = lines(stream)
    assert "hunter2" not in json.dumps(line)
    assert (line["key_id"], line["task_id"], line["token_errors"]) == ("k-3", "t-1", 4)
    assert line["url"] == "redis://user:***@host:6379/0"


def test_secrets_do_not_get_out_of_nested_values_and_texts_of_exceptions(stream: io.TextIOWrapper) -> None:
    logs.configure(role="worker", agent_id="w", log_format="json", stream=stream)
    log = logs.get_logger("x")
    log.info(
        "asked password=hunter2",
        headers=[{"Authorization": "Bearer hunter2"}],
        why=ValueError("redis://u:hunter2@h"),
        settings={"redis": {"password": "hunter2", "port": 6379}},
    )
    try:
        try:
            raise ValueError("token=hunter2")
        except ValueError as error:
            raise RuntimeError("redis://u:hunter2@h") from error
    except RuntimeError:
        log.exception("failed")
        logging.getLogger("a.library").exception("api_key=%s", "hunter2")
    told = lines(stream)
    assert "hunter2" not in json.dumps(told)
    assert told[0]["settings"] == {"redis": {"password": "***", "port": 6379}}
    assert told[1]["exception"].endswith("RuntimeError: redis://u:***@h")
    assert "ValueError: token=***" in told[1]["exception"]
    assert told[2]["event"] == "api_key=***"


def test_secrets_do_not_get_out_on_a_console_either(stream: io.TextIOWrapper) -> None:
    logs.configure(role="worker", agent_id="w", log_format="console", stream=stream)
    try:
        raise ValueError("redis://u:hunter2@h")
    except ValueError:
        logs.get_logger("x").exception("failed", headers={"cookie": "hunter2"})
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    text = buffer.getvalue().decode()
    assert "ValueError: redis://u:***@h" in text
    assert "hunter2" not in text


def test_what_is_written_while_a_task_runs_names_it(stream: io.TextIOWrapper) -> None:
    logs.configure(role="worker", agent_id="w", log_format="json", stream=stream)
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    metadata = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    token = running.set(TaskContext("t-1", 2, metadata=metadata))
    try:
        logging.getLogger("mine").warning("half way")
        logs.get_logger("x").info("of another one", task_id="t-9")
    finally:
        running.reset(token)
    logs.get_logger("x").info("of none")
    mine, other, none = lines(stream)
    assert (mine["task_id"], mine["attempt"], mine["trace_id"]) == ("t-1", 2, trace_id)
    assert other["task_id"] == "t-9"
    assert not {"task_id", "attempt", "trace_id"} & none.keys()


def test_a_repeated_warning_is_counted_not_written(stream: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    logs.configure(role="worker", agent_id="w", log_format="json", stream=stream)
    log = logs.get_logger("x")
    for number in range(logs.REPEATS + 20):
        log.warning("store_away", number=number)
        log.info("tick")
    log.error("store_away")  # another level: told apart
    assert sum(line["event"] == "store_away" and line["level"] == "warning" for line in lines(stream)) == logs.REPEATS
    assert sum(line["event"] == "tick" for line in lines(stream)) == logs.REPEATS + 20
    now[0] += logs.WINDOW_S
    log.warning("store_away")
    assert lines(stream)[-1]["held_back"] == 20


def test_libraries_are_heard_from_warning_upward(stream: io.TextIOWrapper) -> None:
    logs.configure(role="worker", agent_id="w", level="debug", log_format="json", stream=stream)
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("disk is %s", "slow")
    (line,) = lines(stream)
    assert (line["part"], line["event"], line["level"]) == ("some.library", "disk is slow", "warning")


def test_an_exception_comes_with_its_traceback_on_one_line(stream: io.TextIOWrapper) -> None:
    logs.configure(role="worker", agent_id="w", log_format="json", stream=stream)
    try:
        raise ValueError("broken")
    except ValueError:
        logs.get_logger("x").exception("failed")
    (line,) = lines(stream)
    assert line["exception"].endswith("ValueError: broken")


def test_console_form_is_for_people(stream: io.TextIOWrapper) -> None:
    logs.configure(role="worker", agent_id="worker-1", log_format="console", stream=stream)
    logs.get_logger("x").info("started", port=9570)
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    text = buffer.getvalue().decode()
    assert "started" in text
    assert "port=9570" in text
    assert not text.startswith("{")


def test_a_daemon_does_not_load_rich() -> None:
    code = (
        "import sys; from daemons import logs; logs.configure(role='r', agent_id='a'); sys.exit('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
    assert done.returncode == 0


def test_a_log_whose_reader_died_stops_nothing() -> None:
    """Symptom: the daemons of a killed supervisor ended at their next log line, by EPIPE."""
    program = (
        "from daemons import logs\n"
        "import sys\n"
        "logs.configure(role='worker', agent_id='w', log_format=sys.argv[1])\n"
        "for n in range(1000):\n"
        "    logs.get_logger('t').info('line', n=n)\n"
        "open(sys.argv[2], 'w').write('alive')\n"
    )
    for form in ("json", "console"):
        with tempfile.TemporaryDirectory() as folder:
            mark = Path(folder) / "mark"
            with subprocess.Popen(
                [sys.executable, "-c", program, form, str(mark)], stderr=subprocess.PIPE, cwd=Path(__file__).parents[3]
            ) as child:
                assert child.stderr is not None
                child.stderr.close()
                child.wait(20)
            assert mark.read_text() == "alive"


HOST_PROGRAM = """
import logging, sys
import structlog
from daemons import logs
log = logs.get_logger("launch")
if sys.argv[1] == "stdlib":
    logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
if sys.argv[1] == "structlog":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
log.info("started", port=1)
log.warning("no_session", why="x", token="t0p")
"""


@pytest.mark.parametrize("configured", ["nothing", "stdlib", "structlog"])
def test_in_a_program_of_somebody_else_lines_go_where_it_wants_them(configured: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOST_PROGRAM, configured], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "", "standard output is the program's"
    lines = done.stderr.splitlines()
    if configured == "nothing":
        assert lines == ["no_session why='x' token='***'"]
    elif configured == "stdlib":
        assert lines[0] == "a2a_zmq.launch INFO started port=1"
        assert len(lines) == 2
    else:
        assert [word in line for word, line in zip(("started", "no_session"), lines, strict=True)] == [True, True]
    assert "t0p" not in done.stderr
