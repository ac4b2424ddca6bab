"""The asynchronous client against the real protocol and sockets."""

from __future__ import annotations

import asyncio
import itertools
import os
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


def test_a_client_belongs_to_the_loop_that_used_it_first(arguments: dict[str, Any]) -> None:
    """Symptom: whatever was called on a second loop never came back."""
    fleet = AsyncFleetClient(**arguments)

    async def use() -> Any:
        async with asyncio.timeout(5):
            return await fleet.status()

    assert asyncio.run(use())
    for _ in range(2):
        with pytest.raises(FleetUnavailable, match="another event loop"):
            asyncio.run(use())
    asyncio.run(fleet.close())
    asyncio.run(fleet.close())


def test_a_client_that_its_own_loop_still_runs_is_not_closed_from_another_one(arguments: dict[str, Any]) -> None:
    async def story() -> None:
        async with AsyncFleetClient(**arguments) as fleet:
            await fleet.status()
            with pytest.raises(FleetUnavailable, match="another event loop"):
                await asyncio.to_thread(lambda: asyncio.run(fleet.tasks()))
            assert await fleet.status()

    asyncio.run(story())


def test_a_forked_child_gets_a_clear_error(arguments: dict[str, Any]) -> None:
    async def story() -> None:
        async with AsyncFleetClient(**arguments) as fleet:
            await fleet.status()
            read_end, write_end = os.pipe()
            child = os.fork()
            if child == 0:
                in_the_child(fleet, write_end)
            os.close(write_end)
            with os.fdopen(read_end) as pipe:
                assert "fork" in await asyncio.to_thread(pipe.read)
            await asyncio.to_thread(os.waitpid, child, 0)
            assert await (await fleet.submit("noop", {"n": 1})).result(5) == {"n": 1}

    asyncio.run(story())


def in_the_child(fleet: AsyncFleetClient, write_end: int) -> None:
    async def submit() -> None:
        async with asyncio.timeout(5):
            await fleet.submit("noop", {})

    try:
        asyncio._set_running_loop(None)
        asyncio.run(submit())
    except BaseException as error:
        os.write(write_end, repr(error).encode())
    finally:
        os._exit(0)


def test_a_close_that_is_cancelled_leaves_nothing_open(arguments: dict[str, Any]) -> None:
    async def story() -> None:
        fleet = AsyncFleetClient(**arguments)
        await fleet.status()
        connection = fleet._connection
        assert connection is not None
        closing = asyncio.ensure_future(fleet.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert connection._opener._context is None  # type: ignore[attr-defined]
        await fleet.close()

    asyncio.run(story())


def test_a_result_that_is_given_up_leaves_nothing_behind(arguments: dict[str, Any], coordinator: Any) -> None:
    async def story() -> None:
        coordinator.held = True
        async with AsyncFleetClient(**arguments) as fleet:
            handle = await fleet.submit("noop", {})
            waiting = asyncio.ensure_future(handle.result())
            await asyncio.sleep(0)
            assert len(handle._waiters) == 1
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert handle._waiters == []

    asyncio.run(story())
