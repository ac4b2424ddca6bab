"""A client sends more than the fleet may hold: it is told to wait, and does; the others do not notice."""

from __future__ import annotations

from pathlib import Path

from daemons.cli.fleet import LocalFleet
from tests.integration.rig import Load, check_recorded_once, client_of, complaints, user_fleet, wait_until

LIMIT = 2_000
FLOOD = 5_000


def resident_mb(fleet: LocalFleet, name: str) -> float:
    pages = int(Path(f"/proc/{fleet.pids[name]}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def test_a_flood_is_held_back_and_others_go_on(no_orphans: Path, ledger: Path) -> None:
    env = {"A2A_MAX_LIVE_TASKS": str(LIMIT), "A2A_WORKER_ASYNC_SLOTS": "8", "A2A_WORKER_MAX_HELD": "32"}
    names = ("coordinator-1", "distributor-1", "worker-1", "worker-2")
    with user_fleet(workers=2, env=env) as fleet, client_of(fleet) as flooder, client_of(fleet, operator=True) as other:
        with Load(flooder, ledger, seconds=0.01, group=250, pause_s=0.0, waiting=FLOOD, pad="x" * 1_000) as load:
            wait_until(lambda: load.submitted >= LIMIT, "the flood is under way")
            before = {name: resident_mb(fleet, name) for name in names}
            overtaken = []
            for number in range(20):
                done = load.done
                payload = {"n": number, "seconds": 0, "ledger": str(ledger)}
                assert other.submit("counted", payload).result(10) == number
                overtaken.append(load.done - done)
                counts = other.status()["tasks"]
                assert counts["pending"] + counts["in_progress"] <= LIMIT
            # Had it waited for its turn behind the flood, some 1,600 tasks would have come before each of its own.
            assert sorted(overtaken)[len(overtaken) // 2] < 400, overtaken
            wait_until(lambda: load.submitted >= FLOOD, "the flood went on whenever there was room")
            grown = {name: resident_mb(fleet, name) - before[name] for name in names}
            print("megabytes more after the flood:", {name: round(more, 1) for name, more in grown.items()}, overtaken)
            assert max(grown.values()) < 60, grown
            load.finish()
        check_recorded_once(fleet, load.handles)
        assert complaints(fleet) == []
