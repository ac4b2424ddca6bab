"""End to end in one program: a coordinator, a distributor and two workers, as the specification describes them.

Run it with ``python examples/example_e2e.py``. It uses the Redis that ``REDIS_HOST``/``REDIS_PORT`` name, or starts
an embedded
one, and keeps its keys in a temporary directory.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from a2a_zmq import A2AConfig, RedisConfig, Task
from daemons.coordinator.agent import CoordinatorAgent
from daemons.distributor.agent import DistributorAgent
from daemons.redis.embedded import EmbeddedRedis, free_port
from daemons.worker.agent import WorkerAgent


def main() -> int:
    with ExitStack() as stack:
        keys = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="a2a-example-"))) / "keys"
        if "REDIS_HOST" in os.environ:
            redis = RedisConfig(host=os.environ["REDIS_HOST"], port=int(os.environ.get("REDIS_PORT", "6379")))
        else:
            redis = stack.enter_context(EmbeddedRedis()).config
        coordinator_address, distributor_address = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))

        # 1. Initialize coordinator, distributor and two workers.
        coordinator = CoordinatorAgent(
            agent_id="coordinator-1",
            redis_config=redis,
            a2a_config=A2AConfig(agent_id="coordinator-1", key_dir=keys, bind_address=coordinator_address),
        )
        distributor = DistributorAgent(
            agent_id="distributor-1",
            redis_config=redis,
            a2a_config=A2AConfig(
                agent_id="distributor-1",
                key_dir=keys,
                bind_address=distributor_address,
                connect_addresses=(coordinator_address,),
            ),
        )
        workers = [
            WorkerAgent(
                agent_id=f"worker-{n}",
                a2a_config=A2AConfig(agent_id=f"worker-{n}", key_dir=keys, connect_addresses=(distributor_address,)),
            )
            for n in (1, 2)
        ]
        for agent in (coordinator, distributor, *workers):
            stack.callback(agent.close)
            if not agent.initialize():
                print(f"{agent.agent_id} did not start: {agent.error}", file=sys.stderr)
                return 1
            print(f"{agent.agent_id} is ready")

        # 2. The coordinator assigns tasks to the distributor, which distributes them to the workers.
        for n in range(1, 11):
            task = Task(
                task_id=f"task-{n}", task_type="compute", payload={"operation": "sum", "numbers": list(range(n + 1))}
            )
            assigned = coordinator.assign_task_to_distributor(task, "distributor-1")
            print(f"task-{n} assigned: {assigned}")

        # 3. Workers execute them; results are recorded in the shared state in Redis.
        until = time.monotonic() + 30
        while time.monotonic() < until:
            state = coordinator.get_distributor_state("distributor-1")
            if state is not None and sum(task.status == "completed" for task in state.tasks) == 10:
                break
            time.sleep(0.05)
        else:
            print("the tasks did not complete within 30 s", file=sys.stderr)
            return 1
        print(f"shared state: versions {state.coordinator_version}/{state.distributor_version}, {state.status.value}")
        for task in sorted(state.tasks, key=lambda task: task.created_at):
            print(f"{task.task_id}: {task.status.value}, {task.result['result']} by {task.metadata['worker']}")
        return 0


if __name__ == "__main__":
    sys.exit(main())
