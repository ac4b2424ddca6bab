"""What the doctor makes of answers: of the coordinator's audit and status, and of Redis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from a2a_zmq.clock import iso
from daemons.cli import checks, redis_checks, state_checks
from daemons.settings_sources import suite_version

ROW = {"kind": "lost_record", "task_id": "t1", "section": "d1", "what": "it is gone", "repair": "put_back"}


def answer(*rows: dict[str, Any], repaired: int = 0, **more: Any) -> dict[str, Any]:
    return {"checked": 7, "findings": list(rows), "total": len(rows), "repaired": repaired, "unchecked": [], **more}


def test_a_consistent_state_is_one_line() -> None:
    check = state_checks.judged(answer(unchecked=["d2's memory: it is not connected"]), repair=False)
    assert check.ok
    assert check.text == "7 tasks checked, consistent; not looked at: d2's memory: it is not connected"


@pytest.mark.parametrize(
    ("rows", "repaired", "repair", "ok"),
    [
        ([ROW], 0, False, False),
        ([{**ROW, "repaired": True}], 1, True, True),
        ([{**ROW, "repaired": True}, {**ROW, "repair": ""}], 1, True, False),
    ],
)
def test_it_is_well_when_all_is_repaired(rows: list[dict[str, Any]], repaired: int, repair: bool, ok: bool) -> None:
    check = state_checks.judged(answer(*rows, repaired=repaired), repair=repair)
    assert check.ok is ok
    assert bool(check.fix) is not ok


def test_twenty_findings_are_listed() -> None:
    check = state_checks.judged(answer(*[ROW] * 30), repair=False)
    shown = state_checks.lines(check)
    assert shown[0] == "lost_record: t1 in d1: it is gone [can be repaired: put_back]"
    assert len(shown) == 21
    assert "10 more" in shown[-1]


def fleet(**more: Any) -> dict[str, Any]:
    one = {"id": "d1", "up": True, "suite": suite_version(), "clock_off_s": 0.0, "workers": [], **more}
    return {"coordinator": {"id": "c1", "time": iso(1_000.0)}, "distributors": [one]}


def test_clocks_that_differ_are_named() -> None:
    assert checks._clocks(fleet(), 1_000.1, 0.01).ok
    apart = checks._clocks(fleet(clock_off_s=-4.0), 1_000.1, 0.01)
    assert not apart.ok
    assert "d1 is 4.1 s behind" in apart.text
    assert "c1" not in apart.text


def test_the_store_check_says_that_a_standby_keeps_the_spool_off_before_and_in_an_outage() -> None:
    off = {"spool_off": "c2 may take over"}
    [well] = checks._store_of({"store": {"available": True, **off}})
    assert (well.ok, well.text) == (
        True,
        "the coordinator can write it; while it is away no new tasks are taken: c2 may take over",
    )
    [away] = checks._store_of({"store": {"available": False, "reason": "connection", **off}})
    assert not away.ok
    assert away.text.endswith("connection; while it is away no new tasks are taken: c2 may take over")
    for reason, word in (
        ("readonly", "replica"),
        ("noauth", "password"),
        ("spool: no room", "make room"),
        ("x", "start"),
    ):
        [away] = checks._store_of({"store": {"available": False, "reason": reason}})
        assert word in away.fix
    [plain] = checks._store_of({"store": {"available": True}})
    assert plain.text == "the coordinator can write it"


def test_versions_that_differ_are_named() -> None:
    assert checks._versions(fleet()).ok
    workers = [{"id": "w1", "up": True, "version": "0.0.1"}, {"id": "w2", "up": False, "version": "0.0.2"}]
    mixed = checks._versions(fleet(workers=workers))
    assert not mixed.ok
    assert "0.0.1: w1" in mixed.text
    assert "0.0.2" not in mixed.text


def test_workers_that_are_away_are_named() -> None:
    here = {"id": "w1", "up": True}
    assert not checks._workers(fleet(workers=[here])).fix
    check = checks._workers(fleet(workers=[here, {"id": "w2", "up": False}, {"id": "w1", "up": False}]))
    assert check.ok
    assert check.text.endswith("workers 1; were here a while ago: w2")
    assert "log" in check.fix
    assert not checks._workers(fleet(workers=[{"id": "w2", "up": False}])).ok


def test_how_a_coordinator_is_started_is_said_as_the_host_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    monkeypatch.setattr(checks, "SYSTEM", tmp_path / "none")
    assert "`supervisord -c config/supervisord.conf`" in checks._port(address).fix
    monkeypatch.setattr(checks, "SYSTEM", tmp_path)
    assert "`systemctl start a2a.target`" in checks._port(address).fix


@pytest.mark.parametrize(
    ("info", "settings", "says"),
    [
        ({"aof_enabled": 0}, {}, "keeps no append-only file"),
        ({}, {"maxmemory-policy": "allkeys-lru"}, "evicts keys"),
        ({"aof_last_write_status": "err"}, {}, "append-only file could not be written"),
        ({"used_memory": 95 << 20, "maxmemory": 100 << 20}, {}, "95 MiB used of 100"),
        ({"redis_version": "6.2.14"}, {}, "redis 6.2.14 is too old"),
    ],
)
def test_a_redis_that_may_lose_or_refuse_is_named(info: dict[str, Any], settings: dict[str, str], says: str) -> None:
    found = {"redis_version": "7.2.0", "aof_enabled": 1, "used_memory": 5 << 20, "maxmemory": 0}
    assert redis_checks._settings("here", lambda: found, {"maxmemory-policy": "noeviction"}.get).ok
    check = redis_checks._settings("here", lambda: found | info, settings.get)
    assert not check.ok
    assert says in check.text
    assert check.fix
