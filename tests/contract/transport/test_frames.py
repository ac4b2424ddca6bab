"""Frames: every way in which ZeroMQ loses, blocks or confuses them, and what our sockets do instead."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import zmq

from a2a_zmq.config import MAX_MESSAGE_BYTES
from a2a_zmq.transport.context import MAX_FRAMES, Batch, SocketOptions, TransportContext
from a2a_zmq.transport.dealer import DealerSocket
from a2a_zmq.transport.pump import MAX_BATCH
from a2a_zmq.transport.router import RouterSocket

if TYPE_CHECKING:
    from tests.contract.transport.conftest import Play, Stage

CHUNK = bytes(64 << 10)


# ---------------------------------------------------------------- ROUTER drops silently


def test_router_mandatory_an_unknown_route_is_unroutable(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        assert hub.router.send(b"\0none", b"frame") == "unroutable"
        assert hub.router.send(b"", b"frame") == "unroutable"
        spoke, route = await stage.joined(hub)
        spoke.dealer.close()
        await stage.wait_until(
            lambda: hub.router.send(route, b"frame") == "unroutable", "the closed peer is unroutable"
        )

    play(scenario)


def test_router_mandatory_a_slow_peer_is_full_for_a_while_and_nothing_is_lost(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub(options=SocketOptions(high_water_mark=8))
        quick, quick_route = await stage.joined(hub, "quick")
        with stage.raw_peer(hub, rcvhwm=4) as slow:
            slow.send(b"i am slow")
            await stage.wait_until(lambda: b"i am slow" in hub.bodies, "the slow peer is known")
            route = hub.route_of(b"i am slow")
            sent = 0
            while hub.router.send(route, b"%06d" % sent + CHUNK) == "ok":
                sent += 1
                assert sent < 2000, "the queue has no bound"
            assert hub.router.send(quick_route, b"you are not affected") == "ok"
            await stage.wait_until(lambda: quick.bodies, "another peer is served meanwhile")
            got: list[bytes] = []

            def read() -> bool:
                while slow.poll(0):
                    got.append(slow.recv()[:6])
                return len(got) >= sent

            await stage.wait_until(read, "all that was taken has arrived")
            assert got == [b"%06d" % number for number in range(sent)]
            await stage.wait_until(lambda: hub.router.send(route, b"more") == "ok", "there is room again")

    play(scenario)


# ---------------------------------------------------------------- DEALER queues for the dead


def test_immediate_nothing_is_queued_without_a_connection(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        spoke = stage.spoke()
        assert spoke.dealer.send(b"", b"too early") == "unroutable"
        spoke.dealer.connect(hub.router.address, hub.pair.public)
        assert spoke.dealer.send(b"", b"too early") == "unroutable"
        await stage.wait_until(lambda: spoke.ups, "connected")
        assert spoke.dealer.send(b"", b"now") == "ok"
        await stage.wait_until(lambda: hub.bodies == [b"now"], "only what was taken arrives")

    play(scenario)


def test_sndhwm_a_hub_that_does_not_read_makes_the_spoke_full_and_never_blocks_it(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub(options=SocketOptions(high_water_mark=8))
        spoke, _ = await stage.joined(hub, options=SocketOptions(high_water_mark=8))
        greetings = len(hub.frames)
        sent = 0
        while spoke.dealer.send(b"", b"%06d" % sent + CHUNK) == "ok":  # the hub's turn comes only when we wait
            sent += 1
            assert sent < 2000, "the queue has no bound"
        assert spoke.dealer.connected
        await stage.wait_until(lambda: spoke.writable, "it is writable again")
        assert spoke.dealer.send(b"", b"more") == "ok"
        await stage.wait_until(lambda: hub.bodies[-1] == b"more", "all arrived")
        assert [body[:6] for body in hub.bodies[greetings:-1]] == [b"%06d" % number for number in range(sent)]

    play(scenario)


# ---------------------------------------------------------------- sizes


def test_maxmsgsize_a_frame_of_one_mebibyte_passes_both_ways(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        spoke, route = await stage.joined(hub)
        largest = bytes(MAX_MESSAGE_BYTES)
        assert spoke.dealer.send(b"", largest) == hub.router.send(route, largest) == "ok"
        await stage.wait_until(lambda: largest in hub.bodies and largest in spoke.bodies, "both arrived")

    play(scenario)


def test_maxmsgsize_a_larger_frame_ends_its_senders_connection_only(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        _, stays = await stage.joined(hub, "modest")
        greedy, route = await stage.joined(hub, "greedy")
        greedy.dealer.send(b"", bytes(MAX_MESSAGE_BYTES + 1024))
        await stage.wait_until(lambda: hub.ended == [route], "the sender was thrown out")
        await stage.wait_until(lambda: greedy.ups == 2, "it may come back")
        assert max(map(len, hub.bodies)) < 1024
        assert hub.router.send(stays, b"fine?") == "ok"

    play(scenario)


def test_a_message_of_many_frames_is_shown_in_part_and_the_next_one_is_whole(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        with stage.raw_peer(hub) as peer:
            peer.send_multipart([b"%d" % number for number in range(2000)])
            peer.send_multipart([b"", b"two"])
            peer.send(b"good")
            await stage.wait_until(lambda: b"good" in hub.bodies, "all three were read")
            first, second, third = (frames for _, frames, _ in hub.frames)
            assert first == [b"0", b"1", b"2", b"3"]
            assert len(first) == MAX_FRAMES
            assert second == [b"", b"two"]
            assert third == [b"good"]

    play(scenario)


# ---------------------------------------------------------------- bulk


def test_edge_trigger_no_frame_is_left_lying_however_sends_and_receives_mix(play: Play) -> None:
    """Every send may swallow the descriptor's only signal that something came in."""

    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        spoke, route = await stage.joined(hub)
        greetings = len(hub.frames)
        rounds = 300
        for number in range(rounds):
            assert spoke.dealer.send(b"", b"ping %d" % number) == "ok"
            assert hub.router.send(route, b"pong %d" % number) == "ok"
            if number % 7 == 0:
                await asyncio.sleep(0)
            if number % 50 == 0:
                await stage.wait_until(
                    lambda seen=number + 1: len(hub.frames) - greetings == len(spoke.bodies) == seen,  # type: ignore[misc]
                    f"round {number} arrived on both sides",
                    timeout_s=2,
                )
        await stage.wait_until(lambda: len(hub.frames) - greetings == len(spoke.bodies) == rounds, "all arrived")
        assert hub.bodies[greetings:] == [b"ping %d" % number for number in range(rounds)]
        assert spoke.bodies == [b"pong %d" % number for number in range(rounds)]

    play(scenario)


def test_draining_is_in_bulk_and_lets_the_loop_breathe(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub(options=SocketOptions(high_water_mark=10_000))
        with stage.raw_peer(hub, sndhwm=10_000) as peer:
            peer.send(b"first")
            await stage.wait_until(lambda: hub.frames, "it is connected")
            hub.batches.clear()
            for number in range(5000):
                peer.send(b"%d" % number, zmq.DONTWAIT)
            time.sleep(0.2)  # noqa: ASYNC251 - the loop is busy elsewhere while the frames pile up
            turns = 0
            while len(hub.frames) < 5001:
                await asyncio.sleep(0)
                turns += 1
                assert turns < 1_000_000
        assert hub.bodies[1:] == [b"%d" % number for number in range(5000)]
        assert max(hub.batches) <= MAX_BATCH
        assert max(hub.batches) > 50

    play(scenario)


def test_an_error_in_the_owners_callback_does_not_stop_the_socket() -> None:
    async def scenario() -> None:
        errors: list[BaseException] = []
        failed = asyncio.Event()

        def note(_: object, details: dict[str, Any]) -> None:
            errors.append(details["exception"])
            failed.set()

        asyncio.get_running_loop().set_exception_handler(note)
        context = TransportContext()
        seen: list[bytes] = []
        done = asyncio.Event()

        def take(batch: Batch) -> None:
            seen.extend(frames[0] for _, frames, _ in batch)
            if b"last" in seen:
                done.set()
            raise RuntimeError("the owner's mistake")

        router = RouterSocket(context, on_frames=take, on_disconnected=print)
        router.bind("tcp://127.0.0.1:*")
        up = asyncio.Event()
        dealer = DealerSocket(context, on_frames=print, on_connected=up.set, on_disconnected=print)
        dealer.connect(router.address)
        async with asyncio.timeout(5):
            await up.wait()
            dealer.send(b"", b"first")
            await failed.wait()
            dealer.send(b"", b"last")
            await done.wait()
        context.close()
        assert seen == [b"first", b"last"]
        assert {str(error) for error in errors} == {"the owner's mistake"}

    asyncio.run(scenario())


# ---------------------------------------------------------------- closing


def test_linger_zero_closing_with_unsent_frames_does_not_hang(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        spoke, _ = await stage.joined(hub)
        with stage.raw_peer(hub, rcvhwm=1) as deaf:
            deaf.send(b"deaf")
            await stage.wait_until(lambda: b"deaf" in hub.bodies, "it is known")
            while hub.router.send(hub.route_of(b"deaf"), CHUNK) == "ok":
                pass
            while spoke.dealer.send(b"", CHUNK) == "ok":
                pass
            before = time.monotonic()
            hub.router.close()
            spoke.dealer.close()
        stage.context.close()  # the default LINGER would wait for ever
        assert time.monotonic() - before < 3
        hub.router.close()
        spoke.dealer.close()
        stage.context.close()

    play(scenario)


def test_closing_the_context_under_open_sockets_is_safe(play: Play) -> None:
    """Descriptors that stayed registered with uvloop would abort the process."""

    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        spoke, route = await stage.joined(hub)
        stage.context.close()
        await asyncio.sleep(0)
        assert hub.router.send(route, b"x") == spoke.dealer.send(b"", b"x") == "unroutable"

    play(scenario)


# ---------------------------------------------------------------- the table itself


def test_options_are_the_protocols_table(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        spoke, _ = await stage.joined(hub)
        assert spoke.dealer._link is not None
        assert hub.router._socket is not None
        for socket in (hub.router._socket, spoke.dealer._link._socket):
            for option, value in {
                zmq.LINGER: 0,
                zmq.SNDHWM: 256,
                zmq.RCVHWM: 256,
                zmq.HANDSHAKE_IVL: 2000,
                zmq.HEARTBEAT_IVL: 200,
                zmq.HEARTBEAT_TIMEOUT: 600,
                zmq.RECONNECT_IVL: 100,
                zmq.RECONNECT_IVL_MAX: 800,
                zmq.CONNECT_TIMEOUT: 1000,
                zmq.BACKLOG: 1024,
                zmq.TCP_KEEPALIVE: 1,
                zmq.MECHANISM: zmq.CURVE,
            }.items():
                assert socket.getsockopt(option) == value, zmq.SocketOption(option).name
            assert 1 << 20 <= int(socket.getsockopt(zmq.MAXMSGSIZE)) < (1 << 20) + 128
            assert socket.getsockopt(zmq.ROUTING_ID) == b""
        assert hub.router._socket.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1
        assert spoke.dealer._link._socket.getsockopt(zmq.IMMEDIATE) == 1

    play(scenario)
