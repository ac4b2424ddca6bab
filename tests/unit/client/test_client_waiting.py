"""Tasks that ask something, as callers of the clients see them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from a2a_zmq import AsyncFleetClient, FleetClient, RequestRefused, TaskWaiting
from a2a_zmq.protocol.message import Message, MessageType, Metadata
from tests.unit.client.conftest import FleetInAThread
from tests.unit.client.scripted import Scripted

WAIT_S = 10.0


@pytest.fixture
def client(arguments: dict[str, Any]) -> Iterator[FleetClient]:
    with FleetClient(**arguments) as client:
        yield client


def tell(scripted: Scripted, task_id: str, attempt: int, *ids: str) -> None:
    item = {"task_id": task_id, "attempt": attempt, "interrupts": [{"id": each, "value": each} for each in ids]}
    payload: dict[str, Any] = {"action": "task_waiting", "tasks": [item]}
    scripted.receive(Message(MessageType.EVENT, "coordinator-1", "client~1", payload, Metadata("coordinator-1")))


def asking(client: FleetClient, question: str = "sure?") -> Any:
    handle = client.submit_graph("asks", question, thread_id="t", config={"tags": ["x"]}, priority=1)
    with pytest.raises(TaskWaiting) as waiting:
        handle.result(WAIT_S)
    assert waiting.value.interrupts == [{"id": "i1", "value": question}]
    assert waiting.value.task_id == handle.task_id
    return handle


def test_a_question_is_raised_and_the_result_comes_after_the_answer(
    coordinator: FleetInAThread, client: FleetClient
) -> None:
    handle = asking(client)
    assert not handle.done()
    assert handle.interrupts == [{"id": "i1", "value": "sure?"}]
    handle.resume({"yes": True})
    assert handle.result(WAIT_S) == {"input": "sure?", "thread_id": "t", "config": {"tags": ["x"]}}
    assert handle.interrupts == []
    (request,) = [payload for action, payload in coordinator.requests if action == "resume_task"]
    assert request["answers"] == {"i1": {"yes": True}}, "the question is named, so that no other one is answered"
    assert request["attempt"] == 1


def test_a_task_is_resumed_by_its_id_alone(coordinator: FleetInAThread, client: FleetClient) -> None:
    handle = asking(client)
    client.resume(handle.task_id, value=None)
    assert handle.result(WAIT_S)["input"] == "sure?"
    (request,) = [payload for action, payload in coordinator.requests if action == "resume_task"]
    assert request["value"] is None
    assert "attempt" not in request


def test_a_second_handle_of_a_waiting_task_waits_too(client: FleetClient) -> None:
    handle = asking(client)
    twin = client.attach(handle.task_id)
    with pytest.raises(TaskWaiting):
        twin.result(WAIT_S)
    twin.resume("yes")
    assert handle.result(WAIT_S) == twin.result(WAIT_S)


def test_a_thread_that_waits_for_the_result_is_told_of_the_question(
    coordinator: FleetInAThread, client: FleetClient
) -> None:
    coordinator.held = True
    handle = client.submit("graph:asks", {"input": "sure?"})
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            handle.result(WAIT_S)
        except TaskWaiting as waiting:
            raised.append(waiting)

    thread = threading.Thread(target=wait)
    thread.start()
    coordinator.release()
    thread.join(WAIT_S)
    assert len(raised) == 1


def test_a_map_raises_at_a_waiting_task_as_at_a_failed_one(client: FleetClient) -> None:
    payloads = [{"input": number} for number in range(3)]
    with pytest.raises(TaskWaiting):
        list(client.map("graph:asks", payloads))
    found = list(client.map("graph:asks", payloads, return_exceptions=True))
    assert [each.interrupts[0]["value"] for each in found] == [0, 1, 2]


@pytest.mark.parametrize("answer", [{}, {"value": 1, "answers": {"i1": 1}}, {"value": object()}])
def test_an_answer_that_is_none_is_refused_before_it_is_sent(client: FleetClient, answer: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match="INVALID_TASK"):
        client.resume("some-task", **answer)


def test_the_asynchronous_client_does_the_same(arguments: dict[str, Any]) -> None:
    async def story() -> None:
        async with AsyncFleetClient(**arguments) as client:
            handle = await client.submit_graph("asks", "sure?")
            with pytest.raises(TaskWaiting):
                await handle.result(WAIT_S)
            assert handle.interrupts == [{"id": "i1", "value": "sure?"}]
            await handle.resume(answers={"i1": 1})
            assert (await handle.result(WAIT_S))["input"] == "sure?"
            again = await client.submit_graph("asks", "sure?")
            with pytest.raises(TaskWaiting):
                await again.result(WAIT_S)
            await client.resume(again.task_id, 1)
            assert (await again.result(WAIT_S))["input"] == "sure?"

    asyncio.run(story())


def test_what_another_one_answered_is_waited_for_again() -> None:
    scripted = Scripted()
    scripted.up()
    entry = scripted.entry("a")
    tell(scripted, "a", 1, "i1")
    assert entry.asked is not None
    tell(scripted, "a", 1)
    assert entry.asked is None


def test_a_late_word_that_an_earlier_question_is_answered_leaves_the_present_one() -> None:
    scripted = Scripted()
    scripted.up()
    entry = scripted.entry("a")
    tell(scripted, "a", 3, "i2")
    tell(scripted, "a", 1)
    assert entry.asked is not None
    assert entry.asked.interrupts[0]["id"] == "i2"


def test_a_new_coordinator_says_that_the_task_does_not_wait_any_more() -> None:
    scripted = Scripted()
    scripted.up()
    entry = scripted.entry("a")
    (submission,) = scripted.flush()
    scripted.answer(submission, accepted=1, duplicates=[], rejected=[])
    tell(scripted, "a", 1, "i1")
    scripted.down()
    scripted.up("boot-2")
    (watch,) = scripted.flush()
    scripted.answer(watch, results=[], live=[["a", "waiting"]], unknown=[])
    assert entry.asked is not None
    scripted.down()
    scripted.up("boot-3")
    (watch,) = scripted.flush()
    scripted.answer(watch, results=[], live=[["a", "pending"]], unknown=[])
    assert entry.asked is None


@pytest.mark.parametrize("items", [None, "all", [None], [{"task_id": 1}], [{"task_id": "a", "attempt": "1"}]])
def test_nonsense_about_waiting_is_left_alone(items: Any) -> None:
    scripted = Scripted()
    scripted.up()
    entry = scripted.entry("a")
    payload = {"action": "task_waiting", "tasks": items}
    scripted.receive(Message(MessageType.EVENT, "coordinator-1", "client~1", payload, Metadata("coordinator-1")))
    assert entry.asked is None
