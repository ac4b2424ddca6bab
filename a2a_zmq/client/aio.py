"""The asynchronous client."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from a2a_zmq.client.asking import AsyncFleetRequests, answer_to
from a2a_zmq.client.base import (
    REACH_CHECK_S,
    REQUEST_TIMEOUT_S,
    UNAVAILABLE_AFTER_S,
    EntryMaker,
    TaskOptions,
    TaskSpec,
    bound_s,
    due,
    end_of,
    note_accepted,
    raise_first,
)
from a2a_zmq.client.connection import Connection
from a2a_zmq.client.core import ClientCore
from a2a_zmq.client.entries import Call, Entry
from a2a_zmq.client.environment import ClientSettings, client_settings
from a2a_zmq.client.handles import AsyncTaskHandle
from a2a_zmq.client.mapping import CHUNK_S, CHUNK_TASKS, DEFAULT_IN_FLIGHT, MapRun, each, yielded
from a2a_zmq.client.reading import read
from a2a_zmq.client.requests import Ask
from a2a_zmq.client.sockets import Opener
from a2a_zmq.client.streams import place
from a2a_zmq.client.submission import TaskForm, checked_task_id, graph_task
from a2a_zmq.errors import FleetUnavailable, TaskTimeout
from a2a_zmq.streams import StreamEvent

T = TypeVar("T")


class AsyncFleetClient(AsyncFleetRequests):
    """Submits tasks to a fleet, from one event loop of one process: that on which it is first used.

    Args:
        addresses: one coordinator's address or several (they are tried in turn until one that leads answers).
        key_dir, client_id, token_secret, coordinator_id: who we are and whom we expect; what is not given comes from
            the environment (:mod:`a2a_zmq.client.environment`), as with ``otlp_endpoint`` and ``trace_sample_ratio``.
        request_timeout_s: a request that is not answered within this time fails with FleetUnavailable (or, if the
            coordinator kept answering that it is busy, RequestRefused).
        unavailable_after_s: waiting for a result fails when no coordinator was reachable for this long.
        opener: makes the links, where none of the above fits.

    Raises:
        ConfigError: an address or the keys are not usable.
    """

    def __init__(
        self,
        addresses: str | Sequence[str] | None = None,
        *,
        key_dir: str | Path | None = None,
        client_id: str | None = None,
        token_secret: str | None = None,
        coordinator_id: str | None = None,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        unavailable_after_s: float = UNAVAILABLE_AFTER_S,
        opener: Opener | None = None,
        otlp_endpoint: str | None = None,
        trace_sample_ratio: float | None = None,
    ) -> None:
        self.settings: ClientSettings = client_settings(
            addresses, key_dir=key_dir, client_id=client_id, token_secret=token_secret, coordinator_id=coordinator_id,
            otlp_endpoint=otlp_endpoint, trace_sample_ratio=trace_sample_ratio,
        )  # fmt: skip
        self._request_timeout_s = bound_s("request_timeout_s", request_timeout_s)
        self._unavailable_after_s = bound_s("unavailable_after_s", unavailable_after_s)
        if opener is None:
            from a2a_zmq.client.links import link_opener  # needs zmq: only where a real link is wanted

            opener = link_opener(self.settings)
        self._opener = opener
        self._maker = EntryMaker(self.settings)
        self._connection: Connection | None = None
        self._closed = False

    # ------------------------------------------------------------ life

    async def __aenter__(self) -> Self:
        self._connected()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _connected(self) -> Connection:
        if self._closed:
            raise FleetUnavailable("the client is closed")
        if self._connection is None:
            core = ClientCore(self._maker.new_id, random.random)
            self._connection = Connection(core, list(self.settings.addresses), self._opener)
        self._connection.check_home()
        return self._connection

    async def close(self) -> None:
        """Leave the fleet. Accepted tasks go on; whoever still waits here gets FleetUnavailable."""
        self._closed = True
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
        if self.settings.otlp_endpoint:
            await asyncio.to_thread(self._maker.close)

    # ------------------------------------------------------------ tasks

    async def submit(
        self,
        task_type: str,
        payload: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        task_id: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> AsyncTaskHandle:
        """Give the fleet a task; returns when the coordinator has it on disk.

        Args:
            task_type: name of a handler that some worker has.
            payload: JSON object for the handler.
            idempotency_key: the same key of the same client id is the same task, however often it is submitted.
            task_id: id to use instead of a fresh one; an id that is known already is the same task.
            options: ``priority`` (higher first), ``timeout_s`` (of one attempt), ``max_attempts`` (as its distributor
                is set, 3), ``distributor`` (run it there only), ``labels`` (that a worker must have).

        Raises:
            RequestRefused: an argument is wrong, or the coordinator does not take the task.
            FleetUnavailable: no answer within ``request_timeout_s``; it may have been accepted (submit again with the
                same ``task_id`` or ``idempotency_key`` to be sure).
        """
        connection = self._connected()
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handle = AsyncTaskHandle(self, accepted)
        entry = self._maker.one(
            task_type,
            payload,
            handle,
            deadline=time.monotonic() + self._request_timeout_s,
            idempotency_key=idempotency_key,
            task_id=task_id,
            options=options,
        )
        handle.task_id = entry.task_id
        connection.submit([entry])
        await accepted
        return handle

    async def submit_graph(
        self,
        name: str,
        input: Any,  # noqa: A002 - as LangGraph calls it
        *,
        thread_id: str | None = None,
        config: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        interrupt_before: str | Sequence[str] = (),
        interrupt_after: str | Sequence[str] = (),
        stream_mode: str | Sequence[str] = (),
        idempotency_key: str | None = None,
        task_id: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> AsyncTaskHandle:
        """Run a graph of a worker's LangGraph project.

        Args:
            name: of the graph in ``langgraph.json``.
            input: for the graph; JSON.
            thread_id: the conversation that it belongs to; one of its own by default.
            config, context, interrupt_before, interrupt_after: as for the graph's ``invoke``; JSON.
            stream_mode: what :meth:`stream` is to show: ``updates``, ``custom``, ``messages`` …
            idempotency_key, task_id, options: as for :meth:`submit`.

        Raises:
            RequestRefused, FleetUnavailable: as :meth:`submit`.
        """
        payload = graph_task(options, input, thread_id, config, context, interrupt_before, interrupt_after, stream_mode)
        return await self.submit(f"graph:{name}", payload, idempotency_key=idempotency_key, task_id=task_id, **options)

    async def submit_many(
        self, task_type: str, payloads: Iterable[Mapping[str, Any]], **options: Unpack[TaskOptions]
    ) -> list[AsyncTaskHandle]:
        """Submit many tasks of one type; returns when all are accepted.

        Raises:
            RequestRefused, FleetUnavailable: of the first task that was not accepted; others may have been.
        """
        form = self._maker.form("submit_many", task_type, options)
        make = self._maker.next
        return await self._submit_all(payloads, lambda payload, handle: make(form, payload, handle))

    async def submit_tasks(self, tasks: Iterable[TaskSpec]) -> list[AsyncTaskHandle]:
        """As :meth:`submit_many` for tasks that differ; each is a dict of :meth:`submit`'s arguments.

        Raises:
            TypeError: a task has another key, or lacks one; its ``accepted`` has those before it that were submitted.
            RequestRefused, FleetUnavailable: as :meth:`submit_many`.
        """
        return await self._submit_all(enumerate(tasks), self._maker.of)

    async def _submit_all(
        self, items: Iterable[T], make: Callable[[T, AsyncTaskHandle], Entry]
    ) -> list[AsyncTaskHandle]:
        connection = self._connected()
        loop = asyncio.get_running_loop()
        handles: list[AsyncTaskHandle] = []
        waiting: list[asyncio.Future[None]] = []
        group: list[Entry] = []
        pause_at = time.monotonic() + CHUNK_S
        try:
            for item in items:
                accepted: asyncio.Future[None] = loop.create_future()
                handle = AsyncTaskHandle(self, accepted)
                entry = make(item, handle)
                handle.task_id = entry.task_id
                handles.append(handle)
                waiting.append(accepted)
                group.append(entry)
                if len(group) == CHUNK_TASKS or time.monotonic() >= pause_at:
                    connection.submit(due(group, self._request_timeout_s))
                    group = []
                    await asyncio.sleep(0)  # these leave while the rest is made
                    pause_at = time.monotonic() + CHUNK_S
        except Exception as error:  # the next task could not be had, or is wrong: what was sent runs all the same
            sent = len(handles) - len(group)
            await asyncio.gather(*waiting[:sent], return_exceptions=True)
            note_accepted(error, handles[:sent])
            raise
        connection.submit(due(group, self._request_timeout_s))
        raise_first(await asyncio.gather(*waiting, return_exceptions=True), handles)
        return handles

    async def attach(self, task_id: str) -> AsyncTaskHandle:
        """A handle of a task that was submitted before, by this or another client.

        Raises:
            RequestRefused: ``UNKNOWN_TASK``: it was never accepted, its result has expired, or the store lost it.
        """
        connection = self._connected()
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handle = AsyncTaskHandle(self, accepted)
        deadline = time.monotonic() + self._request_timeout_s
        entry = Entry(checked_task_id(task_id), b"", handle, check=True, deadline=deadline)
        handle.task_id = task_id
        connection.attach(entry)
        await accepted
        return handle

    async def wait_for(self, handle: AsyncTaskHandle, timeout: float | None) -> None:
        """Wait until the handle is done, or its task asks something; what :meth:`AsyncTaskHandle.result` calls."""
        until = end_of(timeout)
        while not handle.stands:
            connection = self._connected()
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            handle._waiters.append(waiter)
            left = min(REACH_CHECK_S, until - time.monotonic())
            try:
                await asyncio.wait((waiter,), timeout=max(0.0, left))
            finally:
                if not waiter.done():
                    handle._waiters.remove(waiter)
            if waiter.done():
                continue
            if timeout is not None and time.monotonic() >= until:
                raise TaskTimeout(handle.task_id, timeout)
            connection.check_reach(self._unavailable_after_s)

    # ------------------------------------------------------------ streams

    def stream(
        self, task_id: str, *, after: str | None = None, timeout: float | None = None
    ) -> AsyncIterator[StreamEvent]:
        """What the runs of a graph's task tell, in order, to its end; the task was submitted with ``stream_mode``.

        Lost connections, replaced coordinators and workers show in nothing but a ``metadata`` event where another
        attempt begins. Who reads slowly holds up nobody; what is not kept any more by then is told as a ``gap``.

        Args:
            after: id of an event: begin behind it; by default with the first one that is kept.
            timeout: seconds to read at most, None for as long as it takes.

        Raises:
            RequestRefused: ``UNKNOWN_TASK``.
            TaskTimeout: it has not ended within ``timeout``.
            FleetUnavailable: no coordinator was reachable for ``unavailable_after_s``.
        """
        return read(self._connected, checked_task_id(task_id), place(after), timeout, self._check_reach)

    def _check_reach(self) -> None:
        self._connected().check_reach(self._unavailable_after_s)

    # ------------------------------------------------------------ bulk

    async def map(
        self,
        task_type: str,
        payloads: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        as_completed: bool = False,
        in_flight: int = DEFAULT_IN_FLIGHT,
        return_exceptions: bool = False,
        records: bool = False,
        **options: Unpack[TaskOptions],
    ) -> AsyncIterator[Any]:
        """Run a task for each payload and yield the values; the payloads may be endless.

        Args:
            as_completed: yield in the order of arrival instead of the payloads' order.
            in_flight: at most this many tasks are submitted whose values were not yielded.
            return_exceptions: yield the error of a task that did not complete instead of raising it.
            records: yield result records (with worker, times and attempt), also of failed tasks.
            options: as for :meth:`submit`.

        Raises:
            TaskFailed, TaskCancelled, TaskWaiting, RequestRefused: of a task, when its turn comes.
            FleetUnavailable: no coordinator was reachable for ``unavailable_after_s``.
        """
        connection = self._connected()
        changed = asyncio.Event()
        run = MapRun(
            ordered=not as_completed, in_flight=in_flight, at_turn_end=connection.at_turn_end, wake=changed.set
        )
        form = self._maker.form("map", task_type, options)
        feeder = asyncio.ensure_future(self._feed(run, form, payloads, changed))
        try:
            while True:
                entry = run.take()
                if entry is not None:
                    yield yielded(entry, records=records, return_exceptions=return_exceptions)
                    continue
                if feeder.done() and not run.outstanding():
                    feeder.result()
                    return
                if feeder.done() and feeder.exception() is not None:
                    feeder.result()
                await self._next_change(run, changed, connection)
        finally:
            feeder.cancel()
            connection.core.forget(run)

    async def _next_change(self, run: MapRun, changed: asyncio.Event, connection: Connection) -> None:
        changed.clear()
        run.waiting = True
        if run.ready():
            run.waiting = False
            return
        try:
            await asyncio.wait_for(changed.wait(), REACH_CHECK_S)
        except TimeoutError:
            self._connected()
            connection.check_reach(self._unavailable_after_s)

    async def _feed(
        self,
        run: MapRun,
        form: TaskForm,
        payloads: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        changed: asyncio.Event,
    ) -> None:
        """Submit payloads as there is room for them."""
        room = asyncio.Event()
        run.on_room = room.set
        connection = self._connected()
        pause_at = time.monotonic() + CHUNK_S
        try:
            async for payload in each(payloads):
                connection.submit([self._maker.next(form, payload, run, index=run.next_index())])
                if run.outstanding() >= run.in_flight:
                    room.clear()
                    await room.wait()
                elif time.monotonic() >= pause_at:
                    await asyncio.sleep(0)
                else:
                    continue
                pause_at = time.monotonic() + CHUNK_S
        finally:
            changed.set()

    # ------------------------------------------------------------ other requests

    async def _ask(self, ask: Ask) -> dict[str, Any]:
        answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        deadline = time.monotonic() + self._request_timeout_s
        call = Call(ask.action, ask.payload, answer_to(answered), deadline=deadline, repeatable=ask.repeatable)
        self._connected().request(call)
        return await answered
