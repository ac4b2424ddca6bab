"""What ``a2actl status --wait`` waits for."""

from __future__ import annotations

from typing import Any

import pytest

from daemons.cli.readiness import missing


def site(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "up": True, "workers": [{"up": True}], "pending": 0, "in_progress": 0, "waiting": 0, **more}


def away(name: str, away_s: float, **more: Any) -> dict[str, Any]:
    return site(name, up=False, workers=[], away_s=away_s, moving=0, **more)


@pytest.mark.parametrize(
    ("sites", "lacks"),
    [
        ([], "no distributor has joined yet"),
        ([site("d1")], ""),
        ([site("d1"), site("d2", workers=[{"up": False}])], "without a worker: d2"),
        ([site("d1"), away("d2", 5.0)], "not connected: d2"),
        ([site("d1"), away("d2", 90.0)], ""),
        ([site("d1"), away("d2", 90.0, waiting=1)], "not connected: d2"),
        ([away("d1", 90.0), away("d2", 900.0)], "not connected: d1, d2"),
    ],
)
def test_what_a_fleet_lacks(sites: list[dict[str, Any]], lacks: str) -> None:
    assert missing({"coordinator": {"id": "c1", "leading": True}, "distributors": sites}) == lacks


def test_a_coordinator_that_does_not_lead() -> None:
    assert missing({"coordinator": {"id": "c2", "leading": False}}) == "c2 does not lead (yet)"
