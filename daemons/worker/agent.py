"""The specification's ``WorkerAgent``: a worker inside your program."""

from __future__ import annotations

from typing import Any

from a2a_zmq.config import A2AConfig, RedisConfig
from a2a_zmq.models import Task
from daemons.runtime.configs import agent_settings
from daemons.runtime.inprocess import InProcessAgent
from daemons.settings import WorkerSettings
from daemons.worker.main import open_worker


class WorkerAgent(InProcessAgent):
    """Executes tasks and reports results.

    Args:
        agent_id: its name, for example ``worker-1``.
        redis_config: taken for the likeness of the three agents; a worker does not use Redis.
        a2a_config: keys, addresses (``connect_addresses`` is the distributor's) and intervals.
        distributor_id: the distributor it works for.
        handlers: modules with ``@task`` handlers, or ``module:function``.

    Raises:
        ValueError: a setting is wrong.
    """

    def __init__(
        self,
        agent_id: str,
        redis_config: RedisConfig | None = None,
        a2a_config: A2AConfig | None = None,
        *,
        distributor_id: str = "distributor-1",
        handlers: tuple[str, ...] = (),
    ) -> None:
        values = agent_settings(agent_id, "worker", a2a_config)
        values |= {"distributor_id": distributor_id, "worker_handlers": handlers}
        if a2a_config is not None and a2a_config.connect_addresses:
            values["distributor_address"] = a2a_config.connect_addresses
        settings = WorkerSettings.model_validate(values)
        super().__init__(agent_id, lambda: open_worker(settings))
        self.settings = settings

    def execute_task(self, task: Task) -> dict[str, Any]:
        """Run a task here and now, in this worker's executors, without the fleet.

        Returns:
            ``{"task_id", "status", "result", "error", "metadata"}``; ``status`` is completed, failed or abandoned.
        """
        record = task.model_dump(mode="json", exclude_defaults=True)
        answer: dict[str, Any] = self.call("execute_task", wait_s=None, task=record)
        return {"task_id": task.task_id} | answer

    def send_heartbeat(self) -> bool:
        """Send a heartbeat now, beside the regular ones; False without a session to the distributor."""
        return self.call("send_heartbeat") is True
