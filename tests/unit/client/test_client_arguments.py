"""What callers of the clients may pass, and what a mistyped name is answered with."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from a2a_zmq import AsyncFleetClient, FleetClient
from tests.unit.client.conftest import FleetInAThread


def wrong(**names: Any) -> dict[str, Any]:
    """Hides the mistake from whoever checks types."""
    return names


def test_a_mistyped_option_is_told_with_the_method_and_the_name_that_may_be_meant(arguments: dict[str, Any]) -> None:
    """Symptom: ``TaskForm.__init__() got an unexpected keyword argument``, of which no caller knows."""
    with FleetClient(**arguments) as client:
        calls: list[tuple[Any, str]] = [
            (
                lambda: client.submit("noop", {}, **wrong(tiemout_s=5)),
                r"^submit\(\) .*'tiemout_s'; did you mean 'timeout_s'\?",
            ),
            (
                lambda: client.submit_graph("g", {}, **wrong(tiemout_s=5)),
                r"^submit_graph\(\) .*did you mean 'timeout_s'\?",
            ),
            (lambda: client.submit_graph("g", {}, **wrong(thred_id="t")), "did you mean 'thread_id'"),
            (lambda: client.submit("noop", {}, **wrong(taskid="t")), "did you mean 'task_id'"),
            (
                lambda: client.submit_many("noop", [], **wrong(tiemout_s=5)),
                r"^submit_many\(\) .*did you mean 'timeout_s'\?",
            ),
            (lambda: next(client.map("noop", [{}], **wrong(inflight=3))), r"^map\(\) .*did you mean 'in_flight'\?"),
            (
                lambda: client.submit("noop", {}, **wrong(xyz=1)),
                r"^submit\(\) got an unexpected keyword argument 'xyz'$",
            ),
        ]
        for call, says in calls:
            with pytest.raises(TypeError, match=says):
                call()


def test_the_asynchronous_client_tells_the_same(arguments: dict[str, Any]) -> None:
    async def story() -> None:
        async with AsyncFleetClient(**arguments) as client:
            with pytest.raises(TypeError, match=r"^submit\(\) .*did you mean 'timeout_s'"):
                await client.submit("noop", {}, **wrong(tiemout_s=5))
            with pytest.raises(TypeError, match=r"^submit_graph\(\) .*did you mean 'timeout_s'"):
                await client.submit_graph("g", {}, **wrong(tiemout_s=5))
            with pytest.raises(TypeError, match=r"^map\(\) .*did you mean 'timeout_s'"):
                await anext(client.map("noop", [{}], **wrong(tiemout_s=5)))

    asyncio.run(story())


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (
            {"task_type": "noop", "payload": {}, "tiemout_s": 5},
            r"^submit_tasks\(\) got an unexpected key 'tiemout_s' in tasks\[1\]; did you mean 'timeout_s'\?$",
        ),
        (
            {"task_type": "noop", "payload": {}, "xyz": None},
            r"^submit_tasks\(\) got an unexpected key 'xyz' in tasks\[1\]$",
        ),
        ({"task_type": "noop", "payload": {}, 7: 1}, r"unexpected key 7 in tasks\[1\]$"),
        ({"task_type": "noop", "paylaod": {}}, r"'paylaod' in tasks\[1\]; did you mean 'payload'\?$"),
        ({"task_type": "noop"}, r"^submit_tasks\(\) misses the key 'payload' in tasks\[1\]$"),
        ("noop", r"^submit_tasks\(\) needs a dict for each task; tasks\[1\] is of type str$"),
    ],
)
def test_a_wrong_task_among_many_is_told_with_its_index_and_key(
    arguments: dict[str, Any], task: Any, says: str
) -> None:
    """Symptom: a mistyped time limit was left out, and its task ran without one."""
    good: Any = {"task_type": "noop", "payload": {}, "timeout_s": 5, "labels": None, "task_id": None}

    async def story() -> None:
        async with AsyncFleetClient(**arguments) as client:
            with pytest.raises(TypeError, match=says):
                await client.submit_tasks([good, task])

    with FleetClient(**arguments) as client, pytest.raises(TypeError, match=says):
        client.submit_tasks([good, task])
    asyncio.run(story())


def test_a_graph_may_be_stopped_before_and_after_nodes(coordinator: FleetInAThread, arguments: dict[str, Any]) -> None:
    async def later() -> None:
        async with AsyncFleetClient(**arguments) as client:
            await client.submit_graph("g", {}, interrupt_before="*")

    with FleetClient(**arguments) as client:
        client.submit_graph("g", {}, interrupt_before=["act"], interrupt_after=("look", "act"))
    asyncio.run(later())
    submitted = [payload["tasks"][0] for action, payload in coordinator.requests if action == "submit_tasks"]
    assert [task["payload"] for task in submitted] == [
        {"input": {}, "interrupt_before": ["act"], "interrupt_after": ["look", "act"]},
        {"input": {}, "interrupt_before": "*"},
    ]
