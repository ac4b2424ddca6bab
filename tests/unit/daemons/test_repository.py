"""The repository's own promises: dependencies with reasons, named packages, configuration files that tools accept."""

from __future__ import annotations

import configparser
import importlib.util
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from supervisor.options import ServerOptions

from daemons.settings_sources import suite_version


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=; ]", text, maxsplit=1)[0].lower() for text in requirements}


def test_every_dependency_has_a_range_and_a_reason(repository: Path, project: dict[str, Any]) -> None:
    required = project["project"]["dependencies"]
    extras = [text for texts in project["project"]["optional-dependencies"].values() for text in texts]
    text = (repository / "docs" / "dependencies.md").read_text(encoding="utf-8")
    explained = {found.lower() for found in re.findall(r"^\| `([A-Za-z0-9_.-]+)` \|", text, re.MULTILINE)}
    assert names(required) | names(extras) - {"a2a-zmq"} == explained
    for requirement in required:
        assert ">=" in requirement, requirement


def test_every_command_exists(project: dict[str, Any]) -> None:
    commands = project["project"]["scripts"]
    assert set(commands) == {"a2a-coordinator", "a2a-distributor", "a2a-worker", "a2a-redis", "a2actl"}
    for target in commands.values():
        module, _, function = target.partition(":")
        assert function == "main"
        assert importlib.util.find_spec(module) is not None, module


def test_packaging_is_no_python_package(repository: Path) -> None:
    assert (repository / "packaging").is_dir()
    assert list((repository / "packaging").rglob("__init__.py")) == []


def test_version_is_the_distributions(project: dict[str, Any]) -> None:
    assert suite_version() in {project["project"]["version"], "unknown (not installed)"}


def test_shipped_files_exist(repository: Path, project: dict[str, Any]) -> None:
    files = project["tool"]["setuptools"]["data-files"]
    shipped = [name for names in files.values() for name in names]
    assert {Path(name).name for name in shipped} >= {"supervisord.conf", "coordinator.toml", "worker.toml"}
    for directory, names in files.items():
        assert {Path(name).parent for name in names} == {Path(directory).relative_to("share/a2a-zmq")}
    rules = {str(path.relative_to(repository)) for path in (repository / "config" / "rules").iterdir()}
    assert set(files["share/a2a-zmq/config/rules"]) == rules, "prometheus.yml reads all of them"
    for name in [*shipped, "a2a_zmq/py.typed", "daemons/py.typed", "LICENSE"]:
        assert (repository / name).is_file(), name


def test_supervisor_accepts_the_configuration_from_anywhere(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ServerOptions()
    options.realize(["-c", str(repository / "config" / "supervisord.conf")])
    groups = sorted(options.process_group_configs, key=lambda group: int(group.priority))
    started = [group.name for group in groups]
    assert started[:3] == ["redis", "coordinator", "distributor-1"]
    assert sorted(started[3:]) == ["worker-1", "worker-2"]
    for group in groups:
        (process,) = group.process_configs
        assert process.stopwaitsecs > 10, "longer than the drain"
        assert not process.stopasgroup, "SIGTERM is for the daemon, not for the tasks it runs"
        assert process.killasgroup
    assert Path(options.logfile).parent == repository / "config" / "run"
    assert options.logfile.startswith(str(repository))


def test_an_update_of_supervisor_leaves_alone_what_did_not_change(repository: Path) -> None:
    for path in sorted((repository / "config").glob("supervisord*.conf")):
        options = ServerOptions()
        options.realize(["-c", str(path)])
        before = options.process_group_configs
        options.process_config(do_usage=False)
        assert options.process_group_configs == before, path


def test_programs_name_settings_that_exist(repository: Path) -> None:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read(repository / "config" / "supervisord.conf")
    for section in parser.sections():
        if section.startswith("program:"):
            for path in re.findall(r"--config %\(here\)s/(\S+)", parser.get(section, "command")):
                assert (repository / "config" / path).is_file()


def test_prometheus_accepts_its_configuration(repository: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    done = subprocess.run(
        [promtool, "check", "config", str(repository / "config" / "prometheus.yml")],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
