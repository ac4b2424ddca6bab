"""The shell performs what the engine wants: sockets in order, one batch, timers, calls, supervision, and its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from a2a_zmq.errors import VersionConflict
from a2a_zmq.protocol.ports import PeerSuspect, ProbeWanted, Received
from daemons.runtime.calls import LocalAnswer, LocalCall
from daemons.runtime.contract import BatchApplied, Exit, Log, Query, QueryAnswer, StartRun, StopRun, StoreChanged
from tests.unit.runtime.fakes import SECTION, tell
from tests.unit.runtime.stand import Stand, play

# ---------------------------------------------------------------- sockets


def test_all_frames_of_a_wake_up_make_one_turn() -> None:
    async def story(stand: Stand) -> None:
        turns = len(stand.port.ticks)
        stand.came(b"w", b"one", b"two", b"three")
        assert len(stand.port.ticks) == turns + 1
        assert [event.message.payload["text"] for event in stand.core.of(Received)] == ["one", "two", "three"]

    play(story)


def test_a_full_route_keeps_its_frames_in_order_and_holds_up_no_other() -> None:
    async def story(stand: Stand) -> None:
        stand.port.up("x")
        stand.socket.say(b"w", "full", "full", "full")
        stand.send("w", "1", "2")
        stand.send("x", "other")
        await stand.settle()
        assert stand.sent == [b'"other"']
        stand.send("w", "3")
        await stand.settle()
        assert stand.sent == [b'"other"'], "3 must not overtake 1 and 2"
        await asyncio.sleep(0.1)
        assert stand.sent == [b'"other"', b'"1"', b'"2"', b'"3"']
        assert stand.port.failed == [(b"w", b'"1"', "full")], "told once, not for every try"

    play(story)


def test_a_route_that_was_full_and_goes_away_takes_its_frames_with_it() -> None:
    async def story(stand: Stand) -> None:
        stand.socket.say(b"w", "full", "unroutable")
        stand.send("w", "1", "2", "3")
        await asyncio.sleep(0.1)
        assert stand.sent == []
        assert [reason for _, _, reason in stand.port.failed] == ["full", "unroutable"]
        assert stand.core.of(PeerSuspect) == [PeerSuspect("w", "disconnect")]
        stand.send("w", "new session")
        await stand.settle()
        assert stand.sent == [b'"new session"']

    play(story)


def test_frames_that_wait_are_forgotten_when_their_connection_ends() -> None:
    async def story(stand: Stand) -> None:
        stand.socket.say(b"w", "full")
        stand.send("w", "old session")
        await stand.settle()
        stand.shell.on_disconnected(0)(b"w")
        await asyncio.sleep(0.1)
        assert stand.sent == []

    play(story)


def test_an_unroutable_frame_is_told_to_the_core_at_once() -> None:
    """The port was told, but nobody looked at what it made of it before the next deadline."""

    async def story(stand: Stand) -> None:
        stand.socket.say(b"w", "unroutable")
        stand.send("w", "1")
        await stand.settle()
        assert stand.core.of(PeerSuspect) == [PeerSuspect("w", "disconnect")]

    play(story)


def test_connections_that_begin_and_end_are_told_to_their_port() -> None:
    async def story(stand: Stand) -> None:
        stand.shell.on_connected(0)()
        stand.shell.on_disconnected(0)(b"")
        assert stand.core.of(PeerSuspect) == [PeerSuspect("hub", "disconnect")]

    play(story)


def test_the_next_deadline_is_kept_and_an_idle_shell_sleeps() -> None:
    async def story(stand: Stand) -> None:
        await asyncio.sleep(0.1)  # the first look of supervision
        began = stand.loop.time()
        stand.port.deadline = began + 0.7
        stand.shell.wake()
        await stand.settle()
        stand.port.ticks.clear()
        await asyncio.sleep(0.69)
        assert stand.port.ticks == []
        await asyncio.sleep(0.02)
        assert stand.port.ticks[0] == pytest.approx(began + 0.7)

    play(story)


def test_any_number_of_wakes_make_one_turn() -> None:
    async def story(stand: Stand) -> None:
        stand.port.ticks.clear()
        for _ in range(10):
            stand.shell.wake()
        stand.shell.events([LocalCall(90, "x", {}), LocalCall(91, "y", {})])
        await stand.settle()
        assert len(stand.port.ticks) == 1

    play(story)


# ---------------------------------------------------------------- store


def test_a_batch_is_written_and_then_what_waited_is_sent() -> None:
    async def story(stand: Stand) -> None:
        stand.core.react = lambda event: (
            stand.core.stage("t1", after=[tell("w", "accepted")]) if isinstance(event, Received) else []
        )
        stand.came(b"w", b"result")
        assert stand.sent == []
        await stand.settle()
        assert stand.sent == [b'"accepted"']
        assert len(stand.redis.log) == 1
        assert stand.port.acknowledged == {"w": [1]}
        assert stand.meter.counts["shared_state_updates_total"] == 1
        assert len(stand.meter.observed["shared_state_write_seconds"]) == 1

    play(story)


def test_a_store_that_is_away_gets_the_same_batch_until_it_takes_it() -> None:
    async def story(stand: Stand) -> None:
        stand.redis.take_away()
        stand.core.stage("t1", after=[tell("w", "accepted")])
        stand.shell.wake()
        await asyncio.sleep(5.0)
        assert stand.sent == []
        assert stand.core.of(StoreChanged) == [StoreChanged(available=False, reason="connection")]
        stand.redis.give_back()
        await asyncio.sleep(0.6)
        assert stand.sent == [b'"accepted"']
        assert len(stand.redis.log) == 1

    play(story)


def test_a_write_whose_reply_was_lost_is_written_once() -> None:
    async def story(stand: Stand) -> None:
        stand.redis.lose_replies("d1", applied=True)
        stand.core.stage("t1")
        stand.shell.wake()
        await asyncio.sleep(1.0)
        assert len(stand.redis.log) == 1
        assert [event.versions for event in stand.core.of(BatchApplied)] == [{SECTION: 1}]

    play(story)


def test_a_conflict_is_tried_again() -> None:
    async def story(stand: Stand) -> None:
        apply, errors = stand.store.apply, [VersionConflict("d1"), VersionConflict("d1")]

        async def conflicting(write: Any) -> int:
            if errors:
                raise errors.pop()
            return await apply(write)

        stand.store.apply = conflicting  # type: ignore[method-assign]
        stand.core.stage("t1")
        stand.shell.wake()
        await asyncio.sleep(1.0)
        assert len(stand.redis.log) == 1
        assert stand.meter.counts["shared_state_conflicts_total"] == 2

    play(story)


def test_queries_are_answered_also_where_redis_is_away() -> None:
    async def story(stand: Stand) -> None:
        stand.core.settling = [Query("a", "tasks", {"distributor_ids": ["d1"], "task_ids": ["t1"]})]
        stand.shell.wake()
        await stand.settle()
        stand.redis.take_away()
        stand.core.settling = [Query("b", "tasks", {"distributor_ids": ["d1"], "task_ids": ["t1"]})]
        stand.shell.wake()
        await stand.settle()
        first, second = stand.core.of(QueryAnswer)
        assert first == QueryAnswer("a", {})
        assert (second.tag, second.value) == ("b", None)
        assert "connection" in second.error

    play(story)


def test_a_query_about_what_cannot_be_read_is_answered_with_an_error() -> None:
    """It ended the daemon, each time that somebody asked."""

    async def story(stand: Stand) -> None:
        async def tasks(*_: object) -> dict[str, bytes]:
            raise LookupError("nobody foresaw this")

        stand.store.tasks = tasks  # type: ignore[method-assign,assignment]
        stand.core.settling = [Query("a", "tasks", {"distributor_ids": ["d1"], "task_ids": ["t1"]})]
        stand.shell.wake()
        await stand.settle()
        (answer,) = stand.core.of(QueryAnswer)
        assert "nobody foresaw this" in answer.error
        assert not stand.running.done()

    play(story)


# ---------------------------------------------------------------- other effects


def test_probes_runs_and_logs_are_performed() -> None:
    async def story(stand: Stand) -> None:
        stand.gone = {10: True, 11: False}
        stand.port.events += [ProbeWanted("w", 10, 1), ProbeWanted("x", 11, 1)]
        start, stop = StartRun("t1", 1, "noop", {}, None, {}), StopRun("t1", 1, "cancelled")
        stand.core.settling = [start, stop, Log("debug", "a line", {"n": 1}), Log("no such level", "another")]
        stand.shell.wake()
        await asyncio.sleep(0.05)
        assert stand.runs.asked == [start, stop]
        assert stand.port.probes == [("w", True), ("x", False)]

    play(story)


def test_in_process_calls_get_their_own_answers() -> None:
    async def story(stand: Stand) -> None:
        waiting: list[LocalCall] = []
        stand.core.react = lambda event: waiting.append(event) or [] if isinstance(event, LocalCall) else []  # type: ignore[func-returns-value]
        calls = [asyncio.ensure_future(stand.shell.call("double", {"n": n})) for n in (1, 2, 3)]
        await stand.settle()
        stand.core.settling = [LocalAnswer(call.call_id, call.args["n"] * 2) for call in reversed(waiting)]
        stand.core.settling.append(LocalAnswer(999, "nobody asked"))
        stand.shell.wake()
        assert await asyncio.gather(*calls) == [2, 4, 6]

    play(story)


def test_a_call_that_nobody_waits_for_any_more_is_forgotten() -> None:
    async def story(stand: Stand) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await stand.shell.call("slow", {})
        stand.core.settling = [LocalAnswer(stand.core.of(LocalCall)[0].call_id, "late")]
        stand.shell.wake()
        await stand.settle()
        assert not stand.running.done()

    play(story)


def test_a_call_that_is_waited_for_ends_with_the_daemon() -> None:
    async def story(stand: Stand) -> None:
        call = asyncio.ensure_future(stand.shell.call("never answered", {}))
        await stand.settle()
        stand.core.settling = [Exit(0, "drained")]
        stand.shell.wake()
        assert await stand.running == 0
        with pytest.raises(asyncio.CancelledError):
            await call

    play(story)


# ---------------------------------------------------------------- supervision


def test_supervision_runs_once_an_interval_after_the_chores() -> None:
    async def story(stand: Stand) -> None:
        await asyncio.sleep(0.2)
        stand.looks.at.clear()
        chores: list[int] = []
        stand.shell.chores.append(lambda: chores.append(len(stand.looks.at)))
        await asyncio.sleep(5.2)
        assert 4 <= len(stand.looks.at) <= 6
        assert chores == list(range(len(stand.looks.at)))

    play(story)


def test_an_avalanche_of_exceptional_events_is_looked_at_in_a_moment_and_together() -> None:
    async def story(stand: Stand) -> None:
        await asyncio.sleep(0.2)
        stand.looks.at.clear()
        began = stand.loop.time()
        for n in range(50):
            stand.port.down(f"w{n}")
        stand.shell.wake()
        await asyncio.sleep(0.04)
        assert stand.looks.at == [], "what they ask of the core themselves is done first"
        stand.port.down("w50")
        stand.shell.wake()
        await asyncio.sleep(0.3)
        assert stand.looks.at == [pytest.approx(began + 0.05, abs=0.01)]

    play(story)


def test_what_supervision_wants_is_done() -> None:
    async def story(stand: Stand) -> None:
        stand.looks.effects = [tell("w", "cancel")]
        await stand.shell.supervise_once()
        await stand.settle()
        assert stand.sent == [b'"cancel"']

    play(story)
