"""The ``@task`` decorator, how handlers are called, and where task types come from."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, field_serializer

from a2a_zmq.errors import ConfigError
from a2a_zmq.handlers import InvalidInput, TaskContext, TaskStopped, options_of, task
from daemons.worker.executors.frames import BadFrame, Unpacker, pack
from daemons.worker.executors.invoke import Handler, Unserializable, encode, ended_on_request, failure
from daemons.worker.kinds import TaskKind
from daemons.worker.registry import Registry

# ------------------------------------------------------------ @task


def test_executor_follows_the_function() -> None:
    @task("a")
    def plain(payload: dict[str, Any]) -> None: ...

    @task("b")
    async def waits(payload: dict[str, Any]) -> None: ...

    @task("c", executor="thread", timeout_s=5)
    def polls(payload: dict[str, Any], ctx: TaskContext) -> None: ...

    @task("d", executor="process")
    async def killable(payload: dict[str, Any]) -> None: ...

    found = [options_of(function)[0] for function in (plain, waits, polls, killable)]
    assert [options.executor for options in found] == ["process", "async", "thread", "process"]
    assert found[2].timeout_s == 5


def test_decorated_function_stays_a_function() -> None:
    @task("twice")
    @task("double")
    def double(payload: dict[str, int]) -> int:
        return payload["n"] * 2

    assert double({"n": 4}) == 8
    assert [options.name for options in options_of(double)] == ["double", "twice"]


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "é", None])
def test_impossible_names_are_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="task type"):
        task(name)


def test_executor_must_fit_the_function() -> None:
    def plain() -> None: ...

    async def waits() -> None: ...

    async def many() -> AsyncIterator[int]:
        yield 1

    for function, executor in ((plain, "async"), (waits, "thread"), (plain, "fork"), (many, "auto")):
        with pytest.raises(ConfigError, match="task 'x'"):
            task("x", executor=executor)(function)
    with pytest.raises(ConfigError, match="timeout_s"):
        task("x", timeout_s=0)


# ------------------------------------------------------------ arguments and results


class Job(BaseModel):
    path: str
    width: int = 3


def test_arguments_follow_the_signature() -> None:
    context = TaskContext("t", 1)

    def typed(job: Job, ctx: TaskContext) -> None: ...

    def context_first(context: TaskContext, payload: dict[str, Any]) -> None: ...

    def nothing() -> None: ...

    def wrapped(function: Any) -> Any:
        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return inner

    payload = {"path": "a"}
    assert Handler(typed).arguments(payload, context) == ([Job(path="a")], {"ctx": context})
    assert Handler(wrapped(typed)).arguments(payload, context) == ([Job(path="a")], {"ctx": context})
    assert Handler(context_first).arguments(payload, context) == ([payload], {"context": context})
    assert Handler(nothing).arguments(payload, context) == ([], {})


def test_payload_that_does_not_fit_says_where() -> None:
    def typed(job: Job) -> None: ...

    with pytest.raises(InvalidInput, match="width: Input should be a valid integer"):
        Handler(typed).arguments({"path": "a", "width": "wide"}, TaskContext("t", 1))


@dataclass
class Point:
    x: int


def test_results_are_json() -> None:
    value = {"p": Point(1), "m": Job(path="a"), "t": (1, 2), "none": None}
    assert encode(value, 1000) == b'{"p":{"x":1},"m":{"path":"a","width":3},"t":[1,2],"none":null}'


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", {1: 2}, [2**70], float("nan"), [{"a": float("inf")}]])
def test_what_json_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(Unserializable):
        encode(value, 1000)


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


class Untrue(Exception):
    def __bool__(self) -> bool:
        raise KeyError("neither true nor false")


def noted(notes: Any) -> Exception:
    error = ValueError("x")
    error.__notes__ = notes
    return error


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class Values(dict[str, Any]):
    def values(self) -> Any:
        raise RuntimeError("no values")


class Dumped:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def model_dump(self, mode: str) -> Any:
        raise self.error


class Field(BaseModel):
    error: Any

    @field_serializer("error")
    def serialized(self, value: BaseException) -> Any:
        raise value


@pytest.mark.parametrize("value", [Values(a=None), Dumped(ValueError()), Dumped(caused(ValueError("x"), Untrue()))])
def test_results_that_resist_are_refused(value: Any) -> None:
    with pytest.raises(Unserializable):
        encode(value, 1000)


@pytest.mark.parametrize("value", [Dumped(TaskStopped("timeout")), Field(error=TaskStopped("timeout"))])
def test_a_run_that_is_stopped_while_its_result_is_encoded_ended_on_request(value: Any) -> None:
    context = TaskContext("t", 1)
    with pytest.raises(Unserializable) as caught:
        encode(value, 1000)
    assert not ended_on_request(caught.value, context)
    context.stop("timeout")
    assert ended_on_request(caught.value, context)
    assert not ended_on_request(Unserializable("by itself"), context)
    assert not ended_on_request(InvalidInput("by itself"), context)


def test_endless_and_too_large_results_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(Unserializable):
        encode(loop, 1000)
    with pytest.raises(Unserializable, match="1002 bytes, at most 1000"):
        encode("x" * 1000, 1000)


def test_failure_is_one_line_with_the_place_in_the_detail() -> None:
    context = TaskContext("t", 1)
    context.log("half way")
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        kind, text, retryable, detail = failure(error, context)
    assert (kind, text, retryable) == ("raised", "ValueError: first second", True)
    assert "test_worker_handlers.py" in detail["traceback"]
    assert detail["log"] == ["half way"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Mute(), "Mute: (its text cannot be made)"),
        (noted(None), "ValueError: x"),
        (noted([object(), "During task with name 'act'"]), "ValueError: x (in node 'act')"),
        (caused(ConfigError("no module"), Untrue("why")), "Untrue: why"),
    ],
)
def test_errors_that_resist_are_told(error: Exception, text: str) -> None:
    assert failure(error, TaskContext("t", 1))[:3] == ("raised", text, True)


def test_an_error_that_cannot_be_looked_at_is_told_by_its_name() -> None:
    context = TaskContext("t", 1)
    context._lines = None  # type: ignore[assignment]
    assert failure(Mute(), context) == ("raised", "Mute: (it cannot be described)", True, {})
    refused = failure(InvalidInput("x"), context)
    assert refused == ("invalid_input", "InvalidInput: (it cannot be described)", False, {})


@pytest.mark.parametrize("code", ["x" * 100_000, 2**63, -(10**5000)], ids=["text", "64 bits", "5000 digits"])
def test_an_exit_code_is_bounded(code: int | str) -> None:
    _, text, _, detail = failure(SystemExit(code), TaskContext("t", 1))
    assert len(text) <= 500
    assert len(orjson.dumps(detail)) < 600


def test_context_tells_when_to_stop() -> None:
    context = TaskContext("t", 2, "x", deadline=0.0)
    assert (context.idempotency_key, context.cancelled, context.remaining_s()) == ("t:2", False, 0.0)
    context.raise_if_cancelled()
    context.stop("timeout")
    assert context.cancelled
    with pytest.raises(TaskStopped):
        context.raise_if_cancelled()


def test_frames_come_out_of_any_pieces() -> None:
    stream = pack(["a", 1], b"body") + pack(["b"])
    for size in (1, 3, len(stream)):
        unpacker = Unpacker()
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [frame for piece in pieces for frame in unpacker.feed(piece)] == [(["a", 1], b"body"), (["b"], b"")]


@pytest.mark.parametrize("rubbish", [b"hello, I am a print statement", b"\x02\0\0\0\0\0\0\0{}", b"\x01\0\0\0\0\0\0\0["])
def test_rubbish_is_no_frame(rubbish: bytes) -> None:
    with pytest.raises(BadFrame):
        Unpacker().feed(rubbish)


# ------------------------------------------------------------ registry


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on the module path; nothing in it may be imported into this process."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    assert not [name for name in sys.modules if name.startswith("usermod")]


def test_builtin_types_are_there() -> None:
    assert Registry.load().names() == ["compute", "data_processing", "noop", "python_source_stats", "sleep"]


def test_modules_functions_and_renamed_functions(modules: Path) -> None:
    (modules / "usermod_a.py").write_text(
        "print('noise while importing')\n"
        "from a2a_zmq.handlers import task\n"
        "@task('resize', timeout_s=9)\ndef resize(payload): ...\n"
        "@task('fetch')\nasync def fetch(payload): ...\n"
        "def bare(payload): ...\n"
    )
    kinds = Registry.load(["usermod_a", "usermod_a:bare", "other=usermod_a:bare"]).kinds()
    assert kinds["resize"] == TaskKind("process", 9, "usermod_a:resize")
    assert kinds["fetch"].executor == "async"
    assert kinds["usermod_a:bare"].reference == kinds["other"].reference == "usermod_a:bare"


@pytest.mark.parametrize(
    ("source", "text", "says"),
    [
        ("usermod_none", None, "cannot import handler module 'usermod_none': ModuleNotFoundError"),
        ("usermod_b", "1 / 0", "cannot import handler module 'usermod_b': ZeroDivisionError: division by zero ("),
        ("usermod_b", "\n\n1 / 0", "usermod_b.py, line 3)"),
        ("usermod_b", "import sys; sys.exit(3)", "cannot import handler module 'usermod_b': SystemExit"),
        ("usermod_b", "import os; os._exit(3)", "usermod_b ended with exit status 3"),
        ("usermod_b", "x = 1", "'usermod_b' has no function decorated with @task"),
        ("usermod_b:nothing", "x = 1", "'usermod_b' has no function 'nothing'"),
        ("a=usermod_b", "x = 1", "a name needs module:function"),
        (
            "usermod_b",
            "from a2a_zmq.handlers import task\n@task('noop')\ndef f(p): ...",
            "takes the name of the built-in task type 'noop'",
        ),
        (
            "usermod_b",
            "from a2a_zmq.handlers import task\n@task('a')\ndef f(p): ...\n@task('a')\ndef g(p): ...",
            "'a' is both usermod_b:f and usermod_b:g",
        ),
        (
            "usermod_b",
            "from __future__ import annotations\nfrom a2a_zmq.handlers import task\n@task('a')\ndef f(p: Nope): ...",
            "usermod_b:f: its annotations cannot be read: NameError",
        ),
    ],
)
def test_sources_that_cannot_be_used_are_named(modules: Path, source: str, text: str | None, says: str) -> None:
    if text is not None:
        (modules / "usermod_b.py").write_text(text)
    with pytest.raises(ConfigError) as caught:
        Registry.load([source])
    assert says in str(caught.value)
    assert str(caught.value).startswith("worker_handlers: ")
    assert "\n" not in str(caught.value)
