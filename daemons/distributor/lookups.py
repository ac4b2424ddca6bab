"""Has a task a result already? Asked before a record is believed that may have come late."""

from __future__ import annotations

from collections.abc import Iterable

from orjson import Fragment, loads

from a2a_zmq.protocol.message import MessageType
from a2a_zmq.tasks import ends
from daemons.distributor.memory import Memory, Parsed
from daemons.runtime.contract import Query, Send
from daemons.runtime.shortening import sendable


def ask(memory: Memory, tag: str, task_ids: Iterable[str]) -> None:
    """Have the results of these tasks looked up; the answer comes with this tag."""
    args = {"distributor_ids": [memory.agent_id], "task_ids": list(task_ids)}
    memory.out.append(Query(tag, "results", args))


def tell(memory: Memory, result: bytes) -> None:
    """Tell the coordinator of a result that is in the store; it may have been told before."""
    payload = {"action": "task_results", "results": [Fragment(sendable(result))], "version": memory.version}
    memory.out.append(Send(memory.coordinator, MessageType.EVENT, payload))


def unended(memory: Memory, records: dict[str, Parsed], results: dict[str, bytes]) -> dict[str, Parsed]:
    """Those of the records whose task has not ended; of the others the coordinator is told."""
    alive = dict(records)
    for task_id, result in results.items():
        record = records[task_id][0]
        if ends(loads(result), record):
            del alive[task_id]
            memory.recent.add(record)
            tell(memory, result)
    return alive
