"""The distributor's surroundings as a fixture; invariants are checked when a test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from daemons.distributor.config import DistributorConfig
from tests.unit.distributor.fakes import Store
from tests.unit.distributor.harness import Site

TIMEOUT_S = 0.5  # of the policy


@pytest.fixture
def make_site() -> Iterator[Callable[..., Site]]:
    """Make a core that owns nothing yet; every one that was made is checked at the end."""
    made: list[Site] = []

    def make(
        config: DistributorConfig | None = None, store: Store | None = None, start: float = 1000.0, **more: Any
    ) -> Site:
        site = Site(config, store, start, **more)
        made.append(site)
        return site

    yield make
    if made:
        made[-1].check()  # an earlier one is a process that is gone; its store lives on in the last


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A core that owns its section and has a coordinator."""
    site = make_site()
    site.own()
    site.coordinator_up()
    return site


@pytest.fixture
def asking(make_site: Callable[..., Site]) -> Site:
    """A distributor with a policy, two workers and two tasks: ``a`` on the first, ``b`` on the second."""
    site = make_site(DistributorConfig(policy_timeout_s=TIMEOUT_S))
    site.own()
    site.coordinator_up()
    site.worker_up("w1", limit=5)
    site.worker_up("w2", limit=5)
    site.assign("a", max_attempts=9)
    site.assign("b", max_attempts=9)
    assert (site.got("w1"), site.got("w2")) == ([("a", 1)], [("b", 1)])
    return site
