"""The saver for event loops."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from hiredis import pack_command
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.serde.base import SerializerProtocol
from redis.asyncio import Connection, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from a2a_zmq.checkpoint import keys
from a2a_zmq.checkpoint.address import Address, address_of, fence_of
from a2a_zmq.checkpoint.base import RETRIES, by_name, by_text
from a2a_zmq.checkpoint.bridge import BlockingBridge
from a2a_zmq.checkpoint.calls import Call, Operation, Write
from a2a_zmq.checkpoint.failures import translated
from a2a_zmq.checkpoint.lanes import Lanes
from a2a_zmq.checkpoint.lone import LoneClient
from a2a_zmq.checkpoint.operations import PAGE, config_of, outcome
from a2a_zmq.checkpoint.options import Retention
from a2a_zmq.config import RedisConfig

T = TypeVar("T")


class _Connection(Connection):
    """Encodes commands in C. redis-py's asyncio connections do it in Python, which took a tenth of a step's time: a
    step is one command of some forty words."""

    def pack_command(self, *args: Any) -> list[bytes]:
        return [pack_command((*args[0].split(), *args[1:]) if isinstance(args[0], str) else args)]


def open_client(url: str, timeout_s: float, connection: Mapping[str, Any] | None = None) -> Redis:
    """A client of redis-py for one server, which repeats calls that got no reply.

    Args:
        timeout_s: for each attempt of a call, and for connecting.
        connection: further arguments of redis-py's connections.
    """
    return Redis.from_url(
        url,
        connection_class=_Connection,  # rediss:// and unix:// have one of their own
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), RETRIES),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
        **(connection or {}),
    )


class AsyncRedisSaver(BlockingBridge):
    """LangGraph checkpoints in plain Redis or Valkey: single server, behind Sentinel, or Cluster.

    Made for one event loop. Opens nothing until it is first used; close it with :meth:`aclose` or ``async with``.

    Attributes:
        before_write: awaited before anything of a run is stored, which fails if it does.
        input_waits: False lets a run's input go to Redis with the checkpoint that LangGraph stores behind it, before
            any node runs: one round trip for both, which fail together.
    """

    def __init__(
        self,
        client: Redis | RedisCluster | LoneClient,
        *,
        retention: Retention = Retention(),  # noqa: B008 - it cannot be changed
        serde: SerializerProtocol | None = None,
        prefix: str = keys.DEFAULT_PREFIX,
    ) -> None:
        """
        Args:
            client: stays the caller's to close.
            serde: by default :func:`~a2a_zmq.checkpoint.serde.strict_serializer`.
            prefix: of all keys; savers with different ones do not see each other's threads.
        """
        super().__init__(client, retention=retention, serde=serde, prefix=prefix, coroutines=True)
        self._owned: Redis | LoneClient | None = None
        self.before_write: Callable[[], Awaitable[None]] | None = None
        self._lanes = Lanes(self._send)
        self.input_waits = True
        self._known: tuple[Address, Any] | None = None

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        timeout_s: float = 10.0,
        retention: Retention = Retention(),  # noqa: B008
        serde: SerializerProtocol | None = None,
        prefix: str = keys.DEFAULT_PREFIX,
        single_connection: bool = False,
        connection: Mapping[str, Any] | None = None,
    ) -> Self:
        """Over connections of its own to a single server: ``redis://``, ``rediss://`` or ``unix://``.

        Args:
            timeout_s: for each attempt of a call.
            retention: how much stays.
            serde, prefix: as of the class.
            single_connection: one call after the other over one connection, which is quicker where one graph runs at a
                time; ``redis://`` or ``rediss://``.
            connection: further arguments of redis-py's connections; with ``single_connection`` only ``ssl_ca_certs``,
                ``ssl_certfile`` and ``ssl_keyfile``.

        Raises:
            ConfigError: the address or an argument cannot be used.
        """
        client: Redis | LoneClient
        if single_connection:
            client = LoneClient(RedisConfig.from_url(url, connection), timeout_s)
        else:
            client = open_client(url, timeout_s, connection)
        saver = cls(client, retention=retention, serde=serde, prefix=prefix)
        saver._owned = client
        return saver

    @classmethod
    def from_client(cls, client: Redis | RedisCluster, **options: Any) -> Self:
        """Over a client that the caller made and closes; the same as calling the class."""
        return cls(client, **options)

    async def aclose(self) -> None:
        """Wait for writes that are under way, then close connections that are the saver's own."""
        await self._lanes.settle_all()
        if self._owned is not None:
            await self._owned.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # ------------------------------------------------------------ calls

    def _loop(self) -> asyncio.AbstractEventLoop | None:
        return self._lanes.loop

    async def _call(self, call: Call) -> Any:
        try:
            try:
                return await self._client.execute_command(*by_name(call))
            except NoScriptError:
                return await self._client.execute_command(*by_text(call))
        except (RedisError, OSError) as error:
            raise translated(error) from error

    def _knows(self, thread_id: str, fence: int, newest: Any) -> None:
        """Who claimed a thread has read its newest checkpoint with that, and nobody else may write: the first call that
        asks for it need not ask Redis."""
        self._known = Address(thread_id, "", "", fence_of(fence)), newest

    async def _send(self, writes: Sequence[Write]) -> Sequence[Any]:
        self._known = None
        if self.before_write is not None:
            await self.before_write()
        replies: Sequence[Any] = await self._call(self._store.commit(writes))
        return replies

    async def _run(self, operation: Operation[T]) -> T:
        try:
            step = next(operation)
            while True:
                if isinstance(step, Write):
                    reply = await self._lanes.submit(step, is_checkpoint=True)
                else:
                    reply = await self._call(step)
                step = operation.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    # ------------------------------------------------------------ LangGraph's interface

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        operation = self._operations.put(config, checkpoint, metadata, new_versions)
        if not self.input_waits and metadata.get("source") == "input":
            reply = self._lanes.submit(cast(Write, next(operation)), is_checkpoint=False)
            reply.add_done_callback(lambda done: done.cancelled() or done.exception())
            return config_of(address_of(config), checkpoint)
        return await self._run(operation)

    def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> Coroutine[Any, Any, None]:
        """No ``async def``: LangGraph calls it when a task ends and runs the coroutine some time later, and the call is
        what the order of writes has to follow."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # from a thread beside the loop
            return self._write_later(config, writes, task_id, task_path)
        try:
            address, write = self._operations.put_writes(config, writes, task_id, task_path)
        except Exception as error:
            return _failing(error)
        return self._written(address, self._lanes.submit(write, is_checkpoint=False))

    async def _write_later(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> None:
        await self.aput_writes(config, writes, task_id, task_path)

    async def _written(self, address: Address, reply: asyncio.Future[Any]) -> None:
        outcome(address, await reply)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        await self._lanes.settle(str(config["configurable"]["thread_id"]))
        known, self._known = self._known, None
        if known is not None and known[0] == address_of(config):
            return self._operations.whole(known[0].thread_id, known[1]) if known[1] else None
        return await self._run(self._operations.get(config))

    async def aget_delta_channel_history(self, *, config: RunnableConfig, channels: Sequence[str]) -> Mapping[str, Any]:
        """The base class's answer in two round trips for 64 ancestors rather than one for each."""
        await self._lanes.settle(str(config["configurable"]["thread_id"]))
        return await self._run(self._operations.history(config, channels))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Newest first by the order in which Redis got them; without ``config`` one thread after the other."""
        left = limit
        for one in [config] if config is not None else await self._run(self._operations.everywhere()):
            thread_id = str(one["configurable"]["thread_id"])
            await self._lanes.settle(thread_id)
            wanted = await self._run(self._operations.matching(one, before))
            for start in range(0, len(wanted), PAGE):
                page = wanted[start : start + PAGE]
                for found in await self._run(self._operations.page(thread_id, page, filter)):
                    if left == 0:
                        return
                    yield found
                    left = None if left is None else left - 1

    async def apending_writes(self, thread_id: str) -> list[tuple[str, str, Any]]:
        """What the newest checkpoint of each namespace has in pending writes: task, channel, value."""
        await self._lanes.settle(str(thread_id))
        return await self._run(self._operations.pending(str(thread_id)))

    async def adelete_thread(self, thread_id: str) -> None:
        await self._lanes.settle(str(thread_id))
        await self._run(self._operations.delete_thread(str(thread_id)))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await self._lanes.settle_all()
        await self._run(self._operations.delete_for_runs(run_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """
        Raises:
            ValueError: the target has checkpoints already.
        """
        await self._lanes.settle(str(source_thread_id))
        token = secrets.token_hex(8)
        await self._run(self._operations.copy_thread(str(source_thread_id), str(target_thread_id), token))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """``keep_latest``: the newest checkpoint of each namespace and what it is rebuilt from; ``delete``: nothing."""
        await self._lanes.settle_all()
        await self._run(self._operations.prune(thread_ids, strategy))

    async def asize(self, thread_id: str | None = None) -> int:
        """Bytes of stored data of a thread, or of all; Redis itself takes half as much again, or twice as much."""
        return await self._run(self._operations.size(thread_id))


async def _failing(error: Exception) -> None:
    raise error
