"""Addresses and contexts: bad settings are one clear line."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from a2a_zmq.errors import ConfigError
from a2a_zmq.transport.context import TransportContext
from a2a_zmq.transport.router import RouterSocket

if TYPE_CHECKING:
    from tests.contract.transport.conftest import Play, Stage


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
        ("tcp://127.0.0.1:70000", "port 70000 is too high, 65535 is the last one"),
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
