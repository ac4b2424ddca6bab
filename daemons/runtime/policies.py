"""Runs a user's policy, a LangGraph graph, where it can hold up nothing: in a thread with an event loop of its own.

A core asks with a :class:`~daemons.runtime.contract.Consult`; the graph gets its facts as input, and its output comes
back as an event. One question is worked at a time. A run that is late is cancelled; one that cannot be cancelled (code
that blocks) keeps its thread, and until that ends each further question is answered ``busy`` at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from a2a_zmq.errors import ConfigError
from daemons.runtime.consults import Consult, Consulted
from daemons.runtime.modules import load_module
from daemons.runtime.supervision import tracing_off

WHY_CHARS: Final = 300


def load_policy(setting: str, reference: str) -> Any:
    """The compiled graph that a setting names as ``module:graph`` or ``file.py:graph``; None if it is empty.

    Raises:
        ConfigError: it cannot be imported, or is no graph.
    """
    if not reference:
        return None
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
        raise ConfigError(f"{setting}: cannot use {reference}: {_one_line(error)}") from error
    if not callable(getattr(found, "ainvoke", None)):
        raise ConfigError(f"{setting}: {reference} is a {type(found).__name__}, not a graph")
    # What the import left stays for ever; a full collection would visit it all each time.
    gc.freeze()
    return found


class PolicyRunner:
    """Asks one graph. Make it inside the event loop that ``answered`` is to be called in."""

    def __init__(self, graph: Any, answered: Callable[[Consulted], None]) -> None:
        self._graph = graph
        self._answered = answered
        self._main = asyncio.get_running_loop()
        self._busy = False
        self._threads = _DaemonThreads()
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(self._threads)
        self._run: asyncio.Task[None] | None = None
        self._closed = False
        threading.Thread(target=self._serve, name="policy", daemon=True).start()

    def _serve(self) -> None:
        while not self._closed:
            with contextlib.suppress(BaseException):  # sys.exit() in a node ends the loop, too
                self._loop.run_forever()
        self._loop.close()

    async def close(self) -> None:
        """Leave a run where it is, and end the thread as soon as user code lets it."""
        self._closed = True
        self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if self._run is not None:
            self._run.cancel()
        self._loop.call_soon(self._loop.call_soon, self._loop.stop)

    def ask(self, consult: Consult) -> None:
        """The answer comes later, in our event loop."""
        if self._busy or self._threads.running:
            why = "it is still at work on an earlier question"
            self._main.call_soon(self._answered, Consulted(consult.question_id, reason="busy", why=why))
            return
        self._busy = True
        self._loop.call_soon_threadsafe(self._begin, consult)

    def _begin(self, consult: Consult) -> None:
        self._run = self._loop.create_task(self._consult(consult))

    async def _consult(self, consult: Consult) -> None:
        number = consult.question_id
        try:
            async with asyncio.timeout(consult.timeout_s) as limit:
                told = Consulted(number, await self._graph.ainvoke(consult.facts))
        except BaseException as error:  # whatever user code raises, the thread goes on
            told = Consulted(number, reason="raised", why=_one_line(error))
            if limit.expired():
                told = Consulted(number, reason="late", why=f"no answer after {consult.timeout_s:g} s")
        try:
            self._main.call_soon_threadsafe(self._done, told)
        except RuntimeError:
            return  # the main loop has ended: nobody wants to know any more

    def _done(self, told: Consulted) -> None:
        self._busy = False
        self._answered(told)


class _DaemonThreads(ThreadPoolExecutor):
    """A thread for each call of a synchronous node. The usual pool's threads are waited for at the exit of the process,
    also one that hangs."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self._lock = threading.Lock()
        self.running = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            self.running += 1
        threading.Thread(target=self._work, args=(future, fn, args, kwargs), name="policy node", daemon=True).start()
        return future

    def _work(self, future: Future[Any], fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # it is whoever waits for the call that has to know
            future.set_exception(error)
        finally:
            with self._lock:
                self.running -= 1


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:WHY_CHARS]
