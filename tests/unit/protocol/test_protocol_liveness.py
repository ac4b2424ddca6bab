"""Who is alive: heartbeats, disconnects, probes, and our own lateness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from a2a_zmq.protocol import MessageType, PeerDown, PeerSuspect, ProbeWanted, Received, Role
from a2a_zmq.protocol.liveness import AttentiveClock
from a2a_zmq.protocol.timers import Timers

HUB, WORKER = "distributor-1", "worker-1"


def test_a_frozen_peer_is_suspect_then_dead(pipe: Any) -> None:
    pipe.advance(1.0)
    pipe.stopped.add(WORKER)
    frozen_at = pipe.now.mono
    pipe.advance(0.55)
    assert [s.reason for s in pipe.hub.of(PeerSuspect)] == ["silence"]
    assert pipe.hub.downs() == []
    pipe.advance(0.5)
    (down,) = pipe.hub.of(PeerDown)
    assert (down.agent_id, down.role, down.reason) == (WORKER, Role.WORKER, "silence")
    assert 0.8 <= down.silent_s < 1.0
    assert pipe.now.mono - frozen_at < 1.1
    assert pipe.hub.port.peers() == []


def test_a_frozen_peer_that_wakes_joins_again_at_once(pipe: Any) -> None:
    pipe.stopped.add(WORKER)
    pipe.advance(5)
    assert pipe.hub.downs() == ["silence"]
    pipe.stopped.clear()
    pipe.pump()  # it drains its socket: resync is in it
    assert pipe.hub.ups() == 2
    pipe.advance(3)
    assert pipe.hub.downs() == ["silence"]
    assert pipe.spoke.downs() == []


def test_a_frozen_hub_is_found_by_its_spokes(pipe: Any) -> None:
    pipe.upward = lambda frames: []
    pipe.downward = lambda frames: []
    pipe.advance(1.2)
    assert pipe.spoke.downs() == ["silence"]
    pipe.upward = pipe.downward = lambda frames: frames
    pipe.advance(3)
    assert pipe.spoke.ups() == 2


def test_any_verified_frame_is_a_sign_of_life(pipe: Any) -> None:
    def no_beats(frames: list[bytes]) -> list[bytes]:
        return [frame for frame in frames if b'"heartbeat"' not in frame]

    pipe.spoke.port._timers.cancel(("beat", HUB))
    pipe.downward = no_beats
    for n in range(20):
        pipe.spoke.port.send(HUB, MessageType.EVENT, {"action": "task_results", "n": n}, pipe.now)
        pipe.pump()
        pipe.advance(0.3)
    assert pipe.hub.of(PeerDown) == pipe.hub.of(PeerSuspect) == []


def same_host(kit: Any) -> Any:
    return kit.pipe(host="host-a")


def test_a_process_of_the_same_host_is_looked_for_at_once(kit: Any) -> None:
    pipe = same_host(kit)
    pipe.disconnect()
    (probe,) = pipe.hub.of(ProbeWanted)
    assert (probe.agent_id, probe.pid, probe.start_time) == (WORKER, 22, 222)
    pipe.hub.port.probed(WORKER, gone=True, now=pipe.now)
    assert pipe.hub.downs() == ["exited"]
    pipe.advance(2)
    assert pipe.hub.downs() == ["exited"]


def test_other_hosts_are_not_probed(pipe: Any) -> None:
    pipe.disconnect()
    pipe.advance(1)
    assert pipe.hub.of(ProbeWanted) == []
    pipe.hub.port.probed(WORKER, gone=True, now=pipe.now)
    assert pipe.hub.downs() == ["disconnect"]


def test_a_probe_that_came_too_early_is_repeated(kit: Any) -> None:
    pipe = same_host(kit)
    pipe.disconnect()
    pipe.hub.port.probed(WORKER, gone=False, now=pipe.now)
    pipe.advance(0.01)
    assert len(pipe.hub.of(ProbeWanted)) == 2
    pipe.hub.port.probed(WORKER, gone=True, now=pipe.now)
    assert pipe.hub.downs() == ["exited"]


def test_a_process_known_to_run_gets_longer_to_reconnect(kit: Any) -> None:
    pipe = same_host(kit)
    pipe.disconnect()
    for _ in range(5):
        pipe.hub.port.probed(WORKER, gone=False, now=pipe.now)
        pipe.advance(0.08)
    assert pipe.hub.downs() == []
    pipe.connect()
    pipe.advance(1)
    assert pipe.hub.downs() == []


def test_a_frozen_process_whose_connection_breaks_is_dead_after_the_same_silence(kit: Any) -> None:
    """The transport gives its connection up, and a probe finds the process: no new patience begins with either."""
    pipe = same_host(kit)
    pipe.advance(1.0)
    pipe.stopped.add(WORKER)
    pipe.advance(0.7)
    pipe.disconnect()
    pipe.hub.port.probed(WORKER, gone=False, now=pipe.now)
    pipe.advance(0.3)
    (down,) = pipe.hub.of(PeerDown)
    assert 0.8 <= down.silent_s < 1.0


def test_a_late_probe_answer_kills_nobody_who_is_back(kit: Any) -> None:
    pipe = same_host(kit)
    pipe.disconnect()
    pipe.connect()
    pipe.hub.port.probed(WORKER, gone=True, now=pipe.now)
    assert pipe.hub.downs() == []


def test_after_our_own_pause_nobody_is_declared_dead_in_the_first_interval(pipe: Any) -> None:
    pipe.advance(1.0)
    pipe.jump(5)  # both were stopped; timers fire before the sockets are read
    pipe.hub.port.tick(pipe.now)
    assert pipe.hub.of(PeerDown) == pipe.hub.of(PeerSuspect) == []
    pipe.advance(3)
    assert pipe.hub.of(PeerDown) == pipe.hub.of(PeerSuspect) == []


def test_a_peer_that_died_during_our_pause_is_found_after_it(pipe: Any) -> None:
    pipe.advance(1.0)
    pipe.stopped.add(WORKER)
    pipe.jump(5)
    pipe.advance(2.5)
    assert pipe.hub.downs() == [], "its heartbeats may still be on their way"
    pipe.advance(1.0)
    assert pipe.hub.downs() == ["silence"]


def test_after_our_own_pause_everybody_has_the_full_time_anew(pipe: Any) -> None:
    pipe.advance(1.0)
    pipe.upward = lambda frames: []
    pipe.advance(0.7)  # silent for nearly as long as is borne
    pipe.jump(5)
    pipe.hub.port.tick(pipe.now)
    pipe.advance(2.5 + 0.5)
    assert pipe.hub.downs() == []
    pipe.upward = lambda frames: frames
    pipe.advance(3)
    assert pipe.hub.downs() == []


def test_being_late_a_little_after_a_long_pause_does_not_cut_the_patience_short(pipe: Any) -> None:
    pipe.advance(1.0)
    pipe.stopped.add(WORKER)
    for pause in (5, 0.35, 0.35, 0.35):
        pipe.jump(pause)
        pipe.hub.port.tick(pipe.now)
    pipe.advance(1.4)
    assert pipe.hub.downs() == []


def test_a_detector_that_was_always_late_is_patient_after_a_long_pause_all_the_same(pipe: Any) -> None:
    for pause in (*[0.35] * 10, 5):
        pipe.jump(pause)
        pipe.hub.port.tick(pipe.now)
        pipe.spoke.port.tick(pipe.now)
        pipe.pump()
    pipe.stopped.add(WORKER)
    pipe.advance(2.5)
    assert pipe.hub.downs() == []


def test_who_is_back_after_our_own_pause_is_judged_as_ever(pipe: Any) -> None:
    pipe.advance(1.0)
    pipe.jump(5)
    pipe.hub.port.tick(pipe.now)
    pipe.advance(0.5)
    pipe.stopped.add(WORKER)
    pipe.advance(1.0)
    assert pipe.hub.downs() == ["silence"]


def test_who_was_back_and_lost_its_connection_then_is_judged_as_ever(pipe: Any) -> None:
    pipe.advance(1.0)
    pipe.jump(5)
    pipe.hub.port.tick(pipe.now)
    pipe.advance(0.5)
    pipe.disconnect()
    pipe.advance(0.3)
    assert pipe.hub.downs() == ["disconnect"]


def test_what_piled_up_during_our_own_pause_does_not_show_that_somebody_is_back(pipe: Any) -> None:
    pipe.advance(1.0)
    pipe.jump(5)
    pipe.hub.port.tick(pipe.now)
    pipe.advance(0.1)
    pipe.stopped.add(WORKER)
    pipe.advance(2.5)
    assert pipe.hub.downs() == []
    pipe.advance(1.0)
    assert pipe.hub.downs() == ["silence"]


def test_peers_that_gave_us_up_while_we_were_away_have_time_to_come_back(kit: Any) -> None:
    pipe = same_host(kit)
    pipe.advance(1.0)
    pipe.jump(5)
    pipe.hub.port.tick(pipe.now)
    pipe.disconnect()
    for _ in range(10):
        pipe.hub.port.probed(WORKER, gone=False, now=pipe.now)
        pipe.advance(0.2)
    assert pipe.hub.downs() == []
    pipe.connect()
    pipe.advance(3)
    assert pipe.hub.downs() == []


def test_who_ended_while_we_were_away_is_found_at_once(kit: Any) -> None:
    pipe = same_host(kit)
    pipe.advance(1.0)
    pipe.jump(5)
    pipe.hub.port.tick(pipe.now)
    pipe.disconnect()
    pipe.hub.port.probed(WORKER, gone=False, now=pipe.now)  # too early: its end is not complete
    pipe.advance(0.05)
    assert len(pipe.hub.of(ProbeWanted)) == 2
    pipe.hub.port.probed(WORKER, gone=True, now=pipe.now)
    assert pipe.hub.downs() == ["exited"]


def test_a_detector_that_is_always_late_still_finds_the_dead(pipe: Any) -> None:
    pipe.stopped.add(WORKER)
    for _ in range(30):
        pipe.jump(0.35)
        pipe.hub.port.tick(pipe.now)
        pipe.hub.take()
    assert pipe.hub.downs() == ["silence"]


def test_clients_get_laxer_times_and_make_no_noise(kit: Any, make_pipe: Callable[..., Any]) -> None:
    hub = kit.hub("coordinator-1", Role.COORDINATOR)
    pipe = make_pipe(hub, kit.spoke("cli~1", Role.CLIENT, peer="coordinator-1"))
    pipe.connect()
    pipe.stopped.add("cli~1")
    pipe.advance(9)
    assert pipe.hub.of(PeerDown) == pipe.hub.of(PeerSuspect) == []
    pipe.advance(2)
    assert pipe.hub.downs() == ["silence"]


def test_a_client_that_loses_its_connection_is_waited_for(kit: Any, make_pipe: Callable[..., Any]) -> None:
    hub = kit.hub("coordinator-1", Role.COORDINATOR)
    pipe = make_pipe(hub, kit.spoke("cli~1", Role.CLIENT, peer="coordinator-1"))
    pipe.connect()
    pipe.disconnect()
    pipe.hub.port.send("cli~1", MessageType.EVENT, {"action": "task_results", "n": 1}, pipe.now)
    pipe.advance(5)
    pipe.connect()
    pipe.advance(0.1)
    assert [payload["n"] for payload in pipe.spoke.got] == [1]
    assert pipe.hub.of(PeerDown) == pipe.hub.of(PeerSuspect) == []


def test_heartbeats_go_before_a_backlog(make_kit: Callable[..., Any]) -> None:
    pipe = make_kit(window_bytes=100_000).pipe()
    pipe.durable = False
    for n in range(50):
        payload = {"action": "assign_tasks", "n": n, "x": "y" * 50_000}
        pipe.hub.port.send(WORKER, MessageType.REQUEST, payload, pipe.now)
    pipe.pump()
    pipe.advance(0.21)
    # Nothing is acknowledged, so most of the backlog waits in the outbox; the heartbeat does not wait behind it.
    assert pipe.spoke.beats == 1
    assert len(pipe.spoke.got) < 5
    assert len(pipe.spoke.of(Received)) >= 2


def test_one_wake_up_an_interval_serves_all_peers(kit: Any, make_pipe: Callable[..., Any]) -> None:
    pipe = make_pipe(kit.hub(), *(kit.spoke(f"worker-{n}") for n in range(5)))
    for n in range(5):
        pipe.connect(f"worker-{n}")
        pipe.advance(0.03)
    pipe.advance(0.3)
    woken: set[float] = set()
    before = {name: spoke.beats for name, spoke in pipe.spokes.items()}
    until = pipe.now.mono + 2.0
    while pipe.now.mono < until:
        due = pipe.hub.port.next_deadline()
        pipe.advance(max(0.0, due - pipe.now.mono))
        woken.add(due)
    assert len(woken) <= 11
    assert {spoke.beats - before[name] for name, spoke in pipe.spokes.items()} <= {10, 11}
    assert pipe.hub.of(PeerSuspect) == []


def test_an_idle_hub_sleeps_for_ever(kit: Any) -> None:
    hub = kit.hub()
    assert hub.next_deadline() == float("inf")


def test_the_attentive_clock_does_not_run_while_we_sleep() -> None:
    clock = AttentiveClock(0.2)
    assert clock.observe(10.0) == 10.0
    assert clock.observe(10.2) == pytest.approx(10.2)
    assert clock.hold_until < 10.2
    assert clock.observe(15.2) == pytest.approx(10.5)
    assert clock.hold_until == pytest.approx(17.7)
    assert clock.observe(15.1) == pytest.approx(10.5)  # never backwards


def test_verdicts_are_held_back_as_long_as_we_were_away() -> None:
    clock = AttentiveClock(0.2)
    clock.observe(10.0)
    clock.observe(10.35)
    assert clock.hold_until == pytest.approx(10.55)  # at least an interval
    clock.observe(11.35)
    assert clock.hold_until == pytest.approx(12.05)
    clock.observe(11.7)
    assert clock.hold_until == pytest.approx(12.05)  # never shorter


def test_long_pauses_without_an_end_do_not_keep_verdicts_back_for_ever() -> None:
    clock = AttentiveClock(0.2)
    for n in range(20):
        clock.observe(10.0 + 2.0 * n)
    assert clock.hold_until < 48.0 - 20.0


def test_timers_keep_one_deadline_a_key() -> None:
    timers = Timers()
    a, b = ("x", "a"), ("x", "b")
    timers.arm(a, 5)
    timers.arm(a, 3)
    timers.arm_sooner(a, 4)
    timers.arm(b, 1)
    timers.cancel(b)
    assert timers.next() == 3
    assert timers.pop_due(2.9) is None
    assert timers.pop_due(3) == a
    assert timers.pop_due(99) is None
    assert timers.next() == float("inf")
    assert len(timers) == 0
