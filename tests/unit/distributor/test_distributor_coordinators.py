"""Several coordinators: whom of them a distributor follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from a2a_zmq.protocol.message import MessageType, Role
from a2a_zmq.protocol.ports import PeerDown, PeerInfo, PeerUp, Refusal
from daemons.runtime.contract import OwnershipLost, StandsBy
from tests.unit.distributor.harness import COORDINATOR, Site

OTHER = "coordinator-2"


def says(site: Site, sender: str, action: str = "heartbeat", **payload: Any) -> None:
    kind = MessageType.HEARTBEAT if action == "heartbeat" else MessageType.REQUEST
    site.event(site.message(sender, Role.COORDINATOR, kind, {"action": action, **payload}))


def standby_up(site: Site, name: str = OTHER) -> None:
    details = {"leading": False, "fence": 0, "epoch": ""}
    site.event(PeerUp(PeerInfo(name, Role.COORDINATOR, details=details)))


def follows(site: Site, name: str) -> bool:
    return site.core.heartbeat(name, site.now)["follows"] is True


def finish(site: Site, task_id: str, fence: int = 1) -> None:
    site.assign(task_id, fence=fence)
    site.report("w1", task_id, 1, "completed", result=1)


def test_a_standby_changes_nothing_and_the_leader_is_told_of_it(site: Site) -> None:
    standby_up(site)
    assert follows(site, COORDINATOR)
    assert not follows(site, OTHER)
    assert site.told(COORDINATOR, "workers_changed")[-1]["coordinators"] == [[COORDINATOR, True], [OTHER, False]]
    site.event(PeerDown(OTHER, Role.COORDINATOR, "exited", 0.1))
    assert site.told(COORDINATOR, "workers_changed")[-1]["coordinators"] == [[COORDINATOR, True]]


def test_results_go_to_the_new_leader_also_those_that_could_not_be_told(site: Site) -> None:
    standby_up(site)
    site.worker_up("w1", limit=4)
    site.coordinator_down()
    finish(site, "a")
    assert site.told(OTHER, "task_results") == []
    says(site, OTHER, leading=True, fence=7, epoch="")
    assert follows(site, OTHER)
    finish(site, "b", fence=7)
    told = [result["task_id"] for payload in site.told(OTHER, "task_results") for result in payload["results"]]
    assert sorted(told) == ["a", "b"]


def test_results_are_not_left_with_a_coordinator_that_leads_no_more(site: Site) -> None:
    """It came back, connected, as a standby: it took them, acknowledged nothing, and the next leader was not told."""
    site.worker_up("w1", limit=4)
    site.assign("a", "b")
    standby_up(site, COORDINATOR)
    for task_id in ("a", "b"):
        site.report("w1", task_id, 1, "completed", result=1)
    assert site.told(COORDINATOR, "task_results") == []
    says(site, OTHER, leading=True, fence=7, epoch="")
    told = [result["task_id"] for payload in site.told(OTHER, "task_results") for result in payload["results"]]
    assert sorted(told) == ["a", "b"]


def test_a_resync_tells_of_the_new_leader_before_any_heartbeat(site: Site) -> None:
    standby_up(site)
    says(site, OTHER, "resync", fence=7, epoch="")
    assert follows(site, OTHER)


def test_a_leader_that_was_replaced_is_not_followed_and_may_order_nothing(site: Site) -> None:
    standby_up(site)
    site.worker_up("w1", limit=4)
    says(site, OTHER, leading=True, fence=7, epoch="")
    says(site, COORDINATOR, leading=True, fence=1, epoch="")
    assert follows(site, OTHER)
    site.assign("a", fence=1)
    assert site.told("w1", "assign_tasks") == []
    assert site.told(COORDINATOR, "assign_tasks")[-1]["code"] == "FORBIDDEN"
    says(site, COORDINATOR, "cancel_tasks", task_ids=["a"], fence=1, epoch="")
    assert site.told(COORDINATOR, "cancel_tasks")[-1]["message"] == "stale fence"


def test_a_leader_that_comes_back_as_a_standby_is_left(site: Site) -> None:
    standby_up(site, COORDINATOR)
    assert not follows(site, COORDINATOR)
    assert site.core.ready() == (True, ""), "its work goes on"


def test_without_a_coordinator_that_leads_it_is_not_ready_at_first(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.own()
    standby_up(site)
    ready, why = site.core.ready()
    assert not ready
    assert "coordinator-2" in why


def test_while_another_process_has_its_section_it_stands_by(make_site: Callable[..., Site]) -> None:
    site = make_site()
    assert site.core.closed() == "does not own its shared state"
    site.event(StandsBy("distributor-1"))
    assert site.core.closed() == "standing by: distributor-1 has the lease"
    assert site.core.ready() == (False, "standing by: distributor-1 has the lease")
    assert site.exit is None
    site.own()
    assert site.core.closed() == ""


def test_one_whose_name_is_taken_by_its_successor_leaves_it(site: Site) -> None:
    site.event(Refusal("signature", "identity", COORDINATOR, "a token has expired"))
    assert site.exit is None
    site.event(Refusal("routing", "replaced", COORDINATOR, "a process with fence 7 has this name"))
    assert site.exit is not None
    assert site.exit.status == 75


def test_one_that_was_replaced_starts_again_as_a_standby(site: Site) -> None:
    site.event(OwnershipLost("the lease is held by distributor-1"))
    assert site.exit is None, "it may get it back"
    site.event(StandsBy("distributor-1"))
    assert site.exit is not None
    assert site.exit.status == 75


def test_a_coordinator_that_is_not_followed_is_told_whom_we_obeyed(site: Site) -> None:
    """Found by simulation: a store that went back gave the next leader a number that was used before."""
    says(site, COORDINATOR, leading=True, fence=7, epoch="e1")
    assert "obeys" not in site.core.heartbeat(COORDINATOR, site.now)
    assert site.core.announce(site.now)["obeys"] == {"fence": 7, "epoch": "e1"}
    standby_up(site)
    site.coordinator_down()
    says(site, OTHER, leading=True, fence=3, epoch="e1")
    assert not follows(site, OTHER)
    assert site.core.heartbeat(OTHER, site.now)["obeys"] == {"fence": 7, "epoch": "e1"}
    says(site, OTHER, leading=True, fence=8, epoch="e1")
    assert follows(site, OTHER)
