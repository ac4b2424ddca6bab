"""How a shell ends: in good order, by a kill, or because something cannot be mended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from a2a_zmq.clock import Now
from a2a_zmq.interfaces import Section
from a2a_zmq.protocol.ports import Received
from daemons.runtime.calls import LocalCall
from daemons.runtime.contract import Batch, BatchApplied, Effect, Exit, StartRun
from daemons.runtime.shell import Shell
from tests.unit.runtime.fakes import tell
from tests.unit.runtime.stand import Stand, play

# ---------------------------------------------------------------- the end


def test_the_daemon_leaves_in_good_order() -> None:
    async def story(stand: Stand) -> None:
        stand.core.stage("t1", after=[tell("w", "last word")])
        stand.core.settling = [Exit(3, "drained")]
        stand.shell.wake()
        assert await stand.running == 3
        assert stand.sent == [b'"last word"', b"goodbye"]
        assert stand.socket.closed
        assert len(stand.redis.log) == 1
        stand.came(b"w", b"late")
        stand.shell.turn()
        assert stand.core.of(Received) == []

    play(story)


def test_last_frames_wait_a_moment_for_a_full_socket_and_no_longer() -> None:
    async def story(stand: Stand) -> None:
        began = stand.loop.time()
        stand.socket.say(b"everybody", *["full"] * 10)
        stand.core.settling = [Exit(0, "drained")]
        stand.shell.wake()
        await stand.running
        assert stand.sent == [b"goodbye"]
        assert 0.04 < stand.loop.time() - began < 0.5

    play(story)

    async def stuck(stand: Stand) -> None:
        began = stand.loop.time()
        stand.socket.say(b"everybody", *["full"] * 1000)
        stand.core.settling = [Exit(0, "drained")]
        stand.shell.wake()
        await stand.running
        assert stand.loop.time() - began < 0.5
        assert stand.socket.closed

    play(stuck)


def test_abandoning_is_like_a_kill() -> None:
    async def story(stand: Stand) -> None:
        stand.redis.take_away()
        stand.core.stage("t1", after=[tell("w", "accepted")])
        stand.shell.wake()
        await stand.settle()
        stand.shell.abandon()
        stand.redis.give_back()
        stand.came(b"w", b"late")
        stand.running.cancel()
        await asyncio.sleep(3.0)
        assert stand.sent == []
        assert stand.redis.log == []
        assert stand.core.of(Received) == []
        assert not stand.socket.closed, "the kernel would close it, not we"

    play(story)


class Bug(Exception):  # it is one
    """A mistake of ours."""


def _raise(_: object) -> list[Effect]:
    raise Bug("a mistake of ours")


def _from_timer(stand: Stand) -> None:
    stand.core.next_deadline = lambda: stand.loop.time() + 0.1  # type: ignore[method-assign]
    stand.core.settle = lambda now: _raise(now) if stand.loop.time() > 0.3 else []  # type: ignore[method-assign]
    stand.shell.wake()


def _from_frames(stand: Stand) -> None:
    stand.core.react = _raise
    stand.came(b"w", b"poison")


def _from_event(stand: Stand) -> None:
    stand.core.react = _raise
    stand.shell.event(LocalCall(1, "x", {}))


def _from_batch(stand: Stand) -> None:
    stand.core.react = lambda event: _raise(event) if isinstance(event, BatchApplied) else []
    stand.core.stage("t1")
    stand.shell.wake()


def _from_chore(stand: Stand) -> None:
    def chore() -> None:
        _raise(None)

    stand.shell.chores.append(chore)


def _from_store(stand: Stand) -> None:
    async def apply(write: Any) -> int:
        raise Bug("a mistake of ours")

    stand.store.apply = apply  # type: ignore[method-assign]
    stand.core.stage("t1")
    stand.shell.wake()


def _from_executor(stand: Stand) -> None:
    stand.runs.start = _raise  # type: ignore[assignment,method-assign]
    stand.core.settling = [StartRun("t1", 1, "noop", {}, None, {})]
    stand.shell.wake()


@pytest.mark.parametrize(
    "from_where", [_from_timer, _from_frames, _from_event, _from_batch, _from_chore, _from_store, _from_executor]
)
def test_an_error_of_our_own_ends_the_daemon_wherever_it_happens(from_where: Callable[[Stand], None]) -> None:
    """An event loop only logs what its callbacks raise: the daemon went on with half a memory."""

    async def story(stand: Stand) -> None:
        from_where(stand)
        with pytest.raises(Bug):
            async with asyncio.timeout(5.0):
                await stand.running
        assert stand.socket.closed, "peers notice"
        turns = len(stand.port.ticks)
        stand.shell.turn()
        assert len(stand.port.ticks) == turns, "a memory that may be half changed decides nothing more"

    play(story)


def test_a_port_that_raises_ends_the_daemon() -> None:
    async def story(stand: Stand) -> None:
        stand.port.breaks_on = b"poison"
        stand.came(b"w", b"fine", b"poison")
        with pytest.raises(KeyError):
            await stand.running

    play(story)


def test_services_run_beside_the_loop_and_end_with_it() -> None:
    async def story(stand: Stand) -> None:
        ended: list[str] = []

        async def service() -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                ended.append("service")

        stand.running.cancel()
        await asyncio.gather(stand.running, return_exceptions=True)
        shell = Shell(stand.engine, store=None, meter=stand.meter, clock=stand.loop.now)
        shell.services.append(service)
        running = stand.loop.create_task(shell.run())
        await asyncio.sleep(1.0)
        assert ended == []
        shell.exit_status.set_result(0)
        assert await running == 0
        assert ended == ["service"]

    play(story)


def test_an_effect_of_the_core_that_exits_while_its_batch_fails_waits_for_the_store() -> None:
    async def story(stand: Stand) -> None:
        stand.redis.take_away()
        stand.core.stage("t1")
        stand.core.settling = [Exit(0, "drained")]
        stand.shell.wake()
        await asyncio.sleep(2.0)
        assert not stand.running.done()
        stand.redis.give_back()
        assert await stand.running == 0
        assert (await stand.store.load(Section("d1", "distributor"))).tasks == {"t1": b"{}"}

    play(story)


def test_a_core_without_batches_is_cut_at_every_turn() -> None:
    async def story(stand: Stand) -> None:
        batches: list[Batch | None] = []
        cut = stand.core.cut

        def watched(now: Now) -> Batch | None:
            batches.append(cut(now))
            return batches[-1]

        stand.core.cut = watched  # type: ignore[method-assign]
        stand.came(b"w", b"one")
        stand.came(b"w", b"two")
        assert batches == [None, None]
        assert stand.port.acknowledged == {"w": [1, 2]}

    play(story)
