"""Bounds: what strangers, many peers and changing keys can and cannot do to a hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2a_zmq.clock import Now
from a2a_zmq.protocol import BootInfo, Hub, MessageType, PeerUp, PortConfig, Refusal, Role, StaticKeys
from a2a_zmq.protocol.session import TRANSITIONS, IllegalInput, Input, Phase, step

HUB, WORKER = "distributor-1", "worker-1"


def test_handshakes_of_strangers_take_bounded_memory(make_kit: Callable[..., Any]) -> None:
    kit = make_kit(max_pending=10)
    pipe = kit.pipe()
    hello = next(frame for way, frame in pipe.tap if way == "up")
    for n in range(100):
        pipe.hub.port.receive(b"stranger-%d" % n, [hello], pipe.now)
        pipe.hub.port.receive(b"other-%d" % n, [b"junk"], pipe.now)
    assert len(pipe.hub.port._pending) == 10
    assert len(pipe.hub.port._routes) == 1


def test_a_hub_takes_a_bounded_number_of_peers(make_kit: Callable[..., Any], make_pipe: Callable[..., Any]) -> None:
    kit = make_kit(max_peers=2)
    pipe = make_pipe(kit.hub(), *(kit.spoke(f"worker-{n}") for n in range(3)))
    pipe.connect()
    pipe.advance(1)
    assert [info.agent_id for info in pipe.hub.port.peers()] == ["worker-0", "worker-1"]
    assert set(pipe.hub.reasons()) == {"busy"}
    assert "busy" in pipe.spokes["worker-2"].reasons()
    pipe.disconnect("worker-0")
    pipe.advance(5)  # the one that is down makes room
    assert {info.agent_id for info in pipe.hub.port.peers()} == {"worker-1", "worker-2"}


def test_clients_that_leave_are_not_remembered(kit: Any, make_pipe: Callable[..., Any]) -> None:
    hub = kit.hub("coordinator-1", Role.COORDINATOR)
    for n in range(20):
        pipe = make_pipe(hub, kit.spoke(f"cli~{n}", Role.CLIENT, peer="coordinator-1"))
        pipe.connect()
        pipe.spoke.port.close(pipe.now)
        pipe.pump()
        assert pipe.hub.downs() == ["goodbye"]
    assert len(hub._peers) == len(hub._routes) == len(hub._timers) == 0


def test_what_a_vanished_client_did_not_take_is_not_kept(kit: Any, make_pipe: Callable[..., Any]) -> None:
    hub = kit.hub("coordinator-1", Role.COORDINATOR)
    pipe = make_pipe(hub, kit.spoke("cli~1", Role.CLIENT, peer="coordinator-1"))
    pipe.connect()
    pipe.disconnect("cli~1")
    hub.send("cli~1", MessageType.EVENT, {"action": "task_results", "results": ["x" * 100_000]}, pipe.now)
    assert hub.backlog("cli~1").bytes > 100_000
    pipe.advance(60)
    assert pipe.hub.downs() == ["disconnect"]
    assert hub.backlog("cli~1").bytes == 0


def test_a_change_of_secrets_takes_effect_without_a_pause(kit: Any, make_pipe: Callable[..., Any]) -> None:
    both = StaticKeys(HUB, Role.DISTRIBUTOR, "new", key_id="s2", previous=("s1", b"old"))
    for secret, key_id in (("new", "s2"), ("old", "s1")):
        pipe = make_pipe(kit.hub(keys=both), kit.spoke(keys=StaticKeys(WORKER, Role.WORKER, secret, key_id=key_id)))
        pipe.connect()
        assert pipe.hub.ups() == 1
    # The spoke has the newer ring: it falls back to the older key with its next HELLO.
    ring = StaticKeys(WORKER, Role.WORKER, "new", key_id="s2", previous=("s1", b"old"))
    pipe = make_pipe(kit.hub(keys=StaticKeys(HUB, Role.DISTRIBUTOR, "old")), kit.spoke(keys=ring))
    pipe.connect()
    pipe.advance(0.5)
    assert pipe.hub.ups() == 1


def test_clients_share_the_keys_of_their_identity(kit: Any, make_pipe: Callable[..., Any]) -> None:
    hub = kit.hub("coordinator-1", Role.COORDINATOR)
    one, two = (kit.spoke(f"cli~{n}", Role.CLIENT, peer="coordinator-1") for n in ("a", "b"))
    pipe = make_pipe(hub, one, two)
    pipe.connect()
    assert {up.peer.agent_id for up in pipe.hub.of(PeerUp)} == {"cli~a", "cli~b"}


def test_a_ready_that_no_frame_takes_is_told_and_not_sent_until_it_is_shorter(kit: Any) -> None:
    pipe = kit.pipe(connect=False)
    held = [["t" * 128, 1, 1] for _ in range(8000)]
    pipe.spoke.port._announce = lambda now: {"running": held}
    pipe.connect()
    pipe.advance(5)
    assert max(len(frame) for way, frame in pipe.tap if way == "up") < 4096
    assert "more than a frame" in pipe.spoke.port.obstacle
    assert set(pipe.spoke.reasons()) == {"size"}
    assert pipe.hub.reasons() == []
    del held[5000:]
    pipe.advance(3)
    assert pipe.hub.ups() == pipe.spoke.ups() == 1
    assert pipe.spoke.port.obstacle == ""


@given(st.binary(max_size=300))
def test_no_bytes_of_a_stranger_do_anything(noise: bytes) -> None:
    hub = Hub(
        StaticKeys(HUB, Role.DISTRIBUTOR, "s"),
        boot=BootInfo("b"),
        new_id=lambda: "id",
        random_bytes=bytes,
        config=PortConfig(),
        welcome=lambda peer, now: {},
        heartbeat=lambda peer, now: {},
    )
    hub.receive(b"r", [noise], Now(0, 0))
    assert hub.outgoing == []
    assert [type(event) for event in hub.events] == [Refusal]


def test_an_illegal_move_raises_and_the_table_is_all_there_is() -> None:
    for phase in Phase:
        for input_ in Input:
            if (phase, input_) not in TRANSITIONS:
                with pytest.raises(IllegalInput):
                    step(phase, input_)
