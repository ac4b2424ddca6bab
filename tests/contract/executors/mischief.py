"""Handlers that break the process they run in, or leave something behind in it; imported by child processes."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from a2a_zmq.handlers import InvalidInput, task
from daemons.worker.executors import frames

Payload = dict[str, Any]


# ------------------------------------------------------------ copies


def _fork(how: str) -> dict[str, Any]:
    pid = os.fork()
    if pid == 0:
        if how == "exit":
            sys.exit(3)
        if how == "raise":
            raise ValueError("in the copy")
        return {"copy": True}
    _, status = os.waitpid(pid, 0)
    return {"copy": False, "code": os.waitstatus_to_exitcode(status)}


@task("fork")
def fork(payload: Payload) -> dict[str, Any]:
    return _fork(payload["how"])


@task("fork-async", executor="process")
async def fork_async(payload: Payload) -> dict[str, Any]:
    return _fork(payload["how"])


@task("terminate-copy")
def terminate_copy(payload: Payload) -> int | None:
    copy = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    copy.start()
    copy.terminate()
    copy.join()
    return copy.exitcode


# ------------------------------------------------------------ what keeps a process from its end, or from its report


@task("leave-thread")
def leave_thread(payload: Payload) -> None:
    """A thread that the interpreter would wait for, and no way to report."""
    threading.Thread(target=time.sleep, args=(300,)).start()
    os.closerange(3, 256)


@task("reuse-descriptors")
def reuse_descriptors(payload: Payload) -> None:
    """The socket's number comes to be a file's."""
    os.closerange(3, 64)
    for n in range(40):
        os.open(Path(payload["directory"], f"file{n}"), os.O_CREAT | os.O_WRONLY)


@task("break-frames")
def break_frames(payload: Payload) -> None:
    def feed(self: object, data: bytes) -> Any:
        raise RuntimeError("no frame is read any more")

    frames.Unpacker.feed = feed  # type: ignore[method-assign]


class Endless:
    """A result whose encoding does not end by itself."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def model_dump(self, mode: str) -> None:
        Path(self.mark).write_text("running")
        while True:
            time.sleep(0.01)


@task("endless-result", executor="process")
async def endless_result(payload: Payload) -> Endless:
    return Endless(payload["mark"])


@task("exit-with")
def exit_with(payload: Payload) -> None:
    sys.exit("x" * payload["chars"] if "chars" in payload else 10 ** payload["digits"])


@task("exit-with-thread", executor="thread")
def exit_with_thread(payload: Payload) -> None:
    exit_with(payload)


@task("exit-with-async")
async def exit_with_async(payload: Payload) -> None:
    exit_with(payload)


class Mute(InvalidInput):
    def __str__(self) -> str:
        raise KeyError("no text")


@task("mute")
def mute(payload: Payload) -> None:
    raise Mute


@task("mute-thread", executor="thread")
def mute_thread(payload: Payload) -> None:
    raise Mute


@task("mute-async")
async def mute_async(payload: Payload) -> None:
    raise Mute


# ------------------------------------------------------------ what the next run finds


class Broken:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        raise RuntimeError("broken stream")


@task("leave")
def leave(payload: Payload) -> int:
    what = payload["what"]
    if what == "timer":
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    elif what == "clock":
        time.time = time.monotonic = lambda: 5
    elif what == "stream":
        sys.stdout = Broken()
    elif what == "no-stderr":
        os.close(2)
    elif what == "broken-stderr":
        reading, writing = os.pipe()
        os.dup2(writing, 2)
        os.close(writing)
        os.close(reading)
    elif what == "unfinished":
        print("progress...", end="", flush=True)
    return os.getpid()


@task("look-around")
def look_around(payload: Payload) -> int:
    time.sleep(0.1)
    print("looked around", file=sys.stderr, flush=True)
    if payload.get("die"):
        os._exit(7)
    return os.getpid()


# ------------------------------------------------------------ who holds the interpreter


@task("brief")
def brief(payload: Payload) -> None:
    """Notes that it ran; where ``hold_s`` is given no other thread of its process has a turn as long."""
    with Path(payload["notes"]).open("a") as notes:
        notes.write(json.dumps([payload["name"], os.getpid()]) + "\n")
    if "hold_s" in payload:
        ctypes.PyDLL(None).usleep(int(payload["hold_s"] * 1e6))
