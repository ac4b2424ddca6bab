"""The key directory: made, changed, read and refused."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from a2a_zmq import config
from a2a_zmq.errors import ConfigError, Refused
from a2a_zmq.protocol.message import Role
from a2a_zmq.security.files import locked
from a2a_zmq.security.keyring import KeyDirectory, Keyring

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


# ---------------------------------------------------------------- files


def test_files_are_private_and_have_the_documented_form(keys: KeyDirectory) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in keys.path.iterdir()}
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o700
    assert modes.pop(".lock") == 0o600
    assert modes.pop("issuer.pub") == modes.pop("peers.json") == 0o644
    assert set(modes.values()) == {0o600}
    assert set(modes) == {"issuer.key", *(f"{name}.key" for name in FLEET)}

    peers = orjson.loads(keys.peers_json.read_bytes())
    own = orjson.loads(keys.key_file("worker-1").read_bytes())
    assert peers["revoked"] == {"curve": [], "jti": []}
    assert peers["agents"]["worker-1"]["role"] == own["role"] == "worker"
    assert own["agent_id"] == "worker-1"
    assert [(key["key_id"], key["curve"]) for key in peers["agents"]["worker-1"]["keys"]] == [
        (key["key_id"], key["public"]) for key in own["keys"]
    ]
    assert own["keys"][0]["secret"] not in keys.peers_json.read_text()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
@pytest.mark.parametrize("name", ["worker-1.key", "issuer.key"])
def test_a_secret_file_that_others_can_touch_is_refused(keys: KeyDirectory, name: str, mode: int) -> None:
    (keys.path / name).chmod(mode)
    with pytest.raises(ConfigError, match=f"{name}: mode is 0{mode:o}, must be 0600"):
        ring(keys, "worker-1")


@pytest.mark.parametrize("name", ["peers.json", "issuer.pub"])
def test_a_public_file_may_be_read_but_not_written_by_others(keys: KeyDirectory, name: str) -> None:
    (keys.path / name).chmod(0o666)
    with pytest.raises(ConfigError, match=f"{name}: mode is 0666"):
        ring(keys, "worker-1")


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701])
def test_a_directory_that_others_can_enter_is_refused(keys: KeyDirectory, mode: int) -> None:
    keys.path.chmod(mode)
    for action in (lambda: ring(keys, "worker-1"), keys.list, lambda: keys.ensure("worker-1", "worker")):
        with pytest.raises(ConfigError, match="others can enter it; chmod 0700"):
            action()
    keys.path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_somebody_elses_directory_is_refused(short_tmp: Path) -> None:
    short_tmp.chmod(0o711)
    keys = KeyDirectory(short_tmp / "keys")
    keys.init({"worker-1": "worker"})
    os.chown(keys.path, 4242, 4242)
    program = """
import os, sys
from a2a_zmq.errors import ConfigError
from a2a_zmq.security.keyring import KeyDirectory
os.seteuid(4243)
try:
    KeyDirectory(sys.argv[1]).list()
except ConfigError as error:
    print(error)
"""
    root = Path(config.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program, str(keys.path)], capture_output=True, text=True, cwd=root, check=True, timeout=9
    )
    assert done.stdout == f"{keys.path}: belongs to user id 4242, we run as 4243\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_the_directorys_owner(keys: KeyDirectory) -> None:
    os.chown(keys.path, 4242, 4343)
    keys.add("worker-2", "worker")
    for name in ("worker-2.key", "peers.json"):
        found = (keys.path / name).stat()
        assert (found.st_uid, found.st_gid) == (4242, 4343)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("peers.json", "{", "peers.json: "),
        ("peers.json", '{"agents": {}, "extra": 1}', "extra: "),
        ("peers.json", '{"agents": {"a/b": {"role": "worker", "keys": []}}}', "no agent name"),
        ("peers.json", '{"agents": {"a": {"role": "king", "keys": []}}}', "agents.a.role"),
        ("peers.json", '{"agents": {"a": {"role": "worker", "keys": [{"key_id": "1", "curve": "short"}]}}}', "40 char"),
        ("worker-1.key", "not json", "worker-1.key: "),
        ("issuer.pub", "not pem", "issuer.pub: not an Ed25519 public key"),
        ("issuer.key", "not pem", "issuer.key: not an unencrypted Ed25519 private key"),
    ],
)
def test_a_damaged_file_is_one_clear_line(keys: KeyDirectory, name: str, content: str, complaint: str) -> None:
    (keys.path / name).write_text(content)
    with pytest.raises(ConfigError, match=complaint) as caught:
        ring(keys, "worker-1")
    assert "\n" not in str(caught.value)
    assert str(keys.path) in str(caught.value)


def test_an_error_repeats_no_secret(keys: KeyDirectory) -> None:
    path = keys.key_file("worker-1")
    record = orjson.loads(path.read_bytes())
    secret = record["keys"][0]["secret"]
    record["keys"][0]["secret"] = secret[:-1] + "~"
    path.write_bytes(orjson.dumps(record))
    with pytest.raises(ConfigError) as caught:
        ring(keys, "worker-1")
    assert secret[:10] not in str(caught.value)


def test_another_agents_key_file_is_refused(keys: KeyDirectory) -> None:
    with pytest.raises(ConfigError, match=r"is worker-1's, not cli's"):
        Keyring.from_files(keys.key_file("worker-1"), keys.peers_json, "cli")


def test_an_agent_without_keys_is_refused(keys: KeyDirectory) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        ring(keys, "stranger")


# ---------------------------------------------------------------- changes


def test_add_list_and_bad_names(keys: KeyDirectory) -> None:
    keys.add("worker-2", Role.WORKER)
    assert [(entry.name, entry.role, entry.key_ids) for entry in keys.list()] == [
        (name, FLEET.get(name, "worker"), ["1"]) for name in sorted([*FLEET, "worker-2"])
    ]
    for name in ("issuer", "a/b", "", "cli~x", "../x"):
        with pytest.raises(ConfigError, match="is no agent name"):
            keys.add(name, "worker")
    with pytest.raises(ConfigError, match="has keys already"):
        keys.add("worker-2", "worker")
    with pytest.raises(ConfigError, match="no agent nobody"):
        keys.rotate("nobody")


def test_init_again_adds_what_is_new_and_changes_nothing_else(keys: KeyDirectory) -> None:
    before = keys.key_file("cli").read_bytes()
    assert keys.init({**FLEET, "worker-9": "worker"}) == ["worker-9"]
    assert keys.key_file("cli").read_bytes() == before
    with pytest.raises(ConfigError, match="cli is a client, not a worker"):
        keys.init({"cli": "worker"})
    keys.revoke("cli")
    assert keys.init(FLEET) == []
    assert [one.name for one in keys.list() if one.revoked] == ["cli"], "only add admits it again"


def test_rotate_keeps_two_keys_and_both_sides_go_on(keys: KeyDirectory) -> None:
    worker, distributor = ring(keys, "worker-1"), ring(keys, "distributor-1")
    first = dict(worker.pair_keys("distributor-1"))
    assert keys.rotate("worker-1") == "2"
    assert worker.reload_if_changed()  # one side knows, the other does not yet
    assert [name for name, _ in worker.pair_keys("distributor-1")] == ["1-2", "1-1"]
    assert first.items() <= dict(worker.pair_keys("distributor-1")).items()
    assert dict(distributor.pair_keys("worker-1")) == first
    assert distributor.reload_if_changed()
    assert dict(distributor.pair_keys("worker-1")) == dict(worker.pair_keys("distributor-1"))
    assert keys.rotate("worker-1") == "3"
    assert keys.list()[-1].key_ids == ["3", "2"]
    worker.reload_if_changed()
    assert [name for name, _ in worker.pair_keys("distributor-1")] == ["1-3", "1-2"]


def test_a_key_that_the_peers_do_not_know_yet_is_not_used(keys: KeyDirectory) -> None:
    """An interrupted rotation, or one whose peers.json has not come yet."""
    old_peers = keys.peers_json.read_bytes()
    keys.rotate("worker-1")
    keys.peers_json.write_bytes(old_peers)
    worker = ring(keys, "worker-1")
    assert [name for name, _ in worker.pair_keys("distributor-1")] == ["1-1"]
    assert worker.curve_pair().public.decode() in old_peers.decode()
    assert keys.rotate("worker-1") == "2"
    assert worker.reload_if_changed()
    assert [name for name, _ in worker.pair_keys("distributor-1")] == ["1-2", "1-1"]


def test_reload_is_asked_for_and_keeps_the_old_state_if_the_new_is_bad(keys: KeyDirectory) -> None:
    worker = ring(keys, "worker-1")
    assert not worker.reload_if_changed()
    good = keys.peers_json.read_bytes()
    keys.peers_json.write_text("{ damaged")
    with pytest.raises(ConfigError):
        worker.reload_if_changed()
    assert not worker.reload_if_changed()  # complains once, not every second
    assert worker.pair_keys("distributor-1")
    keys.peers_json.write_bytes(good)
    assert worker.reload_if_changed()


def test_a_file_whose_mode_was_mended_is_taken_up(keys: KeyDirectory) -> None:
    hub = ring(keys, "distributor-1")
    keys.revoke("worker-1")
    keys.peers_json.chmod(0o664)  # as a careless copy leaves it
    with pytest.raises(ConfigError, match="chmod 0644"):
        hub.reload_if_changed()
    assert not hub.revoked("worker-1", "worker-1")
    keys.peers_json.chmod(0o644)
    assert hub.reload_if_changed()
    assert hub.revoked("worker-1", "worker-1")


def test_files_that_could_not_be_read_for_the_moment_are_read_later_and_told_once(
    keys: KeyDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = ring(keys, "distributor-1")
    keys.revoke("worker-1")
    with monkeypatch.context() as moment:

        def no_descriptor(path: Path) -> bytes:
            raise ConfigError(f"key file {path}: Too many open files")

        moment.setattr("a2a_zmq.security.keyring.read_public", no_descriptor)
        with pytest.raises(ConfigError, match="Too many"):
            hub.reload_if_changed()
        for _ in range(3):
            assert not hub.reload_if_changed(), "told once"
        with pytest.raises(ConfigError, match="Too many"):
            hub.reload_if_changed(always=True)
    assert hub.reload_if_changed()
    assert hub.revoked("worker-1", "worker-1")
    assert not hub.reload_if_changed()


def test_who_asks_for_it_has_files_read_that_show_no_change(keys: KeyDirectory) -> None:
    hub = ring(keys, "distributor-1")
    assert hub.reload_if_changed(always=True)
    assert not hub.reload_if_changed()


def test_revoke_shuts_out_now_and_until_added_again(keys: KeyDirectory) -> None:
    hub = ring(keys, "distributor-1")
    worker = ring(keys, "worker-1")
    token, public = worker.token(NOW), worker.curve_pair().public
    hub.verify_peer("worker-1", Role.WORKER, token, "worker-1", NOW)
    assert hub.allow("any", public) == "worker-1"
    assert not hub.revoked("worker-1", "worker-1")

    keys.revoke("worker-1")
    assert hub.reload_if_changed()
    assert hub.revoked("worker-1", "worker-1")
    assert hub.revoked("", "worker-1")
    assert hub.allow("any", public) is None
    assert hub.pair_keys("worker-1") == []
    assert refusal(lambda: hub.verify_peer("worker-1", Role.WORKER, token, "worker-1", NOW)) == "revoked"
    assert not hub.revoked("coordinator-1", "coordinator-1")

    assert worker.reload_if_changed()  # it lives, and knows
    assert worker.revoked("worker-1", "")
    assert worker.token(NOW + 90_000) is None
    with pytest.raises(ConfigError, match="worker-1 is revoked"):
        keys.ensure("worker-1", "worker")
    with pytest.raises(ConfigError):
        ring(keys, "worker-1")

    keys.add("worker-1", "worker")
    hub.reload_if_changed()
    assert hub.allow("any", public) is None  # the old key stays out
    again = ring(keys, "worker-1")
    hub.verify_peer("worker-1", Role.WORKER, again.token(NOW), "worker-1", NOW)
    assert not hub.revoked("worker-1", "worker-1")


def test_revoking_one_token_ends_the_session_that_showed_it(keys: KeyDirectory) -> None:
    hub, cli = ring(keys, "coordinator-1"), ring(keys, "cli~1")
    token = cli.token(NOW)
    hub.verify_peer("cli~1", Role.CLIENT, token, "cli", NOW)
    other = ring(keys, "cli~2").token(NOW)
    hub.verify_peer("cli~2", Role.CLIENT, other, "cli", NOW)
    jti = hub._sessions["cli~1"][0]
    keys.revoke_token(jti)
    hub.reload_if_changed()
    assert hub.revoked("cli~1", "cli")
    assert not hub.revoked("cli~2", "cli")
    assert refusal(lambda: hub.verify_peer("cli~1", Role.CLIENT, token, "cli", NOW)) == "revoked"
    hub.verify_peer("cli~1", Role.CLIENT, other, "cli", NOW)  # a good token heals it
    assert not hub.revoked("cli~1", "cli")


def test_strangers_are_revoked_and_nobody_in_particular_is_not(keys: KeyDirectory) -> None:
    hub = ring(keys, "coordinator-1")
    assert hub.revoked("stranger", "")
    assert not hub.revoked("", "")
    assert hub.pair_keys("stranger") == []
    assert hub.allow("any", b"x" * 40) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_the_lock_that_root_makes_belongs_to_the_directorys_owner(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    directory.mkdir(mode=0o700)
    os.chown(directory, 12345, 12346)
    with locked(directory):
        pass
    found = (directory / ".lock").stat()
    assert (found.st_uid, found.st_gid) == (12345, 12346)


def test_a_directory_that_may_not_be_read_is_one_error(keys: KeyDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    exists = Path.exists

    def refused(path: Path) -> bool:
        if path == keys.peers_json:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", refused)
    with pytest.raises(ConfigError, match="Permission denied"):
        keys.knows("worker-1")
