"""What graphs tell while they run, read by clients of fleets that lose workers, owners and readers."""

from __future__ import annotations

import asyncio
import itertools
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from a2a_zmq import AsyncFleetClient, FleetClient, RequestRefused
from a2a_zmq.streams import StreamEvent, parse_id
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import a2actl, client_of, wait_until

# A graph's first run loads LangGraph in a child process: seconds on a busy host.
PATIENCE_S = 60.0
STEPS = 8
TALK = "one two three four five six seven eight nine ten"
FLOOD = 3000
FLOOD_TEXT = "x" * 4000

GRAPHS = f"""
import asyncio
import os
import time
from typing import TypedDict

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    n: int
    pause: float
    said: str
    secret: str
    answer: str


class Output(TypedDict):
    n: int


def step(state: State) -> State:
    write = get_stream_writer()
    write({{"begin": state["n"]}})
    time.sleep(state.get("pause", 0.0))
    write({{"end": state["n"]}})
    return {{"n": state["n"] + 1}}


def ask(state: State) -> State:
    return {{"answer": interrupt("Go on?")}}


async def talk(state: State) -> State:
    model = GenericFakeChatModel(messages=iter([AIMessage({TALK!r})]))
    said = ""
    async for token in model.astream("talk"):
        said += token.content
        await asyncio.sleep(0.02)
    return {{"said": said}}


async def flood(state: State) -> State:
    write = get_stream_writer()
    for number in range({FLOOD}):
        write([number, {FLOOD_TEXT!r}])
        if number % 20 == 0:
            await asyncio.sleep(0)
    return {{"n": {FLOOD}}}


def odd(state: State) -> State:
    write = get_stream_writer()
    write(object)
    write("y" * 600_000)
    write({{"set": {{1}}}})
    return {{"n": 1, "secret": "not for everybody"}}


def straight(*nodes, **options):
    graph = StateGraph(State, **options)
    before = START
    for number, node in enumerate(nodes):
        name = f"{{node.__name__}}_{{number}}"
        graph.add_node(name, node)
        graph.add_edge(before, name)
        before = name
    graph.add_edge(before, END)
    return graph.compile()


steps = straight(*[step] * {STEPS})
asking = straight(step, ask, step)
talking = straight(talk)
flooding = straight(flood)
oddities = straight(odd, output_schema=Output)
inner = straight(step, step)
outer = StateGraph(State)
outer.add_node("inner", inner)
outer.add_edge(START, "inner")
outer.add_edge("inner", END)
nested = outer.compile()
"""


@pytest.fixture(scope="module")
def project(no_orphans: Path) -> Path:
    """A LangGraph project whose graphs tell what they do."""
    directory = no_orphans / "telling"
    directory.mkdir()
    (directory / "graphs.py").write_text(GRAPHS)
    names = ("steps", "asking", "talking", "flooding", "oddities", "nested")
    described = {"dependencies": ["."], "graphs": {name: f"./graphs.py:{name}" for name in names}}
    (directory / "langgraph.json").write_bytes(orjson.dumps(described))
    return directory


def fleet_of(project: Path, *, standbys: bool = False, **env: str) -> LocalFleet:
    env = {"A2A_WORKER_GRAPHS": str(project / "langgraph.json"), "A2A_WORKER_SLOTS": "2", **env}
    return LocalFleet(workers=2, coordinators=2 if standbys else 1, twins=standbys, env=env)


@pytest.fixture(scope="module")
def calm(project: Path) -> Iterator[LocalFleet]:
    """A fleet in which nothing is killed."""
    with fleet_of(project) as fleet:
        yield fleet


@pytest.fixture
def client(calm: LocalFleet) -> Iterator[FleetClient]:
    with client_of(calm) as client:
        yield client


@pytest.fixture
def fleet(project: Path) -> Iterator[LocalFleet]:
    with fleet_of(project) as fleet:
        yield fleet


def rising(events: list[StreamEvent]) -> bool:
    """Each event comes once, in order."""
    ids = [parse_id(event.id) for event in events if event.type != "waiting"]
    return None not in ids and all(first < second for first, second in itertools.pairwise(ids))  # type: ignore[operator]


def steps_of(events: list[StreamEvent]) -> list[int]:
    """Numbers of the steps that were told to be done."""
    return [next(iter(event.data.values()))["n"] - 1 for event in events if event.type == "updates"]


def custom(events: list[StreamEvent]) -> list[Any]:
    return [event.data for event in events if event.type == "custom"]


def gathered(client: FleetClient, task_id: str, into: list[StreamEvent], **options: Any) -> threading.Thread:
    """Read a stream to its end on a thread."""

    def read() -> None:
        into.extend(client.stream(task_id, **options))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


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


def test_a_slow_reader_holds_nobody_up_and_is_told_of_what_is_not_kept(project: Path) -> None:
    """12 MB are told while one reader takes nothing and a second one reads along."""
    with fleet_of(project, A2A_STREAM_MAX_KB="1024") as fleet, client_of(fleet) as client, client_of(fleet) as other:
        coordinator = fleet.daemons["coordinator-1"]
        client.submit_graph("flooding", {}).result(PATIENCE_S)
        before = rss_mb(coordinator.pid)
        handle = client.submit_graph("flooding", {}, stream_mode="custom")
        slow = handle.stream()
        first = [next(slow)]
        quick: list[StreamEvent] = []
        gathered(other, handle.task_id, quick).join(PATIENCE_S)
        assert handle.result(PATIENCE_S)["n"] == FLOOD, "who does not read does not hold up the run"
        assert rising(quick)
        assert len([event for event in quick if event.type == "custom"]) > 100
        assert rss_mb(coordinator.pid) - before < 40, "what nobody takes is not kept in memory"
        rest = first + list(slow)
        assert rising(rest)
        assert [event.type for event in rest].count("gap") == 1
        assert rest[-1].data[0] == FLOOD - 1, "behind the gap comes everything that is kept, to the end"
        numbers = [event.data[0] for event in rest if event.type == "custom"]
        assert sum(second != first + 1 for first, second in itertools.pairwise(numbers)) == 1


def test_a_killed_worker_costs_no_finished_step_its_events(fleet: LocalFleet, tmp_path: Path) -> None:
    with client_of(fleet) as client, client_of(fleet) as other:
        handle = client.submit_graph("steps", {"n": 0, "pause": 0.2}, stream_mode=["updates", "custom"])
        events: list[StreamEvent] = []
        late: list[StreamEvent] = []
        killed = ""
        for event in handle.stream():
            events.append(event)
            if event.type == "custom" and event.data == {"begin": 4} and not killed:
                killed = running_on(client, handle.task_id)
                fleet.daemons[killed].signal(signal.SIGKILL)
        assert handle.result(PATIENCE_S)["n"] == STEPS
        assert killed
        assert rising(events)
        assert steps_of(events) == list(range(STEPS)), "each finished step was told, and none ran again"
        assert [event.attempt for event in events if event.type == "metadata"] == [1, 2]
        assert [event.data for event in events if event.type == "custom"].count({"begin": 4}) == 2
        gathered(other, handle.task_id, late).join(PATIENCE_S)
        assert late == events


def test_a_drained_worker_shows_as_a_new_attempt_and_no_step_is_told_twice(fleet: LocalFleet) -> None:
    with client_of(fleet) as client:
        handle = client.submit_graph("steps", {"n": 0, "pause": 0.2}, stream_mode=["updates", "custom"])
        events: list[StreamEvent] = []
        for event in handle.stream():
            events.append(event)
            if event.type == "custom" and event.data == {"end": 3}:
                fleet.daemons[running_on(client, handle.task_id)].signal(signal.SIGTERM)
        assert handle.result(PATIENCE_S)["n"] == STEPS
        assert rising(events)
        assert custom(events) == [{when: number} for number in range(STEPS) for when in ("begin", "end")]
        assert steps_of(events) == list(range(STEPS))
        assert [event.type for event in events].count("metadata") == 2


@pytest.mark.parametrize("owner", ["coordinator-1", "distributor-1"])
def test_a_stream_goes_on_through_the_death_of_an_owner(fleet: LocalFleet, owner: str) -> None:
    with client_of(fleet) as client:
        handle = client.submit_graph("steps", {"n": 0, "pause": 0.3}, stream_mode=["updates", "custom"])
        events: list[StreamEvent] = []
        for event in handle.stream():
            events.append(event)
            if event.type == "custom" and event.data == {"begin": 3} and event.attempt == 1:
                fleet.daemons[owner].signal(signal.SIGKILL)
                assert fleet.daemons[owner].wait(PATIENCE_S)
                fleet.daemons[owner].start()
        assert handle.result(PATIENCE_S)["n"] == STEPS
        assert rising(events)
        assert custom(events) == [{when: number} for number in range(STEPS) for when in ("begin", "end")]
        assert not [event for event in events if event.type == "gap"]


def test_a_stream_goes_on_at_standbys_that_take_over(project: Path) -> None:
    with fleet_of(project, standbys=True) as fleet, client_of(fleet) as client:
        handle = client.submit_graph("steps", {"n": 0, "pause": 0.3}, stream_mode=["updates", "custom"])
        events: list[StreamEvent] = []
        for event in handle.stream():
            events.append(event)
            if event.type == "custom" and event.data in ({"begin": 2}, {"begin": 4}):
                owner = "coordinator-1" if event.data == {"begin": 2} else "distributor-1"
                fleet.daemons[owner].signal(signal.SIGKILL)
        assert handle.result(PATIENCE_S)["n"] == STEPS
        assert rising(events)
        assert custom(events) == [{when: number} for number in range(STEPS) for when in ("begin", "end")]


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


# ---------------------------------------------------------------- help


def rss_mb(pid: int | None) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def running_on(client: FleetClient, task_id: str) -> str:
    """The worker that runs the task."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        found = client.explain(task_id) or {}
        worker = (found.get("distributor") or {}).get("worker")
        if worker:
            return str(worker)
    raise AssertionError("nobody runs it")
