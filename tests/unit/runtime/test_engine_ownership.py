"""What the engine does as an owner's rights come and go, and when it lets the agent leave."""

from __future__ import annotations

from a2a_zmq.protocol.ports import Received
from daemons.runtime.contract import (
    BatchApplied,
    Exit,
    FenceMoved,
    OwnershipGained,
    OwnershipLost,
    StoreChanged,
)
from tests.unit.runtime.fakes import at, gained, tell
from tests.unit.runtime.stage import Stage

# ---------------------------------------------------------------- ownership


def test_writes_carry_the_present_fence_also_when_they_are_tried_again(stage: Stage) -> None:
    stage.core.stage("t1")
    pending = stage.batch()
    assert [write.fence for write in pending.batch.writes] == [7]
    stage.engine.batch_failed(pending, "connection", at(0.0))
    stage.engine.fence_moved(8)
    assert stage.batch(1.0) is pending
    assert [write.fence for write in pending.batch.writes] == [8]
    assert stage.core.of(FenceMoved) == [FenceMoved(8)], "what the core shows others is the present one, too"


def test_a_batch_that_our_own_fence_refused_is_tried_again_under_it(stage: Stage) -> None:
    stage.core.stage("t1")
    pending = stage.batch()
    stage.engine.fence_moved(9)
    assert not stage.engine.batch_refused(pending, "fence 7 is behind 9")
    assert stage.batch() is pending
    assert [write.fence for write in pending.batch.writes] == [9]
    assert stage.engine.batch_refused(pending, "fence 9 is behind 10"), "this is another's"
    assert not stage.engine.owner


def test_nothing_is_begun_while_our_fence_rises_and_what_it_refuses_waits(stage: Stage) -> None:
    stage.core.stage("t1")
    pending = stage.batch()
    stage.engine.rising = True
    assert not stage.engine.batch_refused(pending, "fence 7 is behind 9")
    assert stage.turn().apply is None
    stage.engine.fence_moved(9)
    stage.engine.rising = False
    assert stage.batch() is pending


def test_a_batch_of_a_lost_ownership_is_void(stage: Stage) -> None:
    stage.core.react = lambda event: (
        stage.core.stage("t1", after=[tell("w", "accepted")]) if isinstance(event, Received) else []
    )
    stage.down.arrive("w", "result")
    pending = stage.batch()
    stage.engine.ownership_lost("fenced")
    stage.turn()
    assert stage.core.of(OwnershipLost) == [OwnershipLost("fenced")]
    assert not stage.engine.write_applied(pending, 5)
    stage.engine.batch_applied(pending, at(1.0))
    stage.engine.batch_failed(pending, "connection", at(1.0))
    assert stage.turn(10.0).apply is None
    assert stage.down.sent == []
    assert stage.down.acknowledged == {}
    assert stage.core.of(BatchApplied) == []
    assert stage.core.of(StoreChanged) == []


def test_a_batch_of_an_earlier_ownership_is_void_when_the_next_one_begins(stage: Stage) -> None:
    stage.core.stage("t1")
    old = stage.batch()
    stage.engine.batch_failed(old, "connection", at(0.0))
    stage.engine.ownership_gained(gained(9))
    stage.core.stage("t1")
    new = stage.batch()
    assert new is not old
    assert new.batch.writes[0].fence == 9
    assert not stage.engine.write_applied(old, 2)
    stage.apply(new)
    assert [event.batch_id for event in stage.core.of(BatchApplied)] == [new.batch_id]
    assert [event.fence for event in stage.core.of(OwnershipGained)] == [7, 9]


def test_a_refused_batch_ends_the_ownership_unless_it_is_void_already(stage: Stage) -> None:
    stage.core.stage("t1")
    old = stage.batch()
    stage.engine.ownership_gained(gained(9))
    assert not stage.engine.batch_refused(old, "fence 7 is behind 9")
    assert stage.engine.owner
    stage.core.stage("t2")
    assert stage.engine.batch_refused(stage.batch(), "fence 9 is behind 12")
    assert not stage.engine.owner


# ---------------------------------------------------------------- self-fence


def test_nothing_is_written_or_acknowledged_once_the_lease_may_have_expired(stage: Stage) -> None:
    stage.engine.safe_until = 3.3
    stage.down.arrive("w", "result")
    stage.core.stage("t1")
    cuts = stage.core.cuts
    assert stage.turn(3.3).apply is None
    assert stage.core.cuts == cuts
    assert stage.down.acknowledged == {}
    stage.engine.safe_until = 6.6
    stage.apply(stage.batch(3.4))
    assert stage.down.acknowledged == {"w": [1]}


def test_a_due_retry_waits_until_the_lease_is_sure_again(stage: Stage) -> None:
    stage.engine.safe_until = 1.0
    stage.core.stage("t1")
    pending = stage.batch()
    stage.engine.batch_failed(pending, "connection", at(0.99))
    assert stage.turn(1.04).apply is None
    stage.engine.safe_until = 5.0
    assert stage.turn(1.05).apply is pending


def test_the_self_fence_does_not_make_the_loop_spin(stage: Stage) -> None:
    """A retry, or a line of the core's, that is due but must not be written was due again at once, for ever."""
    stage.engine.safe_until = 1.0
    stage.core.stage("t1")
    stage.engine.batch_failed(stage.batch(), "connection", at(0.9))
    stage.core.deadline = 0.5
    mono, turns = 1.2, 0
    while mono < 2.2:
        stage.turn(mono)
        turns += 1
        assert stage.engine.next_deadline() > mono
        mono = stage.engine.next_deadline()
    assert turns <= 21


def test_a_standby_whose_core_is_overdue_does_not_spin_either() -> None:
    standby = Stage(own=False)
    standby.core.deadline = 0.0
    standby.turn(5.0)
    assert standby.engine.next_deadline() > 5.0


def test_ports_are_driven_on_time_during_the_self_fence(stage: Stage) -> None:
    stage.engine.safe_until = 1.0
    stage.turn(1.5)
    stage.down.deadline = 1.5001
    assert stage.engine.next_deadline() == 1.5001


# ---------------------------------------------------------------- leaving


def test_the_agent_leaves_when_nothing_is_in_flight(stage: Stage) -> None:
    leave = Exit(0, "drained")
    stage.core.stage("t1", after=[tell("w", "last word")])
    stage.core.settling = [leave]
    out = stage.turn()
    assert out.apply is not None
    assert out.exit is None
    assert stage.turn().exit is None
    stage.core.stage("t2")
    stage.apply(out.apply)
    out = stage.turn()
    assert out.exit is None, "what was staged meanwhile goes first"
    assert out.transmit
    assert out.apply is not None
    stage.apply(out.apply)
    assert stage.turn().exit == leave


def test_a_failed_batch_keeps_the_agent_until_it_is_applied(stage: Stage) -> None:
    stage.core.stage("t1")
    stage.core.settling = [Exit(0, "drained")]
    pending = stage.batch()
    stage.engine.batch_failed(pending, "connection", at(0.0))
    assert stage.turn(0.1).exit is None
    stage.apply(pending, mono=0.2)
    assert stage.turn(0.2).exit is not None


def test_an_agent_that_asks_for_it_leaves_when_its_peers_have_acknowledged_all_or_are_out_of_time() -> None:
    for acknowledged in (True, False):
        stage = Stage(owns_state=False)
        stage.core.settling = [Exit(0, "drained", until=5.0)]
        stage.up.owed = True
        assert stage.turn(1.0).exit is None
        assert stage.turn(4.9).exit is None
        stage.up.owed = not acknowledged
        assert (stage.turn(4.95).exit is not None) is acknowledged
        assert stage.turn(5.0).exit is not None


def test_an_agent_that_lost_its_section_leaves_at_once(stage: Stage) -> None:
    stage.core.stage("t1")
    stage.batch()
    stage.core.react = lambda event: [Exit(75, "no longer the leader")] if isinstance(event, OwnershipLost) else []
    stage.engine.ownership_lost("the lease is held by coordinator-2")
    out = stage.turn()
    assert out.exit == Exit(75, "no longer the leader")
