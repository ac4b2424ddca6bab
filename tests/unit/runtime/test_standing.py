"""What keeps an agent out of its fleet: told to readiness probes at once, to the log after a moment and rarely."""

from __future__ import annotations

from typing import Any

import pytest

from a2a_zmq.protocol.config import BootInfo, PortConfig
from a2a_zmq.protocol.message import Role
from a2a_zmq.protocol.session import Phase
from a2a_zmq.protocol.spoke import Spoke
from a2a_zmq.security.identity import SecretIdentity
from daemons.runtime.standing import GREETING_S, REMIND_S, Standing

HUB = "distributor-1"


class Lines:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def warning(self, event: str, *, why: str, **_fields: Any) -> None:
        self.told.append((event, why))


class Scene:
    """A worker's standing, with a spoke whose phase the test sets."""

    def __init__(self) -> None:
        self.identity = SecretIdentity("worker-1", Role.WORKER, "sixteen bytes and a few more")
        self.spoke = Spoke(
            self.identity,
            HUB,
            boot=BootInfo("boot"),
            new_id=lambda: "id",
            random_bytes=bytes,
            config=PortConfig(),
            announce=lambda _now: {},
            heartbeat=lambda _peer, _now: {},
        )
        self.lines = Lines()
        self.anew = 0
        self.standing = Standing("worker-1", self.identity, self.lines)
        self.standing.watch(HUB, self.spoke, self.connect_anew)
        self.mono = 100.0

    def connect_anew(self) -> None:
        self.anew += 1

    def look(self, seconds: float) -> None:
        """One look a second for so long."""
        for _ in range(round(seconds)):
            self.mono += 1.0
            self.standing.look(self.mono)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_refusal_is_logged_after_a_moment_and_then_twice_a_minute(scene: Scene) -> None:
    scene.spoke.phase, scene.spoke.obstacle = Phase.GREETING, "refused by distributor-1: a live process has this name"
    scene.look(1)
    assert scene.lines.told == []
    assert scene.standing.ready(False, "no session") == (False, f"no session; {scene.spoke.obstacle}")
    scene.look(2 * REMIND_S - 5)
    assert scene.lines.told == [("no_session", scene.spoke.obstacle)] * 2
    scene.spoke.phase, scene.spoke.obstacle = Phase.ACTIVE, ""
    scene.look(REMIND_S)
    assert len(scene.lines.told) == 2
    assert scene.standing.ready(True, "") == (True, "")


def test_why_a_connection_cannot_be_made_is_told(scene: Scene) -> None:
    scene.standing.failed(HUB, "tcp://host:1", "auth")
    assert scene.standing.ready(False, "no session") == (False, "no session; tcp://host:1: it does not know our key")
    scene.spoke.phase = Phase.ACTIVE
    assert scene.standing.obstacles() == {}
    scene.spoke.phase = Phase.IDLE
    assert scene.standing.obstacles() == {}, "what failed before the last connection is no news"


def test_a_hub_that_answers_no_greeting_is_connected_to_anew(scene: Scene) -> None:
    scene.spoke.phase = Phase.GREETING
    scene.look(GREETING_S)
    assert scene.anew == 0
    scene.look(2)
    assert scene.anew == 1
    scene.spoke.obstacle = "refused"
    scene.look(2 * GREETING_S)
    assert scene.anew == 1, "a hub that says why is left in peace"


def test_revoked_keys_make_nobody_ready(scene: Scene) -> None:
    scene.spoke.phase = Phase.ACTIVE
    scene.identity.revoke("worker-1")
    ready, why = scene.standing.ready(True, "")
    assert not ready
    assert "`a2actl keys add worker-1`" in why
    scene.look(3)
    assert [event for event, _ in scene.lines.told] == ["shut_out"]


def test_a_section_that_cannot_be_read_is_told_of_and_again_for_another_reason(scene: Scene) -> None:
    scene.spoke.phase, scene.spoke.obstacle = Phase.GREETING, "refused"
    why = ["timeout: no answer in time"]
    scene.standing.unreadable = lambda: why[0]
    scene.look(1)
    assert scene.lines.told == []
    text = "the section cannot be read: timeout: no answer in time"
    assert scene.standing.ready(False, "no owner") == (False, f"no owner; refused; {text}")
    scene.look(2 * REMIND_S - 5)
    told = [line for line in scene.lines.told if line[0] == "section_unreadable"]
    assert told == [("section_unreadable", text)] * 2
    assert "no_session" in dict(scene.lines.told), "one does not hide the other"
    why[0] = "Redis refused: WRONGTYPE"
    scene.lines.told.clear()
    scene.look(2)
    assert scene.lines.told == [("section_unreadable", "the section cannot be read: Redis refused: WRONGTYPE")]
    why[0] = ""
    scene.look(REMIND_S)
    assert [event for event, _ in scene.lines.told if event == "section_unreadable"] == ["section_unreadable"]
    assert "cannot be read" not in scene.standing.ready(False, "no owner")[1]


def test_a_lease_is_worth_a_line_if_a_namesake_has_it(scene: Scene) -> None:
    scene.spoke.phase = Phase.ACTIVE
    scene.standing.lease_holder = lambda: "coordinator-2"  # we stand by, as we should
    scene.look(3)
    assert scene.lines.told == []
    scene.standing.lease_holder = lambda: "worker-1"
    scene.look(3)
    assert [event for event, _ in scene.lines.told] == ["no_lease"]


def test_a_holder_of_the_lease_that_nobody_knows_is_another_fleets(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.spoke.phase = Phase.ACTIVE
    scene.standing.lease_holder = lambda: "coordinator-2"
    monkeypatch.setattr(scene.identity, "agents_of", lambda _role: ["worker-1", "coordinator-2"])
    assert scene.standing.obstacles() == {}
    monkeypatch.setattr(scene.identity, "agents_of", lambda _role: ["worker-1"])
    assert "another fleet" in scene.standing.obstacles()["worker-1"]
    scene.look(3)
    assert [event for event, _ in scene.lines.told] == ["no_lease"]
