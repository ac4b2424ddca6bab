"""What a saver asks of Redis. An operation is a generator: it yields these, gets the replies, and returns its result.

So the sync and the async saver are the same but for how a call is made.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from a2a_zmq.checkpoint import keys
from a2a_zmq.checkpoint.lua import Script
from a2a_zmq.checkpoint.options import Retention
from a2a_zmq.checkpoint.scripts import COMMIT

Word = str | bytes | int
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One round trip: a script with its keys and arguments, or a plain command where there is no script."""

    script: Script | None
    keys: Sequence[str]
    words: Sequence[Word]


@dataclass(frozen=True, slots=True)
class Write:
    """A checkpoint or pending writes of a thread; several go to Redis in one call."""

    thread_id: str
    words: Sequence[Word]

    @property
    def size(self) -> int:
        return sum(len(word) for word in self.words if isinstance(word, bytes))


Operation = Generator[Call | Write, Any, T]


@dataclass(frozen=True, slots=True)
class Store:
    """Where a saver's keys are, and how long they stay."""

    prefix: str
    retention: Retention

    def on_thread(self, thread_id: str, script: Script, *words: Word) -> Call:
        return Call(script, keys.of_thread(self.prefix, keys.encode(thread_id)), words)

    def on_key(self, thread_id: str, kind: str, command: str, *words: Word) -> Call:
        return Call(None, (), (command, keys.of_kind(self.prefix, keys.encode(thread_id), kind), *words))

    def commit(self, writes: Sequence[Write]) -> Call:
        """One step for writes to one thread, carried out in their order."""
        thread_id = writes[0].thread_id
        words: list[Word] = [*self.retention.arguments, keys.encode(thread_id)]
        for write in writes:
            words += write.words
        return self.on_thread(thread_id, COMMIT, *words)
