"""Routing ids are no identities: each connection has one of ZeroMQ's own, and a peer that chooses one is not heard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import zmq

if TYPE_CHECKING:
    from tests.contract.transport.conftest import Play, Stage

FIRST_ROUTE = """
import zmq
from a2a_zmq.transport.context import scatter_routes
scatter_routes()
with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
    router.bind("inproc://x")
    dealer.connect("inproc://x")
    dealer.send(b"")
    print(int.from_bytes(router.recv()[1:], "big"))
"""


def test_routing_id_peers_set_none_and_each_connection_has_its_own_route(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        spoke, first = await stage.joined(hub)
        spoke.dealer.reconnect()
        await stage.wait_until(lambda: spoke.ups == 2, "connected again")
        spoke.dealer.send(b"", b"again")
        await stage.wait_until(lambda: b"again" in hub.bodies, "heard again")
        second = hub.route_of(b"again")
        assert first != second
        assert {len(first), len(second)} == {5}
        assert first[0] == second[0] == 0  # ZeroMQ's own, not the peer's choice
        await stage.wait_until(lambda: hub.ended == [first], "the first connection ended")

    play(scenario)


def test_routing_id_of_somebody_else_takes_nothing_over(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        victim, route = await stage.joined(hub, "victim")
        with stage.raw_peer(hub, routing_id=route) as thief:
            thief.send(b"i am the victim", zmq.DONTWAIT)
            await stage.joined(hub, "third")  # by now the thief's connection is long made
            assert hub.router.send(route, b"for the victim") == "ok"
            await stage.wait_until(lambda: victim.bodies == [b"for the victim"], "the victim got its frame")
            assert not thief.poll(50)
        assert b"i am the victim" not in hub.bodies

    play(scenario)


@pytest.mark.parametrize("chosen", [b"worker-1", b"w", b"\0", b"\0worker-1", b"\0\1\2\3\4", b"w\0\0\0\0"])
def test_routing_id_that_a_peer_chose_is_refused(play: Play, chosen: bytes) -> None:
    """Even a free one: it might be the one that somebody had a moment ago. Those with NUL first look automatic."""

    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        with stage.raw_peer(hub, routing_id=chosen) as peer:
            peer.send(b"hello")
            await stage.wait_until(lambda: hub.router.stats.refused.get("routing_id") == 1, "it was refused")
            peer.send(b"hello")
            await stage.joined(hub)
        await stage.joined(hub)
        assert b"hello" not in hub.bodies
        assert hub.ended == []

    play(scenario)


def test_routing_id_that_is_still_to_be_given_is_refused_too(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        _, route = await stage.joined(hub)
        later = b"\0" + ((int.from_bytes(route[1:], "big") + 100) % (1 << 32)).to_bytes(4, "big")
        with stage.raw_peer(hub, routing_id=later) as peer:
            peer.send(b"hello")
            await stage.wait_until(lambda: hub.router.stats.refused.get("routing_id") == 1, "it was refused")
        assert b"hello" not in hub.bodies

    play(scenario)


def test_routing_ids_begin_elsewhere_in_every_process(play: Play) -> None:
    """Whoever can tell which one is next can choose it, and libzmq aborts when it comes to give it."""

    async def scenario(stage: Stage) -> None:
        starts = [stage.process(FIRST_ROUTE).communicate(timeout=8)[0] for _ in range(2)]
        assert starts[0] != starts[1]
        assert all(start.strip().isdigit() for start in starts)

    play(scenario)


def test_routing_ids_of_many_honest_peers_are_all_taken(play: Play) -> None:
    """Whatever order they come in, and however many connections end before they have said anything."""

    async def scenario(stage: Stage) -> None:
        hub = stage.hub()
        spokes = [stage.spoke(hub, f"spoke-{number}") for number in range(40)]
        await stage.wait_until(lambda: all(spoke.ups for spoke in spokes), "all are connected")
        for spoke in spokes[::3]:
            spoke.dealer.reconnect()
        await stage.wait_until(lambda: all(spoke.dealer.connected for spoke in spokes), "all are connected again")
        for number, spoke in enumerate(reversed(spokes)):
            assert spoke.dealer.send(b"", b"frame %d" % number) == "ok"
        await stage.wait_until(lambda: len(set(hub.bodies)) == len(spokes), "all were heard")
        assert "routing_id" not in hub.router.stats.refused

    play(scenario)
