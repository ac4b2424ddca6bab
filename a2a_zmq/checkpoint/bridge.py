"""The blocking half of the saver for event loops, for threads beside its loop.

Under ``ainvoke`` LangGraph runs a node that is no coroutine in a thread; a graph that such a node invokes has the same
saver and calls it from there.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple

from a2a_zmq.checkpoint.base import SaverBase

T = TypeVar("T")


class BlockingBridge(SaverBase):
    @abstractmethod
    def _loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that runs the saver; None if there is none yet."""

    def _block(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """
        Raises:
            RuntimeError: there is no loop yet, or this thread is the one that runs it.
        """
        loop = self._loop()
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if loop is None or running is loop:
            coroutine.close()
            name = type(self).__name__
            raise RuntimeError(
                f"{name} blocks only in threads beside its event loop; use the methods with a, or RedisSaver"
            )
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self._block(self.aget_tuple(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        found = self.alist(config, filter=filter, before=before, limit=limit)
        end = object()

        async def following() -> Any:
            return await anext(found, end)

        while (each := self._block(following())) is not end:
            yield each

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return self._block(self.aput(config, checkpoint, metadata, new_versions))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        async def write() -> None:
            await self.aput_writes(config, writes, task_id, task_path)

        self._block(write())

    def delete_thread(self, thread_id: str) -> None:
        self._block(self.adelete_thread(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        self._block(self.adelete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self._block(self.acopy_thread(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        self._block(self.aprune(thread_ids, strategy=strategy))
