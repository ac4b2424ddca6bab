"""Relays in a process of their own, which is told what to do by lines of JSON.

What a relay adds to a way is part of every time that is measured, and in the process of the load and the ledger it
waited for these: tens of milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from random import Random
from typing import Any, Final, Self

import orjson

from daemons.cli.chaos.relay import CUT, LATE, PASS, REPLY_LOST, REQUEST_LOST, Relay
from daemons.runtime.slices import short_slices

ANSWER_S: Final = 10.0  # for the process to do something; it is killed then
LOSSES: Final = (REPLY_LOST, REQUEST_LOST, CUT, LATE)


class RemoteRelay:
    """A relay of that process.

    Attributes:
        host, port: where it listens.
    """

    def __init__(self, relays: Relays, number: int, host: str, port: int) -> None:
        self._relays = relays
        self._number = number
        self.host = host
        self.port = port

    def aim(self, host: str, port: int) -> None:
        """Where it leads to; before the first connection comes."""
        self._relays.ask("aim", self._number, host, port)

    def let(self, *, there: bool = True, back: bool = True) -> None:
        """Which directions pass: to the target, and back."""
        self._relays.ask("let", self._number, there, back)

    def cut(self) -> None:
        """Break all connections that there are."""
        self._relays.ask("cut", self._number)

    def lose(self, share: float, seed: float = 0.0) -> None:
        """So much of the chunks that carry an EXEC go wrong, in one of the ways of :data:`LOSSES`."""
        self._relays.ask("lose", self._number, share, seed)

    def opened(self) -> int:
        """Connections so far."""
        return int(self._relays.ask("opened", self._number))


class Relays:
    """The process; each request waits until it is done."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # In a session of its own, so that Ctrl-C ends it when the fleet is gone, and not before.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "daemons.cli.chaos.relays"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()  # it ends by that, also if we are killed
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        process.stdout.close()

    def add(self, host: str = "127.0.0.1") -> RemoteRelay:
        """A new relay that listens on this address; it still has to be told its target."""
        number, port = self.ask("add", host)
        return RemoteRelay(self, number, host, port)

    def ask(self, *request: object) -> Any:
        """Send one request; returns its answer.

        Raises:
            RuntimeError: the process has ended, or said why it could not do it.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = threading.Timer(ANSWER_S, process.kill)
        deadline.start()
        try:
            process.stdin.write(orjson.dumps(request) + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            deadline.cancel()
        if not line:
            raise RuntimeError(f"the relays' process has ended: status {process.wait(5)}")
        answer = orjson.loads(line)
        if answer["error"]:
            raise RuntimeError(f"relays: {request[0]}: {answer['error']}")
        return answer["value"]


async def serve() -> None:
    """Do what comes on standard input, until that ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    relays: list[Relay] = []
    while line := await reader.readline():
        answer: dict[str, Any] = {"value": None, "error": ""}
        try:
            answer["value"] = await _do(relays, *orjson.loads(line))
        except OSError as error:
            answer["error"] = str(error)
        os.write(1, orjson.dumps(answer) + b"\n")
    for relay in relays:
        await relay.stop()


async def _do(relays: list[Relay], what: str, *rest: Any) -> object:
    if what == "add":
        relays.append(await Relay(host=rest[0]).start())
        return len(relays) - 1, relays[-1].port
    relay = relays[rest[0]]
    match what:
        case "aim":
            relay.target = (rest[1], rest[2])
        case "let":
            relay.let(there=rest[1], back=rest[2])
        case "cut":
            relay.cut()
        case "lose":
            share, chance = rest[1], Random(rest[2])
            relay.plan = lambda: chance.choice(LOSSES) if chance.random() < share else PASS
        case "opened":
            return relay.opened
        case _:
            raise AssertionError(what)
    return None


if __name__ == "__main__":
    import uvloop

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    short_slices()  # as whom it stands between: what waits for the processor here is measured as theirs
    uvloop.run(serve())
