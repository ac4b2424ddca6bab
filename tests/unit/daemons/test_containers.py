"""Dockerfile and compose file against what the suite has: commands, settings, addresses, ports, files."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from daemons.settings import MODELS, DaemonSettings
from daemons.settings_forms import env_name
from daemons.settings_sources import load

INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "VOLUME", "USER", "CMD"}
VARIABLES = {env_name(name) for model in MODELS for name in model.model_fields}


@pytest.fixture(scope="module")
def dockerfile(repository: Path) -> list[tuple[str, str]]:
    lines = (repository / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line and line[0] != "#")]


@pytest.fixture(scope="module")
def services(repository: Path) -> dict[str, dict[str, Any]]:
    yaml: Any = importlib.import_module("yaml")
    found: dict[str, dict[str, Any]] = yaml.safe_load((repository / "compose.yaml").read_text(encoding="utf-8"))
    assert set(found) <= {"name", "services", "volumes", "x-agent"}
    named = {text.partition(":")[0] for service in found["services"].values() for text in service.get("volumes", [])}
    assert named == set(found["volumes"])
    return dict(found["services"])


def agents(services: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in services.items() if service["command"][0].startswith("a2a-")}


def settings_of(service: dict[str, Any]) -> DaemonSettings:
    """What the daemon of a service would read."""
    program, *flags = service["command"]
    (model,) = [model for model in MODELS if program == f"a2a-{model.role}"]
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    renamed = {("--" + model.role + "_id" if flag == "--id" else flag): value for flag, value in given.items()}
    values = {flag.removeprefix("--").replace("-", "_"): value for flag, value in renamed.items()}
    environ = {**service["environment"], "A2A_STATE_DIR": "/var/lib/a2a-zmq"}
    found = load(model, values, environ=environ, directory=Path("/nowhere"))
    assert isinstance(found, DaemonSettings)
    return found


def test_the_image_has_only_known_instructions_and_files(repository: Path, dockerfile: list[tuple[str, str]]) -> None:
    assert dockerfile[0] == ("FROM", "python:3.11-slim")
    assert {name for name, _ in dockerfile} <= INSTRUCTIONS
    ignored = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name, rest in dockerfile:
        if name == "COPY":
            for source in rest.split()[:-1]:
                assert (repository / source).exists(), source
                assert f"!{source}" in ignored, f"{source} is not sent to the builder"
        if name == "ENV":
            assert set(re.findall(r"(\w+)=", rest)) <= VARIABLES
    assert dockerfile[-1][0] == "CMD"
    assert (repository / "examples" / "example_e2e.py").is_file()
    assert "example_e2e.py" in dockerfile[-1][1]


def test_everything_that_the_build_needs_is_in_the_image(repository: Path, dockerfile: list[tuple[str, str]]) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    copied = {source for name, rest in dockerfile if name == "COPY" for source in rest.split()[:-1]}
    data = project["tool"]["setuptools"]["data-files"]
    for name in [project["project"]["readme"], *(path for paths in data.values() for path in paths)]:
        assert name.partition("/")[0] in copied, name
    assert {"a2a_zmq", "daemons", "pyproject.toml"} <= copied


def test_the_agents_run_as_somebody_who_owns_their_directory(dockerfile: list[tuple[str, str]]) -> None:
    user = next(rest for name, rest in dockerfile if name == "USER")
    directory = next(rest for name, rest in dockerfile if name == "VOLUME")
    (made,) = [rest for name, rest in dockerfile if name == "RUN" and "useradd" in rest]
    assert user in made
    assert directory in made
    assert f"A2A_STATE_DIR={directory}" in " ".join(rest for name, rest in dockerfile if name == "ENV")


def test_services_name_commands_and_settings_that_exist(repository: Path, services: dict[str, dict[str, Any]]) -> None:
    scripts = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert {service["command"][0] for service in agents(services).values()} <= set(scripts)
    roles = [settings_of(service).role for service in agents(services).values()]
    assert sorted(roles) == ["coordinator", "distributor", "worker", "worker"]
    for name, service in agents(services).items():
        assert set(service["environment"]) <= VARIABLES, name
        assert float(service["stop_grace_period"].removesuffix("s")) > 2 * settings_of(service).drain_timeout_s


def test_agents_are_asked_where_they_listen(services: dict[str, dict[str, Any]]) -> None:
    hubs = {name: settings_of(service).hub_address() for name, service in agents(services).items()}
    for name, service in agents(services).items():
        settings = settings_of(service)
        for address in settings.spoke_addresses():
            target = urlsplit(address)
            listening = hubs[target.hostname or ""]
            assert listening is not None, f"{name}: {address}"
            assert urlsplit(listening).port == target.port, f"{name}: {address}"
            assert urlsplit(listening).hostname == "0.0.0.0", "reachable from other containers"
            assert target.hostname in service["depends_on"]
        asked = urlsplit(service["healthcheck"]["test"][-1])
        assert (asked.hostname, asked.port) == settings.metrics_address, name
        assert asked.path == "/readyz"


def test_redis_keeps_what_it_is_given(services: dict[str, dict[str, Any]]) -> None:
    words = " ".join(services["redis"]["command"])
    assert "--appendonly yes" in words
    assert "--maxmemory-policy noeviction" in words
    for service in agents(services).values():
        assert service["environment"]["REDIS_HOST"] in services
