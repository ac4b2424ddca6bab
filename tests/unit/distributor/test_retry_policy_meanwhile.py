"""A retry policy is at work while tasks are cancelled and distributors come, go and are replaced."""

from __future__ import annotations

from collections.abc import Callable

from tests.unit.distributor.harness import Site


def test_a_task_that_was_cancelled_meanwhile(asking: Site) -> None:
    asking.fail("w1", "a", 1)
    asking.cancel("a")
    asking.advise({"a": {"after_s": 0}})
    asking.advance(1)
    assert asking.reported() == [("a", "abandoned")]
    assert len(asking.sent_of("a")) == 1


def test_a_drain_does_not_wait_for_the_policy(asking: Site) -> None:
    asking.fail("w1", "a", 1)
    asking.drain()
    asking.fail("w2", "b", 1)
    assert asking.exit is not None
    assert asking.fallbacks() == {"not_asked": 1}
    assert {task_id: record["metadata"]["attempt"] for task_id, record in asking.store.live.items()} == {"a": 2, "b": 2}


def test_ownership_is_lost_meanwhile(asking: Site) -> None:
    asking.fail("w1", "a", 1)
    asking.disown()
    asking.advise({"a": {"give_up": "no"}})
    assert asking.reported() == []
    asking.own()
    asking.advance(5)
    assert len(asking.sent_of("a")) == 2


def successor_of(asking: Site, make_site: Callable[..., Site]) -> Site:
    """The next owner of the section, to whom the workers come back."""
    successor = make_site(asking.config, asking.store, start=asking.mono)
    successor.own()
    successor.coordinator_up()
    successor.worker_up("w1", limit=5)
    successor.worker_up("w2", limit=5, running=[["b", 1]])
    return successor


def test_the_next_owner_runs_what_waited_for_the_policy(asking: Site, make_site: Callable[..., Site]) -> None:
    asking.fail("w1", "a", 1)
    successor = successor_of(asking, make_site)
    successor.advance(5)
    assert len(successor.sent_of("a")) == 1
    assert successor.sent_of("b") == []


def test_the_next_owner_keeps_to_what_the_policy_decided(asking: Site, make_site: Callable[..., Site]) -> None:
    asking.fail("w1", "a", 1)
    asking.advise({"a": {"after_s": 60, "avoid": ["w1"]}})
    successor = successor_of(asking, make_site)
    successor.advance(55)
    assert successor.sent_of("a") == []
    successor.advance(10)
    assert [worker for worker, _ in successor.sent_of("a")] == ["w2"]


def test_another_distributor_keeps_to_it_as_well(asking: Site) -> None:
    decided = {"until": asking.now.wall + 60, "after_s": 60.0, "avoid": ["w9"]}
    asking.assign("moved", decided=decided, attempt=1000)
    asking.advance(59)
    assert asking.sent_of("moved") == []
    asking.advance(2)
    assert [attempt for _, attempt in asking.sent_of("moved")] == [1001]


def test_a_clock_that_is_wrong_delays_nothing_for_longer_than_was_decided(asking: Site) -> None:
    asking.assign("moved", decided={"until": asking.now.wall + 86_000, "after_s": 5.0}, attempt=1000)
    asking.advance(6)
    assert len(asking.sent_of("moved")) == 1
