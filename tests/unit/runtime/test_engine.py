"""The engine's three duties (persist then send, acknowledge what is durable, one batch in flight) and its edges."""

from __future__ import annotations

import math

import pytest

from a2a_zmq.errors import Busy, MalformedMessage, Refused
from a2a_zmq.protocol.message import MessageType
from a2a_zmq.protocol.ports import PeerUp, ProbeWanted, Received, Refusal
from daemons.runtime.contract import (
    BatchApplied,
    Effect,
    Exit,
    LocalAnswer,
    LocalCall,
    Log,
    OwnershipGained,
    OwnershipLost,
    Query,
    StartRun,
    StopRun,
    StoreChanged,
    Undelivered,
)
from daemons.runtime.engine import RETRY_MAX_S, RETRY_MIN_S, Engine, Outputs, PendingBatch
from tests.unit.runtime.fakes import INBOX_SECTION, SECTION, Counts, PlainPort, ScriptedCore, at, gained, tell


class Stage:
    """An engine over one scripted core and two ports."""

    def __init__(self, *, owns_state: bool = True, own: bool = True) -> None:
        self.core = ScriptedCore()
        self.up, self.down = PlainPort(), PlainPort()
        self.meter = Counts()
        self.engine = Engine(self.core, [self.up, self.down], self.meter, owns_state=owns_state)
        if own and owns_state:
            self.engine.ownership_gained(gained(7))
            self.turn()

    def turn(self, mono: float = 0.0) -> Outputs:
        return self.engine.turn(at(mono))

    def batch(self, mono: float = 0.0) -> PendingBatch:
        """The batch that this turn hands out."""
        pending = self.turn(mono).apply
        assert pending is not None
        return pending

    def apply(self, pending: PendingBatch, version: int = 1, mono: float = 0.0) -> None:
        """The store applies what is left of a batch."""
        for offset in range(len(pending.batch.writes) - pending.done):
            assert self.engine.write_applied(pending, version + offset)
        self.engine.batch_applied(pending, at(mono))


@pytest.fixture
def stage() -> Stage:
    """An engine that owns its section with fence 7; worker ``w`` is up on the second port."""
    made = Stage()
    made.down.up("w")
    made.turn()
    return made


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


# ---------------------------------------------------------------- ownership


def test_writes_carry_the_present_fence_also_when_they_are_tried_again(stage: Stage) -> None:
    stage.core.stage("t1")
    pending = stage.batch()
    assert [write.fence for write in pending.batch.writes] == [7]
    stage.engine.batch_failed(pending, "connection", at(0.0))
    stage.engine.fence_moved(8)
    assert stage.batch(1.0) is pending
    assert [write.fence for write in pending.batch.writes] == [8]


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


# ---------------------------------------------------------------- sending


@pytest.mark.parametrize(
    ("error", "reason", "counted"),
    [
        (Busy("outbox", 0.05), "busy", 0),
        (Refused("unroutable", "w"), "unroutable", 1),
        (MalformedMessage("too large"), "malformed", 1),
    ],
)
def test_a_reliable_message_that_cannot_be_queued_comes_back(
    stage: Stage, error: Busy | Refused | MalformedMessage, reason: str, counted: int
) -> None:
    stage.down.refusing["w"] = error
    send, casual = tell("w", "work"), tell("w", "beat", reliable=False)
    stage.core.settling = [send, casual]
    out = stage.turn()
    assert stage.core.of(Undelivered) == [Undelivered(send, reason)]
    assert stage.meter.counts[f"routing_errors_total {reason}"] == 2 * counted
    assert [line.event for line in out.logs] == ["message_not_sendable"] * (2 if reason == "malformed" else 0)


def test_a_message_to_nobody_comes_back(stage: Stage) -> None:
    stage.core.settling = [tell("w9", "work")]
    stage.turn()
    assert [(event.effect.to, event.reason) for event in stage.core.of(Undelivered)] == [("w9", "unroutable")]
    stage.down.down("w")
    stage.turn()
    stage.core.settling = [tell("w", "work")]
    stage.turn()
    assert stage.core.of(Undelivered)[-1].effect.to == "w"


def test_what_the_core_makes_of_an_undelivered_message_goes_out_in_the_same_turn(stage: Stage) -> None:
    stage.down.up("w2")
    stage.down.refusing["w"] = Busy("outbox", 0.05)
    stage.core.react = lambda event: [tell("w2", "instead")] if isinstance(event, Undelivered) else []
    stage.core.settling = [tell("w", "work")]
    assert [frame for _, _, frame in stage.turn().transmit] == [b'"instead"']


def test_an_undelivered_message_of_a_batch_is_handled_at_once(stage: Stage) -> None:
    stage.core.after(tell("w9", "late"))
    assert stage.turn().again
    assert not stage.turn().again
    assert len(stage.core.of(Undelivered)) == 1


def test_each_peer_is_reached_through_its_own_port(stage: Stage) -> None:
    stage.up.up("c")
    stage.turn()
    stage.core.settling = [tell("c", "up"), tell("w", "down")]
    assert [(port, route) for port, route, _ in stage.turn().transmit] == [(0, b"c"), (1, b"w")]


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


def test_an_agent_that_lost_its_section_leaves_at_once(stage: Stage) -> None:
    stage.core.stage("t1")
    stage.batch()
    stage.core.react = lambda event: [Exit(75, "no longer the leader")] if isinstance(event, OwnershipLost) else []
    stage.engine.ownership_lost("the lease is held by coordinator-2")
    out = stage.turn()
    assert out.exit == Exit(75, "no longer the leader")


# ---------------------------------------------------------------- the rest of a turn


def test_refusals_are_counted_by_reason_and_shown_to_the_core(stage: Stage) -> None:
    stage.down.refuse("signature", "sequence")
    stage.down.refuse("routing", "forbidden")
    stage.up.refuse("routing", "forbidden")
    stage.turn()
    assert stage.meter.counts["signature_failures_total sequence"] == 1
    assert stage.meter.counts["routing_errors_total forbidden"] == 2
    assert len(stage.core.of(Refusal)) == 3


def test_messages_are_counted_and_timed_heartbeats_not_timed(stage: Stage) -> None:
    stage.down.arrive("w", "beat", MessageType.HEARTBEAT)
    stage.turn(1.0)
    assert "message_latency_seconds" not in stage.meter.observed
    stage.down.arrive("w", "result")
    stage.core.settling = [tell("w", "work")]
    stage.turn(1.5)
    assert stage.meter.observed["message_latency_seconds"] == [pytest.approx(1.5, abs=0.1)]
    assert stage.meter.counts["heartbeats_total in"] == 1
    assert stage.meter.counts["messages_total in heartbeat"] == 1
    assert stage.meter.counts["messages_total in event"] == 1
    assert stage.meter.counts["messages_total out event"] == 1


def test_every_effect_goes_where_it_belongs(stage: Stage) -> None:
    start = StartRun("t1", 1, "noop", {}, None, {})
    stop = StopRun("t2", 1, "cancelled")
    query = Query("q", "load", {"section": SECTION})
    stage.core.react = lambda event: [LocalAnswer(3, "yes")] if isinstance(event, LocalCall) else []
    stage.core.settling = [start, query, stop, Log("info", "said")]
    stage.engine.event(LocalCall(3, "name", {}))
    stage.down.events.append(ProbeWanted("w", 10, 20))
    out = stage.turn()
    assert out.runs == [start, stop]
    assert out.queries == [query]
    assert out.logs == [Log("info", "said")]
    assert out.answers == [LocalAnswer(3, "yes")]
    assert out.probes == [(1, ProbeWanted("w", 10, 20))]
    assert stage.core.of(ProbeWanted) == []


def test_effects_of_supervision_come_with_the_next_turn(stage: Stage) -> None:
    stage.engine.supervise([tell("w", "cancel"), Log("info", "looked")], at(0.0))
    out = stage.turn()
    assert [line.event for line in out.logs] == ["looked"]
    assert [frame for _, _, frame in out.transmit] == [b'"cancel"']


def test_peers_that_come_and_go_are_exceptional(stage: Stage) -> None:
    assert not stage.turn().exceptional
    stage.down.up("w2")
    assert stage.turn().exceptional
    stage.down.down("w2")
    assert stage.turn().exceptional
    assert not stage.turn().exceptional


def test_every_port_is_driven_and_the_earliest_deadline_counts(stage: Stage) -> None:
    stage.turn(2.5)
    assert stage.up.ticks[-1] == stage.down.ticks[-1] == 2.5
    assert stage.engine.next_deadline() == math.inf
    stage.up.deadline, stage.down.deadline, stage.core.deadline = 9.0, 8.0, 7.0
    assert stage.engine.next_deadline() == 7.0


def test_all_of_a_wake_up_is_handled_before_the_core_settles(stage: Stage) -> None:
    seen: list[int] = []
    settle = stage.core.settle

    def watching(now: object) -> list[Effect]:
        seen.append(len(stage.core.of(Received)))
        return settle(at(0.0))

    stage.core.settle = watching  # type: ignore[method-assign]
    for _ in range(5):
        stage.down.arrive("w", "result")
    stage.turn()
    assert seen == [5]
    assert len(stage.core.of(PeerUp)) == 1
