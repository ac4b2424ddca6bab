"""What the sync and the async saver share."""

from __future__ import annotations

import inspect
import random
from typing import Any, Final

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.base import SerializerProtocol

from a2a_zmq.checkpoint.calls import Call, Store, Word
from a2a_zmq.checkpoint.lone import LoneClient
from a2a_zmq.checkpoint.operations import Operations
from a2a_zmq.checkpoint.options import Retention
from a2a_zmq.checkpoint.serde import strict_serializer

RETRIES: Final = 2  # every call may be repeated
_VERSION_DIGITS: Final = 10


class SaverBase(BaseCheckpointSaver[str]):
    def __init__(
        self, client: Any, *, retention: Retention, serde: SerializerProtocol | None, prefix: str, coroutines: bool
    ) -> None:
        """
        Raises:
            TypeError: the client is one for the other saver.
            ValueError: the client decodes replies, or the prefix does not fit into a hash tag.
        """
        super().__init__(serde=serde or strict_serializer())
        if inspect.iscoroutinefunction(client.execute_command) is not coroutines:
            kind = "redis.asyncio" if coroutines else "redis (not redis.asyncio)"
            raise TypeError(f"{type(self).__name__} needs a client of {kind}: {type(client)!r}")
        if not isinstance(client, LoneClient) and client.get_encoder().decode_responses:
            raise ValueError("the client has decode_responses=True, but checkpoints are bytes")
        if not prefix or set("{}") & set(prefix):
            raise ValueError(f"the prefix must not be empty or hold braces: {prefix!r}")
        self._client = client
        self._store = Store(prefix, retention)

    @property
    def _operations(self) -> Operations:
        return Operations(self._store, self.serde)  # made anew: a clone of the saver has another serializer

    def get_next_version(self, current: str | int | None, channel: None) -> str:
        """The random part keeps two branches of a thread from sharing a blob of the same number."""
        digits, number = _VERSION_DIGITS, 0
        if current is not None:
            head = str(current).partition(".")[0]
            digits, number = max(digits, len(head)), int(head)
        return f"{number + 1:0{digits}d}.{random.getrandbits(48):012x}"


def by_name(call: Call) -> list[Word]:
    """The words of a call whose script the server knows already."""
    if call.script is None:
        return list(call.words)
    return ["EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.words]


def by_text(call: Call) -> list[Word]:
    """The same for a server that does not know it yet, or any more."""
    assert call.script is not None
    return ["EVAL", call.script.text, len(call.keys), *call.keys, *call.words]
