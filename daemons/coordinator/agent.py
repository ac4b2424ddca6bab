"""The specification's ``CoordinatorAgent``: a coordinator inside your program."""

from __future__ import annotations

import asyncio

from a2a_zmq.config import A2AConfig, RedisConfig
from a2a_zmq.errors import StateError
from a2a_zmq.models import SharedAgentState, Task
from a2a_zmq.state.redis_store import RedisStore
from daemons.coordinator.main import open_coordinator
from daemons.runtime.configs import agent_settings, redis_settings
from daemons.runtime.inprocess import InProcessAgent
from daemons.settings import CoordinatorSettings


class CoordinatorAgent(InProcessAgent):
    """High-level task assignment and distributor monitoring.

    Args:
        agent_id: its name, for example ``coordinator-1``.
        redis_config: where the shared state is; localhost:6379 by default.
        a2a_config: keys, addresses and intervals; keys of the default state directory by default.

    Raises:
        ValueError: a setting is wrong.
    """

    def __init__(
        self, agent_id: str, redis_config: RedisConfig | None = None, a2a_config: A2AConfig | None = None
    ) -> None:
        settings = CoordinatorSettings.model_validate(
            agent_settings(agent_id, "coordinator", a2a_config) | redis_settings(redis_config)
        )
        super().__init__(agent_id, lambda: open_coordinator(settings))
        self.settings = settings

    def assign_task_to_distributor(self, task: Task, distributor_id: str) -> bool:
        """Give a task to one distributor.

        Returns:
            True when the task is durable in that distributor's shared state: it will be run there, now or when the
            distributor is back. False if it was not taken (``daemon`` logs say why).
        """
        record = task.model_dump(mode="json", exclude_defaults=True)
        answer = self.call("assign_task_to_distributor", task=record, distributor_id=distributor_id)
        return answer is True

    def register_distributor(self, distributor_id: str) -> bool:
        """Make a distributor known, so that tasks can be assigned to it before it has ever connected.

        Returns:
            True if it was not known before.
        """
        return self.call("register_distributor", distributor_id=distributor_id) is True

    def get_distributor_state(self, distributor_id: str) -> SharedAgentState | None:
        """The shared state document of a distributor, read from Redis; None if it is unknown or Redis is away."""

        async def read() -> SharedAgentState | None:
            store = RedisStore(self.settings.redis_config(), name=f"{self.agent_id}-reader")
            try:
                return await store.document(distributor_id)
            except StateError:
                return None
            finally:
                await store.close()

        return asyncio.run(read())

    def monitor_distributors(self) -> None:
        """Run the supervision graph once, now; it also runs by itself once an interval."""
        self.await_on_loop(self.daemon.shell.supervise_once(), None)
