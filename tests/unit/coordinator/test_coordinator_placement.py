"""Where tasks go, in which order, and what happens while nobody can take them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2a_zmq.protocol.message import MessageType, Role
from daemons.coordinator.placement import capable, eligible, spread
from daemons.coordinator.records import Need
from tests.unit.coordinator.harness import World


@dataclass
class Site:
    live: int = 0
    slots: int = 1
    task_types: frozenset[str] = frozenset({"noop"})
    offers: list[tuple[frozenset[str], dict[str, str]]] = field(default_factory=list)
    registered: bool = True
    up: bool = True
    suspect: bool = False
    draining: bool = False
    got: int = field(default=0, compare=False)

    @property
    def load(self) -> int:
        return self.live


def need(task_type: str = "noop", pinned: str = "", labels: dict[str, str] | None = None) -> Need:
    return Need(task_type, 0, pinned, labels)


sites_strategy = st.lists(
    st.builds(Site, live=st.integers(0, 10_000), slots=st.integers(1, 64)), min_size=1, max_size=12
)


@given(count=st.integers(1, 5_000), sites=sites_strategy, seed=st.integers(0, 10))
def test_spreading_shares_out_everything_and_levels_the_load(count: int, sites: list[Site], seed: int) -> None:
    for site, share in spread(count, sites, random.Random(seed).random):
        assert share > 0
        site.got += share
    assert sum(site.got for site in sites) == count
    # Nobody who got something stands more than rounding above anybody else.
    for given_to in (site for site in sites if site.got):
        for other in sites:
            lower = (given_to.live + given_to.got - len(sites)) / given_to.slots
            assert lower <= (other.live + other.got + 1) / other.slots


def test_ties_do_not_always_go_to_the_first() -> None:
    rng = random.Random(1).random
    sites = [Site(), Site(), Site()]
    for _ in range(60):
        for site, share in spread(1, sites, rng):
            site.got += share
    assert all(site.got > 5 for site in sites)


def test_only_capable_distributors_that_are_up_are_eligible() -> None:
    sites = {
        "good": Site(),
        "down": Site(up=False),
        "draining": Site(draining=True),
        "other": Site(task_types=frozenset({"compute"})),
        "unknown": Site(registered=False),
    }
    assert eligible(need(), sites) == [sites["good"]]


def test_a_suspect_distributor_counts_only_if_there_is_no_other() -> None:
    sites = {"steady": Site(), "suspect": Site(suspect=True)}
    assert eligible(need(), sites) == [sites["steady"]]
    del sites["steady"]
    assert eligible(need(), sites) == [sites["suspect"]]


def test_a_pinned_task_waits_for_its_distributor() -> None:
    sites = {"d1": Site(), "d2": Site(up=False, task_types=frozenset())}
    assert eligible(need(pinned="d2"), sites) == [sites["d2"]]
    assert eligible(need(pinned="d3"), sites) == []


def test_one_worker_must_have_the_type_and_the_labels() -> None:
    gpu, noop, other = need(labels={"gpu": "a100"}), frozenset({"noop"}), frozenset({"other"})
    assert capable(gpu, Site(offers=[(noop, {"gpu": "a100", "zone": "x"})]))
    assert not capable(gpu, Site(offers=[(noop, {"gpu": "t4"})]))
    both = Site(task_types=noop | other, offers=[(noop, {"gpu": "t4"}), (other, {"gpu": "a100"})])
    assert not capable(gpu, both)
    assert not capable(gpu, Site(task_types=other, offers=[(noop, {"gpu": "a100"})])), "of a former process"


# ---------------------------------------------------------------- in the core


def test_a_batch_is_shared_by_slots(world: World) -> None:
    world.distributor("d1", slots=1)
    world.distributor("d2", slots=3)
    world.client("alice~1")
    world.submit("alice~1", *(f"t{n}" for n in range(40)))
    assert len(world.assigned("d1")) == 10
    assert len(world.assigned("d2")) == 30


def test_each_type_goes_where_it_can_run(world: World) -> None:
    world.distributor("d1", "noop")
    world.distributor("d2", "noop compute")
    world.client("alice~1")
    world.submit("alice~1", "c1", "c2", task_type="compute")
    assert world.assigned("d1") == []
    assert world.assigned("d2") == ["c1", "c2"]


def test_labels_choose_the_distributor(world: World) -> None:
    world.distributor("d1")
    world.distributor("d2")
    world.workers("d2", "noop", labels={"gpu": "a100"})
    world.client("alice~1")
    world.submit("alice~1", "t1", "t2", "t3", labels={"gpu": "a100"})
    assert world.assigned("d2") == ["t1", "t2", "t3"]


def test_a_task_with_labels_waits_until_a_new_distributor_tells_the_labels_of_its_workers(world: World) -> None:
    world.client("alice~1")
    world.submit("alice~1", "t1", labels={"gpu": "a100"})
    world._join("d1", Role.DISTRIBUTOR, {"task_types": ["noop"], "workers": 1, "live": 0})
    assert world.assigned("d1") == [], "once placed it would stay there, whatever d1's workers have"
    world.workers("d1", "noop", labels={"gpu": "t4"})
    world.distributor("d2")
    world.workers("d2", "noop", labels={"gpu": "a100"})
    assert (world.assigned("d1"), world.assigned("d2")) == ([], ["t1"])


def test_a_distributor_that_was_only_slow_for_a_moment_gets_work_again(world: World) -> None:
    world.distributor("d1", slots=1)
    world.distributor("d2", slots=3)
    world.client("alice~1")
    world.suspect("d2")
    world.submit("alice~1", "t0")
    assert world.assigned("d2") == []
    world.beat("d2", pending=0, in_progress=0)
    world.submit("alice~1", *(f"t{n}" for n in range(1, 9)))
    assert len(world.assigned("d2")) > 4


def test_higher_priority_is_told_first(fleet: World) -> None:
    tasks = [
        {"task_id": f"t{priority}", "task_type": "noop", "payload": {}, "metadata": {"priority": priority}}
        for priority in (0, 5, -1, 9)
    ]
    fleet.ask("alice~1", "submit_tasks", tasks=tasks)
    assert fleet.assigned("d1") == ["t9", "t5", "t0", "t-1"]


def test_beyond_the_window_tasks_wait_here_durable_and_in_order_of_priority(make_world: Callable[..., World]) -> None:
    world = make_world(assign_window=2)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.submit("alice~1", "a", "b", "c", "d")
    world.submit("alice~1", "urgent", priority=1)
    assert world.assigned("d1") == ["a", "b"]
    assert set(world.store.live["d1"]) == {"a", "b", "c", "d", "urgent"}
    world.finish("d1", "a")
    world.finish("d1", "b")
    assert world.assigned("d1") == ["a", "b", "urgent", "c"]
    world.finish("d1", "urgent", "c")
    assert world.assigned("d1")[-1] == "d"


def test_a_full_outbox_delays_and_keeps_the_order(fleet: World) -> None:
    fleet.busy.add("d1")
    fleet.submit("alice~1", "a", "b")
    fleet.submit("alice~1", "c")
    fleet.advance(0.2)
    assert fleet.assigned("d1") == []
    fleet.busy.clear()
    fleet.advance(0.2)
    assert fleet.assigned("d1") == ["a", "b", "c"]


def test_without_a_capable_distributor_tasks_are_held_and_move_when_one_appears(world: World) -> None:
    world.client("alice~1")
    assert world.submit("alice~1", "t1", "t2")["accepted"] == 2
    assert world.store.where("t1") == ["inbox"]
    world.distributor("d1", "compute")
    assert world.store.where("t1") == ["inbox"]
    world.workers("d1", "compute noop")
    assert world.store.where("t1") == ["d1"]
    assert world.assigned("d1") == ["t1", "t2"]
    world.finish("d1", "t1", "t2")
    assert set(world.got("alice~1")) == {"t1", "t2"}
    assert not world.store.live[""]


def test_a_move_writes_the_new_place_in_an_earlier_batch_than_the_old_one_is_dropped(world: World) -> None:
    world.client("alice~1")
    world.submit("alice~1", "t1")
    world.store.writes.clear()
    world.distributor("d1")
    moves = [
        (write.section.distributor_id or "inbox", bool(write.put_tasks), bool(write.drop_tasks))
        for write in world.store.writes
        if write.put_tasks or write.drop_tasks
    ]
    assert moves == [("d1", True, False), ("inbox", False, True)]


def test_a_full_inbox_moves_in_parts(make_world: Callable[..., World]) -> None:
    world = make_world(move_chunk=10)
    world.own()
    world.client("alice~1")
    ids = [f"t{n}" for n in range(35)]
    world.submit("alice~1", *ids)
    world.store.writes.clear()
    world.distributor("d1")
    assert world.assigned("d1") == ids
    assert max(len(write.put_tasks) for write in world.store.writes) == 10


def test_a_pinned_task_is_held_for_a_distributor_nobody_knows_yet(fleet: World) -> None:
    fleet.submit("alice~1", "t1", distributor="d9")
    assert fleet.store.where("t1") == ["inbox"]
    fleet.distributor("d9")
    assert fleet.assigned("d9") == ["t1"]


def test_a_pinned_task_waits_in_the_section_of_a_distributor_that_is_away(fleet: World) -> None:
    fleet.gone("d1")
    fleet.submit("alice~1", "t1", distributor="d1")
    assert fleet.store.where("t1") == ["d1"]
    assert fleet.assigned("d1") == []
    fleet.distributor("d1", restarted=True)  # it reads its section
    assert [told.action for told in fleet.peers["d1"].told][-1] == "resync"


def test_a_distributor_that_is_away_or_drains_gets_nothing_new(world: World) -> None:
    world.distributor("d1")
    world.distributor("d2")
    world.client("alice~1")
    root = world.operator()
    world.gone("d1")
    assert world.ask(root, "drain_agent", agent_id="d2")["draining"] is True
    world.submit("alice~1", "t1")
    assert world.store.where("t1") == ["inbox"]
    world.distributor("d1")
    assert world.store.where("t1") == ["d1"]


@pytest.mark.parametrize("waiting", [200])
def test_removing_from_the_middle_of_a_queue_keeps_its_order(make_world: Callable[..., World], waiting: int) -> None:
    world = make_world(assign_window=1)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    ids = [f"t{n}" for n in range(waiting)]
    world.submit("alice~1", *ids)
    gone = [task_id for n, task_id in enumerate(ids) if n % 3 and n]
    assert world.ask("alice~1", "cancel_tasks", task_ids=gone)["requested"] == gone
    world.say("d1", MessageType.EVENT, {"action": "task_unknown", "task_ids": gone})
    left = [task_id for task_id in ids if task_id not in gone]
    for task_id in left:
        world.finish("d1", task_id)
    assert world.assigned("d1") == left
