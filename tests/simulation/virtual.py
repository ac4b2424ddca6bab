"""An asyncio event loop on virtual time: nothing ever waits, timers fire in order, every run with the same seed is
the same.

It is not built on asyncio's own loop: that one spends on selectors, contexts and the comparing of timers what a
simulation need not pay. It has what tasks, futures, sleeping and timeouts use, and nothing for files and sockets.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heapify, heappop, heappush
from typing import Any, TypeVar

from a2a_zmq.clock import Now

T = TypeVar("T")

# The simulated wall clock starts here (2025-11-28T10:00:00Z), so that traces show plausible times.
WALL_EPOCH_S = 1764324000.0
# Timers that are no farther apart than this are due together.
TOGETHER_S = 1e-9
# What is left when the run is over has so many virtual seconds to end.
STOP_S = 60.0
# Of so few timers those that were cancelled are left where they are.
FEW_TIMERS = 100

_log = logging.getLogger("asyncio")


class Deadlock(RuntimeError):
    """Everybody waits and no timer is armed."""


class Call:
    """A call that is to be made; what ``call_soon``, ``call_later`` and ``call_at`` give."""

    __slots__ = ("args", "callback", "due", "loop")

    def __init__(
        self, due: float, callback: Callable[..., object], args: tuple[Any, ...], loop: VirtualLoop | None = None
    ) -> None:
        """
        Args:
            loop: among whose timers it stands.
        """
        self.due = due
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.loop = loop

    def cancel(self) -> None:
        if self.callback is None:
            return
        self.callback = None
        self.args = ()
        if self.loop is not None:
            self.loop.cancelled_timers += 1

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self.due

    def __lt__(self, other: Call) -> bool:
        """Timers of equal time fire in no order (though in the same one whenever the run is repeated)."""
        return False


class VirtualLoop(asyncio.AbstractEventLoop):
    """Event loop whose clock moves only when there is nothing left to do. (Context variables are not kept apart:
    nothing that is simulated uses them.)"""

    def __init__(self) -> None:
        self.cancelled_timers = 0  # about so many of those that stand in the heap
        self._virtual_s = 0.0
        self._ready: deque[Call] = deque()
        self._timers: list[tuple[float, Call]] = []

    # ------------------------------------------------------------ time

    def time(self) -> float:
        return self._virtual_s

    def now(self) -> Now:
        return Now(self._virtual_s, WALL_EPOCH_S + self._virtual_s)

    # ------------------------------------------------------------ calls

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> Any:
        call = Call(self._virtual_s, callback, args)
        self._ready.append(call)
        return call

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> Any:
        due = self._virtual_s + delay
        call = Call(due, callback, args, self)
        heappush(self._timers, (due, call))
        return call

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> Any:
        call = Call(when, callback, args, self)
        heappush(self._timers, (when, call))
        return call

    # ------------------------------------------------------------ tasks

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        _log.error(context["message"], exc_info=context.get("exception"))

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return False

    # ------------------------------------------------------------ running

    def run_until_complete(self, future: Any) -> Any:
        """Run until it is done, and return its result."""
        main = asyncio.ensure_future(future, loop=self)
        asyncio._set_running_loop(self)
        try:
            while not main.done():
                self._let_time_pass()
                self._make_calls()
        finally:
            asyncio._set_running_loop(None)
        return main.result()

    def _let_time_pass(self) -> None:
        """To the next timer, if there is nothing to do before; those that are due then are ready."""
        if self.cancelled_timers > FEW_TIMERS // 2 or (self._timers and self._timers[0][1].callback is None):
            self._drop_cancelled()
        timers, ready = self._timers, self._ready
        if not ready:
            if not timers:
                raise Deadlock("no timer is armed and nothing is ready")
            wait_s = timers[0][0] - self._virtual_s
            if wait_s > 0:
                self._virtual_s += wait_s
        end = self._virtual_s + TOGETHER_S
        while timers and timers[0][0] < end:
            call = heappop(timers)[1]
            call.loop = None
            ready.append(call)

    def _drop_cancelled(self) -> None:
        """Those that stand first; all of them, where they are more than those that live."""
        timers = self._timers
        if len(timers) > FEW_TIMERS and self.cancelled_timers > len(timers) / 2:
            self._timers = [each for each in timers if each[1].callback is not None]
            heapify(self._timers)
            self.cancelled_timers = 0
            return
        while timers and timers[0][1].callback is None:
            heappop(timers)
            self.cancelled_timers -= 1

    def _make_calls(self) -> None:
        """Those that are ready now; what they add comes after the timers that are due then."""
        ready = self._ready
        for _ in range(len(ready)):
            call = ready.popleft()
            callback = call.callback
            if callback is None:
                continue
            try:
                callback(*call.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({"message": f"exception in {callback!r}", "exception": error})


def run_virtual(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run ``main(loop)`` to its end on virtual time."""
    loop = VirtualLoop()  # type: ignore[abstract]
    try:
        asyncio.set_event_loop(loop)
        result: T = loop.run_until_complete(main(loop))
        return result
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.wait(pending, timeout=STOP_S))
        asyncio.set_event_loop(None)
