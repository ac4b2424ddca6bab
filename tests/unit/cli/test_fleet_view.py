"""``status`` and ``top`` on terminals of several sizes, with fleets of several kinds."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import pytest

from daemons.cli import readiness
from daemons.cli.fleet_commands import Order
from daemons.cli.fleet_view import SORTS, View, status_lines, top_lines
from daemons.cli.invocation import EX_TEMPFAIL, CommandFailed
from daemons.cli.rates import Sample, picture
from tests.unit.cli.screens import LONG, assert_fits, fleet, site, texts, worker

FLEETS: dict[str, dict[str, Any]] = {
    "plain": fleet(site("distributor-1", worker("worker-1"), worker("worker-2", up=False))),
    "empty": fleet(),
    "nothing known": {},
    "long ids": fleet(site(LONG, worker(LONG + "1"), worker(LONG + "2"))),
    "away": fleet(
        site("distributor-1", up=False, away_s=12.0, failover_in_s=18.0, moving=0),
        store={"available": False, "spooling": True, "reason": "connection refused"},
        standbys=[{"id": "coordinator-2", "distributors": 1}],
    ),
    "many": fleet(*(site(f"distributor-{n}", *(worker(f"worker-{n}-{m}") for m in range(20))) for n in range(5))),
}


@pytest.mark.parametrize("name", FLEETS)
@pytest.mark.parametrize("width", [80, 200])
def test_status_fits(name: str, width: int) -> None:
    shown = FLEETS[name]
    lines = texts(status_lines(shown, width))
    assert_fits(lines, width)
    for one in shown.get("distributors", ()):
        for agent in (one, *one["workers"]):
            assert any(agent["id"] in line.split() for line in lines), "its id can be copied"


@pytest.mark.parametrize("name", [name for name in FLEETS if name != "nothing known"])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (40, 10)])
def test_top_fits(name: str, width: int, height: int) -> None:
    found = picture(Sample(FLEETS[name], 10.0), Sample(FLEETS[name], 12.0))
    lines = texts(top_lines(found, View(), width, height))
    assert_fits(lines, width)
    assert len(lines) <= height or height == 10
    assert any("q quit" in line for line in lines)


def test_status_says_it_in_words_too() -> None:
    text = "\n".join(texts(status_lines(FLEETS["away"], 120)))
    assert "store spooling (Redis is away" in text
    assert "standing by: coordinator-2" in text
    assert "distributor-1 has been away for 12 s; its tasks go to others that can run them in 18 s" in text
    plain = "\n".join(texts(status_lines(FLEETS["plain"], None)))
    assert "coordinator coordinator-1 leads, up 2 h 5 min, store available" in plain
    assert "dead letters: 4 (a2actl tasks --dead)" in plain
    assert "1,204,311 completed" in plain


def test_status_says_why_no_tasks_are_taken_while_redis_is_away() -> None:
    store = {"available": False, "spooling": False, "reason": "connection", "spool_off": "c2 may take over"}
    text = "\n".join(texts(status_lines({**FLEETS["plain"], "store": store}, 120)))
    assert "no new tasks are taken while Redis is away: c2 may take over" in text


def test_scrolling_shows_every_agent() -> None:
    found = picture(None, Sample(FLEETS["many"], 1.0))
    view, seen = View(), set()
    for _ in range(30):
        seen |= {line.split()[0] for line in texts(top_lines(found, view, 80, 24)) if line.strip()}
        view.first += 10
    agents = {row["id"] for row in found["agents"]}
    assert agents <= seen
    view.first = -5
    assert "distributor-0" in "\n".join(texts(top_lines(found, view, 80, 24)))


def test_every_order_can_be_asked_for_and_keeps_workers_with_their_distributor() -> None:
    assert {order.value for order in Order} == set(SORTS)
    slow, fast = worker("w-a"), worker("w-b")
    before = fleet(site("d1", slow, fast), site("d2", worker("w-c"), pending=99_999))
    grown = {**fast, "load": {**fast["load"], "done": 300, "stay_s": 26.0}}
    slower = {**slow, "load": {**slow["load"], "done": 101, "stay_s": 35.0}}
    after = fleet(site("d1", slower, grown), site("d2", worker("w-c"), pending=99_999))
    found = picture(Sample(before, 0.0), Sample(after, 2.0))

    def order(sort: str, *, reverse: bool = False) -> list[str]:
        lines = texts(top_lines(found, View(sort=sort, reverse=reverse), 120, None))
        return [line.split()[0] for line in lines if line.split()[:1] and line.split()[0][:2] in ("d1", "d2", "w-")]

    assert order("agent") == ["d1", "w-a", "w-b", "d2", "w-c"]
    assert order("agent", reverse=True) == ["d2", "w-c", "d1", "w-b", "w-a"]
    assert order("rate") == ["d1", "w-b", "w-a", "d2", "w-c"]
    assert order("load") == ["d2", "w-c", "d1", "w-a", "w-b"]
    assert order("latency") == ["d1", "w-a", "w-b", "d2", "w-c"]


def test_names_with_numbers_are_in_the_order_of_their_numbers() -> None:
    shown = fleet(site("d-1", *(worker(f"w-{number}") for number in (10, 2, 1))))
    for lines in (status_lines(shown, 80), top_lines(picture(None, Sample(shown, 1.0)), View(), 80, None)):
        assert [line.split()[0] for line in texts(lines) if line.startswith("  w-")] == ["w-1", "w-2", "w-10"]


def test_trouble_is_said_above_the_table() -> None:
    found = picture(None, Sample(FLEETS["plain"], 1.0))
    lines = texts(top_lines(found, View(note="no news for 5 s: nothing answers", paused=True), 80, 24))
    assert "paused (p goes on)" in lines
    assert "no news for 5 s: nothing answers" in lines
    assert len(lines) <= 24


@pytest.mark.parametrize(
    ("status", "lacks"),
    [
        (fleet(site("d-1", worker("w-1"), worker("w-2", up=False)), site("d-2", worker("w-3"))), ""),
        ({"coordinator": {"id": "c-1", "leading": False}}, "c-1 does not lead (yet)"),
        (fleet(), "no distributor has joined yet"),
        (fleet(site("d-1", worker("w-1")), site("d-2", worker("w-3"), up=False)), "not connected: d-2"),
        (fleet(site("d-1", worker("w-1")), site("d-2"), site("d-3", worker("w-4", up=False))), "a worker: d-2, d-3"),
    ],
)
def test_a_fleet_is_ready_when_each_distributor_has_a_worker_and_what_is_missing_is_named(
    status: dict[str, Any], lacks: str
) -> None:
    found = readiness.missing(status)
    assert found.endswith(lacks)
    assert bool(found) is bool(lacks)


class Answers:
    """An invocation, and a client that answers one after the other; the last one again and again."""

    json = True

    def __init__(self, timeout_s: float, *answers: dict[str, Any]) -> None:
        self.timeout_s, self.answers = timeout_s, list(answers)

    def client(self) -> Any:
        return nullcontext(self)

    def status(self) -> dict[str, Any]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def test_waiting_for_the_fleet_ends_with_it_or_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "POLL_S", 0.001)
    whole = fleet(site("d-1", worker("w-1")))
    assert readiness.wait_ready(cast("Any", Answers(30.0, fleet(), fleet(site("d-1")), whole))) is whole
    with pytest.raises(CommandFailed, match=r"not ready after 0\.01 s: without a worker: d-1") as raised:
        readiness.wait_ready(cast("Any", Answers(0.01, fleet(site("d-1")))))
    assert raised.value.status == EX_TEMPFAIL
