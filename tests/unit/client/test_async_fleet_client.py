"""The asynchronous client against the real protocol and sockets."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from a2a_zmq import AsyncFleetClient
from a2a_zmq.errors import FleetUnavailable, RequestRefused, TaskFailed, TaskTimeout

pytestmark = pytest.mark.timeout(10)


def test_submit_result_and_queries(arguments: dict[str, Any], coordinator: Any) -> None:
    async def story() -> None:
        async with AsyncFleetClient(**arguments) as fleet:
            handle = await fleet.submit("noop", {"n": 1}, task_id="a")
            assert await handle.result(5) == {"n": 1}
            assert await handle.status() == "completed"
            assert (await fleet.get("a") or {})["status"] == "completed"
            assert await fleet.get("b") is None
            assert (await fleet.tasks()).total == 1
            assert (await fleet.history())[0].name == "submitted"
            assert (await fleet.cancel("a"))["echo"] == ["a"]
            assert "action" not in await fleet.status()
            with pytest.raises(TaskFailed, match="boom"):
                await (await fleet.submit("fails", {})).result(5)
            with pytest.raises(RequestRefused, match="never heard"):
                await fleet.submit("unknown", {})
            with pytest.raises(RequestRefused, match="UNKNOWN_TASK"):
                await fleet.attach("never-submitted")
        with pytest.raises(FleetUnavailable, match="closed"):
            await fleet.submit("noop", {})

    asyncio.run(story())


def test_submissions_of_many_coroutines_share_messages(arguments: dict[str, Any], coordinator: Any) -> None:
    async def story() -> None:
        async with AsyncFleetClient(**arguments) as fleet:
            handles = await asyncio.gather(*(fleet.submit("noop", {"n": number}) for number in range(500)))
            values = await asyncio.gather(*(handle.result(5) for handle in handles))
            assert [value["n"] for value in values] == list(range(500))

    asyncio.run(story())
    assert len(coordinator.requests) <= 5


def test_map_over_ordinary_and_asynchronous_sources(arguments: dict[str, Any]) -> None:
    async def endless() -> AsyncIterator[dict[str, int]]:
        for number in itertools.count():
            yield {"n": number}

    async def story() -> None:
        async with AsyncFleetClient(**arguments) as fleet:
            values = [value["n"] async for value in fleet.map("noop", ({"n": n} for n in range(1500)), in_flight=100)]
            assert values == list(range(1500))
            seen = []
            async for value in fleet.map("noop", endless(), as_completed=True, in_flight=32):
                seen.append(value["n"])
                if len(seen) == 200:
                    break
            assert len(set(seen)) == 200
            returned = [value async for value in fleet.map("fails", [{}], return_exceptions=True)]
            assert isinstance(returned[0], TaskFailed)
            assert await (await fleet.submit("noop", {"n": 1})).result(5) == {"n": 1}

    asyncio.run(story())


def test_an_error_of_the_source_reaches_the_caller(arguments: dict[str, Any]) -> None:
    def source() -> Any:
        yield {"n": 1}
        raise LookupError("no more")

    async def story() -> None:
        async with AsyncFleetClient(**arguments) as fleet:
            with pytest.raises(LookupError):
                [value async for value in fleet.map("noop", source())]

    asyncio.run(story())


def test_timeout_close_and_a_replaced_coordinator(arguments: dict[str, Any], coordinator: Any) -> None:
    async def story() -> None:
        async with AsyncFleetClient(**arguments) as fleet:
            coordinator.held = True
            handles = await fleet.submit_many("noop", ({"n": number} for number in range(200)))
            with pytest.raises(TaskTimeout):
                await handles[0].result(0.05)
            await asyncio.to_thread(coordinator.release, tell=False)
            await asyncio.to_thread(coordinator.restart)
            values = await asyncio.gather(*(handle.result(8) for handle in handles))
            assert [value["n"] for value in values] == list(range(200))
            coordinator.held = True
            [waiting] = await fleet.submit_tasks([{"task_type": "noop", "payload": {}}])
            result = asyncio.ensure_future(waiting.result())
            await asyncio.sleep(0)
        with pytest.raises(FleetUnavailable):
            await result

    asyncio.run(story())


def test_without_a_coordinator(arguments: dict[str, Any], free_port: Callable[[], int]) -> None:
    arguments["addresses"] = f"tcp://127.0.0.1:{free_port()}"

    async def story() -> None:
        async with AsyncFleetClient(**arguments, request_timeout_s=0.3, unavailable_after_s=0.3) as fleet:
            with pytest.raises(FleetUnavailable):
                await fleet.submit("noop", {})
            with pytest.raises(FleetUnavailable):
                [value async for value in fleet.map("noop", [{}])]

    asyncio.run(story())
