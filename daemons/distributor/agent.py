"""The specification's ``DistributorAgent``: a distributor inside your program."""

from __future__ import annotations

from a2a_zmq.config import A2AConfig, RedisConfig
from a2a_zmq.models import Task
from daemons.distributor.main import open_distributor
from daemons.runtime.configs import agent_settings, redis_settings
from daemons.runtime.inprocess import InProcessAgent
from daemons.settings import DistributorSettings


class DistributorAgent(InProcessAgent):
    """Receives tasks from its coordinator and distributes them to its workers.

    Args:
        agent_id: its name, for example ``distributor-1``.
        redis_config: where the shared state is; localhost:6379 by default.
        a2a_config: keys, addresses (``connect_addresses`` is the coordinator's) and intervals.
        coordinator_id: the coordinator it reports to.

    Raises:
        ValueError: a setting is wrong.
    """

    def __init__(
        self,
        agent_id: str,
        redis_config: RedisConfig | None = None,
        a2a_config: A2AConfig | None = None,
        *,
        coordinator_id: str = "coordinator-1",
    ) -> None:
        values = agent_settings(agent_id, "distributor", a2a_config) | redis_settings(redis_config)
        values["coordinator_id"] = coordinator_id
        if a2a_config is not None and a2a_config.connect_addresses:
            values["coordinator_address"] = a2a_config.connect_addresses
        settings = DistributorSettings.model_validate(values)
        super().__init__(agent_id, lambda: open_distributor(settings))
        self.settings = settings

    def register_worker(self, worker_id: str) -> bool:
        """Expect a worker, before it connects; workers that connect register themselves.

        Returns:
            True if it is known now.
        """
        return self.call("register_worker", worker_id=worker_id) is True

    def assign_task_to_worker(self, task: Task, worker_id: str) -> bool:
        """Take a task and give it to one worker.

        Returns:
            True when the task is durable; it goes to that worker as soon as it has room.
        """
        record = task.model_dump(mode="json", exclude_defaults=True)
        return self.call("assign_task_to_worker", task=record, worker_id=worker_id) is True

    def monitor_workers(self) -> None:
        """Run the supervision graph once, now; it also runs by itself once an interval."""
        self.await_on_loop(self.daemon.shell.supervise_once(), None)

    def acquire_shared_state_lease(self) -> bool:
        """True if this agent holds the lease of its shared state now (it takes and keeps it by itself)."""
        return self.on_loop(
            lambda daemon: daemon.shell.ownership is not None and daemon.shell.ownership.held is not None
        )

    def renew_shared_state_lease(self) -> bool:
        """Renew the lease now, beside the renewals that come by themselves; False if it is not ours."""
        ownership = self.daemon.shell.ownership
        return ownership is not None and self.await_on_loop(ownership.renew_now(), default=False)
