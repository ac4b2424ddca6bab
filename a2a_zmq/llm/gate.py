"""The way of a call: wait for its turn, send it, count it, and try again what may be repeated.

The same way for blocking and asynchronous calls, whole answers and streams. A stream is not repeated once the caller
has seen something of it.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from a2a_zmq.errors import ModelBusy
from a2a_zmq.handlers import TaskStopped, current_task
from a2a_zmq.llm import calls, rules
from a2a_zmq.llm.budget import Budget
from a2a_zmq.llm.calls import Call
from a2a_zmq.llm.providers import Provider
from a2a_zmq.llm.usage import Usage

T = TypeVar("T")

# A blocking wait looks this often whether its run was told to end.
SLICE_S: Final = 0.1
# A model that makes an answer of a stream, or the other way round, calls itself: that is one request.
_inside: ContextVar[Gate | None] = ContextVar("inside", default=None)


class Permit:
    """One request that may be sent, and what became of it."""

    __slots__ = ("begun", "call", "usage", "waited_for", "waited_s")

    def __init__(self, usage: Usage) -> None:
        self.call = secrets.token_hex(8)
        self.usage = usage
        self.begun = 0.0
        self.waited_s = 0.0
        self.waited_for = ""


class Gate:
    """Whoever calls a provider's model comes through here."""

    def __init__(self, provider: Provider, budget: Budget, on_call: Callable[[Call], None] | None) -> None:
        self._provider = provider
        self._budget = budget
        self._on_call = on_call

    def change(self, provider: Provider) -> None:
        """Other limits for calls that begin from now on.

        Raises:
            ConfigError: it has a budget, and there is no Redis.
        """
        self._budget.change(provider)
        self._provider = provider

    @property
    def inside(self) -> bool:
        """This code is part of a request that came through already."""
        return _inside.get() is self

    # ------------------------------------------------------------ blocking

    def generate(
        self, send: Callable[[], T], messages: Any, options: Mapping[str, Any], read: Callable[[Usage, T], None]
    ) -> T:
        until, retries = self._until(), self._provider.retries
        for tries in range(retries + 1):
            permit = self._enter(Usage(messages, options, self._provider.expected_output_tokens), until)
            try:
                answer = self._step(send)
            except BaseException as error:
                _sleep(self._failed(permit, error, tries, until, last=tries >= retries))
            else:
                read(permit.usage, answer)
                self._ended(permit)
                return answer
        raise AssertionError("the last failure is raised")

    def stream(
        self,
        send: Callable[[], Iterator[T]],
        messages: Any,
        options: Mapping[str, Any],
        read: Callable[[Usage, T], None],
    ) -> Iterator[T]:
        until, retries = self._until(), self._provider.retries
        for tries in range(retries + 1):
            permit = self._enter(Usage(messages, options, self._provider.expected_output_tokens), until)
            seen = False
            try:
                chunks = self._step(send)
                while (chunk := self._step(lambda: next(chunks, _END))) is not _END:  # noqa: B023 - called at once
                    read(permit.usage, chunk)  # type: ignore[arg-type]  # it is no _END
                    seen = True
                    yield chunk  # type: ignore[misc]
            except GeneratorExit:  # the caller has enough
                chunks.close()  # type: ignore[attr-defined]  # generators are what models give
                self._ended(permit)
                raise
            except BaseException as error:
                _sleep(self._failed(permit, error, tries, until, last=seen or tries >= retries))
            else:
                self._ended(permit)
                return

    def _step(self, work: Callable[[], T]) -> T:
        token = _inside.set(self)
        try:
            return work()
        finally:
            _inside.reset(token)

    def _enter(self, usage: Usage, until: float) -> Permit:
        permit = Permit(usage)
        waiting = rules.Waiting(self._budget.name, time.monotonic(), until)
        try:
            while not (answer := self._budget.ask(permit.call, usage.reserved).result()).granted:
                _sleep(waiting.pause(answer, time.monotonic(), random.random()))
        except BaseException as error:
            self._given_up(permit, waiting, error)
            raise
        return self._may_go(permit, waiting)

    # ------------------------------------------------------------ asynchronous

    async def agenerate(
        self,
        send: Callable[[], Awaitable[T]],
        messages: Any,
        options: Mapping[str, Any],
        read: Callable[[Usage, T], None],
    ) -> T:
        until, retries = self._until(), self._provider.retries
        for tries in range(retries + 1):
            permit = await self._aenter(Usage(messages, options, self._provider.expected_output_tokens), until)
            try:
                answer = await self._astep(send)
            except BaseException as error:
                await asyncio.sleep(self._failed(permit, error, tries, until, last=tries >= retries))
            else:
                read(permit.usage, answer)
                self._ended(permit)
                return answer
        raise AssertionError("the last failure is raised")

    async def astream(
        self,
        send: Callable[[], AsyncIterator[T]],
        messages: Any,
        options: Mapping[str, Any],
        read: Callable[[Usage, T], None],
    ) -> AsyncIterator[T]:
        until, retries = self._until(), self._provider.retries
        for tries in range(retries + 1):
            permit = await self._aenter(Usage(messages, options, self._provider.expected_output_tokens), until)
            chunks = send()
            seen = False
            try:
                while (chunk := await self._astep(lambda: anext(chunks, _END))) is not _END:  # noqa: B023 - called at once
                    read(permit.usage, chunk)  # type: ignore[arg-type]  # it is no _END
                    seen = True
                    yield chunk  # type: ignore[misc]
            except GeneratorExit:
                self._ended(permit)
                await chunks.aclose()  # type: ignore[attr-defined]  # generators are what models give
                raise
            except BaseException as error:
                await asyncio.sleep(self._failed(permit, error, tries, until, last=seen or tries >= retries))
            else:
                self._ended(permit)
                return

    async def _astep(self, work: Callable[[], Awaitable[T]]) -> T:
        token = _inside.set(self)
        try:
            return await work()
        finally:
            _inside.reset(token)

    async def _aenter(self, usage: Usage, until: float) -> Permit:
        permit = Permit(usage)
        waiting = rules.Waiting(self._budget.name, time.monotonic(), until)
        try:
            while not (answer := await asyncio.wrap_future(self._budget.ask(permit.call, usage.reserved))).granted:  # noqa: ASYNC110
                await asyncio.sleep(waiting.pause(answer, time.monotonic(), random.random()))
        except BaseException as error:
            self._given_up(permit, waiting, error)
            raise
        return self._may_go(permit, waiting)

    # ------------------------------------------------------------ both

    def _until(self) -> float:
        """When a call that has not begun is given up."""
        until = time.monotonic() + self._provider.max_wait_s
        task = current_task()
        return until if task is None or task.deadline is None else min(until, task.deadline)

    def _may_go(self, permit: Permit, waiting: rules.Waiting) -> Permit:
        self._budget.begun(permit.call)
        permit.begun = time.monotonic()
        if waiting.missing:
            permit.waited_s, permit.waited_for = permit.begun - waiting.began, waiting.missing
        return permit

    def _given_up(self, permit: Permit, waiting: rules.Waiting, error: BaseException) -> None:
        self._budget.settle(permit.call, 0)
        if isinstance(error, ModelBusy):
            permit.waited_s, permit.waited_for = time.monotonic() - waiting.began, error.missing
            self._tell(permit, calls.REFUSED, {})

    def _ended(self, permit: Permit) -> None:
        permit.usage.complete()
        self._budget.settle(permit.call, permit.usage.total)
        self._tell(permit, calls.OK, permit.usage.counted)

    def _failed(self, permit: Permit, error: BaseException, tries: int, until: float, *, last: bool) -> float:
        """Seconds until the next try.

        Args:
            last: there is no other one.

        Raises:
            BaseException: the error itself, if there is none; ModelBusy, if the provider asks for more patience than
                the call has.
        """
        kind, status, headers = _described(error)
        failure = rules.judge(kind, status, rules.retry_after(headers, time.time()), tries, random.random)
        self._budget.settle(permit.call, 0 if failure.unbilled else -1)
        self._budget.pause(failure.pause_s)
        self._tell(permit, failure.reason, {}, throttled=failure.pause_s > 0)
        if not failure.again or last:
            raise error
        if max(failure.pause_s, failure.sleep_s) > until - time.monotonic():
            raise ModelBusy(self._budget.name, "paused", max(failure.pause_s, failure.sleep_s)) from error
        return failure.sleep_s

    def _tell(self, permit: Permit, outcome: str, tokens: dict[str, int], *, throttled: bool = False) -> None:
        if self._on_call is None:
            return
        seconds = time.monotonic() - permit.begun if permit.begun else 0.0
        waited = permit.waited_s, permit.waited_for
        self._on_call(Call(self._budget.name, self._provider.model, outcome, seconds, tokens, *waited, throttled))


_END: Final = object()


def _sleep(seconds: float) -> None:
    """Sleep, unless this run is to end."""
    task = current_task()
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if task is not None:
            task.raise_if_cancelled()
        time.sleep(min(left, SLICE_S))


def _described(error: BaseException) -> tuple[str, int | None, Mapping[str, str]]:
    """(kind, HTTP status, headers of the answer) of an error of whatever client: it, or what it was raised from."""
    if isinstance(error, (asyncio.CancelledError, TaskStopped)):
        return "cancelled", None, {}
    names: set[str] = set()
    seen: BaseException | None = error
    while seen is not None:
        names |= {kind.__name__ for kind in type(seen).__mro__}
        response = getattr(seen, "response", None)
        status = getattr(seen, "status_code", None) or getattr(response, "status_code", None)
        if isinstance(status, int):
            return "other", status, dict(getattr(response, "headers", None) or {})
        seen = seen.__cause__
    if any("Timeout" in name for name in names):
        return "timeout", None, {}
    if any(name in ("APIConnectionError", "TransportError", "ConnectionError") for name in names):
        return "connection", None, {}
    return "other", None, {}
