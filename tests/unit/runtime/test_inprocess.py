"""An agent in a thread of the caller's program: a real daemon around a scripted core."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from a2a_zmq.errors import A2AError, ConfigError, StoreUnavailable
from a2a_zmq.protocol.message import Role
from daemons.runtime.calls import LocalAnswer, LocalCall
from daemons.runtime.contract import DrainRequested, Effect, Exit
from daemons.runtime.inprocess import InProcessAgent
from daemons.runtime.launch import Daemon
from daemons.runtime.supervision import Supervisor, run_plain
from daemons.settings import WorkerSettings
from tests.conftest import WaitUntil
from tests.unit.runtime.fakes import ScriptedCore


class NoGraph:
    """A graph that does nothing: LangGraph takes half a second to import."""

    async def ainvoke(self, state: dict[str, Any], *, context: Any) -> None:
        run_plain(context.core, context.now)


class Program:
    """What a program does that embeds an agent; the agent's core answers ``double`` and drains at once."""

    def __init__(self, keys: Path) -> None:
        self.settings = WorkerSettings(worker_id="w", metrics_port=0, key_dir=keys, drain_timeout_s=5.0)
        self.core = ScriptedCore()
        self.core.react = self.react
        self.opened = 0
        self.opening: Callable[[], Awaitable[None]] | None = None
        self.agent = InProcessAgent("w", self.open)

    def react(self, event: Any) -> list[Effect]:
        if isinstance(event, LocalCall) and event.name == "double":
            return [LocalAnswer(event.call_id, event.args["n"] * 2)]
        if isinstance(event, LocalCall) and event.name == "crash":
            raise ZeroDivisionError("a mistake of ours")
        return [Exit(0, "drained")] if isinstance(event, DrainRequested) else []

    async def open(self) -> Daemon:
        self.opened += 1
        if self.opening is not None:
            await self.opening()
        daemon = Daemon(self.settings, Role.WORKER)
        await daemon.assemble(self.core, Supervisor(NoGraph))
        return daemon


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    before = threading.active_count()
    made = Program(tmp_path / "keys")
    yield made
    made.agent.close()
    end = time.monotonic() + 5.0
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before, "no thread is left behind"


def test_an_agent_serves_calls_until_it_is_closed(program: Program) -> None:
    agent = program.agent
    assert agent.initialize()
    assert agent.initialize(), "again is harmless"
    assert program.opened == 1
    assert agent.call("double", n=4) == 8
    assert agent.state.agent_id == "agent-1"
    assert agent.on_loop(lambda daemon: daemon.settings.agent_id) == "w"
    agent.close()
    agent.close()
    assert agent.error is None
    assert program.core.of(DrainRequested)[0].reason == "close"


def test_a_closed_agent_answers_nothing_and_says_so(program: Program) -> None:
    agent = program.agent
    agent.initialize()
    agent.close()
    assert agent.call("double", n=4) is None
    with pytest.raises(A2AError, match="w: does not run"):
        agent.on_loop(lambda daemon: daemon)
    with pytest.raises(A2AError, match="does not run"):
        _ = agent.state


def test_an_agent_can_be_started_again(program: Program) -> None:
    agent = program.agent
    assert agent.initialize()
    agent.close()
    assert agent.initialize()
    assert program.opened == 2
    assert agent.call("double", n=1) == 2


def test_as_a_context_manager(program: Program) -> None:
    with program.agent as agent:
        assert agent.call("double", n=2) == 4
    assert agent.call("double", n=2) is None


def test_before_initialize_there_is_nothing_to_ask(program: Program) -> None:
    program.agent.close()
    with pytest.raises(A2AError, match="call initialize"):
        program.agent.call("double", n=1)


def test_an_agent_that_is_not_ready_in_time_goes_on_trying(program: Program) -> None:
    program.core.readiness = (False, "no lease")
    assert not program.agent.initialize(timeout_s=0.1)
    assert program.agent.error is None
    assert program.agent.call("double", n=1) == 2
    program.core.readiness = (True, "")
    assert program.agent.initialize(timeout_s=5.0)


@pytest.mark.parametrize("error", [ConfigError("bind: no such address"), StoreUnavailable("connection")])
def test_an_agent_that_cannot_start_says_why(program: Program, error: A2AError) -> None:
    async def fail() -> None:
        raise error

    program.opening = fail
    if isinstance(error, ConfigError):
        with pytest.raises(ConfigError, match="no such address"):
            program.agent.initialize(timeout_s=5.0)
    else:
        assert not program.agent.initialize(timeout_s=5.0)
    assert program.agent.error is error
    program.agent.close()
    program.opening = None
    assert program.agent.initialize(), "the next try begins anew"
    assert program.agent.error is None


def test_closing_an_agent_that_still_waits_for_redis_does_not_wait_for_it(program: Program) -> None:
    async def for_ever() -> None:
        await asyncio.sleep(3600)

    program.opening = for_ever
    assert not program.agent.initialize(timeout_s=0.1)
    began = time.monotonic()
    program.agent.close()
    assert time.monotonic() - began < 3.0


def test_a_call_ends_with_the_agent_however_long_it_may_wait(program: Program) -> None:
    agent = program.agent
    agent.initialize()
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(agent.call("never answered", wait_s=None)))
    caller.start()
    agent.call("double", n=1)  # so the other call is under way, too
    agent.close()
    caller.join(5.0)
    assert answers == [None]


def test_a_call_that_takes_too_long_is_given_up(program: Program) -> None:
    program.agent.initialize()
    assert program.agent.call("never answered", wait_s=0.05) is None
    assert program.agent.call("double", n=3) == 6


def test_an_agent_that_crashes_keeps_nobody_waiting(program: Program, wait_until: WaitUntil) -> None:
    agent = program.agent
    agent.initialize()
    began = time.monotonic()
    assert agent.call("crash") is None
    assert time.monotonic() - began < 5.0
    wait_until(lambda: isinstance(agent.error, ZeroDivisionError), "the error can be seen")
    assert agent.call("double", n=1) is None


def test_what_a_coroutine_raises_reaches_the_caller(program: Program) -> None:
    async def fail() -> int:
        raise A2AError("no")

    program.agent.initialize()
    with pytest.raises(A2AError, match="no"):
        program.agent.await_on_loop(fail(), default=1)
