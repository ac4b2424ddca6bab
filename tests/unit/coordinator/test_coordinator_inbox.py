"""An inbox with more needs than one wake-up can look at: each has its turn, and nobody else waits for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.coordinator import assigning, supervision
from daemons.coordinator.placement import Choices, eligible
from daemons.coordinator.records import Need
from tests.unit.coordinator.fakes import task
from tests.unit.coordinator.harness import World
from tests.unit.coordinator.test_coordinator_placement import Site

LOOKS = 10
MANY = 95

types = st.frozensets(st.sampled_from(["a", "b"]), max_size=2)
labels = st.dictionaries(st.sampled_from(["gpu", "zone"]), st.sampled_from(["1", "2"]), max_size=2)
sites_strategy = st.dictionaries(
    st.sampled_from(["d1", "d2", "d3", "d4"]),
    st.builds(
        Site,
        task_types=types,
        offers=st.lists(st.tuples(types, labels), max_size=3),
        registered=st.sampled_from([True, True, False]),
        up=st.sampled_from([True, True, False]),
        suspect=st.booleans(),
        draining=st.sampled_from([False, False, True]),
    ),
)
needs_strategy = st.builds(
    Need, st.sampled_from(["a", "b"]), st.just(0), st.sampled_from(["", "", "d1"]), st.none() | labels
)


@given(sites=sites_strategy, needs=st.lists(needs_strategy, max_size=6))
def test_choices_for_many_needs_are_those_for_each(sites: dict[str, Site], needs: list[Need]) -> None:
    choices = Choices(sites)
    for need in needs:
        found, wanted = choices.of(need), eligible(need, sites)
        assert [id(site) for site in found] == [id(site) for site in wanted]


def test_labels_that_are_no_texts_are_nobodys_choice() -> None:
    labels = {"gpu": "1", "list": ["1"], "number": 1}
    sites = {"d1": Site(offers=[(frozenset({"noop"}), labels)])}  # type: ignore[list-item]
    assert Choices(sites).of(Need("noop", 0, "", {"gpu": "1"})) == [sites["d1"]]
    assert Choices(sites).of(Need("noop", 0, "", {"number": "1"})) == []


def test_a_label_that_nobody_has_costs_one_look_however_many_workers_there_are() -> None:
    offers = [(frozenset({"noop"}), {"host": f"h{n}", "gpu": "1"}) for n in range(100)]
    choices = Choices({"d1": Site(offers=offers), "d2": Site(offers=offers)})
    assert choices.of(Need("noop", 0, "", {"gpu": "1", "host": "x"})) == []
    assert choices.work == 1
    assert len(choices.of(Need("noop", 0, "", {"gpu": "1", "host": "h7"}))) == 2
    assert choices.work == 4


class Looks:
    """Counts what is looked at."""

    def __init__(self) -> None:
        self.made: list[Choices[Site]] = []

    def most(self) -> int:
        return max(each.work for each in self.made)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    seen = Looks()

    class Counted(Choices[Site]):
        def __init__(self, sites: dict[str, Site]) -> None:
            super().__init__(sites)
            seen.made.append(self)

    monkeypatch.setattr(assigning, "LOOKS", LOOKS)
    monkeypatch.setattr(assigning, "Choices", Counted)
    return seen


@pytest.fixture
def crowded(world: World, looks: Looks) -> World:
    """Each of many tasks asks for a label of its own, which no worker has."""
    world.client("alice~1")
    world.distributor("d1")
    world.workers("d1", "noop", labels={"tag": "none"})
    tasks = [task(f"t{n}", labels={"tag": f"tag-{n}"}) for n in range(MANY)]
    assert world.ask("alice~1", "submit_tasks", tasks=tasks)["accepted"] == MANY
    looks.made.clear()
    return world


def test_one_wake_up_looks_at_a_bounded_part(crowded: World, looks: Looks) -> None:
    crowded.advance(1.0)
    assert len(looks.made) == 1, "nothing has changed: one part an interval"
    crowded.workers("d1", "noop other", labels={"tag": "none"})
    assert len(looks.made) > MANY / LOOKS, "something has changed: all of it"
    assert looks.most() <= LOOKS + 1


@pytest.mark.parametrize("number", [0, MANY // 2, MANY - 1])
def test_a_new_worker_gets_what_it_can_run_at_once(crowded: World, number: int) -> None:
    crowded.advance(1.0)
    crowded.workers("d1", "noop", labels={"tag": f"tag-{number}"})
    assert crowded.assigned("d1") == [f"t{number}"]


def test_whoever_is_more_urgent_is_looked_at_first(crowded: World) -> None:
    wanted = [task(f"u{priority}", "other", priority=priority) for priority in (0, 5, 9)]
    crowded.core.desk.learn_types(["other"])
    crowded.ask("alice~1", "submit_tasks", tasks=wanted)
    crowded.batches_held = True
    crowded.workers("d1", "noop other", labels={"tag": "tag-3"})
    crowded.release_batches()
    assert crowded.assigned("d1") == ["u9", "u5", "t3", "u0"]


def test_what_is_more_urgent_and_comes_while_others_leave_the_inbox_does_not_wait_for_them(
    make_world: Callable[..., World],
) -> None:
    world = make_world(move_chunk=2, max_staged_tasks=8)
    world.own()
    world.client("alice~1")
    for n in range(12):
        world.submit("alice~1", f"t{n}")
    world.submit("alice~1", "urgent", task_type="other", priority=9)
    world.batches_held = True
    world.distributor("d1", "noop")
    world.workers("d1", "noop other")
    world.release_batches()
    assert 1 < world.assigned("d1").index("urgent") < 11


def test_changes_that_come_all_the_time_starve_nobody(crowded: World) -> None:
    crowded.core.desk.ledger.distributors["d1"].offers = [(frozenset({"noop"}), {"tag": f"tag-{MANY - 1}"})]
    for _ in range(2 * MANY // LOOKS):
        crowded.core.desk.place_held = True
        crowded._perform(crowded.core.settle(crowded.now))
    assert crowded.core.desk.ledger.held_count == MANY - 1, "it had its turn meanwhile"
    crowded.turn()
    assert crowded.assigned("d1") == [f"t{MANY - 1}"]


def test_what_can_go_though_nobody_said_so_goes_after_a_while(crowded: World) -> None:
    crowded.core.desk.ledger.distributors["d1"].offers = [(frozenset({"noop"}), {"tag": f"tag-{MANY - 1}"})]
    for _ in range(MANY // LOOKS + 2):
        crowded.advance(1.0)
    assert crowded.assigned("d1") == [f"t{MANY - 1}"]


def test_needs_that_are_gone_are_not_kept(crowded: World) -> None:
    crowded.advance(1.0)
    crowded.ask("alice~1", "cancel_tasks", task_ids=[f"t{n}" for n in range(MANY)])
    crowded.advance(1.0)
    assert not crowded.core.assigner._round


def test_overdue_tasks_are_all_reported_though_not_at_once(crowded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "LOOKS", LOOKS)
    crowded.submit("alice~1", "late", distributor="d9")
    crowded.advance(40.0)
    for _ in range(MANY // LOOKS + 1):
        crowded.advance(1.0)
    overdue = [line.fields["distributor"] for line in crowded.logs if line.event == "no_capable_distributor"]
    assert sorted(overdue) == ["", "d9"]
