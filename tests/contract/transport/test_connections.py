"""Connections: who gets in, who is told of an end, and when."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zmq

from a2a_zmq.errors import ConfigError
from a2a_zmq.security.curve import new_pair
from a2a_zmq.security.keyring import KeyDirectory, Keyring
from a2a_zmq.transport.context import SocketOptions, TransportContext
from a2a_zmq.transport.router import RouterSocket

if TYPE_CHECKING:
    from tests.contract.transport.conftest import Play, Stage


def host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# ---------------------------------------------------------------- keys


def test_a_frame_comes_with_the_name_of_its_connections_key(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        for name in ("worker-1", "worker-2"):
            await stage.joined(hub, name)
        assert sorted(user_id for _, _, user_id in hub.frames) == ["worker-1", "worker-2"]

    play(scenario)


def test_an_unknown_key_is_refused_until_it_becomes_known(play: Play) -> None:
    """ZeroMQ itself never tries again after such a refusal."""

    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        pair = new_pair()
        spoke = stage.spoke(hub, curve=pair)
        await stage.wait_until(lambda: len(spoke.failures) >= 2, "it was refused, and refused again")
        assert set(spoke.failures) == {"auth"}
        assert spoke.ups == 0
        assert hub.router.stats.refused["auth"] >= 2
        stage.known[pair.public] = "late"
        await stage.wait_until(lambda: spoke.ups == 1, "it was let in")

    play(scenario)


def test_the_self_test_passes_and_is_not_counted_as_an_attack(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        await hub.router.self_test()
        await stage.wait_until(lambda: not hub.router._own_probes, "the hub saw the refusal too")
        assert hub.router.stats.refused == {}

    play(scenario)


def test_the_self_test_finds_a_hub_that_lets_anybody_in(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub(allow=lambda domain, key: "anybody")
        with pytest.raises(ConfigError, match="unknown CURVE key was let in"):
            await hub.router.self_test()

    play(scenario)


def test_the_self_test_finds_a_hub_that_does_not_answer(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        stage.context.zap._pump.close()
        with pytest.raises(ConfigError, match="no answer within"):
            await hub.router.self_test(timeout_s=0.3)

    play(scenario)


def test_without_a_zap_answer_for_its_domain_nobody_gets_in(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub(domain="here")
        stage.context.zap.unregister("here")
        spoke = stage.spoke(hub)
        await stage.wait_until(lambda: "auth" in spoke.failures, "a known key was refused")
        assert spoke.ups == 0

    play(scenario)


def test_a_domain_belongs_to_one_hub(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        stage.hub(domain="one")
        with pytest.raises(ConfigError, match="domain"):
            stage.hub(domain="one")

    play(scenario)


def test_an_error_in_the_decision_refuses_the_key() -> None:
    async def scenario() -> None:
        errors: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["message"]))
        context = TransportContext()

        def broken(domain: str, key: bytes) -> str | None:
            raise RuntimeError(domain)

        context.zap.register("broken", broken)
        answer = context.zap._answer([b"1.0", b"7", b"broken", b"127.0.0.1", b"", b"CURVE", bytes(32)])
        context.close()
        assert answer[1:3] == [b"7", b"400"]
        assert errors == ["ZAP decision failed"]

    asyncio.run(scenario())


def test_a_peer_without_curve_is_refused(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        plain = stage.context.zmq.socket(zmq.DEALER)
        plain.linger = 0
        plain.connect(hub.router.address)
        plain.send(b"let me in", zmq.DONTWAIT)
        await stage.wait_until(lambda: hub.router.stats.refused.get("protocol"), "the plain peer was refused")
        await stage.joined(hub)
        assert len(hub.frames) == 1
        plain.close()

    play(scenario)


def test_a_hub_with_another_key_is_not_talked_to(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        spoke = stage.spoke(hub, server_keys=new_pair().public)
        await stage.wait_until(lambda: spoke.failures, "the attempt failed")
        assert spoke.ups == 0
        assert spoke.dealer.send(b"", b"secret") == "unroutable"

    play(scenario)


def test_a_hub_that_still_uses_its_old_key_is_found(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        spoke = stage.spoke(hub, server_keys=[new_pair().public, hub.pair.public])
        await stage.wait_until(lambda: spoke.ups == 1, "connected with the older key")

    play(scenario)


def test_a_rotated_client_key_is_used_at_the_next_attempt(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        pairs = [stage.admit("old"), stage.admit("new")]
        spoke, _ = await stage.joined(hub, curve=lambda: pairs[0])
        pairs.pop(0)
        spoke.dealer.reconnect()
        await stage.wait_until(lambda: spoke.ups == 2, "connected again")
        spoke.dealer.send(b"", b"again")
        await stage.wait_until(lambda: hub.frames[-1][1:] == ([b"again"], "new"), "it came with the new key")

    play(scenario)


def test_a_revoked_agent_is_stopped_on_its_live_connection(play: Play, tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        keys = KeyDirectory(tmp_path / "keys")
        if not keys.path.exists():
            keys.init({"hub": "distributor", "good": "worker", "bad": "worker"})
        ring = Keyring.load(keys.path, "hub")
        hub = stage.hub(pair=ring.curve_pair(), allow=ring.allow)
        bad, _ = await stage.joined(hub, curve=Keyring.load(keys.path, "bad").curve_pair())
        good, _ = await stage.joined(hub, curve=Keyring.load(keys.path, "good").curve_pair())
        assert [ring.revoked("", user) for _, _, user in hub.frames] == [False, False]
        keys.revoke("bad")
        assert ring.reload_if_changed()
        bad.dealer.send(b"", b"still here")
        good.dealer.send(b"", b"still here")
        await stage.wait_until(lambda: hub.bodies.count(b"still here") == 2, "both spoke again")
        assert {user: ring.revoked("", user) for _, _, user in hub.frames} == {"bad": True, "good": False}
        bad.dealer.reconnect()
        await stage.wait_until(lambda: "auth" in bad.failures, "and it cannot come back")

    play(scenario)


# ---------------------------------------------------------------- ends


def test_kill_9_of_a_process_ends_its_route_and_no_other(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        victim = stage.dealer_process(hub, "victim")
        await stage.joined(hub, "survivor")
        await stage.wait_until(lambda: b"victim" in hub.bodies, "the victim said its name")
        victim.kill()
        await stage.wait_until(lambda: hub.ended, "its end was reported", timeout_s=2)
        assert hub.ended == [hub.route_of(b"victim")]
        assert hub.router.send(hub.ended[0], b"hello?") == "unroutable"

    play(scenario)


def test_zmtp_heartbeats_end_the_connection_of_a_stopped_process(play: Play) -> None:
    """They are off by default."""

    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        frozen = stage.dealer_process(hub, "frozen")
        await stage.joined(hub, "other")
        await stage.wait_until(lambda: b"frozen" in hub.bodies, "it said its name")
        frozen.send_signal(signal.SIGSTOP)
        await stage.wait_until(lambda: hub.ended, "silence ended the connection", timeout_s=4)
        assert hub.ended == [hub.route_of(b"frozen")]

    play(scenario)


def test_what_a_peer_sent_before_its_end_is_delivered_before_its_end(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        for round_ in range(10):
            spoke, route = await stage.joined(hub, f"short-{round_}")
            for number in range(20):
                spoke.dealer.send(b"", b"%d" % number)
            await asyncio.sleep(0.01)  # close() drops what the I/O thread has not sent
            spoke.dealer.close()
            await stage.wait_until(lambda route=route: route in hub.ended, "the end was reported")  # type: ignore[misc]
            mine = [kind for kind, of in hub.log if of == route]
            assert mine == ["frame"] * 21 + ["end"]

    play(scenario)


def test_descriptor_reuse_blames_nobody_else(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        survivor, stays = await stage.joined(hub, "survivor")
        for round_ in range(30):  # each gets the descriptor of the one before
            guest, _ = await stage.joined(hub, f"guest-{round_}")
            guest.dealer.close()
        routes = {route for route, _, _ in hub.frames}
        await stage.wait_until(lambda: len(hub.ended) >= 30, "all guests' ends were reported")
        assert set(hub.ended) == routes - {stays}
        assert len(hub.ended) == 30
        assert hub.router.send(stays, b"still there?") == "ok"
        await stage.wait_until(lambda: survivor.bodies, "the survivor was reached")

    play(scenario)


# The old connection ends and a new one begins, in a process of its own: so the hub's process reuses the descriptor.
TWO_CONNECTIONS = """
import sys, zmq
context = zmq.Context()
def connect(name):
    peer = context.socket(zmq.DEALER)
    peer.linger = 0
    peer.connect(sys.argv[1])
    peer.send(name)
    return peer
old = connect(b"old")
sys.stdin.readline()
old.close()
context.term()
context = zmq.Context()
new = connect(b"new")
new.send(new.recv())
sys.stdin.readline()
"""


@pytest.mark.parametrize("first", ["frames", "events"])
def test_descriptor_reuse_while_the_loop_was_busy_blames_nobody_else(play: Play, first: str) -> None:
    """Whichever of socket and monitor is looked at first."""

    async def scenario(stage: Stage) -> None:
        hub = stage.hub(encrypted=False)  # connections are made without the loop's help
        other = stage.process(TWO_CONNECTIONS, hub.router.address)
        assert other.stdin is not None
        await stage.wait_until(lambda: hub.frames, "the old peer is known")
        descriptor = hub.router._routes[hub.route_of(b"old")].fd
        print(file=other.stdin, flush=True)
        time.sleep(0.3)  # noqa: ASYNC251 - the loop is busy while libzmq's thread goes on
        (hub.router._pump if first == "frames" else hub.router._monitor._pump)._run()
        await stage.wait_until(lambda: len(hub.frames) == 2, "the new peer is known")
        assert hub.router._routes[hub.route_of(b"new")].fd == descriptor
        await stage.wait_until(lambda: hub.ended, "the old one's end was reported")
        assert hub.router.send(hub.route_of(b"new"), b"still there") == "ok"
        await stage.wait_until(lambda: b"still there" in hub.bodies, "the new one answered")
        assert hub.ended == [hub.route_of(b"old")]
        print(file=other.stdin, flush=True)
        await stage.wait_until(lambda: len(hub.ended) == 2, "the new one's end was reported too")
        assert hub.ended[1] == hub.route_of(b"new")

    play(scenario)


@pytest.mark.parametrize("first", ["frames", "events"])
def test_a_long_farewell_is_delivered_before_the_end_is_told(play: Play, first: str) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub(encrypted=False, options=SocketOptions(high_water_mark=10_000))
        peer = stage.context.zmq.socket(zmq.DEALER)
        peer.linger = 2000
        peer.connect(hub.router.address)
        peer.send(b"0")
        await stage.wait_until(lambda: hub.frames, "the peer is known")
        for number in range(1, 3000):
            peer.send(b"%d" % number)
        peer.close()
        time.sleep(0.2)  # noqa: ASYNC251 - the loop is busy while libzmq's thread goes on
        (hub.router._pump if first == "frames" else hub.router._monitor._pump)._run()
        await stage.wait_until(lambda: hub.ended, "the end was reported")
        assert hub.bodies == [b"%d" % number for number in range(3000)]
        assert hub.log[-1] == ("end", hub.ended[0])

    play(scenario)


def test_reconnect_gives_a_new_route_and_the_old_one_is_unroutable(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        address, pair = hub.router.address, hub.pair
        spoke, _ = await stage.joined(hub)
        hub.router.close()
        await stage.wait_until(lambda: spoke.downs == 1, "the spoke saw the end")
        assert spoke.dealer.send(b"", b"lost") == "unroutable"
        again = stage.hub(address, pair=pair)
        await stage.wait_until(lambda: spoke.ups == 2, "it is back")
        spoke.dealer.send(b"", b"back")
        await stage.wait_until(lambda: again.bodies, "it was heard")
        assert again.bodies == [b"back"]

    play(scenario)


def test_a_spoke_that_moves_to_another_hub_hears_the_old_one_no_more(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        first, second = stage.hub(), stage.hub()
        spoke, route = await stage.joined(first)
        assert first.router.send(route, b"from the old hub") == "ok"
        spoke.dealer.connect(second.router.address, second.pair.public)
        await stage.wait_until(lambda: spoke.ups == 2, "it is at the second hub")
        await stage.wait_until(lambda: first.ended == [route], "the first hub saw it leave")
        spoke.dealer.send(b"", b"hi")
        await stage.wait_until(lambda: second.bodies == [b"hi"], "the second heard it")
        assert spoke.bodies == []
        assert spoke.downs == 0

    play(scenario)


def test_an_unreachable_hub_is_reported_and_tried_again(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        pair = new_pair()
        spoke = stage.spoke()
        spoke.dealer.connect(f"tcp://127.0.0.1:{port}", pair.public)
        await stage.wait_until(lambda: spoke.failures, "the failure was reported")
        assert set(spoke.failures) == {"unreachable"}
        stage.hub(f"tcp://127.0.0.1:{port}", pair=pair)
        await stage.wait_until(lambda: spoke.ups == 1, "connected once the hub was there")

    play(scenario)


def test_sockets_may_be_closed_from_their_own_callbacks(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        spoke, _ = await stage.joined(hub)
        hub.router._on_frames = lambda batch: hub.router.close()
        spoke.dealer._on_disconnected = lambda route: spoke.dealer.close()
        spoke.dealer.send(b"", b"close yourself")
        await stage.wait_until(lambda: spoke.dealer._closed, "both closed")
        assert hub.router.send(b"x", b"y") == spoke.dealer.send(b"", b"y") == "unroutable"

    play(scenario)


# ---------------------------------------------------------------- silent and many


def test_silent_tcp_clients_do_not_stop_others_and_are_thrown_out(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub(options=SocketOptions(handshake_ms=400))
        before = open_descriptors()
        silent = [socket.create_connection(host_and_port(hub.router.address)) for _ in range(300)]
        try:
            await stage.joined(hub, "honest")
            await stage.wait_until(
                lambda: hub.router.stats.refused.get("handshake", 0) >= 300, "all silent clients were thrown out"
            )
        finally:
            for client in silent:
                client.close()
        await stage.wait_until(lambda: open_descriptors() <= before + 50, "their descriptors are free")
        assert hub.ended == []

    play(scenario)


def test_garbage_on_the_port_does_not_hurt(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        spoke, route = await stage.joined(hub)
        for garbage in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\xff" * 100,
            b"\xff\0\0\0\0\0\0\0\x01\x7f\x03" + bytes(53) + b"\x04\xff",
        ):
            with socket.create_connection(host_and_port(hub.router.address)) as client:
                client.sendall(garbage)
        await stage.wait_until(lambda: sum(hub.router.stats.refused.values()) >= 2, "the garbage was refused")
        assert hub.router.send(route, b"fine?") == "ok"
        await stage.wait_until(lambda: spoke.bodies == [b"fine?"], "the spoke is fine")

    play(scenario)


# ---------------------------------------------------------------- addresses


def test_a_port_in_use_is_named(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        with pytest.raises(ConfigError, match=f"{hub.router.address} is in use by another process"):
            stage.hub(hub.router.address)
        stage.hub()  # and the failed one left nothing behind

    play(scenario)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("tcp://127.0.0.1", "is no address"),
        ("tcp://127.0.0.1:70000", "is no address"),
        ("udp://127.0.0.1:5", "is no address"),
        ("tcp://192.0.2.1:5555", "is not an address of this host"),
        ("ipc:///nowhere-at-all/socket", "No such file"),
    ],
)
def test_a_bad_address_is_named(play: Play, address: str, complaint: str) -> None:
    async def scenario(stage: Stage) -> None:
        with pytest.raises(ConfigError, match=complaint) as caught:
            stage.hub(address)
        assert address in str(caught.value)

    play(scenario)


def test_without_curve_only_addresses_of_this_host_are_taken(play: Play, tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        for address in ("tcp://0.0.0.0:*", "tcp://*:*", "tcp://192.0.2.1:5555"):
            with pytest.raises(ConfigError, match="needs CURVE keys"):
                stage.hub(address, encrypted=False)
        hub = stage.hub("tcp://127.0.0.1:*", encrypted=False)
        spoke = stage.spoke()
        spoke.dealer._curve = None
        spoke.dealer.connect(hub.router.address)
        await stage.wait_until(lambda: spoke.ups, "plain connection")
        spoke.dealer.send(b"", b"hi")
        await stage.wait_until(lambda: hub.frames, "heard")
        assert hub.frames[0][2] == ""

    play(scenario)


def test_an_ipc_socket_needs_a_private_directory(play: Play, tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        directory = tmp_path / "run"
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
        with pytest.raises(ConfigError, match="open to other users"):
            stage.hub(f"ipc://{directory}/hub")
        directory.chmod(0o700)
        hub = stage.hub(f"ipc://{directory}/hub")
        spoke, route = await stage.joined(hub)
        spoke.dealer.close()
        await stage.wait_until(lambda: hub.ended == [route], "ends are seen over ipc too")

    play(scenario)


def test_ipv6(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this host has no IPv6")
        hub = stage.hub("tcp://[::1]:*")
        await hub.router.self_test()
        await stage.joined(hub)

    play(scenario)


def test_a_context_survives_no_fork(play: Play) -> None:
    program = """
import asyncio, os
from a2a_zmq.errors import ConfigError
from a2a_zmq.transport.context import TransportContext
from a2a_zmq.transport.dealer import DealerSocket
nothing = lambda *_: None
async def main():
    context = TransportContext()
    if os.fork() == 0:
        try:
            DealerSocket(context, on_frames=nothing, on_connected=nothing, on_disconnected=nothing).connect("tcp://127.0.0.1:1")
        except ConfigError as error:
            print(error, flush=True)
        os._exit(0)
    os.wait()
    context.close()
asyncio.run(main())
"""

    async def scenario(stage: Stage) -> None:
        process = stage.process(program)
        output, _ = process.communicate(timeout=8)
        assert "carried over a fork" in output

    play(scenario)


def test_binding_twice_is_refused(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        with pytest.raises(ConfigError, match="listens at"):
            hub.router.bind("tcp://127.0.0.1:*")

    play(scenario)


def test_an_unbound_router_routes_nothing() -> None:
    async def scenario() -> None:
        context = TransportContext()
        router = RouterSocket(context, on_frames=print, on_disconnected=print)
        assert router.send(b"route", b"frame") == "unroutable"
        router.close()
        context.close()

    asyncio.run(scenario())
