"""Somebody on the wire: changed, repeated and lost frames, strangers, wrong keys. All counted, nobody harmed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from pydantic import SecretStr

from a2a_zmq import A2AConfig, FleetClient, FleetUnavailable
from a2a_zmq.client.links import LinkOpener
from a2a_zmq.security.keyring import KeyDirectory
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import (
    PATIENCE_S,
    a2actl,
    complaints,
    log_events,
    one_line,
    runs,
    scrape,
    total,
    user_fleet,
    wait_until,
)
from tests.integration.wire import Relay


@pytest.fixture(scope="module")
def fleet(no_orphans: Path) -> Iterator[LocalFleet]:
    """A fleet without encryption, so that somebody on the wire can read and write; all else is as always."""
    with user_fleet(workers=1, env={"A2A_USE_MTLS": "false"}) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def the_fleet_is_unharmed(fleet: LocalFleet) -> Iterator[None]:
    """After each of these the same processes serve an ordinary client."""
    before = fleet.pids
    yield
    with plain_client(fleet, fleet.coordinator_address) as client:
        assert client.submit("noop", {"x": 1}).result(PATIENCE_S) == {"x": 1}
    assert fleet.pids == before
    assert complaints(fleet) == []


@pytest.fixture
def relay(fleet: LocalFleet) -> Iterator[Relay]:
    """Between clients and the coordinator."""
    with Relay(fleet.coordinator_address) as relay:
        yield relay


def plain_client(fleet: LocalFleet, address: str, **options: float) -> FleetClient:
    """A client without encryption, through the relay."""
    config = A2AConfig(agent_id="client", use_mtls=False, key_dir=fleet.key_dir)
    return FleetClient(address, opener=LinkOpener(config, "coordinator-1"), **options)  # type: ignore[arg-type]


def refusals(fleet: LocalFleet, reason: str) -> float:
    found = scrape(fleet, "coordinator-1")
    return total(found, "a2a_signature_failures_total", reason=reason) + total(
        found, "a2a_routing_errors_total", reason=reason
    )


class Once:
    """A tap that does something to the first frame that has some bytes in it."""

    def __init__(self, having: bytes, then: str) -> None:
        self.having = having
        self.then = then
        self.hit = b""

    def __call__(self, body: bytes) -> list[bytes]:
        if self.hit or self.having not in body:
            return [body]
        self.hit = body
        if self.then == "change payload":
            return [body.replace(self.having, self.having[:-1] + b"8", 1)]
        if self.then == "change signature":
            return [body[:-3] + (b"0" if body[-3:-2] != b"0" else b"1") + body[-2:]]
        if self.then == "cut off":
            return [body[:-1]]
        if self.then == "repeat":
            return [body, body]
        if self.then == "drop":
            return []
        raise AssertionError(self.then)


@pytest.mark.parametrize("what", ["change payload", "change signature", "cut off"])
def test_a_tampered_submission_is_refused_counted_and_sent_again(
    fleet: LocalFleet, relay: Relay, ledger: Path, what: str
) -> None:
    before = refusals(fleet, "signature")
    with plain_client(fleet, relay.address) as client:
        client.status()
        tap = relay.tap = Once(b'"n":7', what)
        handle = client.submit("counted", {"n": 7, "ledger": str(ledger)})
        assert handle.result(PATIENCE_S) == 7
        assert tap.hit
    assert len(runs(ledger)) == 1
    assert refusals(fleet, "signature") >= before + 1


def test_a_tampered_result_is_refused_and_sent_again(fleet: LocalFleet, relay: Relay) -> None:
    with plain_client(fleet, relay.address) as client:
        tap = relay.back = Once(b'"result":{"answer":7', "change payload")
        assert client.submit("noop", {"answer": 7}).result(PATIENCE_S) == {"answer": 7}
        assert tap.hit


def test_a_replayed_submission_is_refused_and_counted(fleet: LocalFleet, relay: Relay, ledger: Path) -> None:
    before = refusals(fleet, "sequence")
    with plain_client(fleet, relay.address) as client:
        relay.tap = Once(b'"submit_tasks"', "repeat")
        assert client.submit("counted", {"n": 1, "ledger": str(ledger)}).result(PATIENCE_S) == 1
        assert client.submit("counted", {"n": 2, "ledger": str(ledger)}).result(PATIENCE_S) == 2
    assert len(runs(ledger)) == 2
    assert refusals(fleet, "sequence") == before + 1


@pytest.mark.parametrize("direction", ["tap", "back"])
def test_a_lost_frame_costs_no_task(fleet: LocalFleet, relay: Relay, ledger: Path, direction: str) -> None:
    with plain_client(fleet, relay.address) as client:
        client.status()
        lose = Once(b'"submit_tasks"' if direction == "tap" else b'"task_results"', "drop")
        setattr(relay, direction, lose)
        assert client.submit("counted", {"n": 1, "ledger": str(ledger)}).result(PATIENCE_S) == 1
        assert lose.hit
    assert len(runs(ledger)) == 1


def test_a_recorded_conversation_replayed_on_another_connection_does_nothing(
    fleet: LocalFleet, relay: Relay, ledger: Path
) -> None:
    recorded: list[bytes] = []

    def record(body: bytes) -> list[bytes]:
        recorded.append(body)
        return [body]

    relay.tap = record
    with plain_client(fleet, relay.address) as client:
        assert client.submit("counted", {"n": 1, "ledger": str(ledger)}).result(PATIENCE_S) == 1
        before = refusals(fleet, "no_session") + refusals(fleet, "signature")
        with dealer(fleet) as thief:
            for body in recorded:
                thief.send(body)
            wait_until(
                lambda: refusals(fleet, "no_session") + refusals(fleet, "signature") > before, "the replay is counted"
            )
            # The client whose messages were recorded does not notice.
            assert client.submit("counted", {"n": 2, "ledger": str(ledger)}).result(PATIENCE_S) == 2
    assert relay.opened == 1
    assert len(runs(ledger)) == 2


class dealer:  # noqa: N801 - used like a function
    """A raw ZeroMQ socket of a stranger."""

    def __init__(self, fleet: LocalFleet, address: str = "", curve: tuple[bytes, bytes, bytes] | None = None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        if curve is not None:
            self.socket.curve_publickey, self.socket.curve_secretkey, self.socket.curve_serverkey = curve
        self.socket.connect(address or fleet.coordinator_address)

    def __enter__(self) -> zmq.Socket[bytes]:
        return self.socket

    def __exit__(self, *exc: object) -> None:
        self.socket.close()
        self._context.term()


HELLO = b'{"type":"request","sender":"client","recipient":"coordinator-1","payload":{"action":"hello",'


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([b""], "no_session"),
        ([b"hello?"], "no_session"),
        ([os.urandom(5000)], "no_session"),
        ([b"{}", b"{}"], "frames"),
        ([b"x"] * 50, "frames"),
        ([HELLO + b'"x":1}}'], "signature"),
        ([HELLO + b"x" * 10_000 + b'"}}'], "size"),
        ([HELLO + b'"nonce":"00"},"metadata":{}' + b',"signature":"' + b"0" * 64 + b'"}'], "signature"),
        ([HELLO.replace(b"client", b"nobody") + b'}},"signature":"' + b"0" * 64 + b'"}'], "signature"),
    ],
    ids=["empty", "text", "noise", "two frames", "fifty frames", "short", "long hello", "forged", "unknown"],
)
def test_what_strangers_send_is_counted_and_not_answered(fleet: LocalFleet, frames: list[bytes], reason: str) -> None:
    before = refusals(fleet, reason)
    with dealer(fleet) as stranger:
        stranger.send_multipart(frames)
        wait_until(lambda: refusals(fleet, reason) == before + 1, f"a refusal for {reason} is counted")
        assert stranger.poll(100) == 0, stranger.recv_multipart()


def test_a_frame_that_is_too_large_ends_the_connection(fleet: LocalFleet) -> None:
    with dealer(fleet) as stranger:
        stranger.send(b"x" * (3 << 20))
        assert stranger.poll(100) == 0


def test_a_peer_that_chooses_its_own_routing_id_is_refused(fleet: LocalFleet) -> None:
    before = refusals(fleet, "routing_id")
    with dealer(fleet) as stranger:
        stranger.disconnect(fleet.coordinator_address)
        stranger.setsockopt(zmq.ROUTING_ID, b"worker-1")
        stranger.connect(fleet.coordinator_address)
        stranger.send(b"hello?")
        wait_until(lambda: refusals(fleet, "routing_id") > before, "the refused connection is counted")


def test_silent_connections_keep_nobody_out(fleet: LocalFleet) -> None:
    host, port = fleet.coordinator_address.removeprefix("tcp://").split(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(200)]
    try:
        with plain_client(fleet, fleet.coordinator_address) as client:
            assert client.submit("noop", {"x": 1}).result(PATIENCE_S) == {"x": 1}
    finally:
        for one in idle:
            one.close()


def test_a_cut_connection_costs_no_task(fleet: LocalFleet, relay: Relay, ledger: Path) -> None:
    with plain_client(fleet, relay.address) as client:
        handles = client.submit_many("counted", [{"n": n, "seconds": 0.3, "ledger": str(ledger)} for n in range(50)])
        relay.cut()
        handles += client.submit_many("counted", [{"n": n, "ledger": str(ledger)} for n in range(50, 100)])
        relay.cut()
        assert [handle.result(PATIENCE_S) for handle in handles] == list(range(100))
        wait_until(lambda: relay.opened >= 3, "the client has come back twice")
    assert len(runs(ledger)) == 100


# ---------------------------------------------------------------- wrong keys, with encryption


@pytest.fixture(scope="module")
def closed(no_orphans: Path) -> Iterator[LocalFleet]:
    """An ordinary fleet: encrypted, with key files."""
    with user_fleet(workers=1) as fleet:
        yield fleet


def test_a_client_with_keys_of_another_fleet_is_told_so(closed: LocalFleet, tmp_path: Path) -> None:
    keys = KeyDirectory(tmp_path / "keys")
    keys.init({"coordinator-1": "coordinator", "client": "client", "operator": "operator"})
    done = a2actl(closed, "status", "--timeout", "1", "--key-dir", str(keys.path))
    assert done.returncode == 69
    assert "it has other keys" in one_line(done, "a2actl")


def test_an_unknown_client_key_is_refused_and_counted(closed: LocalFleet) -> None:
    server = KeyDirectory(closed.key_dir).peers().agents["coordinator-1"].keys[0].curve.encode()
    public, secret = zmq.curve_keypair()

    def refused() -> float:
        return total(scrape(closed, "coordinator-1"), "a2a_signature_failures_total", reason="auth")

    before = refused()
    with dealer(closed, closed.coordinator_address, (public, secret, server)) as stranger:
        stranger.send(b"hello?")
        wait_until(lambda: refused() > before, "the refused key is counted")
        assert stranger.poll(0) == 0
    assert complaints(closed) == []


def test_a_client_that_speaks_without_encryption_is_shut_out(closed: LocalFleet) -> None:
    with (
        plain_client(closed, closed.coordinator_address, request_timeout_s=1.0) as client,
        pytest.raises(FleetUnavailable),
    ):
        client.status()


def test_a_client_that_claims_another_name_is_refused(closed: LocalFleet, tmp_path: Path) -> None:
    """With bob's keys one is bob: bob's key file under the client's name does not make one the client."""
    directory = KeyDirectory(closed.key_dir)
    directory.add("bob", "client")
    raw = directory.key_file("bob").read_text().replace('"bob"', '"client"')
    stolen = tmp_path / "client.key"
    stolen.write_text(raw)
    stolen.chmod(0o600)
    done = a2actl(
        closed,
        "status",
        "--timeout",
        "1",
        "--client-id",
        "client",
        A2A_KEY_PATH=str(stolen),
        A2A_CERT_PATH=str(directory.peers_json),
    )
    assert done.returncode == 78
    one_line(done, "a2actl")


# ---------------------------------------------------------------- one shared secret


SECRET = "a secret that all of us know"


@pytest.fixture(scope="module")
def secret_fleet(no_orphans: Path) -> Iterator[LocalFleet]:
    with user_fleet(workers=2, env={"A2A_TOKEN_SECRET": SECRET}) as fleet:
        yield fleet


def with_secret(fleet: LocalFleet, secret: str, **options: float) -> FleetClient:
    config = A2AConfig(agent_id="client", token_secret=SecretStr(secret))
    return FleetClient(fleet.coordinator_address, opener=LinkOpener(config, "coordinator-1"), **options)  # type: ignore[arg-type]


def test_a_fleet_with_a_shared_secret_works(secret_fleet: LocalFleet) -> None:
    with FleetClient(secret_fleet.coordinator_address, token_secret=SECRET) as client:
        assert len(list(client.map("noop", [{}] * 100))) == 100
    done = a2actl(secret_fleet, "submit", "noop", "--wait", A2A_TOKEN_SECRET=SECRET)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_secret_is_refused(secret_fleet: LocalFleet) -> None:
    with (
        with_secret(secret_fleet, "a secret of somebody else", request_timeout_s=1.0) as client,
        pytest.raises(FleetUnavailable, match="it has other keys"),
    ):
        client.status()
    done = a2actl(secret_fleet, "status", "--timeout", "1", A2A_TOKEN_SECRET="a secret of somebody else")
    assert done.returncode == 69
    assert "keys" in one_line(done, "a2actl")


def test_a_worker_with_another_secret_gets_no_work(no_orphans: Path) -> None:
    odd = {"worker-2": {"A2A_TOKEN_SECRET": "a secret of somebody else"}}
    with user_fleet(workers=2, env={"A2A_TOKEN_SECRET": SECRET}, env_of={}) as fleet:
        fleet.daemons["worker-2"].env |= odd["worker-2"]
        fleet.kill("worker-2")
        wait_until(lambda: fleet.daemons["worker-2"].starts == 2, "worker-2 was started again")
        with FleetClient(fleet.coordinator_address, token_secret=SECRET) as client:
            records = list(client.map("noop", [{}] * 50, records=True))
        assert {record["metadata"]["worker"] for record in records} == {"worker-1"}
        wait_until(lambda: fleet.get("worker-2", "/readyz")[0] == 503, "worker-2 says that it is not ready")
        assert "distributor-1" in fleet.get("worker-2", "/readyz")[1]
        assert "started" in [event["event"] for event in log_events(fleet, "worker-2")]
