"""The coordinator's surroundings as fixtures; invariants are checked when a test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.coordinator.fakes import Store
from tests.unit.coordinator.harness import World


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    """Make a core that owns nothing yet. Of several, the last one's invariants are checked: the others have died."""
    made: list[World] = []

    def make(store: Store | None = None, **limits: Any) -> World:
        world = World(store, **limits)
        made.append(world)
        return world

    yield make
    if made:
        made[-1].check()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A leading coordinator without peers."""
    world = make_world()
    world.own()
    return world


@pytest.fixture
def fleet(world: World) -> World:
    """A leading coordinator with distributor ``d1`` (task type ``noop``) and client ``alice~1``."""
    world.distributor("d1")
    world.client("alice~1")
    return world
