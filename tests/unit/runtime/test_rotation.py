"""Which of several addresses a spoke tries, and for how long."""

from __future__ import annotations

import errno

import pytest
import zmq

from a2a_zmq.errors import ConfigError
from a2a_zmq.protocol import BootInfo, PortConfig, Role, Spoke, StaticKeys
from a2a_zmq.protocol.session import Phase
from daemons.runtime.rotation import LOOK_S, REFUSED_S, TRY_S, Rotation


def make_spoke() -> Spoke:
    return Spoke(
        StaticKeys("worker-1", Role.WORKER, "a secret for tests"),
        "distributor-1",
        boot=BootInfo("boot"),
        new_id=lambda: "id",
        random_bytes=bytes,
        config=PortConfig(),
        announce=lambda now: {},
        heartbeat=lambda peer, now: {},
    )


class Stand:
    """A rotation over three addresses, with the state of its spoke in the test's hands."""

    def __init__(self) -> None:
        self.spoke = make_spoke()
        self.mono = 100.0
        self.tried: list[str] = []
        self.left = 0
        self.log: list[str] = []
        self.unknown: set[str] = set()
        self.trouble: Exception | None = None
        self.rotation = Rotation(
            self.spoke,
            ["a", "b", "c"],
            connect=self.connect,
            left=self.leave,
            clock=lambda: self.mono,
            log=self.log.append,
        )

    def connect(self, address: str) -> None:
        self.tried.append(address)
        if self.trouble is not None:
            raise self.trouble
        if address in self.unknown:
            raise ConfigError(f"{address}: no such host")

    def leave(self) -> None:
        self.left += 1
        self.spoke.phase = Phase.IDLE

    def pass_time(self, seconds: float) -> None:
        until = self.mono + seconds
        while self.mono < until:
            self.mono += LOOK_S
            self.rotation.look()


@pytest.fixture
def stand() -> Stand:
    return Stand()


def test_with_a_session_it_stays(stand: Stand) -> None:
    stand.spoke.phase = Phase.ACTIVE
    stand.pass_time(60)
    assert stand.tried == []
    assert stand.rotation.address == "a"


def test_an_address_without_an_answer_is_given_a_second(stand: Stand) -> None:
    stand.spoke.phase = Phase.GREETING
    stand.pass_time(TRY_S - 2 * LOOK_S)
    assert stand.tried == []
    stand.pass_time(3 * LOOK_S)
    assert (stand.tried, stand.left) == (["b"], 1)


@pytest.mark.parametrize("how", ["standby", "unreachable"])
def test_a_refusal_sends_us_on_at_once_and_round_again(stand: Stand, how: str) -> None:
    for _ in range(4):
        if how == "standby":
            stand.spoke.phase, stand.spoke.refused = Phase.GREETING, "standby"
        else:
            stand.rotation.failed()
        stand.pass_time(REFUSED_S + LOOK_S)
    assert stand.tried == ["b", "c", "a", "b"]


def test_a_session_that_broke_may_come_back_first(stand: Stand) -> None:
    stand.spoke.phase = Phase.ACTIVE
    stand.pass_time(10)
    stand.spoke.phase = Phase.GREETING
    stand.pass_time(TRY_S - 2 * LOOK_S)
    assert stand.tried == []


def test_an_address_that_cannot_be_used_is_told_and_passed_over(stand: Stand) -> None:
    stand.unknown.add("b")
    stand.rotation.failed()
    stand.pass_time(0.6)
    assert stand.tried[:2] == ["b", "c"]
    assert stand.log == ["b: no such host"]


@pytest.mark.parametrize("trouble", [zmq.ZMQError(errno.EMFILE), OSError(errno.EMFILE, "Too many open files")])
def test_without_descriptors_it_tries_again_later(stand: Stand, trouble: Exception) -> None:
    stand.trouble = trouble
    stand.rotation.failed()
    stand.pass_time(REFUSED_S + LOOK_S)
    assert stand.tried == ["b"]
    assert "Too many open files" in stand.log[0]
    stand.pass_time(TRY_S - 2 * LOOK_S)
    assert stand.tried == ["b"], "no hurry: the next address needs descriptors as well"
    stand.trouble = None
    stand.pass_time(3 * LOOK_S)
    assert stand.tried == ["b", "c"]
