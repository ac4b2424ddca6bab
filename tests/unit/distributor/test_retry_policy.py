"""Failed attempts that a user's policy decides on: stored as the built-in rules want it, then moved by the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from daemons.distributor.config import DistributorConfig
from tests.unit.distributor.conftest import TIMEOUT_S
from tests.unit.distributor.harness import COORDINATOR, Site

AT_MOST_S = TIMEOUT_S + 0.1


def why(site: Site, task_id: str) -> list[str]:
    site.from_coordinator("explain", task_id=task_id)
    found: list[str] = site.told(COORDINATOR, "explain")[-1]["why"]
    return found


# ---------------------------------------------------------------- asking


def test_without_a_policy_nobody_is_asked(site: Site) -> None:
    site.worker_up("w1")
    site.assign("a")
    site.fail("w1", "a", 1)
    site.advance(1)
    assert site.consults == []
    assert site.attempt("w1", "a") == 2
    assert site.fallbacks() == {}


def test_the_next_attempt_is_stored_before_the_policy_has_said_anything(asking: Site) -> None:
    asking.fail("w1", "a", 1)
    assert len(asking.consults) == 1
    record = asking.store.live["a"]
    assert (record["status"], record["metadata"]["attempt"], record["retry_count"]) == ("pending", 2, 1)
    assert asking.sent_of("a") == [("w1", 1)], "but it is not sent yet"


def test_the_facts_say_what_failed_how_often_and_who_could_run_it(asking: Site) -> None:
    asking.worker_up("w3", types=["other"], labels={"gpu": "yes"})
    asking.fail("w1", "a", 1, execution_s=1.5)
    [told] = asking.consults[-1].facts["tasks"]
    assert {name: told[name] for name in ("task_id", "attempt", "failures", "max_attempts", "kind", "error")} == {
        "task_id": "a",
        "attempt": 1,
        "failures": 1,
        "max_attempts": 9,
        "kind": "raised",
        "error": "boom",
    }
    assert (told["worker"], told["execution_s"], told["candidates"]) == ("w1", 1.5, ["w1", "w2"])
    assert (told["delay_s"], told["least_s"], told["earlier"]) == (0.075, 0.0, [])
    workers = asking.consults[-1].facts["workers"]
    assert [each["id"] for each in workers] == ["w1", "w2", "w3"]
    assert (workers[2]["task_types"], workers[2]["labels"]) == (["other"], {"gpu": "yes"})
    asking.advise({"a": {"after_s": 0}})
    [(worker, _)] = asking.sent_of("a")[1:]
    asking.fail(worker, "a", 2, kind="timeout")
    [told] = asking.consults[-1].facts["tasks"]
    assert (told["attempt"], told["kind"], told["earlier"]) == (2, "timeout", [{"worker": "w1", "kind": "raised"}])


def test_what_fails_while_it_thinks_is_the_next_batch_and_waits_for_both(asking: Site) -> None:
    asking.assign("c", max_attempts=9)
    asking.fail("w1", "a", 1)
    asking.advance(TIMEOUT_S / 2)
    asking.fail("w2", "b", 1)
    asking.fail("w1", "c", 1)
    assert len(asking.consults) == 1
    asking.advance(TIMEOUT_S / 2 + 0.01)
    assert asking.sent_of("b") == [("w2", 1)]
    asking.advise({})
    assert [each["task_id"] for each in asking.consults[1].facts["tasks"]] == ["b", "c"]
    asking.advance(TIMEOUT_S - 0.01)
    assert asking.sent_of("b") == [("w2", 1)], "its own question is open no longer than it may be"
    asking.advance(0.1)
    assert len(asking.sent_of("b")) == len(asking.sent_of("c")) == 2


def test_an_attempt_after_which_there_is_none_is_not_asked_about(asking: Site) -> None:
    asking.assign("last", max_attempts=1)
    asking.fail("w1", "last", 1)
    asking.fail("w1", "a", 1, retryable=False)
    assert asking.reported() == [("last", "failed"), ("a", "failed")]
    assert asking.consults == []
    assert asking.fallbacks() == {}


def test_a_worker_that_is_lost_is_nothing_to_ask_about(asking: Site) -> None:
    asking.worker_down("w1")
    assert asking.sent_of("a") == [("w1", 1), ("w2", 2)]
    assert asking.consults == []


def test_more_than_a_batch_is_not_asked_about(make_site: Callable[..., Site]) -> None:
    site = make_site(DistributorConfig(policy_timeout_s=TIMEOUT_S, policy_batch=2))
    site.own()
    site.coordinator_up()
    site.worker_up("w1", limit=9)
    site.assign("a", "b", "c", "d")
    site.fail("w1", "a", 1)
    for task_id in "bcd":
        site.fail("w1", task_id, 1)
    assert site.fallbacks() == {"not_asked": 1}
    site.advance(0.2)
    assert site.attempt("w1", "d") == 2


# ---------------------------------------------------------------- answers


def test_it_runs_again_at_once(asking: Site) -> None:
    asking.fail("w1", "a", 1)
    asking.advise({"a": {"after_s": 0}})
    assert [attempt for _, attempt in asking.sent_of("a")] == [1, 2]
    assert asking.fallbacks() == {}
    assert len(asking.meter.observed["policy_seconds/retry"]) == 1


def test_an_answer_that_comes_before_its_record_is_durable_does_not_send_it_sooner(asking: Site) -> None:
    asking.store_up = False
    asking.fail("w1", "a", 1)
    asking.advise({"a": {"after_s": 0}})
    asking.advance(1)
    assert len(asking.sent_of("a")) == 1
    asking.store_up = True
    asking.turn()
    assert len(asking.sent_of("a")) == 2


def test_it_runs_again_later(asking: Site) -> None:
    asking.fail("w1", "a", 1)
    asking.advise({"a": {"after_s": 30}})
    asking.advance(29.9)
    assert len(asking.sent_of("a")) == 1
    assert "as the retry policy decided" in why(asking, "a")[0]
    asking.advance(0.2)
    assert len(asking.sent_of("a")) == 2


def test_an_empty_decision_is_that_of_the_built_in_rules(asking: Site) -> None:
    asking.fail("w1", "a", 1)
    asking.fail("w2", "b", 1)
    asking.advise({"a": {}})
    asking.advance(0.06)
    assert len(asking.sent_of("a")) == 1
    asking.advance(0.03)
    assert len(asking.sent_of("a")) == 2
    asking.advise({"b": None})
    asking.advance(0.1)
    assert len(asking.sent_of("b")) == 2
    assert asking.fallbacks() == {}


@pytest.mark.parametrize("busy", [False, True])
def test_it_runs_elsewhere(asking: Site, busy: bool) -> None:
    if busy:  # by the built-in rules it would go to the other one
        asking.assign("x", "y")
        asking.from_worker("w2", "heartbeat", limit=2)
    asking.fail("w1", "a", 1)
    asking.advise({"a": {"after_s": 0, "avoid": ["w1"]}})
    if busy:
        assert len(asking.sent_of("a")) == 1
        assert why(asking, "a")[-1] == "as the retry policy decided, it is kept away from w1"
        asking.from_worker("w2", "heartbeat", limit=5)
    assert asking.sent_of("a") == [("w1", 1), ("w2", 2)]
    asking.fail("w2", "a", 2)
    asking.advise(reason="raised")
    asking.advance(1)
    assert asking.sent_of("a")[2:] == [("w1", 3)], "a decision holds for one attempt"


def test_a_worker_to_avoid_is_better_than_none(asking: Site) -> None:
    asking.fail("w1", "a", 1)
    asking.advise({"a": {"after_s": 1, "avoid": ["w1"]}})
    asking.worker_down("w2")
    asking.advance(2)
    assert asking.sent_of("a")[1:] == [("w1", 2)]


def test_it_waits_for_the_other_worker_until_that_one_is_gone(asking: Site) -> None:
    asking.from_worker("w2", "heartbeat", limit=1)
    asking.fail("w1", "a", 1)
    asking.advise({"a": {"after_s": 0, "avoid": ["w1"]}})
    asking.advance(5)
    assert len(asking.sent_of("a")) == 1
    asking.worker_down("w2")
    assert asking.sent_of("a")[1:] == [("w1", 2)]


def test_it_goes_before_others(asking: Site) -> None:
    asking.from_worker("w1", "heartbeat", limit=1)
    asking.from_worker("w2", "heartbeat", limit=1)
    asking.assign("c", "d")
    asking.fail("w1", "a", 1)
    asking.advise({"a": {"priority": 10, "after_s": 0}})
    asking.complete("w1", "c")
    assert [task_id for task_id, _ in asking.got("w1")] == ["a", "c", "a"]
    assert asking.store.live["a"]["metadata"]["priority"] == 10


def test_it_is_given_up_with_a_reason(asking: Site) -> None:
    asking.fail("w1", "a", 1)
    asking.advise({"a": {"give_up": "the site\nis down"}})
    dead = asking.store.results["a"]
    assert (dead["status"], dead["metadata"]["error_kind"]) == ("failed", "given_up")
    assert dead["error"] == "given up by the retry policy: the site is down; the last attempt: boom"
    assert (dead["retry_count"], dead["payload"]) == (1, {"name": "a"})
    assert dead["metadata"]["attempts"][-1]["worker"] == "w1"
    assert asking.reported() == [("a", "failed")]
    asking.advance(60)
    assert len(asking.sent_of("a")) == 1


def test_it_may_be_given_up_before_its_next_attempt_is_durable(asking: Site) -> None:
    asking.store_up = False
    asking.fail("w1", "a", 1)
    asking.advise({"a": {"give_up": "no"}})
    asking.store_up = True
    asking.turn()
    assert asking.reported() == [("a", "failed")]
    assert "a" not in asking.store.live


def test_the_budget_of_retries_holds_for_what_it_decides(make_site: Callable[..., Site]) -> None:
    site = make_site(
        DistributorConfig(policy_timeout_s=TIMEOUT_S, retry_budget_per_s=0.1, retry_budget_burst_s=10, max_attempts=9)
    )
    site.own()
    site.coordinator_up()
    site.worker_up("w1", limit=9)
    site.assign("a", "b")
    for task_id in "ab":
        site.fail("w1", task_id, 1)
        site.advise({task_id: {"after_s": 0}})
    assert site.consults[-1].facts["tasks"][0]["least_s"] > 1
    assert (len(site.sent_of("a")), len(site.sent_of("b"))) == (2, 1)
    site.advance(60)
    assert len(site.sent_of("b")) == 2


# ---------------------------------------------------------------- where it fails


def test_a_late_policy_is_overtaken_and_its_answer_ignored(asking: Site) -> None:
    asking.fail("w1", "a", 1)
    assert "the retry policy is asked" in why(asking, "a")[0]
    asking.advance(AT_MOST_S)
    assert len(asking.sent_of("a")) == 2
    assert asking.fallbacks() == {"late": 1}
    asking.advise({"a": {"give_up": "too late"}})
    assert asking.reported() == []


@pytest.mark.parametrize("reason", ["raised", "late", "busy", "died", "invalid"])
def test_a_failed_policy_is_replaced_at_once_by_the_built_in_rules(asking: Site, reason: str) -> None:
    asking.fail("w1", "a", 1)
    asking.advise(reason=reason)
    asking.advance(0.08)
    assert len(asking.sent_of("a")) == 2
    assert asking.fallbacks() == {reason: 1}
    assert [line.fields["policy"] for line in asking.logs if line.event == "policy_failed"] == ["retry"]


@pytest.mark.parametrize("answer", [None, [], [["a", {}]], "a", 7])
def test_an_answer_of_another_form_is_invalid(asking: Site, answer: Any) -> None:
    asking.fail("w1", "a", 1)
    asking.advise(answer)
    asking.advance(0.08)
    assert len(asking.sent_of("a")) == 2
    assert asking.fallbacks() == {"invalid": 1}


def test_each_wrong_decision_is_replaced_by_itself(asking: Site) -> None:
    asking.assign("c", "d", max_attempts=9)
    asking.fail("w1", "a", 1)
    asking.advise({})
    for task_id in "bcd":
        worker = asking.sent_of(task_id)[0][0]
        asking.fail(worker, task_id, 1)
    asking.advance(AT_MOST_S)
    asking.advise({"b": {"after_s": 60}, "c": {"after_s": -1}, "d": {"avoid": ["w9"]}, "zz": {"give_up": "who?"}})
    asking.advance(1)
    assert {task_id: len(asking.sent_of(task_id)) for task_id in "bcd"} == {"b": 2, "c": 2, "d": 2}


def test_after_three_failures_nothing_waits_for_it_for_a_while(asking: Site) -> None:
    for attempt in (1, 2, 3):
        asking.fail(asking.sent_of("a")[-1][0], "a", attempt)
        asking.advise(reason="raised")
        asking.advance(2)
    asking.fail("w2", "b", 1)
    assert len(asking.consults) == 3
    assert asking.fallbacks() == {"raised": 3, "not_asked": 1}
    asking.advance(5)
    asking.fail(asking.sent_of("b")[-1][0], "b", 2)
    assert len(asking.consults) == 4
