"""What the tests with real processes share: reading what a fleet shows of itself, and looking for orphans."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from a2a_zmq import FleetClient, TaskHandle
from daemons.cli.fleet import LocalFleet

REPOSITORY = Path(__file__).resolve().parent.parent.parent
HANDLERS = "tests.integration.user_code"
MARK = "FLEET_TEST_RUN"

# A host that is busy with other things must not fail a test: waits end as soon as what they wait for is there.
PATIENCE_S = 12.0


def wait_until(predicate: Any, what: str, timeout_s: float = PATIENCE_S, pause_s: float = 0.02) -> float:
    """Wait for a condition; fails the test with ``what``. Returns how many seconds it took."""
    began = time.monotonic()
    while not predicate():
        if time.monotonic() - began > timeout_s:
            pytest.fail(f"after {timeout_s:g} s still not: {what}")
        time.sleep(pause_s)
    return time.monotonic() - began


def user_fleet(**options: Any) -> LocalFleet:
    """A private fleet whose workers have the handlers of :mod:`tests.integration.user_code`."""
    env = {"A2A_WORKER_HANDLERS": HANDLERS, "PYTHONPATH": str(REPOSITORY), **options.pop("env", {})}
    return LocalFleet(env=env, **options)


def client_of(fleet: LocalFleet, *, operator: bool = False, **options: Any) -> FleetClient:
    return FleetClient(**{**fleet.client_arguments(operator=operator), **options})


# ---------------------------------------------------------------- what a fleet shows


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(exposition: str) -> Samples:
    """Samples by (name, labels) of a page in Prometheus' text format."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


def scrape(fleet: LocalFleet, name: str) -> Samples:
    status, text = fleet.get(name, "/metrics")
    assert status == 200, text
    return samples(text)


def total(found: Samples, metric: str, **labels: str) -> float:
    """Sum over all series of a metric that have these labels."""
    wanted = set(labels.items())
    return sum(value for (name, have), value in found.items() if name == metric and wanted <= set(have))


def log_events(fleet: LocalFleet, name: str) -> list[dict[str, Any]]:
    """The daemon's log; fails unless every line is a JSON object."""
    lines = fleet.daemons[name].log.read_text(errors="replace").splitlines()
    events = []
    for line in lines:
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError:
            pytest.fail(f"{name} logged a line that is not JSON: {line!r}")
        assert isinstance(event, dict), line
        events.append(event)
    return events


def complaints(fleet: LocalFleet, *allowed: str) -> list[dict[str, Any]]:
    """Errors in the logs of all daemons of the suite, except those events."""
    return [
        event
        for name in fleet.daemons
        if name != "redis"
        for event in log_events(fleet, name)
        if event.get("level") in ("error", "critical") and event.get("event") not in allowed
    ]


@dataclass(frozen=True)
class Run:
    """One run of a handler, from a ledger."""

    event: str
    task_id: str
    attempt: int
    pid: int
    mono: float


def runs(ledger: Path, event: str = "begin") -> list[Run]:
    """The runs that handlers noted, in order."""
    if not ledger.exists():
        return []
    found = []
    text = ledger.read_text()
    for line in text[: text.rfind("\n") + 1].splitlines():  # the last one may be on its way
        kind, task_id, attempt, pid, mono = line.split()
        if kind == event:
            found.append(Run(kind, task_id, int(attempt), int(pid), float(mono)))
    return found


# ---------------------------------------------------------------- commands


def script(name: str) -> str:
    """A console script of the installation that runs the tests."""
    return str(Path(sys.executable).parent / name)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without anybody's settings of a fleet."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("A2A_", "REDIS_"))}
    for name in ("COORDINATOR_ID", "DISTRIBUTOR_ID", "WORKER_ID"):
        env.pop(name, None)
    return env | dict(extra or {})


def run(
    *command: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, text: str = "", timeout_s: float = 20
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, in a directory without a ``.env`` of somebody."""
    return subprocess.run(
        [script(command[0]), *command[1:]],
        env=clean_environment(env),
        cwd=cwd or Path(tempfile.gettempdir()),
        input=text,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def a2actl(fleet: LocalFleet, *arguments: str, text: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run the operator's command against this fleet."""
    where = {
        "A2A_COORDINATOR_ADDRESS": fleet.coordinator_address,
        "A2A_STATE_DIR": str(fleet.directory),
        "REDIS_PORT": str(fleet.redis_port),
        **env,
    }
    return run("a2actl", *arguments, env=where, text=text)


def one_line(done: subprocess.CompletedProcess[str], program: str) -> str:
    """The single line that a program that could not do its work wrote on standard error."""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, f"not one line: {done.stderr!r} (status {done.returncode})"
    assert lines[0].startswith(f"{program}: "), lines[0]
    assert "Traceback" not in done.stderr
    return lines[0]


# ---------------------------------------------------------------- orphans


def our_processes(mark: str, base: Path) -> dict[int, str]:
    """Processes that descend from this test run, by its mark in their environment or their working directory below
    ``base``; pid → command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes()
            where = str((entry / "cwd").readlink())
            if f"{MARK}={mark}".encode() in environment or where.startswith(str(base)):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if command:  # a zombie has none
                    found[int(entry.name)] = command
    return found


# ---------------------------------------------------------------- load


@dataclass
class Outcome:
    """What a load came to.

    Attributes:
        values: by task id.
        errors: by task id.
        seen: how often each task's result came out of the client.
    """

    submitted: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)


class Load:
    """Submits ``counted`` tasks in small groups from a thread, until :meth:`finish`, and waits for every result.

    Args:
        seconds: how long each runs.
        group: tasks of one submission.
        pause_s: between submissions.
        waiting: bound of tasks whose results are not there.
        pad: makes payloads larger.
    """

    def __init__(
        self,
        client: FleetClient,
        ledger: Path,
        *,
        seconds: float = 0.02,
        group: int = 20,
        pause_s: float = 0.02,
        waiting: int = 400,
        pad: str = "",
        **options: Any,
    ) -> None:
        self.client = client
        self.ledger = ledger
        self.handles: list[TaskHandle] = []
        self.refused: list[str] = []
        self._seconds = seconds
        self._group = group
        self._pause_s = pause_s
        self._waiting = waiting
        self._pad = {"pad": pad} if pad else {}
        self._options = options
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._feed, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)

    @property
    def submitted(self) -> int:
        return len(self.handles)

    @property
    def done(self) -> int:
        return sum(handle.done() for handle in self.handles)

    def _feed(self) -> None:
        number = 0
        try:
            while not self._stop.is_set():
                if self.submitted - self.done < self._waiting:
                    payloads = [
                        {"n": number + i, "seconds": self._seconds, "ledger": str(self.ledger), **self._pad}
                        for i in range(self._group)
                    ]
                    self.handles += self.client.submit_many("counted", payloads, **self._options)
                    number += self._group
                self._stop.wait(self._pause_s)
        except BaseException as error:
            self._failure = error

    def finish(self, timeout_s: float = PATIENCE_S) -> None:
        """Submit no more, wait for all results, and check them: each task completed once, with its own value."""
        self._stop.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the load's submissions hang"
        if self._failure is not None:
            raise self._failure
        until = time.monotonic() + timeout_s
        for number, handle in enumerate(self.handles):
            assert handle.result(max(0.01, until - time.monotonic())) == number


def recorded_results(fleet: LocalFleet) -> Counter[str]:
    """How often each task's result stands in the result buckets of all distributors (never more than once)."""
    found: Counter[str] = Counter()
    with redis.Redis(port=fleet.redis_port, socket_timeout=5, decode_responses=True) as connection:
        for key in connection.scan_iter("results:*", count=1000):
            found.update(connection.hkeys(key))
    return found


def live_tasks(fleet: LocalFleet) -> dict[str, dict[str, Any]]:
    """Records of unfinished tasks in the shared state."""
    found: dict[str, dict[str, Any]] = {}
    with redis.Redis(port=fleet.redis_port, socket_timeout=5, decode_responses=True) as connection:
        for key in connection.scan_iter("tasks:*", count=1000):
            records: dict[str, str] = connection.hgetall(key)
            found |= {name: orjson.loads(raw) for name, raw in records.items()}
    return found


def check_recorded_once(fleet: LocalFleet, handles: Sequence[TaskHandle]) -> None:
    """Every task has exactly one result record in the shared state, and none is live any more.

    Right after an outage of Redis a client may know results that a spool is still handing in.
    """
    ids = {handle.task_id for handle in handles}
    wait_until(lambda: ids <= recorded_results(fleet).keys() and ids.isdisjoint(live_tasks(fleet)), "all is recorded")
    counted = recorded_results(fleet)
    assert {task_id for task_id in ids if counted[task_id] != 1} == set()
    assert ids.isdisjoint(live_tasks(fleet))


def children_of(pid: int) -> Iterator[int]:
    """Direct children of a process."""
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                yield from map(int, (thread / "children").read_text().split())
