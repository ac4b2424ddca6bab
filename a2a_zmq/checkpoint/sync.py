"""The saver that blocks; it may be used by several threads."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.serde.base import SerializerProtocol
from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.cluster import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from a2a_zmq.checkpoint import keys
from a2a_zmq.checkpoint.base import RETRIES, SaverBase, by_name, by_text
from a2a_zmq.checkpoint.calls import Call, Operation, Write
from a2a_zmq.checkpoint.failures import translated
from a2a_zmq.checkpoint.operations import PAGE, outcome
from a2a_zmq.checkpoint.options import Retention
from a2a_zmq.checkpoint.outstanding import Outstanding

T = TypeVar("T")


class RedisSaver(SaverBase):
    """LangGraph checkpoints in plain Redis or Valkey: single server, behind Sentinel, or Cluster.

    Opens nothing until it is first used; close it with :meth:`close` or ``with``.
    """

    def __init__(
        self,
        client: Redis | RedisCluster,
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
        super().__init__(client, retention=retention, serde=serde, prefix=prefix, coroutines=False)
        self._owned: Redis | None = None
        self._outstanding = Outstanding()

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        timeout_s: float = 10.0,
        retention: Retention = Retention(),  # noqa: B008
        serde: SerializerProtocol | None = None,
        prefix: str = keys.DEFAULT_PREFIX,
        connection: Mapping[str, Any] | None = None,
    ) -> Self:
        """Over connections of its own to a single server: ``redis://``, ``rediss://`` or ``unix://``.

        Args:
            connection: further arguments of redis-py's connections (``ssl_ca_certs`` …).
        """
        client = Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), RETRIES),
            retry_on_error=[RedisConnectionError, RedisTimeoutError],
            **(connection or {}),
        )
        saver = cls(client, retention=retention, serde=serde, prefix=prefix)
        saver._owned = client
        return saver

    @classmethod
    def from_client(cls, client: Redis | RedisCluster, **options: Any) -> Self:
        """Over a client that the caller made and closes; the same as calling the class."""
        return cls(client, **options)

    def close(self) -> None:
        """Close connections that are the saver's own."""
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ calls

    def _call(self, call: Call) -> Any:
        try:
            try:
                return self._client.execute_command(*by_name(call))
            except NoScriptError:
                return self._client.execute_command(*by_text(call))
        except (RedisError, OSError) as error:
            raise translated(error) from error

    def _run(self, operation: Operation[T]) -> T:
        try:
            step = next(operation)
            while True:
                if isinstance(step, Write):
                    (reply,) = self._call(self._store.commit([step]))
                else:
                    reply = self._call(step)
                step = operation.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    # ------------------------------------------------------------ LangGraph's interface

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        thread_id = str(config["configurable"]["thread_id"])
        self._outstanding.wait(thread_id)
        stored = self._run(self._operations.put(config, checkpoint, metadata, new_versions))
        # Once more: the pool may have taken up a write before this and run its first line after it. When a step's
        # checkpoint is said to be stored, its writes are.
        self._outstanding.wait(thread_id)
        return stored

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        with self._outstanding.write(str(config["configurable"]["thread_id"])):
            address, write = self._operations.put_writes(config, writes, task_id, task_path)
            (reply,) = self._call(self._store.commit([write]))
            outcome(address, reply)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        self._outstanding.settle(str(config["configurable"]["thread_id"]))
        return self._run(self._operations.get(config))

    def get_delta_channel_history(self, *, config: RunnableConfig, channels: Sequence[str]) -> Mapping[str, Any]:
        """The base class's answer in two round trips for 64 ancestors rather than one for each."""
        self._outstanding.settle(str(config["configurable"]["thread_id"]))
        return self._run(self._operations.history(config, channels))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Newest first by the order in which Redis got them; without ``config`` one thread after the other."""
        left = limit
        for one in [config] if config is not None else self._run(self._operations.everywhere()):
            thread_id = str(one["configurable"]["thread_id"])
            self._outstanding.settle(thread_id)
            wanted = self._run(self._operations.matching(one, before))
            for start in range(0, len(wanted), PAGE):
                page = wanted[start : start + PAGE]
                for found in self._run(self._operations.page(thread_id, page, filter)):
                    if left == 0:
                        return
                    yield found
                    left = None if left is None else left - 1

    def delete_thread(self, thread_id: str) -> None:
        self._outstanding.settle(str(thread_id))
        self._run(self._operations.delete_thread(str(thread_id)))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        self._run(self._operations.delete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """
        Raises:
            ValueError: the target has checkpoints already.
        """
        self._outstanding.settle(str(source_thread_id))
        token = secrets.token_hex(8)
        self._run(self._operations.copy_thread(str(source_thread_id), str(target_thread_id), token))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """``keep_latest``: the newest checkpoint of each namespace and what it is rebuilt from; ``delete``: nothing."""
        self._run(self._operations.prune(thread_ids, strategy))

    def size(self, thread_id: str | None = None) -> int:
        """Bytes of stored data of a thread, or of all; Redis itself takes half as much again, or twice as much."""
        return self._run(self._operations.size(thread_id))
