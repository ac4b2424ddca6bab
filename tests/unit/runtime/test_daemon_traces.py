"""A daemon's traces: opened only where they are wanted, and one clear line where they cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from a2a_zmq.protocol.message import Role
from a2a_zmq.tracing.export import Counts, Exporter
from daemons.runtime.serving import secrets_of
from daemons.runtime.tracing import counting, open_exporter
from daemons.settings import CoordinatorSettings, WorkerSettings
from tests.unit.meter import CountingMeter


def test_without_a_receiver_there_is_no_exporter() -> None:
    assert open_exporter(WorkerSettings.model_validate({}), Role.WORKER) is None


@pytest.mark.parametrize("endpoint", ["localhost:4318", "tcp://127.0.0.1:4318", "http://", "http://h:99999"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="otlp_endpoint"):
        WorkerSettings.model_validate({"otlp_endpoint": endpoint})


PROGRAM = """
import sys
sys.modules["opentelemetry.sdk.trace"] = None
from daemons.worker.main import main
sys.exit(main(["--otlp-endpoint", "http://127.0.0.1:4318", "--state-dir", sys.argv[1]]))
"""


def test_a_daemon_without_the_packages_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 78
    (line,) = done.stderr.splitlines()
    assert line.startswith("a2a-worker: otlp_endpoint: pip install 'a2a-zmq[otel]' first (")
    assert list(tmp_path.iterdir()) == [], "no keys were made for it"


class Told:
    """Takes log lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, int]]] = []

    def warning(self, event: str, **fields: int) -> None:
        self.lines.append((event, fields))


def test_what_became_of_spans_is_counted_once_and_losses_are_logged() -> None:
    exporter = Exporter("http://127.0.0.1:9", {})
    meter, log = CountingMeter(), Told()
    count = counting(exporter, meter, log)
    count()
    assert (meter.counts, log.lines) == ({}, [])
    exporter.counted(Counts(exported=5))
    count()
    assert log.lines == []
    exporter.counted(Counts(exported=1, failed=3, dropped=2))
    count()
    count()
    assert log.lines == [("spans_lost", {"not_taken": 3, "dropped": 2})]
    assert {name.partition("/")[2]: count for name, count in meter.counts.items()} == {
        "exported": 6,
        "failed": 3,
        "dropped": 2,
    }


def test_every_secret_setting_is_known_to_the_logs() -> None:
    values = {"token_secret": SecretStr("a secret of sixteen"), "redis_password": SecretStr("hunter2")}
    settings = CoordinatorSettings.model_validate(values)
    assert sorted(secrets_of(settings)) == ["a secret of sixteen", "hunter2"]
