"""Library of a2a-zmq: messages, security, transport, shared state, and the client of a fleet.

Names are imported from their modules when they are first used, so ``import a2a_zmq`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from a2a_zmq.client.aio import AsyncFleetClient as AsyncFleetClient
    from a2a_zmq.client.handles import AsyncTaskHandle as AsyncTaskHandle
    from a2a_zmq.client.handles import TaskHandle as TaskHandle
    from a2a_zmq.client.sync import FleetClient as FleetClient
    from a2a_zmq.config import A2AConfig as A2AConfig
    from a2a_zmq.config import RedisConfig as RedisConfig
    from a2a_zmq.errors import A2AError as A2AError
    from a2a_zmq.errors import ConfigError as ConfigError
    from a2a_zmq.errors import FleetError as FleetError
    from a2a_zmq.errors import FleetUnavailable as FleetUnavailable
    from a2a_zmq.errors import KeyRefused as KeyRefused
    from a2a_zmq.errors import RequestRefused as RequestRefused
    from a2a_zmq.errors import TaskCancelled as TaskCancelled
    from a2a_zmq.errors import TaskFailed as TaskFailed
    from a2a_zmq.errors import TaskTimeout as TaskTimeout
    from a2a_zmq.errors import TaskWaiting as TaskWaiting
    from a2a_zmq.handlers import InvalidInput as InvalidInput
    from a2a_zmq.handlers import TaskContext as TaskContext
    from a2a_zmq.handlers import task as task
    from a2a_zmq.models import AgentStatus as AgentStatus
    from a2a_zmq.models import Lease as Lease
    from a2a_zmq.models import LocalAgentState as LocalAgentState
    from a2a_zmq.models import SharedAgentState as SharedAgentState
    from a2a_zmq.models import Task as Task
    from a2a_zmq.models import TaskStatus as TaskStatus
    from a2a_zmq.protocol.message import Message as Message
    from a2a_zmq.protocol.message import MessageType as MessageType
    from a2a_zmq.protocol.message import Metadata as Metadata
    from a2a_zmq.protocol.message import Role as Role
    from a2a_zmq.streams import StreamEvent as StreamEvent

_MODULE_OF = {
    "AsyncFleetClient": "client.aio",
    "AsyncTaskHandle": "client.handles",
    "TaskHandle": "client.handles",
    "FleetClient": "client.sync",
    "A2AConfig": "config",
    "RedisConfig": "config",
    "A2AError": "errors",
    "ConfigError": "errors",
    "FleetError": "errors",
    "FleetUnavailable": "errors",
    "KeyRefused": "errors",
    "RequestRefused": "errors",
    "TaskCancelled": "errors",
    "TaskFailed": "errors",
    "TaskTimeout": "errors",
    "TaskWaiting": "errors",
    "InvalidInput": "handlers",
    "TaskContext": "handlers",
    "task": "handlers",
    "AgentStatus": "models",
    "Lease": "models",
    "LocalAgentState": "models",
    "SharedAgentState": "models",
    "Task": "models",
    "TaskStatus": "models",
    "Message": "protocol.message",
    "MessageType": "protocol.message",
    "Metadata": "protocol.message",
    "Role": "protocol.message",
    "StreamEvent": "streams",
}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 - the table is the list


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
