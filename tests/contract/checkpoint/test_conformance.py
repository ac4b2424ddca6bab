"""LangGraph's own conformance suite, every capability, for both savers on both server programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from a2a_zmq.checkpoint import AsyncRedisSaver, RedisSaver, strict_serializer
from daemons.redis.embedded import EmbeddedRedis


class InThreads(RedisSaver):
    """The suite calls coroutines: each runs the blocking method in a thread."""

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return await asyncio.to_thread(self.put, config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await asyncio.to_thread(self.put_writes, config, writes, task_id, task_path)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return await asyncio.to_thread(self.get_tuple, config)

    async def alist(self, config: RunnableConfig | None, **options: Any) -> AsyncIterator[CheckpointTuple]:
        for found in await asyncio.to_thread(lambda: list(self.list(config, **options))):
            yield found

    async def adelete_thread(self, thread_id: str) -> None:
        await asyncio.to_thread(self.delete_thread, thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await asyncio.to_thread(self.delete_for_runs, run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        await asyncio.to_thread(self.copy_thread, source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        await asyncio.to_thread(lambda: self.prune(thread_ids, strategy=strategy))


async def check_all(make: Any) -> None:
    """Every capability that the suite knows is there and passes."""
    report = await validate(checkpointer_test(name="ours")(make))
    failures = [failure for found in report.results.values() for failure in found.failures]
    assert failures == []
    assert {name for name, found in report.results.items() if found.passed} == {each.value for each in Capability}


@pytest.mark.parametrize("key", [None, b"k" * 32], ids=["plain", "encrypted"])
async def test_the_async_saver_passes_every_capability(server: EmbeddedRedis, prefix: str, key: bytes | None) -> None:
    async def make() -> AsyncIterator[AsyncRedisSaver]:
        serde = strict_serializer(key=key)
        async with AsyncRedisSaver.from_url(f"redis://127.0.0.1:{server.port}", prefix=prefix, serde=serde) as saver:
            yield saver

    await check_all(make)


async def test_the_blocking_saver_passes_every_capability(server: EmbeddedRedis, prefix: str) -> None:
    async def make() -> AsyncIterator[RedisSaver]:
        with InThreads.from_url(f"redis://127.0.0.1:{server.port}", prefix=prefix) as saver:
            yield saver

    await check_all(make)
