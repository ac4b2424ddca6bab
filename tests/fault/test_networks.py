"""Connections are cut, and networks swallow everything for a while; every link is encrypted as always."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from a2a_zmq import FleetClient
from daemons.cli.fleet import LocalFleet, free_ports
from tests.integration.rig import (
    PATIENCE_S,
    Load,
    check_recorded_once,
    client_of,
    complaints,
    runs,
    scrape,
    total,
    user_fleet,
    wait_until,
)
from tests.integration.wire import Relay


@dataclass
class Network:
    """A fleet with a relay on three of its links."""

    fleet: LocalFleet
    of_client: Relay
    of_distributor: Relay
    of_worker: Relay


@pytest.fixture(scope="module")
def network(no_orphans: Path) -> Iterator[Network]:
    upper, lower = (f"tcp://127.0.0.1:{port}" for port in free_ports(2))
    with Relay(upper) as of_client, Relay(upper) as of_distributor, Relay(lower) as of_worker:
        env_of = {
            "coordinator-1": {"A2A_BIND": upper},
            "distributor-1": {"A2A_BIND": lower, "A2A_COORDINATOR_ADDRESS": of_distributor.address},
            "worker-1": {"A2A_DISTRIBUTOR_ADDRESS": of_worker.address},
            "worker-2": {"A2A_DISTRIBUTOR_ADDRESS": lower},
        }
        with user_fleet(workers=2, env_of=env_of) as fleet:
            yield Network(fleet, of_client, of_distributor, of_worker)
            assert complaints(fleet) == []


@pytest.fixture
def client(network: Network) -> Iterator[FleetClient]:
    network.fleet.wait_ready()
    with client_of(network.fleet, addresses=network.of_client.address) as client:
        yield client


@pytest.mark.parametrize("link", ["of_client", "of_distributor", "of_worker"])
def test_cut_connections_cost_nothing(network: Network, client: FleetClient, ledger: Path, link: str) -> None:
    relay: Relay = getattr(network, link)
    pids = network.fleet.pids
    with Load(client, ledger, max_attempts=10) as load:
        for _ in range(5):
            before, opened = load.done, relay.opened
            wait_until(lambda before=before: load.done > before + 50, "the load runs")
            relay.cut()
            wait_until(lambda opened=opened: relay.opened > opened, "it is connected again")
        load.finish()
    check_recorded_once(network.fleet, load.handles)
    assert network.fleet.pids == pids


@pytest.mark.parametrize("link", ["of_client", "of_distributor", "of_worker"])
def test_a_network_that_swallows_everything_for_two_seconds(
    network: Network, client: FleetClient, ledger: Path, link: str
) -> None:
    relay: Relay = getattr(network, link)
    with Load(client, ledger, max_attempts=10) as load:
        wait_until(lambda: load.done > 100, "the load runs")
        relay.pause()
        time.sleep(2)
        relay.resume()
        healed, before = time.monotonic(), load.done
        wait_until(lambda: load.done > before + 100, "the load runs again")
        print(f"100 more results {time.monotonic() - healed:.2f} s after the network of {link} healed")
        load.finish()
    check_recorded_once(network.fleet, load.handles)


def test_a_worker_behind_a_broken_network_is_replaced_and_its_late_results_do_not_count(
    network: Network, client: FleetClient, ledger: Path
) -> None:
    fleet = network.fleet
    handles = client.submit_many("counted", [{"n": n, "seconds": 1.0, "ledger": str(ledger)} for n in range(30)])
    wait_until(lambda: len(runs(ledger)) == 30, "all are running")
    cut_off = {run.task_id for run in runs(ledger) if run.pid == fleet.pids["worker-1"]}
    assert cut_off
    late = total(scrape(fleet, "distributor-1"), "a2a_late_results_total")
    network.of_worker.pause()
    wait_until(lambda: {run.task_id for run in runs(ledger) if run.attempt > 1} == cut_off, "they run elsewhere")
    wait_until(
        lambda: cut_off <= {run.task_id for run in runs(ledger, "end") if run.attempt == 1}, "the first runs end"
    )
    network.of_worker.resume()
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(30))
    wait_until(lambda: fleet.ready("worker-1"), "worker-1 is back")
    wait_until(
        lambda: total(scrape(fleet, "distributor-1"), "a2a_late_results_total") > late, "late results are counted"
    )
    for handle in handles:
        assert handle.record is not None
        assert handle.record["metadata"]["attempt"] == (2 if handle.task_id in cut_off else 1)
    check_recorded_once(fleet, handles)


def test_a_fleet_works_on_while_its_coordinator_is_out_of_reach(
    network: Network, client: FleetClient, ledger: Path
) -> None:
    handles = client.submit_many("counted", [{"n": n, "seconds": 0.3, "ledger": str(ledger)} for n in range(60)])
    wait_until(lambda: len(runs(ledger)) > 0, "they run")
    network.of_distributor.pause()
    try:
        wait_until(lambda: len(runs(ledger, "end")) == 60, "the work is done without the coordinator")
    finally:
        network.of_distributor.resume()
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(60))
    assert len(runs(ledger)) == 60
    check_recorded_once(network.fleet, handles)
