"""Losing each other and finding each other again: reconnects, restarts, lost frames, good-byes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from a2a_zmq.protocol import MessageType, PeerSuspect, PeerUp

HUB, WORKER = "distributor-1", "worker-1"


def assign(pipe: Any, n: int, **more: Any) -> str:
    return str(pipe.hub.port.send(WORKER, MessageType.REQUEST, {"action": "assign_tasks", "n": n}, pipe.now, **more))


def report(pipe: Any, n: int, **more: Any) -> str:
    return str(pipe.spoke.port.send(HUB, MessageType.EVENT, {"action": "task_results", "n": n}, pipe.now, **more))


def numbers(end: Any) -> list[int]:
    return [payload["n"] for payload in end.got]


def test_a_reconnect_resends_with_the_same_request_ids_and_delivers_once(pipe: Any) -> None:
    pipe.durable = False
    ids = [assign(pipe, n) for n in range(3)]
    pipe.pump()  # taken, but not acknowledged
    pipe.disconnect()
    ids.append(assign(pipe, 3))
    pipe.durable = True
    sent = len(pipe.tap)
    pipe.connect()
    pipe.advance(0.05)
    assert numbers(pipe.spoke) == [0, 1, 2, 3]
    again = [orjson.loads(frame) for way, frame in pipe.tap[sent:] if way == "down"]
    resent = [message for message in again if message["payload"]["action"] == "assign_tasks"]
    assert [message["metadata"]["request_id"] for message in resent] == ids
    assert [message["metadata"]["sequence_number"] for message in resent] == [1, 2, 3, 4]
    assert pipe.hub.port.backlog(WORKER).messages == 0
    (first, second) = pipe.hub.of(PeerUp)
    assert (first.peer.restarted, second.peer.restarted) == (False, False)


def test_a_restarted_peer_gets_nothing_of_its_former_life(kit: Any, make_pipe: Callable[..., Any]) -> None:
    hub = kit.hub()
    pipe = make_pipe(hub, kit.spoke(boot="first"))
    pipe.connect()
    pipe.durable = False
    assign(pipe, 1)
    pipe.pump()
    pipe.disconnect()
    after = make_pipe(hub, kit.spoke(boot="second"))
    after.now = pipe.now
    after.connect()
    after.advance(0.05)
    assert after.spoke.got == []
    assert after.hub.downs() == ["exited"]  # one process an identity: the former one must be gone
    (up,) = after.hub.of(PeerUp)
    assert up.peer.restarted
    assign(after, 2)
    after.pump()
    assert numbers(after.spoke) == [2]


def test_a_second_process_of_the_same_name_waits_for_the_firsts_death(kit: Any, make_pipe: Callable[..., Any]) -> None:
    hub = kit.hub()
    first, second = make_pipe(hub, kit.spoke(boot="first")), make_pipe(hub, kit.spoke(boot="second"))
    first.connect()
    second.route[WORKER] = b"second"
    second.spoke.port.connected(second.now)
    second.pump()
    assert second.hub.reasons() == second.spoke.reasons() == ["identity"]
    pid = hub.peer(WORKER).pid
    assert second.spoke.port.obstacle == f"refused by {HUB}: a live process has this name: pid {pid} on the same host"
    assert first.hub.ups() == 1
    second.advance(3)  # nobody drives the first any more: it is as good as frozen
    assert second.hub.downs() == ["silence"]
    assert second.hub.ups() == 1
    assert hub.peer(WORKER).boot_id == "second"
    assert second.spoke.port.obstacle == ""


def test_a_restarted_hub_is_noticed(kit: Any, make_pipe: Callable[..., Any]) -> None:
    pipe = kit.pipe()
    pipe.durable = False
    report(pipe, 1)
    pipe.pump()
    spoke = pipe.spoke.port
    spoke.disconnected(b"", pipe.now)
    after = make_pipe(kit.hub(boot="other"), spoke)
    after.now = pipe.now
    after.connect()
    assert [up.peer.restarted for up in after.spoke.of(PeerUp)] == [True]
    after.advance(0.05)
    assert after.hub.got == []


def test_goodbye_spares_everybody_the_timeout(pipe: Any) -> None:
    pipe.spoke.port.close(pipe.now)
    pipe.pump()
    assert pipe.hub.downs() == ["goodbye"]
    assert pipe.hub.port.peers() == []


def test_a_hub_says_goodbye_to_all(kit: Any, make_pipe: Callable[..., Any]) -> None:
    pipe = make_pipe(kit.hub(), kit.spoke("worker-1"), kit.spoke("worker-2"))
    pipe.connect()
    pipe.hub.port.close(pipe.now)
    pipe.pump()
    assert [end.downs() for end in pipe.spokes.values()] == [["goodbye"], ["goodbye"]]


def test_a_lost_frame_resets_the_session_and_is_sent_again(pipe: Any) -> None:
    pipe.advance(0.5)
    pipe.downward = lambda frames: frames[1:]
    assign(pipe, 1)
    pipe.pump()
    pipe.downward = lambda frames: frames
    assign(pipe, 2)
    pipe.pump()
    assert pipe.spoke.reasons() == ["sequence"]
    pipe.advance(0.3)
    assert numbers(pipe.spoke) == [1, 2]
    assert pipe.hub.ups() == 2
    assert pipe.hub.downs() == pipe.spoke.downs() == []


def test_a_hub_that_misses_a_frame_asks_for_a_new_session_at_once(pipe: Any) -> None:
    pipe.advance(0.5)
    pipe.upward = lambda frames: frames[1:]
    report(pipe, 1)
    pipe.pump()
    pipe.upward = lambda frames: frames
    report(pipe, 2)
    pipe.pump()  # no time passes: resync and the new HELLO follow at once
    assert numbers(pipe.hub) == [1, 2]
    assert pipe.hub.reasons()[0] == "sequence"
    assert pipe.hub.downs() == pipe.spoke.downs() == []


def test_a_hub_that_ends_every_session_is_not_flooded_with_hellos(pipe: Any) -> None:
    pipe.upward = lambda frames: [f for f in frames if b'"heartbeat"' not in f and b'"ready"' not in f]
    before = sum(b'"hello"' in frame for way, frame in pipe.tap if way == "up")
    pipe.disconnect()
    pipe.connect()
    pipe.advance(10)
    hellos = sum(b'"hello"' in frame for way, frame in pipe.tap if way == "up") - before
    assert 3 <= hellos <= 20


def test_hello_is_repeated_until_somebody_answers(kit: Any) -> None:
    pipe = kit.pipe(connect=False)
    pipe.upward = lambda frames: []
    pipe.connect()
    pipe.advance(1.5)
    pipe.upward = lambda frames: frames
    pipe.advance(2.1)
    assert pipe.spoke.ups() == pipe.hub.ups() == 1


def test_late_answers_to_older_hellos_are_no_alarm(kit: Any) -> None:
    pipe = kit.pipe(connect=False)
    held: list[bytes] = []

    def hold(frames: list[bytes]) -> list[bytes]:
        held.extend(frames)
        return []

    pipe.upward = hold
    pipe.connect()
    pipe.advance(2.0)
    assert len(held) >= 3
    pipe.upward = lambda frames: frames
    for frame in held:  # the hub wakes and answers them all
        pipe.hub.port.receive(pipe.route[WORKER], [frame], pipe.now)
    pipe.pump()
    assert pipe.spoke.ups() == pipe.hub.ups() == 1
    assert pipe.spoke.reasons() == pipe.hub.reasons() == []


def test_a_disconnect_makes_suspect_and_a_quick_return_forgives(pipe: Any) -> None:
    pipe.disconnect()
    assert [s.reason for s in pipe.hub.of(PeerSuspect)] == ["disconnect"]
    pipe.advance(0.1)
    pipe.connect()
    pipe.advance(2)
    assert pipe.hub.downs() == pipe.spoke.downs() == []
    assert pipe.hub.ups() == 2


def test_no_return_within_the_grace_is_death(pipe: Any) -> None:
    pipe.disconnect()
    pipe.advance(0.16)
    assert pipe.hub.downs() == pipe.spoke.downs() == ["disconnect"]


def test_a_route_that_turns_out_unroutable_counts_as_disconnected(pipe: Any) -> None:
    assign(pipe, 1)
    ((route, frame),) = pipe.hub.port.outgoing
    pipe.hub.port.outgoing.clear()
    pipe.hub.port.undeliverable(route, frame, "unroutable", pipe.now)
    assert pipe.hub.reasons() == ["unroutable"]
    assert [s.reason for s in pipe.hub.of(PeerSuspect)] == ["disconnect"]
    pipe.connect()
    pipe.advance(0.05)
    assert numbers(pipe.spoke) == [1]


def test_a_spoke_that_missed_the_resync_is_told_again(pipe: Any) -> None:
    pipe.advance(0.5)
    pipe.upward = lambda frames: frames[1:]
    report(pipe, 1)
    pipe.pump()
    pipe.upward = lambda frames: frames
    pipe.downward = lambda frames: [frame for frame in frames if b'"RESYNC"' not in frame]
    report(pipe, 2)
    pipe.pump()
    assert pipe.hub.got == []
    pipe.downward = lambda frames: frames
    pipe.advance(0.5)
    assert numbers(pipe.hub) == [1, 2]
    assert pipe.hub.downs() == pipe.spoke.downs() == []


def hang(pipe: Any, seconds: float) -> list[bytes]:
    """The hub stands still while the connection holds. Returns what the spoke sends it meanwhile."""
    spoke, sent = pipe.spoke.port, []
    for _ in range(round(seconds * 20)):
        pipe.jump(0.05)
        spoke.tick(pipe.now)
        sent += [frame for _, frame in spoke.outgoing]
        spoke.outgoing.clear()
    return sent


def wake(pipe: Any, waiting: list[bytes], n: int) -> list[bytes]:
    """The hub wakes: it answers the greetings, and goes on in the session that it knows. Returns all that it sends."""
    for frame in waiting:
        pipe.hub.port.receive(pipe.route[WORKER], [frame], pipe.now)
    pipe.hub.port.tick(pipe.now)
    assign(pipe, n)
    return [frame for _, frame in pipe.hub.port.outgoing]


def test_what_a_hub_that_wakes_sends_in_the_former_session_is_no_alarm(pipe: Any) -> None:
    pipe.advance(0.5)
    wake(pipe, hang(pipe, 1.0), 1)
    assert pipe.spoke.downs() == ["silence"]
    pipe.pump()
    pipe.advance(0.3)
    assert pipe.spoke.reasons() == pipe.hub.reasons() == []
    assert numbers(pipe.spoke) == [1], "it came in the new session"


def test_a_hub_that_hangs_again_before_it_has_read_ready_is_no_alarm_either(pipe: Any) -> None:
    pipe.advance(0.5)
    waiting = hang(pipe, 1.0)
    for n in (1, 2):
        for frame in wake(pipe, waiting, n):
            pipe.spoke.port.receive(b"", [frame], pipe.now)
        pipe.hub.port.outgoing.clear()
        waiting = hang(pipe, 1.0)
    wake(pipe, waiting, 3)
    pipe.pump()
    pipe.advance(0.5)
    assert pipe.spoke.reasons() == []
    assert numbers(pipe.spoke) == [1, 2, 3]


def test_frames_of_a_former_session_have_no_effect_and_are_replays_once_the_new_one_was_heard(pipe: Any) -> None:
    pipe.advance(0.5)
    sent = wake(pipe, hang(pipe, 1.0), 1)
    pipe.hub.port.outgoing.clear()
    answers = sum(b'"hello"' in frame for frame in sent)
    spoke = pipe.spoke.port
    for frame in sent:
        spoke.receive(b"", [frame], pipe.now)
    assert pipe.spoke.ups() == 2
    assert pipe.spoke.got == []
    assert spoke.marks() == {}
    heard = spoke._hub.life.silent_s(pipe.now.mono)
    pipe.jump(0.1)
    for frame in sent:
        spoke.receive(b"", [frame], pipe.now)
    assert spoke._hub.life.silent_s(pipe.now.mono) > heard, "no sign of life"
    pipe.advance(0.3)
    assert numbers(pipe.spoke) == [1]
    assert pipe.spoke.reasons() == ["signature"] * answers, "answers to greetings, which came twice"
    for frame in sent:
        spoke.receive(b"", [frame], pipe.now)
    assert pipe.spoke.reasons() == ["signature"] * (answers + len(sent))
