"""What graphs tell while they run, read by clients in fleets of real processes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from a2a_zmq import AsyncFleetClient, FleetClient, RequestRefused
from a2a_zmq.streams import StreamEvent
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import a2actl, client_of, wait_until
from tests.integration.streaming import (
    PATIENCE_S,
    STEPS,
    TALK,
    custom,
    fleet_of,
    gathered,
    make_project,
    rising,
    steps_of,
)


@pytest.fixture(scope="module")
def calm(no_orphans: Path) -> Iterator[LocalFleet]:
    """A fleet in which nothing is killed."""
    with fleet_of(make_project(no_orphans)) as fleet:
        yield fleet


@pytest.fixture
def client(calm: LocalFleet) -> Iterator[FleetClient]:
    with client_of(calm) as client:
        yield client


def test_updates_and_custom_data_come_in_order_and_end_with_the_task(client: FleetClient) -> None:
    handle = client.submit_graph("steps", {"n": 0}, stream_mode=["updates", "custom"])
    events = list(handle.stream())
    assert handle.result(PATIENCE_S)["n"] == STEPS
    assert [event.type for event in events] == ["metadata", *["custom", "custom", "updates"] * STEPS]
    assert events[0].data == {"run_id": handle.task_id, "attempt": 1}
    assert [event.id for event in events] == [f"1-{number}" for number in range(1, len(events) + 1)]
    assert custom(events) == [{when: number} for number in range(STEPS) for when in ("begin", "end")]
    assert steps_of(events) == list(range(STEPS))
    assert list(handle.stream()) == events, "what has ended can be read again"


def test_tokens_of_a_model_arrive_one_by_one(client: FleetClient) -> None:
    handle = client.submit_graph("talking", {}, stream_mode="messages")
    tokens = [event.data[0]["content"] for event in handle.stream() if event.type == "messages"]
    assert "".join(tokens) == TALK == handle.result(PATIENCE_S)["said"]
    assert len(tokens) > 10


def test_what_was_not_asked_for_is_not_told(client: FleetClient) -> None:
    silent = client.submit_graph("steps", {"n": 0})
    assert list(silent.stream()) == []
    updates = client.submit_graph("steps", {"n": 0}, stream_mode="updates")
    assert {event.type for event in updates.stream()} == {"metadata", "updates"}
    with pytest.raises(RequestRefused, match="UNKNOWN_TASK"):
        list(client.stream("nobody-knows-it"))
    with pytest.raises(RequestRefused, match="not the id of an event"):
        client.stream(updates.task_id, after="seventeen")


def test_what_no_event_can_carry_is_named_and_the_output_is_the_graphs_own(client: FleetClient) -> None:
    handle = client.submit_graph("oddities", {"n": 0}, stream_mode=["custom", "values"])
    events = list(handle.stream())
    assert [event.data["type"] for event in events if event.type == "omitted"] == ["custom"]
    assert {"set": [1]} in custom(events)
    assert events[-1].data["secret"] == "not for everybody"
    assert handle.result(PATIENCE_S) == {"n": 1}


def test_subgraphs_are_told_with_their_namespace_if_wanted(client: FleetClient) -> None:
    payload = {"input": {"n": 0}, "stream_mode": ["updates"]}
    plain = client.submit("graph:nested", payload)
    assert [event.ns for event in plain.stream() if event.type == "updates"] == [()]
    whole = client.submit("graph:nested", {**payload, "stream_subgraphs": True})
    namespaces = [event.ns for event in whole.stream() if event.type == "updates"]
    assert [len(ns) for ns in namespaces] == [1, 1, 0]
    assert namespaces[0][0].startswith("inner:")


def test_a_reader_goes_on_after_the_event_that_it_has_seen(client: FleetClient) -> None:
    handle = client.submit_graph("steps", {"n": 0, "pause": 0.05}, stream_mode=["updates", "custom"])
    seen: list[StreamEvent] = []
    while not seen or seen[-1].type == "updates" or len(seen) < 25:
        reader = handle.stream(after=seen[-1].id if seen else None)
        part = list(itertools.islice(reader, 4))
        reader.close()  # type: ignore[attr-defined]
        if not part:
            break
        seen += part
    seen += handle.stream(after=seen[-1].id)
    assert seen == list(handle.stream())
    assert steps_of(seen) == list(range(STEPS))


def test_two_readers_one_of_them_late_get_the_same(calm: LocalFleet, client: FleetClient) -> None:
    handle = client.submit_graph("steps", {"n": 0, "pause": 0.05}, stream_mode=["updates", "custom"])
    first: list[StreamEvent] = []
    second: list[StreamEvent] = []
    reading = gathered(client, handle.task_id, first)
    wait_until(lambda: handle.done() or len(client.history(handle.task_id)) > 1, "it has begun", PATIENCE_S)
    with client_of(calm) as other:
        gathered(other, handle.task_id, second).join(PATIENCE_S)
    reading.join(PATIENCE_S)
    assert first == second
    assert steps_of(first) == list(range(STEPS))


def test_the_asynchronous_client_streams_too(calm: LocalFleet) -> None:
    async def main() -> None:
        async with AsyncFleetClient(**calm.client_arguments()) as client:
            handle = await client.submit_graph("steps", {"n": 0}, stream_mode=["updates"])
            events = [event async for event in handle.stream()]
            assert steps_of(events) == list(range(STEPS))
            assert (await handle.result(PATIENCE_S))["n"] == STEPS

    asyncio.run(main())


def test_a_question_is_told_and_the_stream_goes_on_with_the_answer(client: FleetClient) -> None:
    handle = client.submit_graph("asking", {"n": 0}, stream_mode=["updates", "custom"])
    events: list[StreamEvent] = []
    for event in handle.stream():
        events.append(event)
        if event.type == "waiting":
            assert [each["value"] for each in event.data["interrupts"]] == ["Go on?"]
            client.resume(handle.task_id, "yes")
    assert [event.type for event in events].count("waiting") == 1
    assert [event.type for event in events].count("metadata") == 2
    assert custom(events) == [{"begin": 0}, {"end": 0}, {"begin": 1}, {"end": 1}]
    assert rising(events)
    assert handle.result(PATIENCE_S)["answer"] == "yes"


def test_many_streams_at_once_are_each_in_order(client: FleetClient) -> None:
    handles = [
        client.submit_graph("steps", {"n": 0, "pause": 0.02}, stream_mode=["updates", "custom"]) for _ in range(12)
    ]
    streams: list[list[StreamEvent]] = [[] for _ in handles]
    readers = [
        gathered(client, handle.task_id, into)
        for handle, stream in zip(handles, streams, strict=True)
        for into in (stream, [])
    ]
    for reader in readers:
        reader.join(PATIENCE_S)
    for stream in streams:
        assert rising(stream)
        assert steps_of(stream) == list(range(STEPS))


# ---------------------------------------------------------------- the command line


def test_submit_shows_what_happens_live(calm: LocalFleet) -> None:
    payload = '{"input": {"n": 0}}'
    shown = a2actl(calm, "submit", "graph:steps", "--payload", payload, "--stream")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("updates") == STEPS
    assert '{"begin":0}' in shown.stdout
    assert f'"n": {STEPS}' in shown.stdout, "the result follows"

    as_json = a2actl(
        calm, "--json", "submit", "graph:steps", "--payload", payload, "--stream", "--stream-mode", "updates"
    )
    assert as_json.returncode == 0, as_json.stderr
    *events, result = [orjson.loads(line) for line in as_json.stdout.splitlines()]
    assert [event["type"] for event in events] == ["metadata", *["updates"] * STEPS]
    assert result["status"] == "completed"
    assert result["result"]["n"] == STEPS

    half = events[4]["id"]
    rest = a2actl(calm, "--json", "stream", result["task_id"], "--from", half)
    assert [orjson.loads(line)["id"] for line in rest.stdout.splitlines()[:-1]] == [each["id"] for each in events[5:]]


def test_tokens_of_one_message_are_shown_as_one_text(calm: LocalFleet) -> None:
    shown = a2actl(calm, "submit", "graph:talking", "--payload", '{"input": {}}', "--stream")
    assert shown.returncode == 0, shown.stderr
    assert TALK in shown.stdout


def test_a_question_ends_the_watching_and_says_how_to_go_on(calm: LocalFleet) -> None:
    asked = a2actl(calm, "submit", "graph:asking", "--payload", '{"input": {"n": 0}}', "--stream")
    assert asked.returncode == 75, asked.stderr
    assert "Go on?" in asked.stderr
    assert "a2actl resume" in asked.stderr
    assert "a2actl stream" in asked.stderr


def test_only_graphs_stream(calm: LocalFleet) -> None:
    refused = a2actl(calm, "submit", "noop", "--stream")
    assert refused.returncode == 2
    assert "graph:" in refused.stderr
