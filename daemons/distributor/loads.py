"""What each worker does, in numbers: the answer to the coordinator's ``load``."""

from __future__ import annotations

from typing import Any

from a2a_zmq.clock import Now
from a2a_zmq.protocol.message import Message, MessageType
from daemons.distributor.memory import Memory
from daemons.distributor.workers import Worker
from daemons.runtime.contract import Send


class Loads:
    """Looks only; costs nothing unless somebody asks."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def told(self, message: Message, now: Now) -> None:
        memory = self._memory
        answer = {
            "action": "load",
            "tag": message.payload.get("tag"),
            "late": memory.late_results,
            "workers": [_numbers(worker) for worker in memory.workers.values()],
        }
        memory.out.append(Send(message.sender, MessageType.RESPONSE, answer, reply_to=message.metadata.request_id))


def _numbers(worker: Worker) -> dict[str, Any]:
    """Counters begin when the worker joins: two answers tell the rates between them."""
    return {
        "id": worker.agent_id,
        "suspect": worker.suspect,
        "draining": worker.draining,
        "running": min(worker.running, len(worker.held)),
        "held": len(worker.held),
        "in_slots": worker.in_slots,
        "done": worker.done,
        "failed": worker.failed,
        "run_s": round(worker.run_s, 6),
        "stay_s": round(worker.stay_s, 6),
    }
