"""The specification's Python API: its sections "Using in Your Code" and "API Reference", run as they stand.

Only ports and Redis' address are given, because the default ones may be somebody's on the host that runs the tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from a2a_zmq import A2AConfig, ConfigError, LocalAgentState, RedisConfig, SharedAgentState, Task, TaskStatus
from daemons.cli.fleet import free_ports
from daemons.coordinator.agent import CoordinatorAgent
from daemons.distributor.agent import DistributorAgent
from daemons.redis.embedded import EmbeddedRedis
from daemons.worker.agent import WorkerAgent
from tests.integration.rig import wait_until

EXAMPLE = """
from a2a_zmq import RedisConfig, A2AConfig
from daemons.coordinator.agent import CoordinatorAgent
from daemons.distributor.agent import DistributorAgent
from daemons.worker.agent import WorkerAgent

# Create Redis config
redis_config = RedisConfig(host="localhost", port=6379)

# Create Coordinator
coordinator = CoordinatorAgent(
    agent_id="coordinator-1",
    redis_config=redis_config,
    a2a_config=A2AConfig(agent_id="coordinator-1")
)

# Initialize
coordinator.initialize()

# Create and assign task
from a2a_zmq import Task
task = Task(
    task_id="task-1",
    task_type="compute",
    payload={"operation": "sum"}
)
assigned = coordinator.assign_task_to_distributor(task, "distributor-1")
"""


@dataclass
class Agents:
    """The three kinds of agents in this process, and their shared state."""

    redis_config: RedisConfig
    coordinator: CoordinatorAgent
    distributor: DistributorAgent
    worker: WorkerAgent


@pytest.fixture(scope="module")
def server(no_orphans: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture(scope="module")
def agents(server: EmbeddedRedis) -> Iterator[Agents]:
    redis_config = RedisConfig(host="localhost", port=server.port)
    above, below = (f"tcp://127.0.0.1:{port}" for port in free_ports(2))
    coordinator = CoordinatorAgent(
        agent_id="coordinator-1",
        redis_config=redis_config,
        a2a_config=A2AConfig(agent_id="coordinator-1", bind_address=above),
    )
    distributor = DistributorAgent(
        agent_id="distributor-1",
        redis_config=redis_config,
        a2a_config=A2AConfig(agent_id="distributor-1", bind_address=below, connect_addresses=(above,)),
    )
    worker = WorkerAgent(
        agent_id="worker-1",
        redis_config=redis_config,
        a2a_config=A2AConfig(agent_id="worker-1", connect_addresses=(below,)),
    )
    try:
        assert coordinator.initialize() is True
        assert distributor.initialize() is True
        assert worker.initialize() is True
        yield Agents(redis_config, coordinator, distributor, worker)
    finally:
        for agent in (worker, distributor, coordinator):
            agent.close()


@pytest.fixture
def ended(agents: Agents) -> Callable[[str], dict[str, Any]]:
    """Wait until a task of distributor-1 has ended; its document in the shared state."""

    def look(task_id: str) -> dict[str, Any] | None:
        state = agents.coordinator.get_distributor_state("distributor-1")
        assert state is not None
        found = [task for task in state.tasks if task.task_id == task_id]
        assert len(found) <= 1
        return found[0].model_dump(mode="json") if found and found[0].completed_at is not None else None

    def wait(task_id: str) -> dict[str, Any]:
        wait_until(lambda: look(task_id), f"task {task_id} has ended")
        record = look(task_id)
        assert record is not None
        return record

    return wait


def test_a_task_is_assigned_and_run(agents: Agents, ended: Callable[[str], dict[str, Any]]) -> None:
    task = Task(task_id="task-1", task_type="compute", payload={"operation": "sum"})
    assert agents.coordinator.assign_task_to_distributor(task, "distributor-1") is True
    record = ended("task-1")
    assert (record["status"], record["error"], record["retry_count"]) == ("completed", None, 0)
    assert record["result"] == {"operation": "sum", "count": 0, "result": 0}
    assert record["metadata"]["worker"] == "worker-1"
    # A task that is known is not run again; that it is there is still true.
    assert agents.coordinator.assign_task_to_distributor(task, "distributor-1") in (True, False)


def test_the_shared_document_has_the_specifications_form(agents: Agents) -> None:
    state = agents.coordinator.get_distributor_state("distributor-1")
    assert isinstance(state, SharedAgentState)
    document = state.model_dump(mode="json")
    assert set(document) == {
        "coordinator_version",
        "distributor_version",
        "status",
        "assigned_workers",
        "tasks",
        "lease",
    }
    assert re.fullmatch(r"v\d+", document["coordinator_version"])
    assert re.fullmatch(r"v[1-9]\d*", document["distributor_version"])
    assert document["status"] in ("idle", "busy")
    assert document["assigned_workers"] == ["worker-1"]
    assert set(document["lease"]) == {"owner", "acquired_at", "expires_at"}
    assert document["lease"]["owner"].startswith("distributor")
    assert document["lease"]["acquired_at"] < document["lease"]["expires_at"]
    assert agents.coordinator.get_distributor_state("nobody") is None


def test_versions_grow_with_every_change(agents: Agents, ended: Callable[[str], dict[str, Any]]) -> None:
    def versions() -> tuple[int, int]:
        state = agents.coordinator.get_distributor_state("distributor-1")
        assert state is not None
        return int(state.coordinator_version[1:]), int(state.distributor_version[1:])

    before = versions()
    assert agents.coordinator.assign_task_to_distributor(Task(task_id="task-v", task_type="noop"), "distributor-1")
    ended("task-v")
    after = versions()
    assert after[0] > before[0]
    assert after[1] > before[1]


def test_the_keys_in_redis_are_the_specifications(agents: Agents, server: EmbeddedRedis) -> None:
    with redis.Redis(port=server.port) as connection:
        assert connection.exists("shared:distributor:distributor-1") == 1
        assert connection.exists("lease:{shared:distributor:distributor-1}") == 1
        assert 0 < connection.pttl("lease:{shared:distributor:distributor-1}") <= 60_000


def test_a_distributor_can_be_registered_before_it_connects(agents: Agents) -> None:
    assert agents.coordinator.register_distributor("distributor-7") is True
    assert agents.coordinator.register_distributor("distributor-7") is False
    task = Task(task_id="task-7", task_type="noop")
    assert agents.coordinator.assign_task_to_distributor(task, "distributor-7") is True
    state = agents.coordinator.get_distributor_state("distributor-7")
    assert state is not None
    assert [(one.task_id, one.status) for one in state.tasks] == [("task-7", "pending")]
    assert agents.coordinator.monitor_distributors() is None  # type: ignore[func-returns-value]


def test_what_cannot_be_assigned_is_refused(agents: Agents) -> None:
    assign = agents.coordinator.assign_task_to_distributor
    assert assign(Task(task_id="no task id", task_type="noop"), "distributor-1") is False
    assert assign(Task(task_id="task-x", task_type="noop", status=TaskStatus.COMPLETED), "distributor-1") is False
    assert assign(Task(task_id="task-x", task_type="noop"), "not an id") is False


def test_the_distributor_gives_a_task_to_a_named_worker(agents: Agents, ended: Callable[[str], dict[str, Any]]) -> None:
    assert agents.distributor.register_worker("worker-1") is True
    task = Task(task_id="task-2", task_type="noop", payload={"x": 1})
    assert agents.distributor.assign_task_to_worker(task, "worker-1") is True
    record = ended("task-2")
    assert (record["status"], record["result"], record["metadata"]["worker"]) == ("completed", {"x": 1}, "worker-1")
    assert agents.distributor.monitor_workers() is None  # type: ignore[func-returns-value]


def test_the_distributor_holds_and_renews_its_lease(agents: Agents) -> None:
    def expires() -> Any:
        state = agents.coordinator.get_distributor_state("distributor-1")
        assert state is not None
        assert state.lease is not None
        return state.lease.expires_at

    assert agents.distributor.acquire_shared_state_lease() is True
    before = expires()
    assert agents.distributor.renew_shared_state_lease() is True
    assert expires() >= before


def test_the_worker_executes_a_task_by_itself(agents: Agents) -> None:
    task = Task(task_id="own-1", task_type="compute", payload={"operation": "max", "numbers": [3, 9]})
    answer = agents.worker.execute_task(task)
    assert (answer["task_id"], answer["status"], answer["error"]) == ("own-1", "completed", None)
    assert answer["result"]["result"] == 9
    failed = agents.worker.execute_task(Task(task_id="own-2", task_type="compute", payload={"operation": "?"}))
    assert (failed["status"], failed["result"]) == ("failed", None)
    assert "unknown operation" in failed["error"]
    unknown = agents.worker.execute_task(Task(task_id="own-3", task_type="never-heard-of"))
    assert unknown["status"] == "failed"
    assert "never-heard-of" in unknown["error"]
    assert agents.worker.send_heartbeat() is True


def test_every_agent_has_its_local_state(agents: Agents) -> None:
    for agent, name in (
        (agents.coordinator, "coordinator-1"),
        (agents.distributor, "distributor-1"),
        (agents.worker, "worker-1"),
    ):
        state = agent.state
        assert isinstance(state, LocalAgentState)
        assert state.agent_id == name
        assert state.status in ("idle", "busy")
        document = state.model_dump(mode="json")
        assert set(document) == {
            "agent_id",
            "status",
            "local_tasks",
            "last_heartbeat",
            "local_vars",
            "history",
            "metadata",
            "created_at",
            "updated_at",
        }
        assert document["created_at"] <= document["updated_at"]
    wait_until(lambda: agents.worker.state.last_heartbeat is not None, "the distributor's first heartbeat has come")


def test_a_worker_without_its_distributor_is_not_initialized(no_orphans: Path) -> None:
    (port,) = free_ports(1)
    config = A2AConfig(agent_id="worker-9", connect_addresses=(f"tcp://127.0.0.1:{port}",))
    worker = WorkerAgent(agent_id="worker-9", a2a_config=config)
    try:
        assert worker.initialize(timeout_s=0.5) is False
        assert worker.send_heartbeat() is False
        # Its executors do not need the fleet.
        assert worker.execute_task(Task(task_id="t", task_type="noop"))["status"] == "completed"
    finally:
        worker.close()


def test_wrong_configurations_say_so() -> None:
    with pytest.raises(ValueError, match="worker-2"):
        WorkerAgent(agent_id="worker-1", a2a_config=A2AConfig(agent_id="worker-2"))
    with pytest.raises(ValueError, match="agent id"):
        A2AConfig(agent_id="no id")


def test_a_port_in_use_is_told_by_initialize(agents: Agents) -> None:
    taken = agents.coordinator.settings.hub_address()
    second = CoordinatorAgent(
        agent_id="coordinator-2",
        redis_config=agents.redis_config,
        a2a_config=A2AConfig(agent_id="coordinator-2", bind_address=taken),
    )
    with pytest.raises(ConfigError, match=re.escape(taken)):
        second.initialize()
    second.close()


def test_the_specifications_example_runs_as_it_stands(server: EmbeddedRedis) -> None:
    """Its text, with the imports of these packages; only where the defaults' ports would be, free ones are put."""
    (port,) = free_ports(1)
    text = EXAMPLE.replace("port=6379", f"port={server.port}, db=1")
    own = 'A2AConfig(agent_id="coordinator-1"'
    text = text.replace(own, f'{own}, bind_address="tcp://127.0.0.1:{port}"')
    names: dict[str, Any] = {}
    try:
        exec(text, names)
        assert names["assigned"] is True
        state = names["coordinator"].get_distributor_state("distributor-1")
        assert [task.task_id for task in state.tasks] == ["task-1"]
    finally:
        names["coordinator"].close()
