"""The process from which a worker's graph children are forked: ``python -m daemons.worker.executors.preloaded FD PID``.

It has imported what every graph's run needs, LangGraph above all: a second of processor time and 70 MB, which its
children get for nothing. Nothing of the user's is imported here: who knows what that starts. A fork carries over one
thread only, so it is refused if there are others.

Requests come one by one on a socket that keeps messages apart: ``["fork", arguments]`` with descriptors, of which the
first three become standard input, output and error → ``[pid]``, 0 if it failed; ``["wait", pid]`` → ``[exit status]``
of a child that has ended. ``["ready", error]`` comes first. At the end of the stream it ends, and the kernel ends its
children.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import orjson

from daemons.runtime.slices import usual_slices
from daemons.runtime.tether import die_with_parent
from daemons.worker.executors import child

MESSAGE_BYTES = 1024 * 1024
DESCRIPTORS = 4
# Comes before the projects where children report traces.
TRACES = "--traces"
MODULES = (
    "uvloop",
    "langgraph.graph",
    "langgraph.pregel",
    "langgraph.runtime",
    "a2a_zmq.checkpoint.aio",
    "a2a_zmq.checkpoint.claims",
    "daemons.worker.graphs.runs",
    "daemons.worker.graphs.telling",
)


def preload(projects: list[str], *, traces: bool = False) -> str:
    """Import what graphs need, with the projects' variables set, as if each child did it. Returns what is wrong.

    Of several projects those that are the same in all of them: a child belongs to one, and sets that one's own later.
    """
    from importlib import import_module

    from a2a_zmq.errors import ConfigError
    from daemons.worker.graphs.project import read_project

    variables: list[dict[str, str]] = []
    for file in projects:
        with suppress(ConfigError):  # who lists the project's graphs says so
            variables.append(read_project(Path(file)).env)
    for name, value in variables[0].items() if variables else ():
        if all(each.get(name) == value for each in variables):
            os.environ.setdefault(name, value)
    for name in (*MODULES, "daemons.worker.graphs.nodes") if traces else MODULES:
        import_module(name)
    threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    gc.collect()
    gc.freeze()  # or the children's collections would copy all of it
    return f"{threads} threads after the imports" if threads > 1 else ""


def serve(control: socket.socket) -> list[str]:
    """Answer requests; returns in each child with its arguments, and nowhere else."""
    server = os.getpid()
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, DESCRIPTORS)
        if not data:
            sys.exit(0)
        kind, argument = orjson.loads(data)
        if kind == "wait":
            _, status = os.waitpid(argument, 0)
            control.send(orjson.dumps([os.waitstatus_to_exitcode(status)]))
            continue
        try:
            pid = os.fork()
        except OSError:
            control.send(orjson.dumps([0]))  # who asks tries it in the ordinary way, and says what happens then
        else:
            if pid == 0:
                control.close()
                return begin(server, descriptors, argument)
            control.send(orjson.dumps([pid]))
        for descriptor in descriptors:
            os.close(descriptor)


def begin(server: int, descriptors: list[int], arguments: list[str]) -> list[str]:
    """Make this fork what a child that was started is."""
    die_with_parent(server)
    os.setsid()
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # The former ones were made for what they led to: a file can be sought in, a pipe cannot.
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(number, "w", closefd=False)), encoding=former.encoding, line_buffering=True
        )
        for number, former in ((1, sys.stdout), (2, sys.stderr))
    )
    return [*arguments, *(str(descriptor) for descriptor in descriptors[3:])]


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    # A service manager that signals all processes means the worker, which drains.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(int(sys.argv[2]))
    usual_slices()
    try:
        problem = preload([each for each in sys.argv[3:] if each != TRACES], traces=TRACES in sys.argv)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        print(f"a2a-worker: child processes are not forked: {problem}", file=sys.stderr)
    control.send(orjson.dumps(["ready", problem]))
    child.main(serve(control))


if __name__ == "__main__":
    main()
