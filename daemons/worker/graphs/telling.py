"""What a graph's run tells while it runs: into its task's stream in Redis, then upwards.

In this order, so whoever saw an event go by, and misses the ones before it, finds them in the stream. Chunks are
written one after the other; what is told meanwhile goes into the next one, and there are at most fifty a second, but
for those that a checkpoint waits for: everything that led to a checkpoint is in the stream before it, so a step that
does not run again has told all that it had to tell.

Event ids are the stream's own ids. Redis takes only rising ones, so an attempt that was replaced adds nothing once its
successor has begun, and a chunk that is sent twice stands there once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import orjson
from redis.exceptions import RedisError, ResponseError

from a2a_zmq.checkpoint.failures import translated
from a2a_zmq.errors import StateError
from a2a_zmq.nesting import MAX_VALUE_DEPTH, too_deep
from a2a_zmq.state import keys
from a2a_zmq.streams import METADATA, OMITTED, START, Chunk, EventId, id_text, parse_id
from daemons.worker.executors.invoke import one_line

CHUNK_BYTES: Final = 32 * 1024
# Nobody reads faster, and each chunk is a message on every hop.
PAUSE_S: Final = 0.02
# The run waits while more than this is not in Redis yet.
MAX_WAITING_BYTES: Final = 1024 * 1024
# Between two attempts while Redis cannot be reached.
RETRY_S: Final = 0.2
# How Redis begins the refusal of an id that is not above all before.
_NOT_ABOVE: Final = "The ID specified in XADD is equal or smaller"


class Teller:
    """The events of one attempt."""

    def __init__(
        self, client: Any, task_id: str, attempt: int, *, up: Callable[[Chunk], None], options: dict[str, Any]
    ) -> None:
        """
        Args:
            client: of redis.asyncio.
            up: told of each chunk that is stored.
            options: ``max_bytes`` of one event; ``stream_bytes`` and ``stream_ttl_s`` of the stream; ``ttl_s``: for how
                long it stays while its task waits for an answer.
        """
        self._client = client
        self._task_id = task_id
        self._key = keys.stream(task_id)
        self._attempt = attempt
        self._up = up
        self._options = options
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._prev: EventId = START
        self._told = self._stored = 0  # numbers of events
        self._replaced = False
        self._written = (0, 0)  # chunks, bytes
        self._hurry = asyncio.Event()
        self._something = asyncio.Event()
        self._turned = asyncio.Condition()
        self._error: StateError | None = None
        self._fault: Exception | None = None
        self._writing: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Find out where the stream ends, and tell that this attempt begins.

        Raises:
            StateError: Redis could not be asked.
        """
        last = await self._last()
        self._replaced = last[0] > self._attempt
        self._prev = last
        if last[0] == self._attempt:
            self._told = self._stored = last[1]
        self._writing = asyncio.create_task(self._write())
        self.tell(METADATA, (), {"run_id": self._task_id, "attempt": self._attempt})

    def tell(self, type_: str, ns: tuple[str, ...], data: Any) -> None:
        """Take an event."""
        self._told += 1
        name = id_text((self._attempt, self._told))
        encoded = _encoded(name, type_, ns, data, self._options["max_bytes"])
        self._waiting.append(encoded)
        self._waiting_bytes += len(encoded)
        self._something.set()

    async def room(self) -> None:
        """Wait while too much is not stored yet.

        Raises:
            StateError: it cannot be stored.
        """
        if self._waiting_bytes > MAX_WAITING_BYTES:
            await self.stored()

    async def before_checkpoint(self) -> None:
        """Have everything stored that was told by what is about to be stored.

        Raises:
            StateError: it cannot be.
        """
        for _ in range(3):  # what a task has told is on its way to us through the loop, as its writes are to the saver
            await asyncio.sleep(0)
        await self.stored()

    async def stored(self) -> None:
        """Wait until all that was told is in the stream.

        Raises:
            StateError: it cannot be stored.
        """
        upto = self._told
        async with self._turned:
            self._error = None
            while self._stored < upto and not self._replaced:
                self._hurry.set()
                if self._fault is not None:
                    raise self._fault
                await self._turned.wait()
                if self._error is not None:
                    raise self._error

    async def end(self, *, waits: bool = False) -> None:
        """Store the rest, as far as Redis is there.

        Args:
            waits: for an answer, perhaps for days: what was told stays for as long as its checkpoints.
        """
        if self._writing is None:
            return
        try:
            await self.stored()
        except StateError:
            pass  # what was told last is lost with the run, which goes on from its last checkpoint
        finally:
            self._writing.cancel()
        if waits and self._options["question_ttl_s"] > self._options["stream_ttl_s"]:
            with suppress(RedisError, OSError):
                await self._client.expire(self._key, self._options["question_ttl_s"])

    # ------------------------------------------------------------ the stream

    async def _last(self) -> EventId:
        try:
            found = await self._client.xrevrange(self._key, count=1)
        except (RedisError, OSError) as error:
            raise translated(error) from error
        return (parse_id(found[0][0].decode()) or START) if found else START

    async def _write(self) -> None:
        try:
            await self._write_on()
        except Exception as error:  # a fault of ours: whoever waits is to hear of it
            self._fault = error
            async with self._turned:
                self._turned.notify_all()

    async def _write_on(self) -> None:
        while True:
            await self._something.wait()
            chunk = self._next()
            pause_s = PAUSE_S
            try:
                if not self._replaced:
                    await self._store(chunk)
            except StateError as error:
                self._error = error
                pause_s = RETRY_S
            else:
                self._took(chunk)
            self._hurry.clear()
            async with self._turned:
                self._turned.notify_all()
            if self._error is not None or self._waiting_bytes < CHUNK_BYTES:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), pause_s)

    def _next(self) -> Chunk:
        size = 0
        count = 0
        for each in self._waiting:
            size += len(each)
            if count and size > CHUNK_BYTES:
                break
            count += 1
        body = b"[" + b",".join(self._waiting[:count]) + b"]"
        return Chunk(self._prev, (self._attempt, self._stored + count), body)

    def _took(self, chunk: Chunk) -> None:
        count = chunk.last[1] - self._stored
        self._waiting_bytes -= sum(len(each) for each in self._waiting[:count])
        del self._waiting[:count]
        if not self._waiting:
            self._something.clear()
        self._stored = chunk.last[1]
        self._prev = chunk.last
        self._error = None
        if not self._replaced:
            with suppress(OSError):  # the worker is gone: this process ends with it
                self._up(chunk)

    async def _store(self, chunk: Chunk) -> None:
        chunks, size = self._written
        self._written = chunks, size = chunks + 1, size + len(chunk.events)
        # The bound in bytes becomes one in chunks, of the mean size of ours.
        at_most = max(1, self._options["stream_bytes"] * chunks // size)
        try:
            async with self._client.pipeline(transaction=True) as pipe:
                fields: dict[Any, Any] = {b"p": id_text(chunk.prev), b"e": chunk.events}
                pipe.xadd(self._key, fields, id=id_text(chunk.last), maxlen=at_most, approximate=True)
                pipe.expire(self._key, self._options["stream_ttl_s"])
                await pipe.execute()
        except ResponseError as error:
            if _NOT_ABOVE not in str(error):
                raise translated(error) from error
            # It is there already (a reply was lost), or a later attempt is.
            self._replaced = (await self._last())[0] > self._attempt
        except (RedisError, OSError) as error:
            raise translated(error) from error


def _encoded(name: str, type_: str, ns: tuple[str, ...], data: Any, max_bytes: int) -> bytes:
    """An event as JSON; of what cannot be carried, why."""
    try:
        encoded = orjson.dumps([name, type_, ns, data], default=_plain, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError, RecursionError) as error:
        why = f"it is not JSON: {one_line(error.__cause__ or error)}"
    else:
        if len(encoded) > max_bytes:
            why = f"it has {len(encoded)} bytes, at most {max_bytes} are carried"
        elif too_deep(encoded):
            why = f"it nests deeper than {MAX_VALUE_DEPTH} levels"
        else:
            return encoded
    return orjson.dumps([name, OMITTED, ns, {"type": type_, "why": why}])


def _plain(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, BaseException):
        return one_line(value)
    return str(value)
