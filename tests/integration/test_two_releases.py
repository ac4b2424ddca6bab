"""An older and a newer release of the suite in one fleet: upgraded and rolled back under load, unnoticed by clients.

Both are wheels, built here and installed each in a place of its own. The older one is made from our sources as they
are; the newer one with another version number, a further protocol version, and members that the older one does not know
in every message, every handshake, every record and every result.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daemons.cli.fleet import LocalFleet
from daemons.settings_sources import suite_version
from tests.integration.rig import (
    REPOSITORY,
    Load,
    check_recorded_once,
    clean_environment,
    client_of,
    complaints,
    log_events,
    runs,
    scrape,
    user_fleet,
    wait_until,
)

NEWER = "99.1.0"
HELLO = '''        "action": "hello",
        "protocol"'''
# file: (text of ours, text of the newer release)
NOVELTIES = {
    "pyproject.toml": [(f'version = "{suite_version()}"\n', f'version = "{NEWER}"\n')],
    "a2a_zmq/protocol/crypto.py": [("PROTOCOL_MAX = 1\n", "PROTOCOL_MAX = 2\n")],
    "a2a_zmq/protocol/handshake.py": [(HELLO, HELLO.replace('"hello",', '"hello", "novelty": {"a": [1]},'))],
    "a2a_zmq/protocol/session.py": [
        ('        parts.append(b"}")\n', """        parts.append(b',"novelty":{"a":[1]}}')\n""")
    ],
    "a2a_zmq/protocol/outbound.py": [
        ("        data = dumps(payload)\n", "        data = dumps({**payload, 'novelty': [1]})\n")
    ],
    "a2a_zmq/protocol/machine.py": [('{"action": "heartbeat", ', '{"action": "heartbeat", "novelty": [1], ')],
    "a2a_zmq/protocol/spoke.py": [
        ('"details": self._announce(now)', '"details": {**self._announce(now), "novelty": 1}')
    ],
    "daemons/coordinator/records.py": [
        ('            "task_type": task_type,\n', '            "task_type": task_type,\n            "novelty": [1],\n')
    ],
    "daemons/worker/reports.py": [
        ('"outcome":"completed","started_at"', '"outcome":"completed","novelty":[1],"started_at"')
    ],
}
# So that nothing is shared but what stays compatible for ever: the form of HELLO.
NOTHING_IN_COMMON = {
    "a2a_zmq/protocol/crypto.py": [("PROTOCOL_MIN = 1\nPROTOCOL_MAX = 1\n", "PROTOCOL_MIN = 2\nPROTOCOL_MAX = 2\n")]
}

SOURCES = ("a2a_zmq", "daemons", "config", "pyproject.toml", "setup.cfg", "README.md", "LICENSE")
BUILD = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
WHERE = "import a2a_zmq, daemons; print(a2a_zmq.__file__, daemons.__file__)"

Changes = dict[str, list[tuple[str, str]]]
Release = Callable[[Changes], Path]


def called(*arguments: str, cwd: Path, **env: str) -> str:
    """What a program of this Python's says."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=clean_environment(env),
        capture_output=True,
        text=True,
        check=False,
        timeout=40,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Builds and installs the wheel of a release that differs from ours in these texts; gives where it is installed."""

    def make(changes: Changes) -> Path:
        base = tmp_path_factory.mktemp("release")
        source, site = base / "source", base / "site"
        source.mkdir()
        for name in SOURCES:
            if (REPOSITORY / name).is_dir():
                # Without what a fleet of the developer's left in config/run.
                leave_out = shutil.ignore_patterns("__pycache__", "*.sock", "*.pid", "*.log")
                shutil.copytree(REPOSITORY / name, source / name, ignore=leave_out)
            else:
                shutil.copy(REPOSITORY / name, source / name)
        for name, replacements in changes.items():
            text = (source / name).read_text()
            for ours, theirs in replacements:
                assert ours in text, f"{name} does not say {ours!r} any more"
                text = text.replace(ours, theirs)
            (source / name).write_text(text)
        wheel = called("-c", BUILD, str(base), cwd=source).split()[-1]
        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
        called(*pip, "--target", str(site), str(base / wheel), cwd=base)
        (base / "handlers").mkdir()
        (base / "handlers" / "tests").symlink_to(REPOSITORY / "tests")
        found = called("-c", WHERE, cwd=base, PYTHONPATH=python_path(site)).split()
        assert found == [str(site / "a2a_zmq" / "__init__.py"), str(site / "daemons" / "__init__.py")]
        return site

    return make


@pytest.fixture(scope="module")
def older(release: Release) -> Path:
    return release({})


@pytest.fixture(scope="module")
def newer(release: Release) -> Path:
    return release(NOVELTIES)


def python_path(site: Path) -> str:
    """An installed release, and the handlers of the tests; nothing of ours but these."""
    return os.pathsep.join((str(site), str(site.with_name("handlers"))))


def version_of(fleet: LocalFleet, name: str) -> str:
    return next(dict(labels)["version"] for metric, labels in scrape(fleet, name) if metric == "a2a_build_info")


@pytest.mark.parametrize("upgrade", [True, False], ids=["upgrade", "rollback"])
def test_a_fleet_changes_its_release_under_load(
    older: Path, newer: Path, no_orphans: Path, ledger: Path, upgrade: bool
) -> None:
    """Worker, distributor and coordinator in turn; in between each of them has neighbours of the other release."""
    before, after = (older, newer) if upgrade else (newer, older)
    versions = [suite_version(), NEWER] if upgrade else [NEWER, suite_version()]
    with user_fleet(workers=2, supervise=False, env={"PYTHONPATH": python_path(before)}) as fleet:
        assert version_of(fleet, "worker-1") == version_of(fleet, "coordinator-1") == versions[0]
        with client_of(fleet) as client, Load(client, ledger, seconds=0.05, max_attempts=1) as load:
            for name in ("worker-1", "distributor-1", "coordinator-1", "worker-2"):
                done = load.done
                wait_until(lambda done=done: load.done > done + 40, "the load runs")
                fleet.kill(name, signal.SIGTERM)
                wait_until(lambda name=name: not fleet.pids[name], f"{name} has left")
                fleet.daemons[name].env["PYTHONPATH"] = python_path(after)
                fleet.restart(name)
                assert version_of(fleet, name) == versions[1]
            done = load.done
            wait_until(lambda: load.done > done + 40, "the load runs on")
            load.finish()
        check_recorded_once(fleet, load.handles)
        assert len(runs(ledger)) == len(runs(ledger, "end")) == len(load.handles)
        assert complaints(fleet) == []


def test_a_newer_client_of_an_older_fleet(older: Path, newer: Path, no_orphans: Path) -> None:
    env = {"PYTHONPATH": python_path(newer)}
    with user_fleet(workers=1, env={"PYTHONPATH": python_path(older)}) as fleet:
        env |= {"A2A_COORDINATOR_ADDRESS": fleet.coordinator_address, "A2A_STATE_DIR": str(fleet.directory)}
        command = [str(newer / "bin" / "a2actl")]
        asked = {"env": clean_environment(env), "cwd": fleet.directory, "capture_output": True, "text": True}
        version = subprocess.run([*command, "--version"], **asked, check=True, timeout=20)  # type: ignore[call-overload]
        assert NEWER in version.stdout
        submit = [*command, "submit", "noop", "--count", "3", "--payload", '{"x": 1}', "--wait", "--json"]
        done = subprocess.run(submit, **asked, check=False, timeout=20)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('{"x":1}') == 3


def test_releases_that_share_no_protocol_version_say_so(older: Path, release: Release, no_orphans: Path) -> None:
    """In the logs of both, once; the fleet works without the one that does not fit, which goes on trying."""
    apart = release(NOTHING_IN_COMMON)
    with user_fleet(workers=1, supervise=False, env={"PYTHONPATH": python_path(older)}) as fleet:
        fleet.kill("worker-1", signal.SIGTERM)
        wait_until(lambda: not fleet.pids["worker-1"], "worker-1 has left")
        fleet.daemons["worker-1"].env["PYTHONPATH"] = python_path(apart)
        fleet.restart("worker-1", wait=False)

        def told(name: str) -> list[str]:
            return [event["why"] for event in log_events(fleet, name) if event["event"] == "version_refused"]

        wait_until(lambda: told("worker-1") and told("distributor-1"), "both have said so")
        text = "worker-1 speaks protocol version 2, distributor-1 1: update the older one"
        assert told("distributor-1") == [text]
        assert told("worker-1") == [f"refused by distributor-1: {text}"]
        assert not fleet.ready("worker-1")
        fleet.kill("worker-1", signal.SIGTERM)
        wait_until(lambda: not fleet.pids["worker-1"], "worker-1 has left")
        fleet.daemons["worker-1"].env["PYTHONPATH"] = python_path(older)
        fleet.restart("worker-1")
        with client_of(fleet) as client:
            assert client.submit("noop", {"x": 1}).result(10) == {"x": 1}
