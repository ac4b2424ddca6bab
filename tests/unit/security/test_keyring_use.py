"""The key ring: other hosts, first starts, pair keys and verdicts."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from a2a_zmq.errors import ConfigError, Refused
from a2a_zmq.protocol.crypto import KeySource
from a2a_zmq.protocol.message import Role
from a2a_zmq.security.keyring import KeyDirectory, Keyring
from tests.unit.protocol.conftest import Kit, Pipe

NOW = 1_764_325_800.0
FLEET = {"coordinator-1": "coordinator", "distributor-1": "distributor", "worker-1": "worker", "cli": "client"}


@pytest.fixture
def keys(tmp_path: Path) -> KeyDirectory:
    directory = KeyDirectory(tmp_path / "keys")
    assert sorted(directory.init(FLEET)) == sorted(FLEET)
    return directory


def ring(keys: KeyDirectory, name: str) -> Keyring:
    return Keyring.load(keys.path, name)


def refusal(action: Callable[[], None]) -> str:
    with pytest.raises(Refused) as caught:
        action()
    return caught.value.reason


# ---------------------------------------------------------------- other hosts


def test_export_gives_another_host_what_it_needs_and_nothing_more(keys: KeyDirectory, tmp_path: Path) -> None:
    other = KeyDirectory(tmp_path / "other")
    keys.export("worker-1", other.path)
    assert {path.name for path in other.path.iterdir()} - {".lock"} == {
        "issuer.pub",
        "peers.json",
        "worker-1.key",
        "worker-1.jwt",
    }
    far = Keyring.load(other.path, "worker-1")
    other.ensure("worker-1", "worker")
    for refused in (other.ensure, other.add):
        with pytest.raises(ConfigError, match=r"issuer\.key"):
            refused("worker-2", "worker")
    hub = ring(keys, "distributor-1")
    assert dict(far.pair_keys("distributor-1")) == dict(hub.pair_keys("worker-1"))


def test_a_given_token_is_used_until_it_expires_and_replaced_without_a_restart(
    keys: KeyDirectory, tmp_path: Path
) -> None:
    other = KeyDirectory(tmp_path / "other")
    keys.export("worker-1", other.path)
    far, hub = Keyring.load(other.path, "worker-1"), ring(keys, "distributor-1")
    other.token_file("worker-1").write_text(keys.issue_token("worker-1", wall=NOW, life_s=600))
    token = far.token(NOW + 500)
    hub.verify_peer("worker-1", Role.WORKER, token, "worker-1", NOW + 500)
    assert far.token(NOW + 700) is None
    other.token_file("worker-1").write_text(keys.issue_token("worker-1", wall=NOW + 650))
    assert far.token(NOW + 700) is not None


def test_without_issuer_and_token_it_says_what_to_do(keys: KeyDirectory, tmp_path: Path) -> None:
    other = KeyDirectory(tmp_path / "other")
    keys.export("worker-1", other.path)
    other.token_file("worker-1").unlink()
    with pytest.raises(ConfigError, match="a2actl keys export worker-1"):
        Keyring.load(other.path, "worker-1")


def test_another_fleets_issuer_key_is_noticed(keys: KeyDirectory, tmp_path: Path) -> None:
    foreign = KeyDirectory(tmp_path / "foreign")
    foreign.init({"x": "worker"})
    keys.issuer_key.write_bytes(foreign.issuer_key.read_bytes())
    with pytest.raises(ConfigError, match=r"does not belong to the issuer\.pub"):
        ring(keys, "worker-1")


# ---------------------------------------------------------------- first start


def _start(path: str, name: str) -> str:
    KeyDirectory(path).ensure(name, "worker")
    return str(Keyring.load(path, name).token(NOW) is not None)


def test_ensure_makes_everything_on_the_first_start_and_nothing_on_the_next(tmp_path: Path) -> None:
    keys = KeyDirectory(tmp_path / "a" / "b" / "keys")
    keys.ensure("coordinator-1", "coordinator")
    keys.ensure("worker-1~x1", "worker")
    before = {path.name: path.read_bytes() for path in keys.path.iterdir()}
    keys.ensure("coordinator-1", Role.COORDINATOR)
    keys.ensure("worker-1", "worker")
    assert {path.name: path.read_bytes() for path in keys.path.iterdir()} == before
    assert [entry.name for entry in keys.list()] == ["coordinator-1", "worker-1"]
    with pytest.raises(ConfigError, match="worker-1 is a worker, not a client"):
        keys.ensure("worker-1", "client")


def test_ensure_by_many_processes_at_once_makes_one_fleet(tmp_path: Path) -> None:
    path = str(tmp_path / "keys")
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        started = pool.starmap(_start, [(path, f"worker-{number % 3}") for number in range(12)], chunksize=1)
    assert started == ["True"] * 12
    assert [entry.key_ids for entry in KeyDirectory(path).list()] == [["1"]] * 3
    rings = {name: Keyring.load(path, name) for name in ("worker-0", "worker-1", "worker-2")}
    for name, one in rings.items():
        for other_name, other in rings.items():
            if name != other_name:
                assert one.pair_keys(other_name) == other.pair_keys(name) != []


def test_changes_at_the_same_moment_lose_nothing(tmp_path: Path) -> None:
    names = [f"worker-{number}" for number in range(8)]
    together = threading.Barrier(len(names))

    def start(name: str) -> None:
        together.wait()
        KeyDirectory(tmp_path / "keys").ensure(name, "worker")

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(start, names))
    assert [entry.name for entry in KeyDirectory(tmp_path / "keys").list()] == names
    for name in names:
        assert Keyring.load(tmp_path / "keys", name).token(NOW)


def test_ensure_mends_an_interrupted_first_start(tmp_path: Path) -> None:
    keys = KeyDirectory(tmp_path / "keys")
    keys.ensure("worker-1", "worker")
    keys.peers_json.unlink()  # killed before it was written
    keys.issuer_pub.unlink()
    keys.ensure("worker-1", "worker")
    assert ring(keys, "worker-1").token(NOW)


def test_a_lost_key_file_is_told_and_not_replaced_in_silence(keys: KeyDirectory) -> None:
    keys.key_file("worker-1").unlink()
    with pytest.raises(ConfigError, match=r"worker-1\.key: missing.*`a2actl keys rotate worker-1`"):
        keys.ensure("worker-1", "worker")
    keys.rotate("worker-1")
    assert not keys.ensure("worker-1", "worker"), "nothing to make"
    assert [name for name, _ in ring(keys, "worker-1").pair_keys("cli")] == ["1-2"]


def test_ensure_says_whether_it_made_keys(keys: KeyDirectory) -> None:
    assert not keys.knows("worker-9")
    assert keys.ensure("worker-9", "worker")
    assert keys.knows("worker-9")
    assert not keys.ensure("worker-9", "worker")


# ---------------------------------------------------------------- own keys that change while the agent runs


def test_an_agent_that_is_revoked_and_added_again_takes_its_new_keys(keys: KeyDirectory) -> None:
    worker = ring(keys, "worker-1")
    first = worker.curve_pair().public
    keys.revoke("worker-1")
    assert worker.reload_if_changed()
    assert worker.revoked("worker-1", "")
    assert worker.owns(first), "nothing has taken its place yet"
    keys.add("worker-1", "worker")
    assert worker.reload_if_changed()
    assert not worker.revoked("worker-1", "")
    assert not worker.owns(first)
    assert worker.owns(worker.curve_pair().public)
    assert worker.token(NOW)


def test_a_rotated_key_is_owned_until_the_rotation_after_the_next(keys: KeyDirectory) -> None:
    worker = ring(keys, "worker-1")
    first = worker.curve_pair().public
    for owned in (True, False):
        keys.rotate("worker-1")
        worker.reload_if_changed()
        assert worker.owns(first) is owned


@pytest.mark.parametrize("damage", ["missing", "unreadable"])
def test_an_own_key_file_that_is_lost_is_told_once_and_hides_nothing_of_the_others(
    keys: KeyDirectory, damage: str
) -> None:
    hub = ring(keys, "coordinator-1")
    own, pairs = hub.curve_pair(), hub.pair_keys("cli")
    path = keys.key_file("coordinator-1")
    content = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_text("?")
    with pytest.raises(ConfigError, match=r"coordinator-1\.key"):
        hub.reload_if_changed()
    assert not hub.reload_if_changed(), "once"
    keys.add("worker-9", "worker")
    keys.revoke("worker-1")
    with pytest.raises(ConfigError, match=r"coordinator-1\.key"):
        hub.reload_if_changed()
    assert hub.server_keys("worker-9"), "new agents are known"
    assert hub.revoked("worker-1", ""), "revoked ones are shut out"
    assert (hub.curve_pair(), hub.pair_keys("cli")) == (own, pairs), "and our own keys stay"
    path.write_bytes(content)
    path.chmod(0o600)
    assert hub.reload_if_changed()
    assert hub.curve_pair() == own


def test_a_directory_that_was_made_anew_is_taken_as_a_whole(keys: KeyDirectory) -> None:
    worker = ring(keys, "worker-1")
    first = worker.curve_pair().public
    for path in keys.path.iterdir():
        path.unlink()
    keys.init(FLEET)
    worker.reload_if_changed()
    assert not worker.owns(first)
    token = worker.token(NOW)
    ring(keys, "coordinator-1").verify_peer("worker-1", Role.WORKER, token, "worker-1", NOW)


# ---------------------------------------------------------------- pair keys and verdicts


def test_both_sides_of_every_pair_agree_and_no_two_pairs_do(keys: KeyDirectory) -> None:
    rings = {name: ring(keys, name) for name in FLEET}
    seen: set[bytes] = set()
    for one in FLEET:
        for other in FLEET:
            if one < other:
                mine, yours = rings[one].pair_keys(other), rings[other].pair_keys(one)
                assert mine == yours
                assert len(mine[0][1]) == 32
                seen.add(mine[0][1])
    assert len(seen) == len(FLEET) * (len(FLEET) - 1) // 2


def test_a_client_process_uses_its_identitys_keys(keys: KeyDirectory) -> None:
    cli = ring(keys, "cli~ab12")
    assert cli.agent_id == "cli~ab12"
    assert cli.role is Role.CLIENT
    hub = ring(keys, "coordinator-1")
    assert hub.pair_keys("cli~ab12") == hub.pair_keys("cli~other") == cli.pair_keys("coordinator-1")
    hub.verify_peer("cli~ab12", Role.CLIENT, cli.token(NOW), "cli", NOW)


def test_verify_peer_refuses_with_the_reason(keys: KeyDirectory) -> None:
    hub, worker = ring(keys, "distributor-1"), ring(keys, "worker-1")
    token = worker.token(NOW)
    cases = [
        ("token", "worker-1", Role.WORKER, None, "worker-1", NOW),
        ("token", "worker-1", Role.WORKER, "nonsense", "worker-1", NOW),
        ("token", "worker-1", Role.WORKER, token, "worker-1", NOW + 90_000),
        ("token", "worker-1", Role.WORKER, token, "worker-1", NOW - 90_000),
        ("identity", "worker-1", Role.WORKER, token, "cli", NOW),
        ("identity", "cli", Role.CLIENT, token, "cli", NOW),
        ("identity", "cli", Role.CLIENT, token, "", NOW),
        ("identity", "worker-1", Role.COORDINATOR, token, "worker-1", NOW),
        ("identity", "worker-2", Role.WORKER, token, "worker-2", NOW),
    ]
    for reason, agent_id, role, shown, user_id, wall in cases:
        assert refusal(lambda: hub.verify_peer(agent_id, role, shown, user_id, wall)) == reason  # noqa: B023
    hub.verify_peer("worker-1", Role.WORKER, token, "worker-1", NOW)
    hub.verify_peer("worker-1", Role.WORKER, token, "", NOW)


def test_a_token_for_a_dropped_key_is_refused(keys: KeyDirectory) -> None:
    hub, token = ring(keys, "distributor-1"), ring(keys, "worker-1").token(NOW)
    keys.rotate("worker-1")
    hub.reload_if_changed()
    hub.verify_peer("worker-1", Role.WORKER, token, "worker-1", NOW)
    keys.rotate("worker-1")
    hub.reload_if_changed()
    assert refusal(lambda: hub.verify_peer("worker-1", Role.WORKER, token, "worker-1", NOW)) == "identity"


def test_the_own_token_is_minted_anew_at_half_life(keys: KeyDirectory) -> None:
    worker = ring(keys, "worker-1")
    first = worker.token(NOW)
    assert worker.token(NOW + 20_000) == first
    assert worker.token(NOW + 22_000) != first


@pytest.mark.parametrize("damage", ["open to others", "no key"])
def test_an_issuers_key_that_cannot_be_used_for_the_moment_is_told_once_and_ends_nothing(
    keys: KeyDirectory, damage: str
) -> None:
    worker, content = ring(keys, "worker-1"), keys.issuer_key.read_bytes()
    first = worker.token(NOW)
    keys.issuer_key.chmod(0o640) if damage == "open to others" else keys.issuer_key.write_text("?")
    keys.peers_json.touch()
    assert worker.reload_if_changed(), "other files may change meanwhile"
    assert worker.token(NOW + 22_000) == first, "the one before is valid still"
    with pytest.raises(ConfigError, match=r"issuer\.key"):
        worker.reload_if_changed()
    assert worker.token(NOW + 44_000) is None
    assert not worker.reload_if_changed(), "once"
    with pytest.raises(ConfigError, match=r"issuer\.key"):
        ring(keys, "worker-1")
    keys.issuer_key.write_bytes(content)
    keys.issuer_key.chmod(0o600)
    assert worker.token(NOW + 44_000) not in {None, first}


@pytest.mark.parametrize("who", ["distributor-1", "worker-1"])
def test_either_end_without_a_token_goes_on_and_joins_when_it_has_one(keys: KeyDirectory, who: str) -> None:
    ends = {name: ring(keys, name) for name in ("distributor-1", "worker-1")}
    for name, end in ends.items():
        if name != who:
            end.token(NOW)
    keys.issuer_key.chmod(0o640)
    kit = Kit()
    pipe = Pipe(kit.hub(keys=ends["distributor-1"]), kit.spoke(keys=ends["worker-1"]))
    pipe.connect()
    pipe.advance(3)
    assert (pipe.hub.ups(), set(pipe.spoke.reasons())) == (0, {"token"})
    keys.issuer_key.chmod(0o600)
    pipe.advance(3)
    assert pipe.hub.ups() == pipe.spoke.ups() == 1


def test_the_key_ring_is_a_key_source(keys: KeyDirectory) -> None:
    source: KeySource = ring(keys, "worker-1")
    assert source.role is Role.WORKER
    assert ring(keys, "worker-1").agents_of(Role.COORDINATOR) == ["coordinator-1"]
    assert len(ring(keys, "worker-1").server_keys("distributor-1")) == 1
