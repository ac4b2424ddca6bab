"""Who gets in: keys, ZAP decisions, the self-test, silent and malicious clients."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zmq

from a2a_zmq.errors import ConfigError
from a2a_zmq.security.curve import new_pair
from a2a_zmq.security.keyring import KeyDirectory, Keyring
from a2a_zmq.transport.context import SocketOptions, TransportContext
from a2a_zmq.transport.router import SelfTestLate

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
        with pytest.raises(SelfTestLate, match="no answer within"):
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
