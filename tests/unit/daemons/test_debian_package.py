"""The Debian package as its files promise it; `make test-deb` installs it on a real systemd."""

from __future__ import annotations

import configparser
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daemons.settings import MODELS, WorkerSettings
from daemons.settings_forms import env_name

ROLES = ("coordinator", "distributor", "worker")


@pytest.fixture(scope="module")
def here(repository: Path) -> Path:
    return repository / "packaging" / "deb"


@pytest.fixture(scope="module")
def build(here: Path) -> Any:
    spec = importlib.util.spec_from_file_location("build_deb", here / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unit_of(path: Path) -> dict[str, dict[str, list[str]]]:
    """Sections of a unit; a directive may stand several times."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            found[section] = {}
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[section].setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("role", ROLES)
def test_an_agents_unit_starts_watches_and_stops_it(here: Path, role: str) -> None:
    unit = unit_of(here / "units" / f"a2a-{role}@.service")
    service = unit["Service"]
    assert service["Type"] == ["notify"]
    assert service["ExecStart"] == [f"/usr/bin/a2a-{role} --config /etc/a2a-zmq/{role}.toml --id %i"]
    assert float(service["WatchdogSec"][0]) > 0
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == ["2 78"]
    assert unit["Unit"]["PartOf"] == ["a2a.target"]
    assert unit["Install"]["WantedBy"] == ["a2a.target"]
    assert service["KillMode"] == ["mixed"], "SIGTERM is for the daemon, not for the tasks it runs"
    drain = WorkerSettings.model_fields["drain_timeout_s"].default
    assert float(service["TimeoutStopSec"][0]) > 2 * drain, "longer than the drain"
    wait = WorkerSettings.model_fields["redis_wait_s"].default
    assert float(service["TimeoutStartSec"][0]) > 2 * wait, "longer than Redis is waited for"


def test_all_agents_are_confined_alike(here: Path) -> None:
    start = "# ---- What it may do on the host"
    texts = {(here / "units" / f"a2a-{role}@.service").read_text().partition(start)[2] for role in ROLES}
    assert len(texts) == 1
    (text,) = texts
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=", "User=a2a-zmq"):
        assert line in (here / "units" / "a2a-worker@.service").read_text().splitlines(), line
    assert "SystemCallFilter=sched_setscheduler" in text, "libzmq needs it"


def test_workers_stop_before_distributors_before_coordinators_before_redis(here: Path) -> None:
    units = {role: unit_of(here / "units" / f"a2a-{role}@.service")["Unit"] for role in ROLES}
    for role in ROLES:
        assert "a2a-redis.service" in units[role]["After"][0].split()
    for above, below in (("coordinator", "distributor"), ("distributor", "worker")):
        mark = f"a2a-{above}s.target"
        assert units[above]["Before"] == units[above]["Wants"] == [mark]
        assert mark in units[below]["After"][0].split()
        assert unit_of(here / "units" / mark)["Unit"]["PartOf"] == ["a2a.target"], "it stops in one go with the rest"


def test_systemd_finds_the_units_safe(here: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    for path in (here / "units").glob("*.service"):
        unit = tmp_path / path.name.replace("@", "@example-1")
        unit.write_text(re.sub(r"/usr/bin/a2a-\w+", "/bin/true", path.read_text()))
        done = subprocess.run(
            [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if "--offline" in done.stderr or "Unknown" in done.stderr:
            pytest.skip("this systemd-analyze judges no files")
        assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_conffiles_are_the_files_of_settings(build: Any, repository: Path, tmp_path: Path) -> None:
    made = build.Build(repository, tmp_path, tmp_path, build.PYTHONS, "xz")
    config = made.nfpm_config()
    conffiles = {entry["dst"] for entry in config["contents"] if entry["type"] == "config"}
    shipped = {f"/etc/a2a-zmq/{path.name}" for path in (repository / "config").glob("*.toml")}
    assert conffiles == shipped | {"/etc/a2a-zmq/environment"}
    assert conffiles >= {f"/etc/a2a-zmq/{role}.toml" for role in ROLES}
    for entry in config["contents"]:
        if entry["type"] == "config":
            assert Path(entry["src"]).is_file()
    for script in config["scripts"].values():
        assert Path(script).is_file()
    assert config["version"] == made.project["version"]


def test_variables_in_the_environment_file_exist(here: Path) -> None:
    known = {env_name(name) for model in MODELS for name in model.model_fields}
    for line in (here / "environment").read_text(encoding="utf-8").splitlines():
        name, equals, _ = line.removeprefix("#").partition("=")
        if equals and name.isupper() and name != "PYTHONPATH":
            assert name in known, line


def test_every_command_gets_a_launcher_that_finds_the_packages_libraries(
    build: Any, repository: Path, tmp_path: Path
) -> None:
    made = build.Build(repository, tmp_path, tmp_path, build.PYTHONS, "xz")
    made._launchers()
    launchers = tmp_path / "stage" / "usr" / "bin"
    assert {path.name for path in launchers.iterdir()} == set(made.project["scripts"])
    ours = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    for path in launchers.iterdir():
        text = path.read_text(encoding="utf-8")
        assert text.startswith("#!/usr/bin/python3 ")
        assert "@" not in text
        assert path.stat().st_mode & 0o777 == 0o755
        compile(text, str(path), "exec")
    if ours not in {build._abi(python) for python in build.PYTHONS}:
        done = subprocess.run(
            [sys.executable, launchers / "a2a-worker"], capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 1
        assert "nothing for Python" in done.stderr


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_maintainer_scripts_are_valid_shell(here: Path, name: str) -> None:
    script = here / "scripts" / name
    assert script.read_text(encoding="utf-8").startswith("#!/bin/sh\n")
    assert re.search(r"^set -e$", script.read_text(encoding="utf-8"), re.MULTILINE)
    done = subprocess.run(["sh", "-n", str(script)], capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr


def test_purging_names_everything_that_installing_makes(here: Path) -> None:
    purge = (here / "scripts" / "postrm").read_text(encoding="utf-8")
    for name in ("/var/lib/a2a-zmq", "/etc/a2a-zmq", "/usr/lib/a2a-zmq", "a2a.target.wants", "/run/a2a-zmq.stopped"):
        assert name in purge, name


def test_the_guide_needs_at_most_five_commands(repository: Path) -> None:
    guide = (repository / "docs" / "installing.md").read_text(encoding="utf-8")
    section = guide.split("\n## Debian package\n")[1].split("\n## ")[0]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    assert 1 <= len(block[1].strip().splitlines()) <= 5
    units = {path.name for path in (repository / "packaging" / "deb" / "units").iterdir()}
    for name in re.findall(r"a2a-[a-z]+(?:@(?=\S))?", block[1]):
        known = f"{name}.service" if name.endswith("@") or name == "a2a-redis" else ""
        assert not known or known in units, name


@pytest.mark.parametrize("role", ["redis", *ROLES])
def test_each_role_alone_has_a_supervisor_configuration(
    repository: Path, role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from supervisor.options import ServerOptions

    monkeypatch.chdir(tmp_path)
    name = repository / "config" / f"supervisord-{role}.conf"
    options = ServerOptions()
    options.realize(["-c", str(name)])
    (group,) = options.process_group_configs
    (process,) = group.process_configs
    assert process.command.split()[0] == f"a2a-{role}"
    whole = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    whole.read(repository / "config" / "supervisord.conf")
    alone = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    alone.read(name)
    section = f"program:{group.name}"
    assert dict(alone[section]) == dict(whole[section]), "run as in the fleet of one host"
