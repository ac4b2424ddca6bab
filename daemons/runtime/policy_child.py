"""The process that runs a user's policy: ``python -m daemons.runtime.policy_child FD PARENT_PID SETTING REFERENCE``.

It says ``{"ready": true}`` or ``{"wrong": TEXT}``, then answers one question after the other. What keeps it from
outliving or disturbing its daemon: a session of its own, a parent-death signal, and end-of-file on the socket.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import orjson

from a2a_zmq.errors import ConfigError
from daemons.runtime.modules import load_module
from daemons.runtime.slices import usual_slices
from daemons.runtime.supervision import tracing_off
from daemons.runtime.tether import die_with_parent

SIZE: Final = struct.Struct("<I")
# A thousand tasks are about half a megabyte.
MAX_BYTES: Final = 64 * 1024 * 1024
WHY_CHARS: Final = 300


def load_policy(setting: str, reference: str) -> Any:
    """The compiled graph that a setting names as ``module:graph`` or ``file.py:graph``.

    Raises:
        ConfigError: it cannot be imported, or is no graph.
    """
    name, _, variable = reference.rpartition(":")
    if not name or not variable.isidentifier():
        raise ConfigError(f"{setting}: {reference!r} is not module:graph or file.py:graph")
    if name.endswith(".py"):
        name = str(Path(name).expanduser().resolve())
    tracing_off()
    try:
        found = getattr(load_module(name), variable, None)
        if found is None:
            raise ConfigError(f"{setting}: {name} has no {variable!r}")
        if hasattr(found, "compile"):  # a StateGraph
            found = found.compile()
    except ConfigError:
        raise
    except BaseException as error:  # sys.exit() in a module is a mistake like any other
        raise ConfigError(f"{setting}: cannot use {reference}: {one_line(error)}") from error
    if not callable(getattr(found, "ainvoke", None)):
        raise ConfigError(f"{setting}: {reference} is a {type(found).__name__}, not a graph")
    return found


class Threads(ThreadPoolExecutor):
    """Where synchronous nodes run.

    Attributes:
        running: how many are at work. One whose run was given up works on, for nobody can stop a thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.running += 1
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, _future: Future[Any]) -> None:
        self.running -= 1


async def decide(graph: Any, question: dict[str, Any], threads: Threads) -> bytes:
    """The answer to one question, as JSON."""
    timeout_s, wanted = question["timeout_s"], question["answer"]
    try:
        async with asyncio.timeout(timeout_s) as limit:
            output = await graph.ainvoke(question["facts"])
    except Exception as error:
        if not limit.expired():
            return orjson.dumps({"reason": "raised", "why": one_line(error)})
        return orjson.dumps({"reason": "late", "why": f"no answer after {timeout_s:g} s", "stuck": threads.running > 0})
    try:
        return orjson.dumps({"answer": output.get(wanted) if isinstance(output, dict) else None})
    except TypeError as error:
        return orjson.dumps({"reason": "invalid", "why": f"`{wanted}` is no JSON: {one_line(error)}"})


async def serve(channel: socket.socket, graph: Any) -> None:
    """Answer until the daemon closes the channel."""
    threads = Threads()
    asyncio.get_running_loop().set_default_executor(threads)
    reader, writer = await asyncio.open_unix_connection(sock=channel)
    while (question := await hear(reader)) is not None:
        writer.write(frame(await decide(graph, question, threads)))


async def hear(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message; None if the other side is gone, or says what it never would."""
    try:
        (size,) = SIZE.unpack(await reader.readexactly(SIZE.size))
        said = orjson.loads(await reader.readexactly(size)) if size <= MAX_BYTES else None
    except (asyncio.IncompleteReadError, OSError, orjson.JSONDecodeError):
        return None
    return said if isinstance(said, dict) else None


def frame(message: bytes) -> bytes:
    return SIZE.pack(len(message)) + message


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:WHY_CHARS]


def main() -> None:
    descriptor, parent_pid, setting, reference = sys.argv[1:]
    die_with_parent(int(parent_pid))
    usual_slices()
    channel = socket.socket(fileno=int(descriptor))
    channel.set_inheritable(False)  # what the policy starts must not keep the daemon waiting for our end
    try:
        graph = load_policy(setting, reference)
    except ConfigError as error:
        channel.sendall(frame(orjson.dumps({"wrong": str(error)})))
        return
    channel.sendall(frame(orjson.dumps({"ready": True})))
    asyncio.run(serve(channel, graph))


if __name__ == "__main__":
    status = 0
    try:
        main()
    except BaseException as error:
        print(f"policy: {one_line(error)}", file=sys.stderr)
        status = 1
    finally:
        sys.stdout.flush()
        os._exit(status)  # nobody waits for threads that work on
