"""What counts as wrong with the state, and what mends it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from a2a_zmq.interfaces import INBOX, KeyFact
from daemons.coordinator.auditing import Facts, Fleet, ends, judge, judge_keys

LIVE = orjson.dumps({"task_id": "t1", "task_type": "noop", "status": "pending", "metadata": {"client": "alice"}})
WAITS = orjson.dumps(
    {"task_id": "t1", "task_type": "graph:g", "status": "waiting", "metadata": {"client": "alice", "asked": 1}}
)
RESULT = orjson.dumps({"task_id": "t1", "status": "completed", "metadata": {"attempt": 1}})
JUNK = b"{{{"


def facts(home: str | None, *places: str, record: bytes = LIVE, **more: Any) -> Facts:
    """A task whose home (and every other distributor) answers and has it, unless said otherwise."""
    result = more.pop("result", None)
    more.setdefault("held", {home} if home else set())
    more.setdefault("answered", {"d1", "d2"})
    before, after = more.pop("before", result), more.pop("after", result)
    return Facts("t1", home, bool(home), dict.fromkeys(places, record), before, after, **more)


def found(case: Facts) -> list[tuple[str, str, str]]:
    return [(each.kind, each.section, each.repair) for each in judge(case)]


@pytest.mark.parametrize(
    "case",
    [
        facts("d1", "d1"),
        facts("d1", "d1", after=RESULT),  # it ended after we had looked at the live records
        facts("d1", after=RESULT),  # its message is on the way
        facts("d1", "d1", held=set(), answered=set()),  # its distributor is away
        facts("d1", after=RESULT, held=set(), answered=set()),
        facts(INBOX, INBOX),
        facts(None, "d1", held={"d1"}, local=True),  # submitted at the distributor itself
    ],
)
def test_what_is_only_on_its_way_is_not_wrong(case: Facts) -> None:
    assert judge(case) == []


@pytest.mark.parametrize(
    ("case", "wanted"),
    [
        (facts("d1"), ("lost_record", "d1", "put_back")),
        (facts(INBOX), ("lost_record", "inbox", "put_back")),
        (facts("d1", "d1", record=JUNK), ("unreadable_record", "d1", "put_back")),
        (facts("d1", "d1", held=set()), ("assigned_unknown", "d1", "put_back")),
        (facts("d1", result=RESULT, held=set()), ("ended_unheard", "d1", "finish")),
        (facts(INBOX, INBOX, result=RESULT), ("ended_and_live", "inbox", "finish")),
        (facts("d1", "d1", result=RESULT, held=set()), ("ended_and_live", "d1", "finish")),
        (facts("d1", "d1", result=RESULT), ("ended_and_live", "d1", "")),  # it runs again
        (facts("d1", "d1", result=RESULT, held=set(), answered=set()), ("ended_and_live", "d1", "")),
        (facts("d1", "d1", result=RESULT, held=set(), answered=set(), free={"d1"}), ("ended_and_live", "d1", "finish")),
        (facts("d1", "d1", "d2"), ("two_places", "d2", "drop")),
        (facts("d1", "d1", INBOX), ("two_places", "inbox", "drop")),
        (facts("d1", "d1", "d2", held={"d1", "d2"}), ("two_places", "d2", "")),  # both run it
        (facts("d1", "d1", "d2", answered={"d1"}), ("two_places", "d2", "")),  # who knows what d2 does?
        (facts(None, "d1"), ("unknown_task", "d1", "adopt")),
        (facts(None, INBOX), ("unknown_task", "inbox", "adopt")),
        (facts(None, "d1", local=True), ("unknown_task", "d1", "adopt")),  # nobody knows it
        (facts(None, "d1", result=RESULT), ("ended_and_live", "d1", "drop")),
        (facts(None, "d1", result=RESULT, held={"d1"}), ("ended_and_live", "d1", "")),
        (facts(None, "d1", record=WAITS, result=RESULT, held={"d1"}), ("ended_and_live", "d1", "end")),
        (facts(None, "d1", record=WAITS, result=RESULT), ("ended_and_live", "d1", "drop")),
        (facts(None, "d1", record=JUNK), ("unreadable_record", "d1", "")),
    ],
)
def test_what_stays_wrong_is_a_finding(case: Facts, wanted: tuple[str, str, str]) -> None:
    assert found(case) == [wanted]


def test_a_record_that_is_only_elsewhere_is_put_back_and_dropped_there() -> None:
    assert found(facts("d1", "d2")) == [("wrong_place", "d2", "drop"), ("lost_record", "d1", "put_back")]


def test_of_two_unknown_copies_the_one_that_is_worked_on_stays() -> None:
    case = facts(None, "d1", "d2", held={"d2"})
    assert found(case) == [("two_places", "d1", "drop"), ("unknown_task", "d2", "adopt")]


def test_the_result_of_an_earlier_life_ends_nothing() -> None:
    again = {"task_id": "t1", "metadata": {"retried": 1, "floor": 3}}
    assert not ends(orjson.dumps({"metadata": {"attempt": 3}}), again)
    assert ends(orjson.dumps({"metadata": {"attempt": 4}}), again)
    assert ends(RESULT, {"task_id": "t1"})
    assert not ends(None, {})


# ---------------------------------------------------------------- keys


def fleet(**more: Any) -> Fleet:
    return Fleet("coordinator-1", 7, **{"registered": {"d1"}, "up": {"d1"}, "entered": {"d1"}, **more})


def lease(tag: str, value: str, ttl_ms: int = 900) -> KeyFact:
    return KeyFact(f"lease:{{{tag}}}", "string", ttl_ms, value)


LEADER = lease("shared:coordinator", "coordinator-1|h|1|1|b|7")
OWNER = lease("shared:distributor:d1", "d1|h|1|1|b|3")
WHOLE = [
    LEADER,
    OWNER,
    KeyFact("shared:coordinator", "hash", -1),
    KeyFact("shared:distributor:d1", "hash", -1),
    KeyFact("coordinator:{shared:distributor:d1}", "hash", -1),
    KeyFact("tasks:{shared:distributor:d1}", "hash", -1, "", 3),
    KeyFact("results:{shared:distributor:d1}:4", "hash", 5_000),
    KeyFact("results:{shared:distributor:d1}:coordinator:1", "hash", 5_000),
    KeyFact("history:{shared:distributor:d1}", "stream", -1),
    KeyFact("distributors:{shared:coordinator}", "hash", -1),
]


def test_nothing_is_wrong_with_the_keys_of_a_fleet_that_works() -> None:
    assert judge_keys(WHOLE, fleet()) == []


@pytest.mark.parametrize(
    ("keys", "more", "wanted"),
    [
        ([*WHOLE, KeyFact("shared:stray", "string", -1)], {}, ("foreign_key", "", "")),
        ([*WHOLE, KeyFact("tasks:{shared:distributor:d2}", "list", -1)], {}, ("foreign_key", "", "")),
        ([*WHOLE, KeyFact("results:{shared:distributor:d1}:9", "hash", -1)], {}, ("endless_key", "", "")),
        ([*WHOLE, KeyFact("history:{shared:coordinator}", "stream", 100)], {}, ("ending_key", "", "")),
        ([*WHOLE, KeyFact("tasks:{shared:distributor:d2}", "hash", -1, "", 2)], {}, ("unregistered", "d2", "register")),
        ([*WHOLE, KeyFact("shared:distributor:d2", "hash", -1)], {}, ("unregistered", "d2", "")),
        (WHOLE, {"entered": set()}, ("unregistered", "d1", "register")),
        ([OWNER, lease("shared:coordinator", "other|h|1|1|b|8")], {}, ("foreign_lease", "inbox", "")),
        ([OWNER, lease("shared:coordinator", "coordinator-1|h|1|1|b|6")], {}, ("foreign_lease", "inbox", "")),
        ([LEADER, lease("shared:distributor:d1", "no lease at all")], {}, ("foreign_lease", "d1", "")),
        ([LEADER], {}, ("no_lease", "d1", "")),
    ],
)
def test_keys_leases_and_registry(keys: list[KeyFact], more: dict[str, Any], wanted: tuple[str, str, str]) -> None:
    assert [(each.kind, each.section, each.repair) for each in judge_keys(keys, fleet(**more))] == [wanted]


def test_a_foreign_text_of_a_lease_is_shown() -> None:
    found = judge_keys([LEADER, lease("shared:distributor:d1", "no lease at all")], fleet())
    assert [each.what for each in found] == ["lease:{shared:distributor:d1} holds a foreign text: 'no lease at all'"]


def test_a_distributor_that_is_on_its_way_to_us_is_not_wrong() -> None:
    new = [KeyFact("shared:distributor:d2", "hash", -1), lease("shared:distributor:d2", "d2|h|1|1|b|1")]
    assert judge_keys([*WHOLE, *new], fleet()) == []
