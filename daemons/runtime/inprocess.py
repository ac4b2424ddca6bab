"""An agent inside another program: the same daemon, on an event loop in a thread of its own.

This is what the specification's classes (``CoordinatorAgent`` …) stand on. It is meant for scripts, notebooks and
tests; in production agents are processes of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, Final, Self, TypeVar, cast

import uvloop

from a2a_zmq.errors import A2AError, ConfigError
from a2a_zmq.models import LocalAgentState
from daemons.runtime.launch import Daemon
from daemons.runtime.shell import read_clock

T = TypeVar("T")

# How long initialize() waits until the agent is able to claim work.
READY_TIMEOUT_S = 15.0
# How long a call may take; it ends earlier with the agent.
CALL_TIMEOUT_S = 10.0
# A caller that waits looks this often whether the agent is still there: one that crashes tells nobody.
LOOK_S = 0.25

_NO_ANSWER: Final = object()


class InProcessAgent:
    """Runs a :class:`~daemons.runtime.launch.Daemon` in a thread. Thread-safe; a context manager."""

    def __init__(self, agent_id: str, open_daemon: Callable[[], Awaitable[Daemon]]) -> None:
        self.agent_id = agent_id
        self.error: BaseException | None = None
        self._open_daemon = open_daemon
        self._daemon: Daemon | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main_task: asyncio.Task[Any] | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()

    # ------------------------------------------------------------ life

    def initialize(self, timeout_s: float = READY_TIMEOUT_S) -> bool:
        """Start the agent (again, after :meth:`close`) and wait until it is able to claim work.

        Returns:
            False if it is not within ``timeout_s`` (:attr:`error` says why, if it ended); the agent goes on trying.

        Raises:
            ConfigError: a setting is wrong.
        """
        if self._thread is None:
            self.error, self._daemon, self._main_task = None, None, None
            self._started.clear()
            self._loop = uvloop.new_event_loop()
            self._thread = threading.Thread(target=self._run, name=self.agent_id, daemon=True)
            self._thread.start()
        self._started.wait(timeout_s)
        if isinstance(self.error, ConfigError):
            raise self.error
        if self.error is not None or self._daemon is None:
            return False
        return self._ask(self._wait_ready(timeout_s), timeout_s + 1.0, default=False)

    def close(self) -> None:
        """Drain and stop; idempotent."""
        loop, thread = self._loop, self._thread
        if thread is None or loop is None:
            return
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            loop.call_soon_threadsafe(self._leave)
        thread.join(self._daemon.settings.drain_timeout_s + 5.0 if self._daemon is not None else 5.0)
        self._thread = None

    def __enter__(self) -> Self:
        self.initialize()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ------------------------------------------------------------ for the specification's classes

    @property
    def state(self) -> LocalAgentState:
        """The agent's LocalAgentState now."""
        return self.on_loop(lambda daemon: daemon.shell.engine.core.local_state(read_clock()))

    @property
    def daemon(self) -> Daemon:
        """
        Raises:
            A2AError: the agent was not initialized.
        """
        if self._daemon is None:
            raise A2AError(f"{self.agent_id}: call initialize() first")
        return self._daemon

    def call(self, name: str, *, wait_s: float | None = CALL_TIMEOUT_S, **args: Any) -> Any:
        """Ask the core (LocalCall); None if it did not answer within ``wait_s`` (None: however long it takes)."""
        return self._ask(self.daemon.shell.call(name, args), wait_s, default=None)

    def on_loop(self, function: Callable[[Daemon], T]) -> T:
        """Run a short function on the agent's loop.

        Raises:
            A2AError: the agent was not initialized, or has ended.
        """
        daemon = self.daemon

        async def run() -> T:
            return function(daemon)

        answer: Any = self._ask(run(), CALL_TIMEOUT_S, default=_NO_ANSWER)
        if answer is _NO_ANSWER:
            raise A2AError(f"{self.agent_id}: does not run")
        return cast("T", answer)

    def await_on_loop(self, coroutine: Coroutine[Any, Any, T], default: T) -> T:
        """Run a coroutine on the agent's loop; ``default`` if it takes too long or the agent has ended."""
        return self._ask(coroutine, CALL_TIMEOUT_S, default=default)

    # ------------------------------------------------------------ inside

    def _ask(self, coroutine: Coroutine[Any, Any, T], timeout_s: float | None, default: T) -> T:
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            coroutine.close()
            return default
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:  # the loop is closed
            coroutine.close()
            return default
        until = math.inf if timeout_s is None else read_clock().mono + timeout_s
        while thread.is_alive() and (left_s := until - read_clock().mono) > 0:
            try:
                return future.result(min(left_s, LOOK_S))
            except TimeoutError:
                continue
            except CancelledError:
                return default
        future.cancel()
        return default

    async def _wait_ready(self, timeout_s: float) -> bool:
        until = read_clock().mono + timeout_s
        core = self.daemon.shell.engine.core
        while not core.ready()[0]:
            if read_clock().mono > until:
                return False
            await asyncio.sleep(0.01)
        return True

    def _leave(self) -> None:
        if self._daemon is not None:
            self._daemon.drain("close")
        elif self._main_task is not None:
            self._main_task.cancel()

    def _run(self) -> None:
        loop = self._loop
        assert loop is not None
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner, contextlib.suppress(asyncio.CancelledError):
                runner.run(self._main())
        except BaseException as error:  # it is the caller's to see, not this thread's
            self.error = error
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._main_task = asyncio.current_task()
        self._daemon = await self._open_daemon()
        asyncio.get_running_loop().call_soon(self._started.set)
        status = await self._daemon.run()
        if status:
            self.error = A2AError(f"{self.agent_id}: ended with status {status}: {self._daemon.left_because}")
