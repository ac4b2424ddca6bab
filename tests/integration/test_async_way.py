"""The asynchronous client against real daemons: the same methods, as coroutines and asynchronous iterators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from a2a_zmq import AsyncFleetClient, RequestRefused, TaskCancelled, TaskFailed, TaskTimeout
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import PATIENCE_S, runs, wait_until


def within(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine with a bound."""
    asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


def test_submit_attach_get_status_history(fleet: LocalFleet) -> None:
    async def story() -> None:
        async with AsyncFleetClient(**fleet.client_arguments()) as client:
            handle = await client.submit("compute", {"operation": "mean", "numbers": [1, 2]}, priority=1)
            assert (await handle.result(PATIENCE_S))["result"] == 1.5
            assert await handle.status() == "completed"
            again = await client.attach(handle.task_id)
            assert await again.result(PATIENCE_S) == await handle.result()
            record = await client.get(handle.task_id)
            assert record is not None
            assert record["status"] == "completed"
            assert (await client.status())["coordinator"]["id"] == "coordinator-1"
            assert await client.history(handle.task_id)
            with pytest.raises(RequestRefused):
                await client.attach("never-heard-of")

    within(story())


def test_map_over_plain_and_asynchronous_payloads(fleet: LocalFleet) -> None:
    async def numbers() -> AsyncIterator[dict[str, int]]:
        for n in range(300):
            yield {"n": n}
            await asyncio.sleep(0)

    async def story() -> None:
        async with AsyncFleetClient(**fleet.client_arguments()) as client:
            assert [value["n"] async for value in client.map("noop", numbers())] == list(range(300))
            unordered = client.map("noop", ({"n": n} for n in range(300)), as_completed=True, in_flight=50)
            assert sorted([value["n"] async for value in unordered]) == list(range(300))
            handles = await client.submit_many("noop", [{"n": n} for n in range(700)])
            values = await asyncio.gather(*(handle.result(PATIENCE_S) for handle in handles))
            assert [value["n"] for value in values] == list(range(700))

    within(story())


def test_failures_timeouts_and_cancels(fleet: LocalFleet, ledger: Path) -> None:
    async def story() -> None:
        async with AsyncFleetClient(**fleet.client_arguments()) as client:
            bad = await client.submit("raises", {"text": "no ink"}, max_attempts=1)
            with pytest.raises(TaskFailed, match="no ink"):
                await bad.result(PATIENCE_S)
            slow = await client.submit("counted", {"seconds": 60, "ledger": str(ledger)})
            with pytest.raises(TaskTimeout):
                await slow.result(0.2)
            await asyncio.to_thread(wait_until, lambda: runs(ledger), "the task runs")
            assert (await slow.cancel())["requested"] == [slow.task_id]
            with pytest.raises(TaskCancelled):
                await slow.result(PATIENCE_S)

    within(story())
