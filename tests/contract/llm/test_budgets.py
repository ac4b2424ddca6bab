"""Budgets that the whole fleet shares, on each server program: what may begin, who is next, what comes back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from a2a_zmq.errors import ConfigError, StoreUnavailable
from a2a_zmq.llm import keys
from a2a_zmq.llm.budget import Budget, Connection
from a2a_zmq.llm.providers import Provider


def test_no_more_requests_begin_in_a_minute_whoever_sends_them(fleet: Callable[..., Any]) -> None:
    shared = fleet(requests_per_minute=5)
    processes = [shared.process() for _ in range(3)]
    said = [shared.ask(f"c{number}", budget=processes[number % 3]) for number in range(8)]
    assert said == [""] * 5 + ["requests"] * 3
    for number in range(5):
        shared.settle(f"c{number}", 3)
    assert shared.ask("c5") == "requests", "they were sent all the same"
    shared.time_passes(59)
    assert shared.ask("c5") == "requests"
    shared.time_passes(3)
    assert [shared.ask(f"c{number}") for number in (5, 6, 7)] == ["", "", ""]


def test_it_says_when_there_will_be_room(fleet: Callable[..., Any]) -> None:
    shared = fleet(requests_per_minute=2)
    shared.ask("early")
    shared.time_passes(40)
    shared.ask("late")
    waits = [shared.process().ask(f"next-{number}", 1).result(10).wait_s for number in range(2)]
    assert 15 < waits[0] <= 21, "when the early one is a minute ago"
    assert 55 < waits[1] <= 61


def test_tokens_are_reserved_and_then_corrected(fleet: Callable[..., Any]) -> None:
    shared = fleet(tokens_per_minute=100)
    assert shared.ask("a", 60) == ""
    assert shared.ask("b", 60) == "tokens"
    shared.settle("a", 30)
    assert shared.ask("b", 60) == ""
    shared.settle("b", 90)
    assert shared.ask("c", 1) == "tokens", "it used more than it had reserved"
    shared.time_passes(61)
    assert shared.ask("c", 1) == ""
    shared.settle("c")
    shared.ask_nothing()
    second = next(field for field in shared.redis.hkeys(shared.key("window")) if field.startswith("t "))
    assert shared.redis.hget(shared.key("window"), second) == "1", "nobody knows, so what was reserved counts"


def test_a_request_that_is_larger_than_the_budget_gets_all_of_it(fleet: Callable[..., Any]) -> None:
    shared = fleet(tokens_per_minute=100)
    assert shared.ask("small", 1) == ""
    assert shared.ask("large", 5000) == "tokens"
    shared.time_passes(61)
    assert shared.ask("large", 5000) == ""


def test_only_so_many_run_at_a_time(fleet: Callable[..., Any]) -> None:
    shared = fleet(concurrency=2)
    other = shared.process()
    assert [shared.ask("a"), shared.ask("b", budget=other), shared.ask("c")] == ["", "", "concurrency"]
    shared.settle("a", 1)
    assert shared.ask("c") == ""
    assert shared.ask("d") == "concurrency"


def test_places_of_a_killed_process_come_back(fleet: Callable[..., Any], wait_until: Callable[..., None]) -> None:
    shared = fleet(concurrency=1)
    killed = shared.process(lease_s=0.3)  # it renews nothing
    assert shared.ask("lost", budget=killed) == ""
    assert shared.ask("next") == "concurrency"
    wait_until(lambda: shared.ask("next") == "", "the place is free")
    assert shared.redis.hexists(shared.key("calls"), "lost") is False


def test_a_long_call_keeps_its_place(fleet: Callable[..., Any], wait_until: Callable[..., None]) -> None:
    shared = fleet(concurrency=1)
    process = shared.process(lease_s=0.6)
    assert shared.ask("long", budget=process) == ""
    granted_until = shared.redis.zscore(shared.key("running"), "long")
    process.begun("long")
    wait_until(
        lambda: (shared.redis.zscore(shared.key("running"), "long") or 0) > granted_until + 600,
        "it was renewed for longer than it was granted for",
    )
    assert shared.ask("next") == "concurrency"
    process.settle("long", 1)
    wait_until(lambda: shared.ask("next") == "", "it has ended")


def test_who_waits_is_served_in_order(fleet: Callable[..., Any]) -> None:
    shared = fleet(concurrency=2)
    for name in ("x", "y"):
        assert shared.ask(name) == ""
    for name in ("first", "second", "third"):
        assert shared.ask(name) == "concurrency"
    shared.settle("x", 1)
    assert shared.ask("late") == "concurrency"
    assert shared.ask("second") == "concurrency", "the one place is the first one's"
    shared.settle("y", 1)
    assert shared.ask("third") == "concurrency"
    assert shared.ask("second") == "", "the first one has not asked again yet, and loses nothing"
    assert shared.ask("third") == "concurrency"
    assert shared.ask("first") == ""
    shared.settle("first", 1)
    assert shared.ask("late") == "concurrency"
    assert shared.ask("third") == ""


def test_a_large_request_is_not_overtaken_by_small_ones(fleet: Callable[..., Any]) -> None:
    shared = fleet(tokens_per_minute=100)
    assert shared.ask("a", 50) == ""
    assert shared.ask("large", 80) == "tokens"
    assert shared.ask("small", 30) == "tokens"
    shared.settle("a", 10)
    assert shared.ask("small", 30) == "tokens"
    assert shared.ask("large", 80) == ""


def test_who_waits_no_more_holds_nobody_up(fleet: Callable[..., Any]) -> None:
    shared = fleet(concurrency=1)
    assert shared.ask("a") == ""
    for name in ("left", "killed", "patient"):
        assert shared.ask(name) == "concurrency"
    shared.settle("left", 0)
    shared.redis.hset(shared.key("calls"), "killed", "1000 2 1")  # it last asked long ago
    shared.settle("a", 1)
    assert shared.ask("patient") == ""


def test_while_a_provider_is_paused_nobody_begins(fleet: Callable[..., Any], wait_until: Callable[..., None]) -> None:
    shared = fleet()
    other = shared.process()
    shared.pause(30)
    shared.pause(5)
    shared.ask_nothing()
    answer = other.ask("a", 1).result(10)
    assert (answer.granted, answer.missing) == (False, "paused")
    assert 25 < answer.wait_s <= 30, "a shorter pause does not end a longer one"
    shared.redis.pexpire(shared.key("pause"), 20)
    wait_until(lambda: shared.ask("a", budget=other) == "", "the pause is over")


def test_a_question_that_is_repeated_counts_once(fleet: Callable[..., Any]) -> None:
    shared = fleet(requests_per_minute=2, concurrency=2)
    assert [shared.ask("a") for _ in range(3)] == [""] * 3
    assert [shared.ask("b"), shared.ask("c")] == ["", "requests"]
    shared.settle("a", 1)
    shared.settle("a", 1)
    assert shared.ask("c") == "requests"


def test_every_key_is_listed_and_expires(fleet: Callable[..., Any]) -> None:
    shared = fleet(requests_per_minute=10, concurrency=1)
    shared.ask("a")
    shared.ask("b")
    shared.pause(30)
    shared.ask_nothing()
    found = set(shared.redis.scan_iter(f"*{shared.name}*"))
    assert found == set(keys.of_provider(shared.name))
    for kind, name in zip(keys.KEY_CLASSES, keys.of_provider(shared.name), strict=True):
        assert shared.redis.type(name) == kind.redis_type
        assert 0 < shared.redis.pttl(name) <= 180_000, name


def test_old_seconds_are_forgotten(fleet: Callable[..., Any]) -> None:
    shared = fleet(requests_per_minute=1000)
    for number in range(5):
        assert shared.ask(f"c{number}") == ""
        shared.settle(f"c{number}", 1)
        shared.time_passes(30)
    assert shared.ask("last") == ""
    assert shared.redis.hlen(shared.key("window")) <= 2 * 4 + 1


def test_whatever_happens_bounds_hold(fleet: Callable[..., Any]) -> None:
    shared = fleet(requests_per_minute=30, tokens_per_minute=300, concurrency=4)
    rng = random.Random(7)
    processes = [shared.process() for _ in range(3)]
    runs: dict[str, tuple[Any, int]] = {}
    waits: list[str] = []
    for number in range(400):
        happens = rng.random()
        if happens < 0.55:
            name = waits.pop(0) if waits and rng.random() < 0.5 else f"c{number}"
            process, tokens = rng.choice(processes), rng.randint(1, 40)
            if shared.ask(name, tokens, process) == "":
                runs[name] = (process, tokens)
            else:
                waits.append(name)
        elif happens < 0.9 and runs:
            name = rng.choice(list(runs))
            process, tokens = runs.pop(name)
            process.settle(name, rng.choice([-1, rng.randint(0, tokens)]))
        elif happens < 0.93:
            shared.time_passes(rng.randint(5, 30))
        shared.ask_nothing()
        window = shared.redis.hgetall(shared.key("window"))
        floor = int(time.time()) - 60
        lately = [(field[0], int(n)) for field, n in window.items() if " " in field and int(field[2:]) > floor]
        assert len(runs) == shared.redis.zcard(shared.key("running")) <= 4
        assert sum(n for kind, n in lately if kind == "r") <= 30
        assert sum(n for kind, n in lately if kind == "t") <= 300


def test_without_redis_a_budget_is_not_exceeded(free_port: Callable[[], int]) -> None:
    away = Connection(f"redis://127.0.0.1:{free_port()}")
    try:
        with pytest.raises(StoreUnavailable):
            Budget("fast", Provider(model="m", concurrency=1), away).ask("a", 1).result(10)
        assert Budget("free", Provider(model="m"), away).ask("a", 1).result(10).granted, "it has none"
    finally:
        away.close()
    with pytest.raises(ConfigError, match=r"llm_providers\.fast: its budget needs Redis"):
        Budget("fast", Provider(model="m", requests_per_minute=1), None)
