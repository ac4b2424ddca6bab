"""The same fixtures as for the integration tests: real daemons, and none left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from a2a_zmq import FleetClient
from daemons.cli.fleet import LocalFleet
from tests.integration.conftest import ledger, no_orphans
from tests.integration.rig import client_of, complaints, user_fleet

__all__ = ["ledger", "no_orphans"]


@pytest.fixture(scope="module")
def fleet(no_orphans: Path) -> Iterator[LocalFleet]:
    """Two workers; a module that needs another fleet has a fixture of this name."""
    with user_fleet(workers=2) as fleet:
        yield fleet
        assert complaints(fleet) == []


@pytest.fixture
def client(fleet: LocalFleet) -> Iterator[FleetClient]:
    """Of a fleet that is whole again."""
    fleet.wait_ready()
    with client_of(fleet) as client:
        yield client
