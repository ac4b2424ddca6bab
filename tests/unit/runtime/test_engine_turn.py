"""Where effects and events go in a turn of the engine."""

from __future__ import annotations

import math

import pytest

from a2a_zmq.errors import Busy, MalformedMessage, Refused
from a2a_zmq.protocol.message import MessageType, Role
from a2a_zmq.protocol.ports import PeerDown, PeerUp, ProbeWanted, Received, Refusal
from daemons.runtime.calls import LocalAnswer, LocalCall
from daemons.runtime.contract import Effect, Log, Query, StartRun, StopRun, Undelivered
from tests.unit.runtime.fakes import SECTION, at, tell
from tests.unit.runtime.stage import Stage

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


# ---------------------------------------------------------------- the rest of a turn


def test_refusals_are_counted_by_reason_and_shown_to_the_core(stage: Stage) -> None:
    stage.down.refuse("signature", "sequence")
    stage.down.refuse("routing", "forbidden")
    stage.up.refuse("routing", "forbidden")
    stage.turn()
    assert stage.meter.counts["signature_failures_total sequence"] == 1
    assert stage.meter.counts["routing_errors_total forbidden"] == 2
    assert len(stage.core.of(Refusal)) == 3


def test_lost_agents_are_counted_and_those_that_leave_are_not(stage: Stage) -> None:
    for role, reason in (
        (Role.WORKER, "silence"),
        (Role.WORKER, "exited"),
        (Role.WORKER, "goodbye"),
        (Role.DISTRIBUTOR, "revoked"),
        (Role.CLIENT, "disconnect"),
        (Role.OPERATOR, "silence"),
    ):
        stage.down.events.append(PeerDown("w", role, reason, 0.8))
    stage.turn()
    counted = {name: count for name, count in stage.meter.counts.items() if name.startswith("peer_losses_total")}
    assert counted == {"peer_losses_total worker silence": 1, "peer_losses_total worker exited": 1}


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
