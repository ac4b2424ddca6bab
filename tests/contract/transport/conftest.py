"""Real sockets on 127.0.0.1: a stage with hubs and spokes, run on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
import zmq

from a2a_zmq import config
from a2a_zmq.security.curve import CurvePair, new_pair
from a2a_zmq.transport.context import Batch, SocketOptions, TransportContext
from a2a_zmq.transport.dealer import DealerSocket, OwnKeys, ServerKeys
from a2a_zmq.transport.router import CurveServer, RouterSocket


async def wait_until(predicate: Callable[[], object], what: str, timeout_s: float = 8.0) -> None:
    """Return as soon as the predicate holds; fail, saying what was waited for, if it does not in time."""
    end = asyncio.get_running_loop().time() + timeout_s
    while not predicate():
        if asyncio.get_running_loop().time() > end:
            raise AssertionError(f"waited {timeout_s:g} s in vain until {what}")
        await asyncio.sleep(0.003)


class Hub:
    """A router and everything it reported."""

    def __init__(self, stage: Stage, **settings: Any) -> None:
        self.frames: list[tuple[bytes, list[bytes], str]] = []
        self.batches: list[int] = []
        self.ended: list[bytes] = []
        self.log: list[tuple[str, bytes]] = []  # ("frame" | "end", route) in order
        self.pair = settings.pop("pair", None) or new_pair()
        curve = None
        if settings.pop("encrypted", True):
            curve = CurveServer(
                self.pair, settings.pop("domain", f"hub-{id(self)}"), settings.pop("allow", stage.allow)
            )
        self.router = RouterSocket(
            stage.context,
            on_frames=self._frames,
            on_disconnected=self._ended,
            curve=curve,
            **settings,
        )

    def _frames(self, batch: Batch) -> None:
        self.frames.extend(batch)
        self.batches.append(len(batch))
        self.log.extend(("frame", route) for route, _, _ in batch)

    def _ended(self, route: bytes) -> None:
        self.ended.append(route)
        self.log.append(("end", route))

    @property
    def bodies(self) -> list[bytes]:
        return [frames[0] for _, frames, _ in self.frames]

    def route_of(self, body: bytes) -> bytes:
        """The route of the first frame with this body."""
        return next(route for route, frames, _ in self.frames if frames[0] == body)


class Spoke:
    """A dealer and everything it reported."""

    def __init__(self, stage: Stage, curve: OwnKeys | None, options: SocketOptions | None = None) -> None:
        self.bodies: list[bytes] = []
        self.ups = self.downs = self.writable = 0
        self.failures: list[str] = []
        self.dealer = DealerSocket(
            stage.context,
            on_frames=lambda batch: self.bodies.extend(frames[0] for _, frames, _ in batch),
            on_connected=self._up,
            on_disconnected=self._down,
            on_failed=self.failures.append,
            on_writable=self._writable,
            curve=curve,
            options=options,
        )

    def _up(self) -> None:
        self.ups += 1

    def _down(self, route: bytes) -> None:
        assert route == b""
        self.downs += 1

    def _writable(self) -> None:
        self.writable += 1


class Stage:
    """One process's transport: a context, and the keys that are let in."""

    def __init__(self) -> None:
        self.context = TransportContext()
        self.known: dict[bytes, str] = {}  # CURVE public key → name
        self.processes: list[subprocess.Popen[str]] = []
        self.wait_until = wait_until

    def allow(self, domain: str, key: bytes) -> str | None:
        return self.known.get(key)

    def admit(self, name: str) -> CurvePair:
        """A key pair that hubs let in under this name."""
        pair = new_pair()
        self.known[pair.public] = name
        return pair

    def hub(self, address: str = "tcp://127.0.0.1:*", **settings: Any) -> Hub:
        hub = Hub(self, **settings)
        hub.router.bind(address)
        return hub

    def spoke(
        self,
        hub: Hub | None = None,
        name: str = "spoke",
        *,
        curve: OwnKeys | None = None,
        server_keys: ServerKeys | None = None,
        options: SocketOptions | None = None,
    ) -> Spoke:
        spoke = Spoke(self, curve or self.admit(name), options)
        if hub is not None:
            spoke.dealer.connect(hub.router.address, server_keys or hub.pair.public)
        return spoke

    async def joined(self, hub: Hub, name: str = "spoke", **settings: Any) -> tuple[Spoke, bytes]:
        """A connected spoke and its route at the hub."""
        spoke = self.spoke(hub, name, **settings)
        await wait_until(lambda: spoke.ups, f"{name} is connected")
        greeting = f"hello of {name} {len(hub.frames)}".encode()
        assert spoke.dealer.send(b"", greeting) == "ok"
        await wait_until(lambda: greeting in hub.bodies, f"the hub heard {name}")
        return spoke, hub.route_of(greeting)

    @contextmanager
    def raw_peer(self, hub: Hub, **options: bytes | int) -> Iterator[zmq.Socket[bytes]]:
        """A bare DEALER with a key that is let in: a peer that does not keep to our rules."""
        pair = self.admit("raw")
        peer = self.context.zmq.socket(zmq.DEALER)
        peer.linger = 0
        peer.curve_publickey, peer.curve_secretkey = pair
        peer.curve_serverkey = hub.pair.public
        for name, value in options.items():
            setattr(peer, name, value)
        peer.connect(hub.router.address)
        try:
            yield peer
        finally:
            peer.close()

    def process(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        """A Python process with the library on its path; killed at the end of the test."""
        root = str(Path(config.__file__).parent.parent)
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        self.processes.append(process)
        return process

    def dealer_process(self, hub: Hub, name: str) -> subprocess.Popen[str]:
        """A process with one dealer that greets the hub with its name and then sits there."""
        pair = self.admit(name)
        return self.process(
            DEALER_PROGRAM, hub.router.address, *(text.decode() for text in (hub.pair.public, *pair)), name
        )

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        self.context.close()


DEALER_PROGRAM = """
import asyncio, sys
from a2a_zmq.security.curve import CurvePair
from a2a_zmq.transport.context import TransportContext
from a2a_zmq.transport.dealer import DealerSocket
address, server, public, secret, name = (text.encode() for text in sys.argv[1:])
async def main():
    dealer = DealerSocket(
        TransportContext(), on_frames=print, on_connected=lambda: dealer.send(b"", name),
        on_disconnected=print, curve=CurvePair(public, secret),
    )
    dealer.connect(address.decode(), server)
    await asyncio.Event().wait()
asyncio.run(main())
"""

Scenario = Callable[[Stage], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a scenario on a stage of its own; an error in any callback fails the test."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(scenario: Scenario) -> None:
        errors: list[dict[str, Any]] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
            stage = Stage()
            try:
                async with asyncio.timeout(9):
                    await scenario(stage)
            finally:
                stage.close()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
        assert not errors

    return run
