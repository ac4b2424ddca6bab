"""Fleets of real daemons, and the check that none of them outlives its module."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from a2a_zmq import FleetClient
from daemons.cli.fleet import LocalFleet
from daemons.redis.embedded import EmbeddedRedis
from tests.integration.rig import MARK, client_of, our_processes, user_fleet

ORPHAN_PATIENCE_S = 5.0


@pytest.fixture(scope="module", autouse=True)
def no_orphans(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Everything that a module starts is gone when it is over, and so are its files."""
    tmp_path_factory.getbasetemp()  # pytest's own directory is made outside of ours
    mark = secrets.token_hex(8)
    base = Path(tempfile.mkdtemp(prefix="a2a-it-"))
    before, tempfile.tempdir = tempfile.tempdir, str(base)
    os.environ[MARK] = mark
    try:
        yield base
        # An executor child notices its parent's death at the end of its pipe: a moment after the worker is gone.
        until = time.monotonic() + ORPHAN_PATIENCE_S
        while (left := our_processes(mark, base)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not left, "processes outlived their module"
    finally:
        for pid in our_processes(mark, base):
            os.kill(pid, 9)
        del os.environ[MARK]
        tempfile.tempdir = before
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="module")
def fleet(no_orphans: Path) -> Iterator[LocalFleet]:
    """Two workers with user code; worker-2 has the label ``gpu=yes``."""
    with user_fleet(workers=2, env_of={"worker-2": {"A2A_WORKER_LABELS": "gpu=yes"}}) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def client(fleet: LocalFleet) -> Iterator[FleetClient]:
    """An ordinary client of the module's fleet."""
    with client_of(fleet) as client:
        yield client


@pytest.fixture(scope="module")
def operator(fleet: LocalFleet) -> Iterator[FleetClient]:
    """An operator's client of the module's fleet."""
    with client_of(fleet, operator=True) as client:
        yield client


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Where handlers write down their runs."""
    return tmp_path / "ledger"


@pytest.fixture(scope="module")
def server(no_orphans: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that asks for a password, and no fleet."""
    with EmbeddedRedis(password="right one") as server:
        yield server
