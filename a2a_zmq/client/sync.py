"""The client for ordinary, blocking code: the same connection on a thread of its own."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from a2a_zmq.client.asking import FleetRequests
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
    with_accepted,
)
from a2a_zmq.client.connection import Connection
from a2a_zmq.client.core import ClientCore
from a2a_zmq.client.entries import Call, Entry
from a2a_zmq.client.environment import ClientSettings, client_settings
from a2a_zmq.client.handles import Gate, HandleSink, TaskHandle
from a2a_zmq.client.mapping import CHUNK_S, CHUNK_TASKS, DEFAULT_IN_FLIGHT, MapRun, yielded
from a2a_zmq.client.reading import read_blocking
from a2a_zmq.client.requests import Ask
from a2a_zmq.client.sockets import Opener
from a2a_zmq.client.streams import place
from a2a_zmq.client.submission import TaskForm, checked_task_id, graph_task
from a2a_zmq.client.thread import LoopThread
from a2a_zmq.errors import FleetError, TaskTimeout
from a2a_zmq.streams import StreamEvent

# submit_many runs at most this many tasks ahead of the coordinator's answers.
MAX_UNACCEPTED = 8192

T = TypeVar("T")


class FleetClient(FleetRequests):
    """Submits tasks to a fleet; may be shared by threads. Not usable in a child process after a fork.

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
        link = opener
        self._maker = EntryMaker(self.settings)
        addresses_ = list(self.settings.addresses)
        new_id = self._maker.new_id
        self._thread = LoopThread(lambda: Connection(ClientCore(new_id, random.random), addresses_, link))
        # A client that is dropped, or a program that ends, without close() still says good-bye, so that the coordinator
        # need not wait for a timeout.
        weakref.finalize(self, self._maker.close)
        weakref.finalize(self, self._thread.stop)

    # ------------------------------------------------------------ life

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the fleet. Accepted tasks go on; whoever still waits here gets FleetUnavailable."""
        self._thread.stop()
        self._maker.close()

    @property
    def departed(self) -> str:
        """The coordinator that said good-bye last and has not greeted since, or ""."""
        return self._thread.connection.core.departed

    # ------------------------------------------------------------ tasks

    def submit(
        self,
        task_type: str,
        payload: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        task_id: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskHandle:
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
        gate = Gate()
        handle = TaskHandle(self, gate)
        entry = self._maker.one(
            task_type,
            payload,
            handle._sink,
            deadline=time.monotonic() + self._request_timeout_s,
            idempotency_key=idempotency_key,
            task_id=task_id,
            options=options,
        )
        handle.task_id = entry.task_id
        thread = self._thread
        thread.post(lambda: thread.connection.submit([entry]))
        gate.wait_for(1, thread.check)
        if gate.error is not None:
            raise gate.error
        return handle

    def submit_graph(
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
    ) -> TaskHandle:
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
        return self.submit(f"graph:{name}", payload, idempotency_key=idempotency_key, task_id=task_id, **options)

    def submit_many(
        self, task_type: str, payloads: Iterable[Mapping[str, Any]], **options: Unpack[TaskOptions]
    ) -> list[TaskHandle]:
        """Submit many tasks of one type; returns when all are accepted.

        Raises:
            RequestRefused, FleetUnavailable: of the first task that was not accepted; others may have been.
        """
        form = self._maker.form("submit_many", task_type, options)
        make = self._maker.next
        return self._submit_all(payloads, lambda payload, sink: make(form, payload, sink))

    def submit_tasks(self, tasks: Iterable[TaskSpec]) -> list[TaskHandle]:
        """As :meth:`submit_many` for tasks that differ; each is a dict of :meth:`submit`'s arguments.

        Raises:
            TypeError: a task has another key, or lacks one; its ``accepted`` has those before it that were submitted.
            RequestRefused, FleetUnavailable: as :meth:`submit_many`.
        """
        return self._submit_all(enumerate(tasks), self._maker.of)

    def _submit_all(self, items: Iterable[T], make: Callable[[T, HandleSink], Entry]) -> list[TaskHandle]:
        gate = Gate()
        handles: list[TaskHandle] = []
        group: list[Entry] = []
        try:
            for item in items:
                handle = TaskHandle(self, gate)
                entry = make(item, handle._sink)
                handle.task_id = entry.task_id
                handles.append(handle)
                group.append(entry)
                if len(group) == CHUNK_TASKS:
                    self._post_entries(due(group, self._request_timeout_s))
                    group = []
                    gate.wait_for(len(handles) - MAX_UNACCEPTED, self._thread.check)
                    if gate.error is not None:
                        break
        except Exception as error:  # the next task could not be had, or is wrong: what was sent runs all the same
            sent = handles[: len(handles) - len(group)]
            with contextlib.suppress(FleetError):  # closed meanwhile: nobody can tell
                gate.wait_for(len(sent), self._thread.check)
                note_accepted(error, sent)
            raise
        self._post_entries(due(group, self._request_timeout_s))
        gate.wait_for(len(handles), self._thread.check)
        if gate.error is not None:
            raise with_accepted(gate.error, handles)
        return handles

    def attach(self, task_id: str) -> TaskHandle:
        """A handle of a task that was submitted before, by this or another client.

        Raises:
            RequestRefused: ``UNKNOWN_TASK``: it was never accepted, its result has expired, or the store lost it.
        """
        gate = Gate()
        handle = TaskHandle(self, gate)
        deadline = time.monotonic() + self._request_timeout_s
        entry = Entry(checked_task_id(task_id), b"", handle._sink, check=True, deadline=deadline)
        handle.task_id = task_id
        thread = self._thread
        thread.post(lambda: thread.connection.attach(entry))
        gate.wait_for(1, thread.check)
        if gate.error is not None:
            raise gate.error
        return handle

    def _post_entries(self, entries: list[Entry]) -> None:
        if entries:
            thread = self._thread
            thread.post(lambda: thread.connection.submit(entries))

    def wait_for(self, handle: TaskHandle, timeout: float | None) -> None:
        """Wait until the handle is done, or its task asks something; what :meth:`TaskHandle.result` calls."""
        until = end_of(timeout)
        waiter = handle.waiter()
        try:
            while not handle.stands:
                self._thread.check()
                left = min(REACH_CHECK_S, until - time.monotonic())
                if waiter.wait(max(0.0, left)):
                    waiter.clear()  # what the task asked may be answered by now
                    continue
                if timeout is not None and time.monotonic() >= until:
                    raise TaskTimeout(handle.task_id, timeout)
                self._check_reach()
        finally:
            handle.no_longer(waiter)

    def _check_reach(self) -> None:
        self._thread.connection.check_reach(self._unavailable_after_s)

    # ------------------------------------------------------------ streams

    def stream(self, task_id: str, *, after: str | None = None, timeout: float | None = None) -> Iterator[StreamEvent]:
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
        return read_blocking(self._thread, checked_task_id(task_id), place(after), timeout, self._check_reach)

    # ------------------------------------------------------------ bulk

    def map(
        self,
        task_type: str,
        payloads: Iterable[Mapping[str, Any]],
        *,
        as_completed: bool = False,
        in_flight: int = DEFAULT_IN_FLIGHT,
        return_exceptions: bool = False,
        records: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Iterator[Any]:
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
        form = self._maker.form("map", task_type, options)
        changed = threading.Event()
        thread = self._thread
        thread.check()
        run = MapRun(
            ordered=not as_completed,
            in_flight=in_flight,
            at_turn_end=thread.connection.at_turn_end,
            wake=changed.set,
        )
        source = iter(payloads)
        more = True
        try:
            while True:
                if more and run.wants_more():
                    more = self._feed(run, form, source)
                entry = run.take()
                while entry is not None:
                    yield yielded(entry, records=records, return_exceptions=return_exceptions)
                    if more and run.wants_more():
                        break
                    entry = run.take()
                else:
                    if not more and not run.outstanding():
                        return
                    if not (more and run.wants_more()):
                        self._next_change(run, changed)
        finally:
            if run.may_hear_more():
                thread.forget(run)

    def _feed(self, run: MapRun, form: TaskForm, source: Iterator[Mapping[str, Any]]) -> bool:
        """Submit the next group of payloads. Returns False at their end."""
        make = self._maker.next
        group: list[Entry] = []
        more = True
        until = time.monotonic() + CHUNK_S
        room = min(CHUNK_TASKS, run.in_flight - run.outstanding())
        while len(group) < room:
            try:
                payload = next(source)
            except StopIteration:
                more = False
                break
            group.append(make(form, payload, run, index=run.next_index()))
            if time.monotonic() >= until:
                break
        self._post_entries(group)
        return more

    def _next_change(self, run: MapRun, changed: threading.Event) -> None:
        changed.clear()
        run.waiting = True
        if run.ready():
            run.waiting = False
            return
        if not changed.wait(REACH_CHECK_S):
            self._thread.check()
            self._check_reach()

    # ------------------------------------------------------------ other requests

    def _ask(self, ask: Ask) -> dict[str, Any]:
        answered = threading.Event()
        deadline = time.monotonic() + self._request_timeout_s
        call = Call(ask.action, ask.payload, lambda _: answered.set(), deadline=deadline, repeatable=ask.repeatable)
        thread = self._thread
        thread.post(lambda: thread.connection.request(call))
        while not answered.wait(REACH_CHECK_S):
            thread.check()
        assert call.answer is not None
        if isinstance(call.answer, dict):
            return call.answer
        raise call.answer
