"""The commands of compose.yaml with their environment, outside containers: they come to be healthy, and work.

Only names of hosts, and ports that may be somebody's, are others.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from a2a_zmq import FleetClient
from daemons.cli.fleet import free_ports
from daemons.redis.embedded import EmbeddedRedis
from tests.integration.rig import REPOSITORY, clean_environment, script, wait_until

Service = dict[str, Any]


class Compose:
    """What ``docker compose up`` does, with processes of this host."""

    def __init__(self, directory: Path, redis_port: int) -> None:
        yaml: Any = importlib.import_module("yaml")
        text = (REPOSITORY / "compose.yaml").read_text(encoding="utf-8")
        for name in ("5550", "5560"):
            text = text.replace(f":{name}", f":{free_ports(1)[0]}")
        self.services: dict[str, Service] = yaml.safe_load(text)["services"]
        del self.services["redis"]
        self._directory = directory
        self._redis_port = redis_port
        self._metrics = dict(zip(self.services, free_ports(len(self.services)), strict=True))

    def here(self, text: str) -> str:
        """With this host in the place of containers."""
        if text == "redis":
            return "127.0.0.1"
        for host in self.services:
            text = text.replace(f"//{host}:", "//127.0.0.1:")
        return text.replace("//0.0.0.0:", "//127.0.0.1:")

    def environment(self, name: str) -> dict[str, str]:
        asked = {key: self.here(value) for key, value in self.services[name]["environment"].items()}
        ours = {"REDIS_PORT": str(self._redis_port), "A2A_METRICS_PORT": str(self._metrics[name])}
        return clean_environment({**asked, **ours, "A2A_STATE_DIR": str(self._directory), "A2A_LOG_FORMAT": "json"})

    def start(self, name: str) -> subprocess.Popen[bytes]:
        program, *flags = (self.here(text) for text in self.services[name]["command"])
        with (self._directory / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [script(program), *flags],
                env=self.environment(name),
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def healthy(self, name: str) -> bool:
        """What its health check says."""
        _, python, *words = self.services[name]["healthcheck"]["test"]
        assert python == "python"
        own = words[-1].replace(words[-1].split(":")[2].split("/")[0], str(self._metrics[name]))
        return subprocess.run([sys.executable, *words[:-1], own], capture_output=True, check=False).returncode == 0

    @property
    def coordinator(self) -> str:
        bind: str = self.services["coordinator"]["command"][-1]
        return self.here(bind)


@pytest.fixture
def redis() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


def test_services_become_healthy_in_their_order_and_run_tasks(redis: EmbeddedRedis, tmp_path: Path) -> None:
    compose = Compose(tmp_path, redis.port)
    with ExitStack() as stack:
        for name in compose.services:
            process = compose.start(name)
            stack.callback(process.wait)
            stack.callback(process.send_signal, signal.SIGTERM)
            wait_until(partial(compose.healthy, name), f"{name} is healthy", pause_s=0.2)
        with FleetClient(compose.coordinator, key_dir=tmp_path / "keys") as fleet:
            assert fleet.submit("compute", {"operation": "sum", "numbers": [1, 2, 3]}).result(20)["result"] == 6


def test_the_images_own_command_runs_the_example(redis: EmbeddedRedis, tmp_path: Path) -> None:
    command = next(line for line in (REPOSITORY / "Dockerfile").read_text().splitlines() if line.startswith("CMD "))
    program, *arguments = [word.strip('" ') for word in command.removeprefix("CMD ").strip("[]").split(",")]
    assert program == "python"
    environment = clean_environment({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis.port)})
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**environment, "PYTHONPATH": os.fspath(REPOSITORY)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "task-10: completed" in done.stdout
