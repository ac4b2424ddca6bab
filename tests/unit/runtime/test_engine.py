"""The engine's three duties: persist then send, acknowledge what is durable, one batch in flight."""

from __future__ import annotations

import pytest

from a2a_zmq.protocol.ports import Received
from daemons.runtime.contract import (
    BatchApplied,
    Effect,
    StoreChanged,
)
from daemons.runtime.engine import RETRY_MAX_S, RETRY_MIN_S
from tests.unit.runtime.fakes import INBOX_SECTION, SECTION, at, gained, tell
from tests.unit.runtime.stage import Stage

# ---------------------------------------------------------------- durable first


def test_what_waits_for_durability_is_sent_when_the_batch_is_applied(stage: Stage) -> None:
    stage.core.stage("t1", after=[tell("w", "accepted")])
    pending = stage.batch()
    assert stage.down.sent == []
    stage.apply(pending, version=4)
    assert stage.down.sent == [("w", "accepted")]
    assert stage.core.of(BatchApplied) == [BatchApplied(pending.batch_id, {SECTION: 4})]
    assert [frame for _, _, frame in stage.turn().transmit] == [b'"accepted"']


def test_what_needs_no_durability_is_sent_at_once(stage: Stage) -> None:
    stage.core.react = lambda event: [tell("w", "go")] if isinstance(event, Received) else []
    stage.down.arrive("w", "hello")
    out = stage.turn()
    assert out.transmit == [(1, b"w", b'"go"')]
    assert out.apply is None


def test_the_core_knows_that_its_batch_is_durable_before_what_waited_is_sent(stage: Stage) -> None:
    seen: list[int] = []

    def react(event: object) -> list[Effect]:
        if isinstance(event, BatchApplied):
            seen.append(len(stage.down.sent))
        return []

    stage.core.react = react
    stage.core.stage("t1", after=[tell("w", "accepted")])
    stage.apply(stage.batch())
    assert seen == [0]
    assert stage.down.sent


def test_a_batch_of_several_sections_waits_for_all_of_them(stage: Stage) -> None:
    stage.core.stage("t1", after=[tell("w", "accepted")])
    stage.core.stage("t2", section=INBOX_SECTION)
    pending = stage.batch()
    assert stage.engine.write_applied(pending, 3)
    stage.turn()
    assert stage.down.sent == []
    stage.apply(pending, version=9)
    assert stage.down.sent == [("w", "accepted")]
    assert stage.core.of(BatchApplied)[0].versions == {SECTION: 3, INBOX_SECTION: 9}


def test_effects_of_a_batch_without_writes_wait_for_nothing(stage: Stage) -> None:
    stage.core.after(tell("w", "no write"))
    out = stage.turn()
    assert out.apply is None
    assert stage.down.sent == [("w", "no write")]


# ---------------------------------------------------------------- acknowledgements


def test_a_message_is_acknowledged_when_its_effects_are_durable(stage: Stage) -> None:
    stage.core.react = lambda event: stage.core.stage("t1") if isinstance(event, Received) else []
    stage.down.arrive("w", "result")
    pending = stage.batch()
    assert stage.down.acknowledged == {}
    stage.turn()
    assert stage.down.acknowledged == {}
    stage.apply(pending)
    assert stage.down.acknowledged == {"w": [1]}


def test_what_came_after_the_cut_waits_for_the_next_batch(stage: Stage) -> None:
    stage.core.react = lambda event: stage.core.stage("t") if isinstance(event, Received) else []
    stage.down.arrive("w", "one")
    first = stage.batch()
    stage.down.arrive("w", "two")
    stage.down.arrive("w", "three")
    stage.turn()
    stage.apply(first)
    assert stage.down.acknowledged == {"w": [1]}
    second = stage.batch()
    stage.apply(second)
    assert stage.down.acknowledged == {"w": [1, 3]}


def test_a_message_that_changes_nothing_durable_is_acknowledged_at_once(stage: Stage) -> None:
    stage.down.arrive("w", "nothing to keep")
    stage.turn()
    assert stage.down.acknowledged == {"w": [1]}


def test_nothing_is_acknowledged_while_the_core_withholds_that() -> None:
    stage = Stage()
    withheld = [True]
    stage.engine._withholds = lambda: withheld[0]
    stage.down.arrive("w", "a result of a task that is not known")
    stage.core.stage("t1")
    stage.apply(stage.batch())
    stage.turn()
    assert stage.down.acknowledged == {}
    withheld[0] = False
    stage.turn()
    assert stage.down.acknowledged == {"w": [1]}


def test_an_agent_without_shared_state_acknowledges_at_once() -> None:
    worker = Stage(owns_state=False)
    worker.up.arrive("d", "assign")
    worker.turn()
    assert worker.up.acknowledged == {"d": [1]}
    assert worker.engine.owner


def test_nothing_is_acknowledged_or_cut_by_an_agent_that_does_not_own_its_section() -> None:
    standby = Stage(own=False)
    standby.down.arrive("w", "result")
    standby.core.stage("t1")
    out = standby.turn()
    assert out.apply is None
    assert standby.core.cuts == 0
    assert standby.down.acknowledged == {}
    standby.engine.ownership_gained(gained(3))
    standby.apply(standby.batch())
    assert standby.down.acknowledged == {"w": [1]}


# ---------------------------------------------------------------- one batch in flight


def test_one_batch_is_in_flight_and_the_next_one_gathers_everything(stage: Stage) -> None:
    stage.core.stage("t1")
    first = stage.batch()
    for task_id in ("t2", "t3", "t4"):
        stage.core.stage(task_id)
        assert stage.turn().apply is None
    stage.apply(first)
    second = stage.batch()
    assert list(second.batch.writes[0].put_tasks) == ["t2", "t3", "t4"]


def test_a_batch_is_handed_out_once_as_long_as_the_store_works_on_it(stage: Stage) -> None:
    stage.core.stage("t1")
    stage.batch()
    assert [stage.turn(mono).apply for mono in (0.1, 1.0, 10.0)] == [None] * 3


# ---------------------------------------------------------------- the store is away


def test_a_batch_that_failed_is_tried_again_unchanged_after_growing_delays(stage: Stage) -> None:
    stage.core.stage("t1", after=[tell("w", "accepted")])
    pending = stage.batch()
    mono, pauses, mutation = 0.0, [], pending.batch.writes[0].mutation_id
    for _ in range(6):
        stage.engine.batch_failed(pending, "connection", at(mono))
        stage.core.stage("later")
        assert stage.turn(mono).apply is None
        due = stage.engine.next_deadline()
        assert stage.turn(due - 0.001).apply is None
        assert stage.turn(due).apply is pending
        pauses.append(round(due - mono, 6))
        mono = due
    assert pauses == [RETRY_MIN_S, 0.1, 0.2, 0.4, RETRY_MAX_S, RETRY_MAX_S]
    assert pending.batch.writes[0].mutation_id == mutation
    assert list(pending.batch.writes[0].put_tasks) == ["t1"]
    stage.apply(pending, mono=mono)
    assert stage.down.sent == [("w", "accepted")]
    assert list(stage.batch(mono).batch.writes[0].put_tasks) == ["later"]


def test_a_retry_begins_where_the_batch_stopped(stage: Stage) -> None:
    stage.core.stage("t1")
    stage.core.stage("t2", section=INBOX_SECTION)
    pending = stage.batch()
    assert stage.engine.write_applied(pending, 3)
    stage.engine.batch_failed(pending, "timeout", at(0.0))
    again = stage.batch(RETRY_MIN_S)
    assert [write.section for write in again.batch.writes[again.done :]] == [INBOX_SECTION]


def test_after_a_success_the_first_retry_is_soon_again(stage: Stage) -> None:
    stage.core.stage("t1")
    pending = stage.batch()
    for mono in (0.0, 1.0, 2.0):
        stage.engine.batch_failed(pending, "connection", at(mono))
    stage.apply(pending, mono=3.0)
    stage.core.stage("t2")
    stage.engine.batch_failed(stage.batch(3.0), "connection", at(3.0))
    assert stage.engine.next_deadline() == pytest.approx(3.0 + RETRY_MIN_S)


def test_the_core_hears_when_the_store_goes_and_comes_back(stage: Stage) -> None:
    assert stage.meter.gauges["store_up"] == 1
    stage.core.stage("t1")
    pending = stage.batch()
    stage.engine.batch_failed(pending, "connection", at(0.0))
    stage.engine.batch_failed(pending, "loading", at(0.1))
    assert stage.turn(0.1).exceptional
    assert stage.core.of(StoreChanged) == [StoreChanged(available=False, reason="connection")]
    assert stage.meter.gauges["store_up"] == 0
    stage.apply(pending, mono=0.2)
    stage.turn(0.2)
    assert stage.core.of(StoreChanged)[1:] == [StoreChanged(available=True)]
    assert stage.meter.gauges["store_up"] == 1


def test_a_renewed_lease_does_not_make_a_store_that_refuses_writes_available(stage: Stage) -> None:
    stage.core.stage("t1")
    pending = stage.batch()
    stage.engine.batch_failed(pending, "oom", at(0.0))
    stage.engine.store_available(available=True, reason="")
    stage.turn()
    assert stage.core.of(StoreChanged) == [StoreChanged(available=False, reason="oom")]
    stage.apply(pending)
    stage.turn()
    assert stage.core.of(StoreChanged)[-1].available


# ---------------------------------------------------------------- refused peers


def test_a_peer_that_shares_no_protocol_version_is_named_in_the_log_once(stage: Stage) -> None:
    """However often it greets, until what it speaks changes or it came in."""
    for _ in range(3):
        stage.down.refuse("routing", "version", "worker-1", "worker-1 speaks 2")
        stage.down.refuse("routing", "forbidden", "worker-2", "another matter")
    (line,) = stage.turn().logs
    assert (line.level, line.event) == ("error", "version_refused")
    assert line.fields == {"peer": "worker-1", "why": "worker-1 speaks 2"}
    stage.down.refuse("routing", "version", "worker-1", "worker-1 speaks 3")
    assert len(stage.turn().logs) == 1
    stage.down.up("worker-1")
    stage.turn()
    stage.down.refuse("routing", "version", "worker-1", "worker-1 speaks 3")
    assert len(stage.turn().logs) == 1
