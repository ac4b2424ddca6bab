"""Handlers that misbehave in every way we know; imported by child processes and handler threads."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from a2a_zmq.errors import ConfigError
from a2a_zmq.handlers import InvalidInput, TaskContext, task
from a2a_zmq.llm import chat_model

Payload = dict[str, Any]


class Typed(BaseModel):
    count: int


def note(path: str) -> None:
    Path(path).write_text("running")


@task("echo")
def echo(payload: Payload) -> Payload:
    return payload


@task("raise")
def raises(payload: Payload, ctx: TaskContext) -> None:
    ctx.log("noted before")
    print("printed before")
    raise ValueError("no\ngood")


@task("raise-thread", executor="thread")
def raises_in_thread(payload: Payload) -> None:
    raise ValueError("no\ngood")


@task("raise-async")
async def raises_async(payload: Payload) -> None:
    raise ValueError("no\ngood")


HALF = "bad \ud800 text"


@task("half")
def half(payload: Payload, ctx: TaskContext) -> None:
    ctx.log("noted " + HALF)
    print("printed " + HALF)
    logging.getLogger("mine").warning("logged %s", HALF)
    raise ValueError(HALF)


@task("half-thread", executor="thread")
def half_in_thread(payload: Payload, ctx: TaskContext) -> None:
    ctx.log("noted " + HALF)
    raise ValueError(HALF)


@task("half-async")
async def half_async(payload: Payload, ctx: TaskContext) -> None:
    ctx.log("noted " + HALF)
    raise ValueError(HALF)


@task("half-exit")
def half_exit(payload: Payload) -> None:
    sys.exit(HALF)


@task("half-refused")
def half_refused(payload: Payload) -> None:
    raise InvalidInput(HALF)


@task("typed")
def typed(payload: Typed) -> dict[str, int]:
    return {"twice": payload.count * 2}


@task("unserializable")
def unserializable(payload: Payload) -> Any:
    return {"a": {1, 2}}


@task("large")
def large(payload: Payload) -> str:
    return "x" * int(payload["bytes"])


@task("hang")
def hang(payload: Payload) -> None:
    try:
        Path(payload["mark"]).write_text("running")
        while True:
            time.sleep(60)
    finally:
        Path(payload["mark"]).write_text("cleaned up")


@task("spin")
def spin(payload: Payload) -> None:
    while True:
        pass


@task("deaf")
def deaf(payload: Payload) -> None:
    """Neither asks nor listens: only SIGKILL ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(payload["mark"]).write_text("running")
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue


@task("polite")
def polite(payload: Payload, ctx: TaskContext) -> None:
    Path(payload["mark"]).write_text(str(os.getpid()))
    while True:
        ctx.raise_if_cancelled()
        time.sleep(0.005)


@task("polite-thread", executor="thread")
def polite_thread(payload: Payload, ctx: TaskContext) -> str:
    Path(payload["mark"]).write_text("running")
    while not ctx.cancelled:
        time.sleep(0.005)
    ctx.raise_if_cancelled()
    return "unreachable"


@task("stubborn-thread", executor="thread")
def stubborn_thread(payload: Payload) -> str:
    Path(payload["mark"]).write_text("running")
    while not Path(payload["release"]).exists():
        time.sleep(0.01)
    return "late"


@task("wait-async")
async def wait_async(payload: Payload) -> None:
    note(payload["mark"])
    async with asyncio.timeout(60):  # needs a real task around it
        await asyncio.Event().wait()


@task("stubborn-async")
async def stubborn_async(payload: Payload) -> str:
    note(payload["mark"])
    while not os.access(payload["release"], os.F_OK):
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue
    return "late"


@task("block-async")
async def block_async(payload: Payload) -> str:
    """In a task of its own: the run is known by what it started, too."""

    async def block() -> str:
        note(payload["mark"])
        while not os.access(payload["release"], os.F_OK):
            time.sleep(0.01)  # noqa: ASYNC251 - on purpose
        return "released"

    return await asyncio.create_task(block())


@task("exit")
def sys_exit(payload: Payload) -> None:
    sys.exit(3)


@task("exit-async")
async def sys_exit_async(payload: Payload) -> None:
    sys.exit(3)


@task("exit-subtask")
async def sys_exit_in_subtask(payload: Payload) -> None:
    async def leaves() -> None:
        raise {"exit": SystemExit, "interrupt": KeyboardInterrupt}[payload["by"]]

    await asyncio.gather(leaves(), asyncio.sleep(60))


@task("stop-loop")
async def stop_loop(payload: Payload) -> str:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)
    return "still here"


class Silent(InvalidInput):
    def __str__(self) -> str:
        raise KeyError("there is no text")


@task("silent-async")
async def silent_async(payload: Payload) -> None:
    raise Silent


@task("silent-thread", executor="thread")
def silent_in_thread(payload: Payload) -> None:
    raise Silent


@task("os-exit")
def os_exit(payload: Payload) -> None:
    print("last words", flush=True)
    print("unfinished", end="", flush=True)
    os._exit(7)


@task("segfault")
def segfault(payload: Payload) -> None:
    ctypes.string_at(0)


@task("kill-self")
def kill_self(payload: Payload) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task("close-everything")
def close_everything(payload: Payload) -> None:
    os.closerange(3, 256)


@task("noisy")
def noisy(payload: Payload) -> int:
    line = "x" * 999 + "\n"
    for _ in range(20_000):
        sys.stdout.write(line)
    print("the end of it", file=sys.stderr)
    if payload.get("fail"):
        raise RuntimeError("after 20 MB")
    return 20_000


@task("grandchild")
def grandchild(payload: Payload) -> None:
    process = subprocess.Popen(["sleep", "300"])
    Path(payload["mark"]).write_text(str(process.pid))
    time.sleep(300)


@task("about-me")
def about_me(payload: Payload) -> dict[str, Any]:
    heavy = ("zmq", "redis", "langgraph", "asyncio", "multiprocessing", "dataclasses", "prometheus_client")
    return {
        "pid": os.getpid(),
        "group": os.getpgid(0),
        "session": os.getsid(0),
        "heavy": [name for name in heavy if name in payload["look_for"] and name in sys.modules],
        "python_path": os.environ.get("PYTHONPATH"),
        "stdin": str(Path("/proc/self/fd/0").readlink()),
        "sigint_ignored": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
    }


@task("pid-async")
async def pid_async(payload: Payload) -> int:
    return os.getpid()


@task("pid-thread", executor="thread")
def pid_thread(payload: Payload) -> int:
    return os.getpid()


@task("async-in-process", executor="process")
async def async_in_process(payload: Payload) -> int:
    await asyncio.sleep(0.001)
    return os.getpid()


@task("nap")
def nap(payload: Payload) -> float:
    time.sleep(payload["seconds"])
    return time.monotonic()


@task("logs")
def logs(payload: dict[str, object], ctx: TaskContext) -> str:
    """Logs as often as ``lines`` says; with ``own`` the program has set up logging for itself. Fails at the end."""
    if payload.get("own"):
        logging.basicConfig(level=logging.INFO, format="mine: %(message)s", force=True)
    log = logging.getLogger("mine")
    log.info("not so important")
    for number in range(int(str(payload.get("lines", 1)))):
        log.warning("line %s, password=hunter2", number)
    raise ValueError("so that the record has the last lines")


def _model() -> str:
    try:
        chat_model("nobody")
    except ConfigError as error:
        return str(error)
    raise AssertionError("there is no such provider")


@task("model")
def model(payload: Payload) -> str:
    return _model()


@task("model-async")
async def model_async(payload: Payload) -> str:
    return _model()
