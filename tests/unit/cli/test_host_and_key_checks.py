"""The doctor's look at this host and its key files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from a2a_zmq.protocol.message import Role
from a2a_zmq.security.keydir import KeyDirectory
from daemons.cli import host_checks, key_checks
from daemons.cli.diagnosis import print_checks
from daemons.cli.findings import Check
from daemons.cli.host_checks import Running

DAY_S = 86_400.0


@pytest.fixture
def keys(tmp_path: Path) -> KeyDirectory:
    """Keys of a small fleet, on the issuing host."""
    directory = KeyDirectory(tmp_path / "keys")
    directory.init({"coordinator-1": Role.COORDINATOR, "worker-1": Role.WORKER})
    return directory


# ---------------------------------------------------------------- keys


def test_keys_that_only_their_owner_can_read_are_well(keys: KeyDirectory) -> None:
    check = key_checks.permissions(keys.path)
    assert (check.ok, check.fix) == (True, "")


@pytest.mark.parametrize(
    ("name", "mode", "fix"),
    [
        ("worker-1.key", 0o640, "chmod 0600"),
        ("issuer.key", 0o604, "chmod 0600"),
        ("peers.json", 0o666, "chmod 0644"),
        ("", 0o755, "chmod 0700"),
    ],
)
def test_files_that_others_have_rights_on_are_named_with_their_remedy(
    keys: KeyDirectory, name: str, mode: int, fix: str
) -> None:
    path = keys.path / name
    path.chmod(mode)
    check = key_checks.permissions(keys.path)
    assert not check.ok
    assert f"{path} is {mode:04o}" in check.text
    assert f"`{fix} {path}`" in check.fix
    for command in check.fix.replace("`", "").split("; "):
        assert os.waitstatus_to_exitcode(os.system(command)) == 0
    assert key_checks.permissions(keys.path).ok, "its own advice mends it"


def test_the_oldest_key_is_named_and_an_old_one_is_a_note(keys: KeyDirectory) -> None:
    now = time.time()
    os.utime(keys.path / "worker-1.key", (now - 3 * DAY_S, now - 3 * DAY_S))
    young = key_checks.ages(keys.path, now)
    assert young.text == "2 keys here, the oldest is worker-1's: 3 d"
    assert young.fix == ""
    old = key_checks.ages(keys.path, now + 366 * DAY_S)
    assert (old.ok, old.fix) == (True, "`a2actl keys rotate worker-1`; sessions go on")


def test_tokens_that_nobody_renews_are_named_before_and_after_their_end(keys: KeyDirectory, tmp_path: Path) -> None:
    now = time.time()
    keys.export("worker-1", tmp_path / "elsewhere")
    assert key_checks.ages(tmp_path / "elsewhere", now).ok
    late = key_checks.ages(tmp_path / "elsewhere", now + DAY_S - 600)
    assert late.ok
    assert "the token of worker-1" in late.text
    assert "expires in" in late.text
    ended = key_checks.ages(tmp_path / "elsewhere", now + DAY_S + 7_200)
    assert not ended.ok
    assert "expired 2 h ago" in ended.text
    assert "a2actl keys export worker-1" in ended.fix


# ---------------------------------------------------------------- the host


@pytest.mark.parametrize(
    ("line", "role"),
    [
        ("/usr/bin/python3 /opt/a2a/bin/a2a-coordinator --id c", "coordinator"),
        ("/opt/a2a/bin/a2a-worker", "worker"),
        ("python -m daemons.distributor.main", "distributor"),
        ("python -X dev -m daemons.worker.main", "worker"),
        ("vim /etc/a2a-coordinator.toml", ""),
        ("python -m pytest a2a-worker", ""),
        ("", ""),
    ],
)
def test_daemons_are_known_by_how_they_were_started(line: str, role: str) -> None:
    assert host_checks.role_of([each.encode() for each in line.split(" ")]) == role


def test_daemons_of_this_host_are_found(tmp_path: Path) -> None:
    for pid, command in (("11", b"python\0-m\0daemons.coordinator.main\0"), ("12", b"sleep\01\0"), ("13", b"")):
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "cmdline").write_bytes(command)
        (tmp_path / pid / "limits").write_text("Limit  Soft Hard\nMax open files            1024   524288  files\n")
    (tmp_path / "11" / "fd" / "3").touch()
    (tmp_path / "self").mkdir()
    assert list(host_checks.running(tmp_path)) == [Running("coordinator", 11, 1, 1024)]
    (check,) = host_checks.daemons_here(tmp_path)
    assert check.ok
    assert "the lowest limit is 1024 (coordinator, process 11): enough for some 341 peers" in check.text
    assert "ulimit -n" in check.fix
    assert host_checks.daemons_here(tmp_path / "self") == []


@pytest.mark.parametrize(
    ("found", "ok", "note"),
    [
        ([Running("coordinator", 1, 900, 1024)], False, True),
        ([Running("coordinator", 1, 10, 65_536), Running("worker", 2, 10, 1024)], True, False),
        ([Running("worker", 2, None, 1024)], True, False),
    ],
)
def test_descriptors_that_run_out_are_named(found: list[Running], ok: bool, note: bool) -> None:
    check = host_checks.files_of(found)
    assert (check.ok, bool(check.fix)) == (ok, note)


# ---------------------------------------------------------------- what is shown


def test_findings_are_words_with_their_remedy_below(capsys: pytest.CaptureFixture[str]) -> None:
    finding = {"kind": "lost_record", "task_id": "t1", "section": "d1", "what": "it is gone", "repair": "put_back"}
    print_checks(
        [
            Check("keys", True, "well"),
            Check("key ages", True, "old", "rotate"),
            Check("state", False, "1", "mend", [finding]),
        ]
    )
    assert capsys.readouterr().out.splitlines() == [
        "ok    keys: well",
        "note  key ages: old",
        "      fix: rotate",
        "FAIL  state: 1",
        "      lost_record: t1 in d1: it is gone [can be repaired: put_back]",
        "      fix: mend",
    ]
