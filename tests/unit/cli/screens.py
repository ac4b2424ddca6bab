"""Fleets as ``fleet_status`` tells of them, and what lines look like at a width."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from daemons.cli.tables import Line, width_of

LONG = "a-very-long-agent-name.of-the-kind-that-generators-make_0123456"  # 63 characters, as long as ids get


def worker(name: str, *, loaded: bool = True, **more: Any) -> dict[str, Any]:
    numbers = {"suspect": "", "draining": False, "running": 2, "held": 5, "in_slots": 2, "done": 100, "failed": 1}
    told = {"load": {"id": name, **numbers, "run_s": 12.5, "stay_s": 25.0}} if loaded else {}
    base = {"id": name, "up": True, "slots": 8, "task_types": ["noop"], "labels": {"gpu": "yes"}, "version": "0.1.0"}
    return base | told | more


def site(name: str, *workers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": name, "up": True, "status": "busy", "version": 3, "suite": "0.1.0", "clock_off_s": 0.001,
        "workers": list(workers), "pending": 12_345, "in_progress": 16, "waiting": 0, "slots": 16,
        "task_types": ["noop"], **more,
    }  # fmt: skip


def fleet(*sites: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "coordinator": {
            "id": "coordinator-1", "leading": True, "leader": "coordinator-1", "draining": False, "fence": 2,
            "epoch": "e", "time": "2026-01-02T03:04:05Z", "uptime_s": 7_512.0, "clients": 3, "inbox": 2,
            "live": 12_363, "dead_letters": 4, "late_results": 0, "task_types": ["noop"],
        },
        "standbys": [],
        "distributors": list(sites),
        "tasks": {"pending": 12_345, "in_progress": 16, "waiting": 2, "completed": 1_204_311, "failed": 12,
                  "abandoned": 0},
        "store": {"available": True, "spooling": False, "reason": "", "unpersisted": 0, "batches": 7},
        **more,
    }  # fmt: skip


def texts(lines: Iterable[Line]) -> list[str]:
    return ["".join(cell.text for cell in line) for line in lines]


def assert_fits(lines: list[str], width: int) -> None:
    """No line is wider than the terminal; one that is a single word may be, because it is to be copied whole."""
    for line in lines:
        assert width_of(line) <= width or " " not in line.strip(), f"{width_of(line)} columns: {line!r}"
