"""What ``a2actl drain --wait`` takes for an agent that has left."""

from __future__ import annotations

import socket
import time
from contextlib import nullcontext
from typing import Any

import pytest

from a2a_zmq.errors import FleetUnavailable, KeyRefused, RequestRefused
from daemons.cli import draining
from daemons.cli.draining import Leaving
from daemons.cli.fleet import free_ports
from daemons.cli.invocation import EX_UNAVAILABLE, CommandFailed, Invocation

OLD_S = 1000.0


def fleet(*sites: dict[str, Any], **coordinator: Any) -> dict[str, Any]:
    leader = {"id": "c1", "leading": True, "fence": 1, "uptime_s": OLD_S, **coordinator}
    return {"coordinator": leader, "distributors": list(sites)}


def site(*workers: dict[str, Any], name: str = "d1", **more: Any) -> dict[str, Any]:
    return {"id": name, "up": True, "status": "busy", "in_progress": 2, "workers": list(workers), **more}


def worker(name: str = "w1", *, up: bool = True, **load: Any) -> dict[str, Any]:
    return {"id": name, "up": up, **({"load": {"held": 3, **load}} if load else {"load": None} if up else {})}


DRAINS = fleet(site(worker(draining=True)))


def left_after(*statuses: dict[str, Any], agent: str = "w1", before: dict[str, Any] = DRAINS) -> float | None:
    """After how many seconds it counts as gone, if these come one after the other, a quarter of a second apart, and the
    last one stays; None: never."""
    leaving = Leaving(agent, before, 0.0)
    for step in range(80):
        if leaving.has_left(statuses[min(step, len(statuses) - 1)], step / 4):
            return step / 4
    return None


AWAY = fleet(site(worker(up=False)))
UNTOLD = fleet(site(worker()))


@pytest.mark.parametrize(
    "status",
    [
        DRAINS,
        UNTOLD,  # its distributor was not asked, or answered late
        fleet(site(worker(), up=False)),  # the distributor is away; the worker works on
        fleet(site(worker(up=False), up=False)),
        fleet(site(up=False)),
        fleet(),
        fleet(site(name="d2")),
        fleet(site(worker(up=False), name="d2"), site(worker(draining=True))),  # it went there from another one
        fleet(site(worker(up=False)), leading=False),
    ],
)
def test_a_worker_that_may_still_work_has_not_left(status: dict[str, Any]) -> None:
    assert left_after(status) is None


@pytest.mark.parametrize(
    ("status", "after_s"),
    [
        (AWAY, 1.0),
        (fleet(site(worker(draining=False))), 1.0),  # it is back, as another process
        (fleet(site()), 5.0),
        (fleet(site(), site(name="d2", up=False)), 5.0),
    ],
)
def test_a_worker_that_is_steadily_gone_has_left(status: dict[str, Any], after_s: float) -> None:
    assert left_after(status) == after_s


def test_a_moment_of_absence_is_no_leaving() -> None:
    assert left_after(*[AWAY, AWAY, DRAINS] * 20, DRAINS) is None
    assert left_after(AWAY, AWAY, UNTOLD, AWAY) == 0.75 + 1.0


def test_a_coordinator_that_has_just_come_does_not_know_who_is_there() -> None:
    new = fleet(site(), fence=2, uptime_s=0.1)
    assert left_after(new, DRAINS) is None
    assert left_after(*[new] * 8, DRAINS) is None
    assert left_after(fleet(site(worker(up=False)), fence=2)) == 5.0 + 1.0


def test_a_distributor() -> None:
    before = fleet(site(status="draining"))
    assert left_after(before, agent="d1", before=before) is None
    assert left_after(fleet(site(up=False)), agent="d1", before=before) == 1.0
    assert left_after(fleet(site()), agent="d1", before=before) == 1.0


def test_the_coordinator() -> None:
    assert left_after(fleet(draining=True), agent="c1") is None
    assert left_after(fleet(id="c2"), agent="c1") == 1.0
    assert left_after(fleet(fence=2, uptime_s=0.1), agent="c1") == 1.0


def test_what_is_left_is_said_where_it_is_known() -> None:
    leaving = Leaving("w1", DRAINS, 0.0)
    assert not leaving.has_left(DRAINS, 0.0)
    assert leaving.tasks == 3
    assert not leaving.has_left(UNTOLD, 0.1)
    assert leaving.tasks is None


class Asked(Invocation):
    """A fleet that answers so."""

    def __init__(self, *answers: Any, timeout_s: float | None = None, departed: str = "", address: str = "") -> None:
        super().__init__(timeout_s=timeout_s, address=address or "c1@ipc:///nowhere")
        self._answers = list(answers)
        self.departed = departed

    def client(self, timeout_s: float | None = None) -> Any:
        return nullcontext(self)

    def wait_left(self, agent_id: str) -> bool:
        return draining.wait_left(self, self, agent_id, DRAINS)  # type: ignore[arg-type]

    def status(self, *, load: bool) -> dict[str, Any]:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, dict)
        return answer


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "POLL_S", 0.001)


@pytest.mark.parametrize("error", [FleetUnavailable("no answer"), KeyRefused("no session")])
def test_nobody_to_ask_is_no_leaving_of_a_worker(error: Exception) -> None:
    with pytest.raises(type(error)):
        Asked(DRAINS, error).wait_left("w1")


def test_a_coordinator_that_said_goodbye_has_left() -> None:
    for answer in (FleetUnavailable("no answer"), KeyRefused("no session"), fleet(draining=True)):
        assert Asked(answer, departed="c1").wait_left("c1")


def test_a_coordinator_whose_address_refuses_connections_for_some_time_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(draining, "REFUSED_S", 0.05)
    [port] = free_ports(1)
    assert Asked(FleetUnavailable("no answer"), address=f"c1@tcp://127.0.0.1:{port}").wait_left("c1")
    silent = Asked(FleetUnavailable("no answer"), address=f"c2@tcp://127.0.0.1:{port}", timeout_s=0.2)
    with pytest.raises(CommandFailed, match="not known"):
        silent.wait_left("c1")  # another one's address says nothing of it
    with socket.create_server(("127.0.0.1", port)), pytest.raises(CommandFailed, match="not known"):
        Asked(FleetUnavailable("no answer"), address=f"c1@tcp://127.0.0.1:{port}", timeout_s=0.2).wait_left("c1")


def test_a_coordinator_that_refuses_connections_for_a_moment_has_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "REFUSED_S", 0.1)
    looks = iter([True, True, False] * 10_000)

    def refused(_: object) -> bool:
        time.sleep(0.04)
        return next(looks)

    monkeypatch.setattr(draining, "refused", refused)
    with pytest.raises(CommandFailed, match="not known"):
        Asked(FleetUnavailable("no answer"), timeout_s=0.6).wait_left("c1")


def test_silence_alone_is_no_leaving_of_a_coordinator() -> None:
    with pytest.raises(CommandFailed) as caught:
        Asked(FleetUnavailable("no answer"), timeout_s=0.1).wait_left("c1")
    assert str(caught.value) == "c1 was told to drain; whether it has left is not known: no answer"
    assert caught.value.status == EX_UNAVAILABLE
    with pytest.raises(KeyRefused):
        Asked(KeyRefused("no session")).wait_left("c1")
    with pytest.raises(RequestRefused):
        Asked(RequestRefused("FORBIDDEN", "no")).wait_left("c1")


def test_who_does_not_know_in_time_does_not_say_that_it_left() -> None:
    with pytest.raises(CommandFailed, match=r"^w1 drains still$"):
        Asked(UNTOLD, timeout_s=0.1).wait_left("w1")
    with pytest.raises(CommandFailed, match=r"^w1 drains still, with 3 tasks$"):
        Asked(DRAINS, timeout_s=0.1).wait_left("w1")
