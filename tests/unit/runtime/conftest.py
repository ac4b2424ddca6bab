"""What the tests of the runtime share."""

from __future__ import annotations

import pytest

from tests.unit.runtime.stage import Stage


@pytest.fixture
def stage() -> Stage:
    """An engine that owns its section with fence 7; worker ``w`` is up on the second port."""
    made = Stage()
    made.down.up("w")
    made.turn()
    return made
