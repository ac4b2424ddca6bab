"""Several addresses: which is tried when, and when none is left to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from a2a_zmq import FleetClient
from a2a_zmq.client.connection import NEXT_ADDRESS_S, Connection
from a2a_zmq.client.core import ClientCore
from a2a_zmq.client.links import LinkOpener
from a2a_zmq.client.sockets import Callbacks, Link
from a2a_zmq.clock import Now
from a2a_zmq.config import A2AConfig
from a2a_zmq.errors import ConfigError, FleetUnavailable, KeyRefused, KeysMissing
from a2a_zmq.protocol.ports import Refusal
from tests.unit.client.conftest import SECRET, FleetInAThread
from tests.unit.client.scripted import Scripted

WaitUntil = Callable[..., None]
pytestmark = pytest.mark.timeout(10)


def test_several_addresses_are_tried_in_turn(
    free_port: Callable[[], int], arguments: dict[str, Any], coordinator: Any
) -> None:
    arguments["addresses"] = [f"tcp://127.0.0.1:{free_port()}", coordinator.address]
    with FleetClient(**arguments) as fleet:
        assert fleet.submit("noop", {"n": 1}).result(5) == {"n": 1}


class ForgetfulOpener(LinkOpener):
    """One whose keys are gone, or cannot be read, for as long as the test says so."""

    error: ConfigError | None = None

    def open(self, address: str, callbacks: Callbacks) -> Link:
        if self.error is not None:
            raise self.error
        return super().open(address, callbacks)


@pytest.mark.timeout(30)  # it waits for the end of several attempts
@pytest.mark.parametrize("error", [KeysMissing("no keys of coordinator-1"), ConfigError("no keys: half of a file")])
def test_who_loses_the_keys_of_all_coordinators_is_told_and_comes_back_with_them(
    free_port: Callable[[], int], coordinator: Any, error: ConfigError, wait_until: WaitUntil
) -> None:
    config = A2AConfig(agent_id="client", token_secret=SecretStr(SECRET))
    opener = ForgetfulOpener(config, "coordinator-1")
    addresses = [coordinator.address, f"tcp://127.0.0.1:{free_port()}"]
    with FleetClient(addresses, opener=opener, request_timeout_s=60) as fleet:
        assert fleet.submit("noop", {"n": 1}).result(5) == {"n": 1}
        opener.error = error
        coordinator.stop()
        with pytest.raises(KeyRefused, match="no keys"):
            fleet.submit("noop", {"n": 2})
        coordinator.restart()
        opener.error = None

        def works() -> bool:
            with contextlib.suppress(KeyRefused):
                return bool(fleet.submit("noop", {"n": 3}).result(5))
            return False

        wait_until(works, "the keys are known again")


class Silent:
    """Port and socket of a link on which nothing comes unless the test says so."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.outgoing: list[Any] = []

    def tick(self, now: Now) -> None: ...

    def acknowledge(self, marks: Any, now: Now) -> None: ...

    def marks(self) -> Any: ...

    def next_deadline(self) -> float:
        return float("inf")

    def room(self, peer: str) -> int:
        return 0

    def close(self, now: Now | None = None) -> None: ...


class Addresses:
    """A connection whose links, clock and turns are the test's."""

    def __init__(self, *addresses: str) -> None:
        self.mono = 100.0
        self.errors: dict[str, Exception] = {}
        self.opened: list[str] = []
        self.world = Scripted()
        self.core: ClientCore = self.world.core
        self.entry = self.world.entry("a")
        self.connection = Connection(self.core, list(addresses), self, lambda: Now(self.mono, self.mono))

    def open(self, address: str, callbacks: Callbacks) -> Link:
        if address in self.errors:
            raise self.errors[address]
        self.opened.append(address)
        self.link = Silent()
        return Link(self.link, self.link)  # type: ignore[arg-type]

    def close(self) -> None: ...

    def tells(self, event: Refusal) -> None:
        self.link.events.append(event)
        self.connection.turn()

    def pass_time(self, seconds: float) -> None:
        until = self.mono + seconds
        while self.mono < until:
            self.mono += 0.1
            self.connection.turn()

    def hopes(self) -> bool:
        """Whether somebody still waits for the keys to fit."""
        return self.entry.outcome is None and self.core.lockout(Now(self.mono, self.mono)) is None


def story(work: Callable[[], None]) -> None:
    async def on_a_loop() -> None:
        work()

    asyncio.run(on_a_loop())


@pytest.mark.parametrize("reason", ["auth", "handshake", "protocol"])
def test_an_address_that_refuses_keys_keeps_nobody_from_waiting_for_another(reason: str) -> None:
    def work() -> None:
        fleet = Addresses("a", "b")
        for _ in range(5):
            fleet.connection.on_failed(reason)
            fleet.pass_time(1.0)
            assert fleet.connection.address == "b"
            fleet.connection.on_failed("unreachable")
            fleet.pass_time(1.0)
            assert fleet.connection.address == "a"
            assert fleet.hopes()

    story(work)


def test_an_address_that_hung_up_once_is_waited_for() -> None:
    def work() -> None:
        fleet = Addresses("a", "b")
        for reason in ("handshake", "auth", "unreachable", "auth", *["unreachable"] * 20):
            fleet.connection.on_failed(reason)
            fleet.pass_time(0.5)
        assert fleet.hopes()

    story(work)


def test_who_is_refused_at_all_addresses_is_told() -> None:
    def work() -> None:
        fleet = Addresses("a", "b", "c")
        fleet.errors["b"] = KeysMissing("no keys of b")
        for _ in range(12):
            fleet.connection.on_failed("auth")
            fleet.pass_time(0.3)
        assert isinstance(fleet.entry.outcome, KeyRefused)
        assert "refuses our key" in str(fleet.entry.outcome)
        assert not fleet.hopes()
        del fleet.errors["b"]
        fleet.connection.on_failed("auth")
        fleet.pass_time(0.6)
        assert "b" in fleet.opened
        assert fleet.core.lockout(Now(fleet.mono, fleet.mono)) is None, "keys of one of them have come"

    story(work)


def test_a_coordinator_that_turns_us_away_is_left_for_another_one() -> None:
    def work() -> None:
        fleet = Addresses("a", "b")
        fleet.tells(Refusal("signature", "skew", "coordinator-1", "clocks differ by 60.0 s"))
        fleet.pass_time(2 * NEXT_ADDRESS_S)
        assert fleet.opened == ["a", "b"]
        fleet.pass_time(10.0)
        assert fleet.hopes()

    story(work)


def test_keys_that_cannot_be_read_for_a_moment_lock_nobody_out() -> None:
    def work() -> None:
        fleet = Addresses("a", "b")
        fleet.errors["b"] = ConfigError("half of a file")
        fleet.pass_time(2.1)
        assert fleet.opened == ["a"]
        fleet.errors.clear()
        fleet.pass_time(2.5)
        assert fleet.opened == ["a", "a", "b"]
        assert fleet.hopes()

    story(work)


def test_an_address_for_which_no_descriptor_is_left_is_tried_again() -> None:
    def work() -> None:
        fleet = Addresses("a", "b")
        fleet.errors["a"] = fleet.errors["b"] = OSError(24, "Too many open files")
        fleet.pass_time(5.0)
        assert "Too many open files" in fleet.core.trouble
        assert fleet.hopes()
        fleet.errors.clear()
        fleet.pass_time(0.5)
        assert len(fleet.opened) == 2

    story(work)


def test_a_session_makes_what_was_seen_elsewhere_old() -> None:
    def work() -> None:
        fleet = Addresses("a", "b")
        fleet.connection.on_failed("auth")
        fleet.pass_time(0.3)
        fleet.world.up()
        fleet.pass_time(10.0)
        fleet.world.down()
        fleet.connection.on_failed("auth")
        fleet.pass_time(0.1)
        assert fleet.hopes()

    story(work)


def test_a_standby_whose_clock_is_off_costs_nothing(coordinator: FleetInAThread) -> None:
    standby = FleetInAThread(skew_s=60.0)
    try:
        with FleetClient([standby.address, coordinator.address], token_secret=SECRET) as fleet:
            assert fleet.submit("noop", {"n": 1}).result(5) == {"n": 1}
    finally:
        standby.stop()


def test_half_of_a_change_of_keys_does_not_show(coordinator: FleetInAThread, monkeypatch: pytest.MonkeyPatch) -> None:
    def half() -> None:
        raise ConfigError("half of a file")

    with listener() as frozen:
        config = A2AConfig(agent_id="client", token_secret=SecretStr(SECRET))
        opener = LinkOpener(config, "coordinator-1")
        monkeypatch.setattr(opener._identity, "reload_if_changed", half)
        with FleetClient([frozen, coordinator.address], opener=opener) as fleet:
            assert fleet.submit("noop", {"n": 1}).result(5) == {"n": 1}


def test_waiting_ends_where_the_only_coordinator_stands_by_for_long(coordinator: FleetInAThread) -> None:
    with FleetClient(coordinator.address, token_secret=SECRET, unavailable_after_s=0.5) as fleet:
        coordinator.held = True
        handle = fleet.submit("noop", {"n": 1})
        refusal = {"code": "NOT_LEADER", "message": "coordinator-1 does not lead"}
        coordinator.fault = lambda action: refusal
        coordinator.restart()
        with pytest.raises(FleetUnavailable, match="does not lead"):
            handle.result()
        coordinator.fault = lambda action: None
        coordinator.release(tell=False)
        assert handle.result(8) == {"n": 1}


@contextlib.contextmanager
def listener() -> Iterator[str]:
    """Address of a process that is stopped: its host takes connections, and nobody speaks."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"
