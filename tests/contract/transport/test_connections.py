"""Connections: who is told of an end, and when; reconnecting."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from a2a_zmq.security.curve import new_pair
from a2a_zmq.transport.context import SocketOptions

if TYPE_CHECKING:
    from tests.contract.transport.conftest import Play, Stage


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


@pytest.mark.parametrize("missing", ["socket", "monitor"])
def test_a_spoke_without_descriptors_for_a_moment_tries_again_and_keeps_none(
    play: Play, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        spoke, _ = await stage.joined(hub)
        made: list[zmq.Socket[bytes]] = []
        failed: list[int] = []
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        real = zmq.Context.socket

        def make(context: zmq.Context[Any], kind: int, **more: Any) -> zmq.Socket[bytes]:
            if len(failed) < 3 and (missing, kind) in {("socket", zmq.DEALER), ("monitor", zmq.PAIR)}:
                failed.append(kind)
                raise zmq.ZMQError(errno.EMFILE)
            made.append(real(context, kind, **more))
            return made[-1]

        with monkeypatch.context() as patched:
            patched.setattr(zmq.Context, "socket", make)
            spoke.dealer.reconnect()
            await stage.wait_until(lambda: spoke.ups == 2, "it is connected again")
        assert len(failed) == len(told) == 3
        assert not any("exception" in one for one in told)
        assert len([one for one in made if not one.closed]) <= 2, "the last attempt's socket and its monitor's"

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
