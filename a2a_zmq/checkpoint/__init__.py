"""A LangGraph checkpoint saver on plain Redis or Valkey, for use with or without a fleet.

::

    from a2a_zmq.checkpoint import AsyncRedisSaver

    async with AsyncRedisSaver.from_url("redis://127.0.0.1:6379") as saver:
        graph = builder.compile(checkpointer=saver)
        await graph.ainvoke(inputs, {"configurable": {"thread_id": "1"}})

Names are imported from their modules when they are first used, so importing this loads no LangGraph.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from a2a_zmq.checkpoint.aio import AsyncRedisSaver as AsyncRedisSaver
    from a2a_zmq.checkpoint.claims import Claim as Claim
    from a2a_zmq.checkpoint.claims import ThreadClaims as ThreadClaims
    from a2a_zmq.checkpoint.options import Retention as Retention
    from a2a_zmq.checkpoint.serde import strict_serializer as strict_serializer
    from a2a_zmq.checkpoint.sync import RedisSaver as RedisSaver

_MODULE_OF = {
    "AsyncRedisSaver": "aio",
    "Claim": "claims",
    "RedisSaver": "sync",
    "Retention": "options",
    "ThreadClaims": "claims",
    "strict_serializer": "serde",
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
