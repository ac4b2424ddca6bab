"""A client that nobody closed: when the collector finds it, nothing waits for anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.integration.rig import run

PROGRAM = """
import asyncio, gc
import uvloop
from a2a_zmq import AsyncFleetClient, FleetUnavailable

async def main():
    fleet = AsyncFleetClient("tcp://127.0.0.1:1", request_timeout_s=1)
    try:
        await fleet.submit("noop", {})
    except FleetUnavailable:
        print("unavailable")

RUNNER.run(main())
gc.collect()
print("collected")
"""


@pytest.mark.parametrize("runner", ["asyncio", "uvloop"])
def test_an_asynchronous_client_that_was_never_closed_is_collected(tmp_path: Path, runner: str) -> None:
    """Symptom: the program hung for ever, at any later moment, since pyzmq's context waited for sockets that were
    garbage as well."""
    env = {"A2A_STATE_DIR": str(tmp_path)}
    run("a2actl", "keys", "init", env=env)
    done = run(sys.executable, "-c", PROGRAM.replace("RUNNER", runner), env=env)
    assert (done.returncode, done.stdout) == (0, "unavailable\ncollected\n"), done.stderr
