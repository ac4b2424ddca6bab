"""``a2actl chaos`` on real processes: what it breaks is mended, and its account of it adds up."""

from __future__ import annotations

import orjson

from daemons.cli.chaos.run import Options, run_own
from tests.integration.rig import run


def test_a_short_run_keeps_every_promise() -> None:
    """Times are for benchmarks: a busy host may take long. That nothing is lost or repeated holds anyhow."""
    faults = ("worker-kill", "redis-lossy")
    found = run_own(Options(duration_s=10, seed=1, faults=faults, rate=60, workers=2, once=True, slack=100), quiet=True)
    assert found["ok"], found
    assert found["accepted"] == found["results"] > 60
    assert found["runs"] >= found["accepted"]
    assert sorted(found["faults"]) == sorted(faults)
    assert found["faults"]["worker-kill"]["recovered_ms"]["n"] > 0


def test_an_unknown_fault_is_named() -> None:
    done = run("a2actl", "chaos", "--faults", "worker-kill,earthquake")
    assert done.returncode == 78
    assert done.stderr.startswith("a2actl: --faults: 'earthquake' is no fault; there are worker-kill, ")
    assert len(done.stderr.splitlines()) == 1


def test_a_fleet_that_is_not_there_is_not_broken() -> None:
    env = {"A2A_COORDINATOR_ADDRESS": "tcp://127.0.0.1:9", "A2A_TOKEN_SECRET": "x" * 32, "A2A_USE_MTLS": "false"}
    done = run("a2actl", "chaos", "--fleet", "--timeout", "0.5", "--json", env=env)
    assert done.returncode == 69, done.stderr
    assert not done.stdout or not orjson.loads(done.stdout).get("ok")
