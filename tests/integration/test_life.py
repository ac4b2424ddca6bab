"""Daemons' lives: SIGTERM drains, operators drain, supervisord starts and stops the whole fleet."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from a2a_zmq import FleetClient, TaskHandle
from daemons.cli.fleet import LocalFleet, free_ports
from daemons.runtime.procs import start_time_of
from tests.integration.rig import (
    PATIENCE_S,
    REPOSITORY,
    check_recorded_once,
    clean_environment,
    client_of,
    complaints,
    log_events,
    run,
    runs,
    script,
    user_fleet,
    wait_until,
)


@pytest.fixture(scope="module")
def fleet(no_orphans: Path) -> Iterator[LocalFleet]:
    """A fleet whose daemons stay down when they leave by themselves."""
    with user_fleet(workers=2, supervise=False) as fleet:
        yield fleet


@pytest.fixture
def client(fleet: LocalFleet) -> Iterator[FleetClient]:
    for name in fleet.daemons:
        if not fleet.pids[name]:
            fleet.restart(name)
    fleet.wait_ready()
    with client_of(fleet, operator=True) as client:
        yield client


def submit_some(client: FleetClient, ledger: Path, count: int = 60, seconds: float = 0.1) -> list[TaskHandle]:
    return client.submit_tasks(
        {
            "task_type": "in-process" if n % 6 == 0 else "counted",
            "payload": {"n": n, "seconds": seconds, "ledger": str(ledger)},
        }
        for n in range(count)
    )


def ends_with_0(fleet: LocalFleet, name: str) -> None:
    daemon = fleet.daemons[name]
    wait_until(lambda: not daemon.pid, f"{name} has left")
    assert daemon.exit_status == 0, daemon.tail()
    assert "leaving" in [event["event"] for event in log_events(fleet, name)]


def test_a_worker_that_gets_sigterm_finishes_what_runs_and_gives_the_rest_back(
    fleet: LocalFleet, client: FleetClient, ledger: Path
) -> None:
    handles = submit_some(client, ledger)
    wait_until(lambda: len(runs(ledger)) > 10, "the work has begun")
    fleet.kill("worker-1", signal.SIGTERM)
    ends_with_0(fleet, "worker-1")
    for handle in handles:
        handle.result(PATIENCE_S)
    check_recorded_once(fleet, handles)
    # Nothing that had begun was cut off: every task ran exactly once.
    assert sorted(run.task_id for run in runs(ledger)) == sorted(handle.task_id for handle in handles)
    assert len(runs(ledger, "end")) == len(handles)


@pytest.mark.parametrize("name", ["distributor-1", "coordinator-1"])
def test_an_owner_that_gets_sigterm_loses_nothing(
    fleet: LocalFleet, client: FleetClient, ledger: Path, name: str
) -> None:
    handles = submit_some(client, ledger)
    wait_until(lambda: len(runs(ledger)) > 10, "the work has begun")
    fleet.kill(name, signal.SIGTERM)
    ends_with_0(fleet, name)
    fleet.restart(name)
    for handle in handles:
        handle.result(PATIENCE_S)
    check_recorded_once(fleet, handles)
    assert len({run.task_id for run in runs(ledger)}) == len(handles)


def test_everything_stops_at_once_and_goes_on_after_the_next_start(
    fleet: LocalFleet, client: FleetClient, ledger: Path
) -> None:
    handles = submit_some(client, ledger, count=40, seconds=0.3)
    wait_until(lambda: len(runs(ledger)) > 10, "the work has begun")
    names = ["worker-1", "worker-2", "distributor-1", "coordinator-1", "redis"]
    for name in names[:-1]:
        fleet.kill(name, signal.SIGTERM)
    for name in names[:-1]:
        ends_with_0(fleet, name)
    fleet.kill("redis", signal.SIGTERM)
    wait_until(lambda: not fleet.pids["redis"], "redis has left")
    for name in reversed(names):
        fleet.restart(name, wait=False)
    fleet.wait_ready()
    for handle in handles:
        handle.result(PATIENCE_S)
    check_recorded_once(fleet, handles)


def test_an_operator_drains_a_worker(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    handles = submit_some(client, ledger)
    wait_until(lambda: len(runs(ledger)) > 10, "the work has begun")
    answer = client.drain("worker-2")
    assert answer["draining"] is True
    ends_with_0(fleet, "worker-2")
    for handle in handles:
        handle.result(PATIENCE_S)
    check_recorded_once(fleet, handles)
    assert client.drain("worker-77")["draining"] is False


def test_a_drain_has_an_end_although_a_task_has_none(no_orphans: Path, ledger: Path) -> None:
    with (
        user_fleet(workers=1, supervise=False, env={"A2A_DRAIN_TIMEOUT_S": "0.5"}) as fleet,
        client_of(fleet) as client,
    ):
        stuck = client.submit_many("hangs", [{"ledger": str(ledger)}] * 2, max_attempts=1)
        deaf = client.submit("deaf", {"ledger": str(ledger)}, max_attempts=1)
        wait_until(lambda: len(runs(ledger)) >= 2, "the slots are taken")
        began = time.monotonic()
        fleet.kill("worker-1", signal.SIGTERM)
        ends_with_0(fleet, "worker-1")
        assert time.monotonic() - began < 8
        assert all(handle.status() in ("failed", "pending", "abandoned") for handle in (*stuck, deaf))


def test_no_daemon_had_anything_to_complain_about(fleet: LocalFleet, client: FleetClient) -> None:
    assert client.submit("noop", {}).result(PATIENCE_S) == {}
    assert complaints(fleet) == []


# ---------------------------------------------------------------- supervisord


def is_running(pid: int) -> bool:
    return start_time_of(pid) is not None


class Supervised:
    """config/supervisord.conf, started from another directory with its own state, ports and files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "config" / "supervisord.conf"
        (directory / "config" / "run").mkdir(parents=True)
        for source in (REPOSITORY / "config").glob("*.*"):
            (directory / "config" / source.name).write_text(source.read_text())
        ports = [str(port) for port in free_ports(3)]
        self.address = f"tcp://127.0.0.1:{ports[1]}"
        self.env = {
            "A2A_STATE_DIR": str(directory / "state"),
            "REDIS_PORT": ports[0],
            "A2A_COORDINATOR_ADDRESS": self.address,
            "A2A_METRICS_PORT": "0",
            # As if the environment in which the suite is installed had been activated.
            "PATH": f"{Path(script('a2actl')).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.distributor = f"tcp://127.0.0.1:{ports[2]}"
        # One environment serves all, so what only one daemon may have goes into its own file.
        self._add("coordinator.toml", f'bind = "{self.address}"')
        self._add("distributor.toml", f'bind = "{self.distributor}"')
        self._add("worker.toml", f'distributor_address = "{self.distributor}"')

    def _add(self, name: str, line: str) -> None:
        path = self.directory / "config" / name
        path.write_text(f"{line}\n{path.read_text()}")

    def command(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(program, "-c", str(self.config), *arguments, env=self.env, cwd=Path("/"))

    def a2actl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run("a2actl", *arguments, env=self.env, cwd=Path("/"))

    def states(self) -> dict[str, str]:
        lines = self.command("supervisorctl", "status").stdout.splitlines()
        return {line.split()[0]: line.split()[1] for line in lines if len(line.split()) > 1}

    def running(self) -> dict[str, int]:
        """Process ids of the programs that run."""
        lines = self.command("supervisorctl", "status").stdout.splitlines()
        return {line.split()[0]: int(line.split()[3].rstrip(",")) for line in lines if " RUNNING " in line}

    def logged(self) -> str:
        return (self.directory / "config" / "run" / "supervisord.log").read_text()


@pytest.fixture
def supervised(no_orphans: Path, short_tmp: Path) -> Iterator[Supervised]:
    supervised = Supervised(short_tmp)
    done = supervised.command("supervisord")
    assert done.returncode == 0, done.stderr
    yield supervised
    supervised.command("supervisorctl", "shutdown")
    pidfile = short_tmp / "config" / "run" / "supervisord.pid"
    wait_until(lambda: not pidfile.exists(), "supervisord is gone", 20)


def test_supervisord_runs_the_fleet_and_stops_it_in_order(supervised: Supervised) -> None:
    everybody = {"redis", "coordinator", "distributor-1", "worker-1", "worker-2"}
    wait_until(lambda: supervised.states() == dict.fromkeys(everybody, "RUNNING"), "all programs run", pause_s=0.3)
    # Running means that it did not end within a second; what it needs may take longer.
    wait_until(lambda: supervised.a2actl("status").returncode == 0, "the fleet answers", pause_s=0.2)
    done = supervised.a2actl(
        "submit", "compute", "--payload", '{"operation": "sum", "numbers": [20, 22]}', "--wait", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert '"result":42' in done.stdout
    killed = supervised.command("supervisorctl", "signal", "KILL", "worker-1")
    assert killed.returncode == 0, killed.stdout
    wait_until(
        lambda: "spawned: 'worker-1'" in supervised.logged().partition("exited: worker-1")[2], "worker-1 is back"
    )
    assert supervised.a2actl("submit", "noop", "--wait").returncode == 0
    assert supervised.command("supervisorctl", "shutdown").returncode == 0
    wait_until(lambda: "stopped: redis" in supervised.logged(), "redis is stopped", 20)
    log = supervised.logged()
    order = [line.split("stopped: ")[1].split()[0] for line in log.splitlines() if "stopped: " in line]
    assert set(order[:2]) == {"worker-1", "worker-2"}
    assert order[2:] == ["distributor-1", "coordinator", "redis"]
    assert "(exit status 0; expected)" not in log.partition("stopped:")[0], "nobody left before it was told to"
    assert "FATAL" not in log


def test_a_killed_supervisord_is_followed_by_one_that_has_everything_in_its_hands(supervised: Supervised) -> None:
    """Its daemons go on without it; those of the next one take their places, and the work of meanwhile is there."""
    wait_until(lambda: supervised.a2actl("status").returncode == 0, "the fleet answers", pause_s=0.2)
    before = supervised.running()
    assert len(before) == 5
    os.kill(int((supervised.directory / "config" / "run" / "supervisord.pid").read_text()), signal.SIGKILL)
    task_id = supervised.a2actl("submit", "sleep", "--payload", '{"seconds": 1}').stdout.split()[0]
    assert supervised.command("supervisord").returncode == 0

    wait_until(lambda: not any(map(is_running, before.values())), "the old daemons have left", 20)
    assert supervised.a2actl("--timeout", "8", "result", task_id).returncode == 0
    assert supervised.a2actl("submit", "noop", "--wait").returncode == 0
    after = supervised.running()
    assert after.keys() == before.keys()
    assert set(after.values()).isdisjoint(before.values())
    assert "FATAL" not in supervised.logged()


def test_workers_go_on_where_those_that_follow_them_could_not_start(supervised: Supervised) -> None:
    """A supervisord is started again without something that handlers need: that does not harm the workers that run."""
    wait_until(lambda: supervised.a2actl("status").returncode == 0, "the fleet answers", pause_s=0.2)
    before = supervised.running()
    workers = ("worker-1", "worker-2")
    pidfile = supervised.directory / "config" / "run" / "supervisord.pid"
    os.kill(int(pidfile.read_text()), signal.SIGKILL)
    supervised.env["A2A_WORKER_HANDLERS"] = "no_such_module"
    assert supervised.command("supervisord").returncode == 0
    wait_until(lambda: [supervised.states().get(each) for each in workers] == ["EXITED"] * 2, "they end", 20, 0.3)
    assert all(is_running(before[each]) for each in workers)
    assert "(exit status 78; expected)" in supervised.logged()
    wait_until(lambda: not is_running(before["coordinator"]), "the coordinator is followed", 20)
    assert supervised.a2actl("submit", "noop", "--wait").returncode == 0

    del supervised.env["A2A_WORKER_HANDLERS"]
    supervised.command("supervisorctl", "shutdown")
    wait_until(lambda: not pidfile.exists(), "supervisord is gone", 20)
    assert supervised.command("supervisord").returncode == 0
    wait_until(lambda: not any(map(is_running, before.values())), "the old workers have left", 20)
    assert supervised.a2actl("submit", "noop", "--wait").returncode == 0


def test_a_worker_may_be_the_first_of_a_new_fleet(no_orphans: Path, tmp_path: Path) -> None:
    """All daemons are started together: a worker that is quicker than its distributor waits for it."""
    state, log = tmp_path / "state", tmp_path / "log"
    env = clean_environment({"A2A_STATE_DIR": str(state), "A2A_METRICS_PORT": "0"})
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [script("a2a-worker"), "--distributor-address", f"tcp://127.0.0.1:{free_ports(1)[0]}"],
            env=env,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as worker,
    ):
        try:
            wait_until(lambda: "started" in log.read_text() or worker.poll() is not None, "the worker has started")
            assert worker.poll() is None, log.read_text()
            worker.terminate()
            assert worker.wait(PATIENCE_S) == 0
        finally:
            worker.kill()
    assert (state / "keys" / "distributor-1.key").exists()
