"""The shell: performs what the engine wants done, on one event loop, and feeds the outcomes back.

It decides nothing. Sockets are drained in bulk, one turn of the engine handles all that came in, one batch at a time is
on its way to the store, timers follow the engine's next deadline: an idle daemon only wakes for its heartbeats.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from a2a_zmq.clock import Now, timer_delay_s
from a2a_zmq.errors import Fenced, StateError, StateLost, StoreUnavailable, VersionConflict
from a2a_zmq.interfaces import SectionWrite, StateStore
from a2a_zmq.protocol.ports import ProbeWanted, WatchWanted
from daemons import logs
from daemons.runtime.calls import LocalCall
from daemons.runtime.consults import Consult
from daemons.runtime.contract import Effect, Event, Meter, QueryAnswer, StartRun, StopRun
from daemons.runtime.deathwatch import DeathWatch
from daemons.runtime.engine import Engine
from daemons.runtime.outputs import Outputs, PendingBatch
from daemons.runtime.ownership import Ownership
from daemons.runtime.procs import wait_gone
from daemons.runtime.queries import Answers
from daemons.runtime.sending import FULL_RETRY_S, Sender, Socket
from daemons.runtime.spooling import SpoolingStore

# How long a leaving daemon waits for its last frames to be taken by the sockets.
LINGER_S = 0.3
# A write that is refused for the same reason, again and again, is told of this often.
REFUSAL_AGAIN_S = 30.0


class Runner(Protocol):
    """Executors of a worker."""

    def start(self, run: StartRun) -> None: ...

    def stop(self, run: StopRun) -> None: ...


class Supervising(Protocol):
    """The supervision graph."""

    async def run(self, core: Any, now: Callable[[], Now]) -> list[Effect]: ...


def read_clock() -> Now:
    return Now(time.monotonic(), time.time())


class Shell:
    """Runs one engine. Build it inside the event loop that will run it."""

    def __init__(
        self,
        engine: Engine,
        *,
        store: StateStore | None,
        meter: Meter,
        supervisor: Supervising | None = None,
        supervise_every_s: float = 1.0,
        clock: Callable[[], Now] = read_clock,
        wait_gone: Callable[[int, int], Awaitable[bool]] = wait_gone,
    ) -> None:
        self.engine = engine
        self.ownership: Ownership | None = None
        self.runner: Runner | None = None
        self.advise: Callable[[Consult], None] = lambda _: None  # asks the user's policy
        self.on_beat: Callable[[float], None] = lambda _mono: None
        self.services: list[Callable[[], Awaitable[None]]] = []  # run beside the loop for as long as it runs
        self.chores: list[Callable[[], None]] = []  # done once an interval, before supervision
        self.exit_status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._store = store
        self._meter = meter
        self._supervisor = supervisor
        self._supervise_every_s = supervise_every_s
        self._clock = clock
        self._wait_gone = wait_gone
        self._loop = asyncio.get_running_loop()
        self._log = logs.get_logger("shell")
        self._answers = Answers(self._log)
        self._sender = Sender(self._undeliverable)
        self._deaths = DeathWatch(self._loop, self._died)
        self._timer: asyncio.TimerHandle | None = None
        self._turn_wanted = False
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in order: a simulated run must replay exactly
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._call_count = 0
        self._look_now = asyncio.Event()
        self._closing = self._failed = False
        self._refusal = ("", 0.0)  # why Redis would not take a write, and when that was told

    # ------------------------------------------------------------ wiring

    def attach(self, socket: Socket) -> None:
        """Add the socket of the engine's next port (same order as the engine's ports)."""
        self._sender.sockets.append(socket)

    def on_frames(self, port: int) -> Callable[[list[tuple[bytes, list[bytes], str]]], None]:
        """The bulk receive callback for the socket of this port."""
        receive = self.engine.ports[port].receive

        def callback(batch: list[tuple[bytes, list[bytes], str]]) -> None:
            now = self._clock()
            try:
                for route, frames, user_id in batch:
                    receive(route, frames, now, user_id)
            except Exception as error:
                self._fail(error)
            self.turn()

        return callback

    def on_connected(self, port: int) -> Callable[[], None]:
        return lambda: self._hear(lambda: self.engine.ports[port].connected(self._clock()))

    def on_disconnected(self, port: int) -> Callable[[bytes], None]:
        def callback(route: bytes = b"") -> None:
            self._sender.forget(port, route)
            self._hear(lambda: self.engine.ports[port].disconnected(route, self._clock()))

        return callback

    def _hear(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:
            self._fail(error)
        self.turn()

    # ------------------------------------------------------------ the loop

    def wake(self) -> None:
        """Take a turn soon; any number of calls before it make one turn."""
        if not self._turn_wanted:
            self._turn_wanted = True
            self._loop.call_soon(self.turn)

    def event(self, event: Event) -> None:
        self.engine.event(event)
        self.wake()

    def events(self, batch: list[Event]) -> None:
        """Several events, one turn."""
        for event in batch:
            self.engine.event(event)
        self.wake()

    def turn(self) -> None:
        """One turn of the engine, and everything it wants done."""
        self._turn_wanted = False
        if self._closing or self._failed:
            return
        try:
            now = self._clock()
            self.on_beat(now.mono)
            self._perform(self.engine.turn(now))
            self._arm()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """A bug, or something that trying again cannot mend: leave, let the supervisor start us anew.

        Timers and sockets call us, and an event loop only logs what its callbacks raise. Going on would be worse:
        what was being handled is lost, and our memory may be half changed.
        """
        self._failed = True
        if not self.exit_status.done():
            self.exit_status.set_exception(error)

    def _arm(self) -> None:
        deadline = self.engine.next_deadline()
        if self._sender.waiting:
            deadline = min(deadline, self._clock().mono + FULL_RETRY_S)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline != math.inf:
            self._timer = self._loop.call_later(timer_delay_s(deadline - self._clock().mono), self.turn)

    def _perform(self, out: Outputs) -> None:
        if self._sender.waiting:
            self._sender.retry()
        for port, route, frame in out.transmit:
            self._sender.send(port, route, frame)
        if out.apply is not None:
            self.spawn(self._apply(out.apply))
        for query in out.queries:
            if isinstance(query, Consult):
                self.advise(query)
            else:
                self.spawn(self._answer(query))
        if self.runner is not None:
            for run in out.runs:
                if isinstance(run, StartRun):
                    self.runner.start(run)
                else:
                    self.runner.stop(run)
        for port, probe in out.probes:
            if isinstance(probe, ProbeWanted):
                self.spawn(self._probe(port, probe))
            else:
                self._deaths.want(port, probe)
        for line in out.logs:
            getattr(self._log, line.level, self._log.info)(line.event, **line.fields)
        for answer in out.answers:
            waiting = self._calls.pop(answer.call_id, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer.value)
        if out.outranked is not None and self.ownership is not None and self.ownership.outranked(out.outranked):
            self._log.warning("outranked", fence=out.outranked.fence, peer=out.outranked.peer)
        if out.exceptional:
            self._look_now.set()
        if out.exit is not None and not self.exit_status.done():
            self._log.info("leaving", reason=out.exit.reason, status=out.exit.status)
            self.exit_status.set_result(out.exit.status)
        if out.again:
            self.wake()

    def _undeliverable(self, port: int, route: bytes, frame: bytes, reason: str) -> None:
        self.engine.ports[port].undeliverable(route, frame, reason, self._clock())
        if reason != "full":
            self.wake()  # a connection is gone: the core is to hear of it now, not at the next deadline

    # ------------------------------------------------------------ store

    def spawn(self, work: Awaitable[Any]) -> None:
        """Run beside the loop, as long as that runs; an error ends it."""
        task = asyncio.ensure_future(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def _apply(self, pending: PendingBatch) -> None:
        assert self._store is not None
        engine, meter = self.engine, self._meter
        try:
            while rest := pending.batch.writes[pending.done :]:
                started = self._clock().mono
                for version in await self._apply_some(rest):
                    meter.count("shared_state_updates_total")
                    if not engine.write_applied(pending, version):
                        return
                meter.observe("shared_state_write_seconds", self._clock().mono - started)
        except StoreUnavailable as error:
            engine.batch_failed(pending, error.reason, self._clock())
        except VersionConflict:
            meter.count("shared_state_conflicts_total")
            engine.batch_failed(pending, "conflict", self._clock())
        except (Fenced, StateLost) as error:
            meter.count("shared_state_conflicts_total")
            lost = isinstance(error, StateLost)
            if engine.batch_refused(pending, str(error), state_lost=lost):
                self._log.warning("state_lost" if lost else "fenced", why=str(error))
                if self.ownership is not None:
                    self.ownership.lost(state_lost=lost)
        except StateError as error:
            if self.ownership is None:
                raise
            # Nobody knows what of it was written: as after a loss, our memory is kept and merged with what is there.
            if engine.batch_refused(pending, str(error), state_lost=True):
                self.refused(str(error))
        else:
            engine.batch_applied(pending, self._clock())
        self.turn()

    def refused(self, why: str) -> None:
        """A key has a foreign type or text: what we own is read again, as soon as all of it can be."""
        assert self.ownership is not None
        last, now = self._refusal, self._clock().mono
        if why != last[0] or now > last[1] + REFUSAL_AGAIN_S:
            self._refusal = (why, now)
            self._log.error("write_refused", why=why)
        self.ownership.refused(why)

    async def _apply_some(self, writes: list[SectionWrite]) -> list[int]:
        """Make the first of these writes durable, or more of them at once; returns their versions."""
        if isinstance(self._store, SpoolingStore):
            return await self._store.apply_some(writes)
        assert self._store is not None
        return [await self._store.apply(writes[0])]

    async def _answer(self, query: Any) -> None:
        assert self._store is not None
        try:
            answer = await self._answers.answer(self._store, query, self.ownership)
        except StateError as error:
            if isinstance(error, StateLost):
                self.state_lost(str(error))
            self.event(QueryAnswer(query.tag, error=str(error)))
        else:
            self.event(answer)

    def state_lost(self, why: str) -> None:
        """A read found our sections older than what we wrote: take the lease anew; our memory is the better copy."""
        if self.engine.owner and self.ownership is not None:
            self._log.warning("state_lost", why=why)
            self.engine.state_lost()
            self.ownership.lost(state_lost=True)

    async def _probe(self, port: int, probe: ProbeWanted) -> None:
        gone = await self._wait_gone(probe.pid, probe.start_time)
        self.engine.ports[port].probed(probe.agent_id, gone=gone, now=self._clock())
        self.turn()

    def _died(self, port: int, watched: WatchWanted) -> None:
        self._hear(lambda: self.engine.ports[port].exited(watched.agent_id, watched.boot_id, self._clock()))

    # ------------------------------------------------------------ in-process API

    async def call(self, name: str, args: dict[str, Any]) -> Any:
        """A call of the in-process API; returns what the core answered."""
        self._call_count += 1
        waiting: asyncio.Future[Any] = self._loop.create_future()
        self._calls[self._call_count] = waiting
        self.event(LocalCall(self._call_count, name, args))
        try:
            return await waiting
        finally:
            self._calls.pop(self._call_count, None)

    # ------------------------------------------------------------ life

    async def supervise(self) -> None:
        """Run the supervision graph once an interval, and a moment after an exceptional event."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._supervise_every_s):
                    await self._look_now.wait()
            # An avalanche of exceptional events is looked at together, not one by one; and what the core itself makes
            # of one (a dead worker's tasks go elsewhere) does not wait for a run of the graph, some milliseconds.
            await asyncio.sleep(min(0.05, self._supervise_every_s / 4))
            self._look_now.clear()
            for chore in self.chores:
                chore()
            await self.supervise_once()

    async def supervise_once(self) -> None:
        if self._supervisor is None:
            return
        effects = await self._supervisor.run(self.engine.core, self._clock)
        self.engine.supervise(effects, self._clock())
        self.wake()

    async def run(self) -> int:
        """Run until the core leaves. Returns the exit status; raises what cannot be mended."""
        if self.ownership is not None:
            self.spawn(self.ownership.run())
        self.spawn(self.supervise())
        for service in self.services:
            self.spawn(service())
        self.wake()
        try:
            return await self.exit_status
        finally:
            await self._close()

    def abandon(self) -> None:
        """As if the process had been killed: nothing is flushed, released or said any more."""
        self._closing = True
        self._deaths.close()
        self.ownership = None
        self._store = None
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()

    async def _farewell(self) -> None:
        now = self._clock()
        for port in self.engine.ports:
            port.close(now)
        self._perform(self.engine.turn(now))
        until = self._clock().mono + LINGER_S
        while self._sender.waiting and self._clock().mono < until:
            await asyncio.sleep(FULL_RETRY_S)
            self._sender.retry()

    async def _close(self) -> None:
        if self._closing:
            return
        if not self._failed:  # a memory that may be half changed is not asked once more; peers see the connection end
            try:
                await self._farewell()
            except Exception as error:
                self._log.error("farewell_failed", why=f"{type(error).__name__}: {error}")
        self._closing = True
        self._deaths.close()
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for waiting in self._calls.values():
            waiting.cancel()
        if self.ownership is not None:
            await self.ownership.release()
        # ZMQ hands frames to its own thread: give it a moment, since sockets are closed without linger.
        await asyncio.sleep(0.02)
        self._sender.close()
        if self._store is not None:
            await self._store.close()
