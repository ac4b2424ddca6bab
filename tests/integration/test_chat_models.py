"""Chat models in fleets of real processes: an agent with tools, budgets over all workers, tokens in the metrics."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from a2a_zmq import FleetClient, TaskFailed
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import REPOSITORY, client_of, complaints, scrape, total, user_fleet, wait_until
from tests.openai_server import OpenAIServer, Reply, openai_server

# Each process that makes a model loads LangChain, the workers' first look at the graphs too: a second of the processor,
# which may be many on a busy host.
START_S = 100.0
PATIENCE_S = 50.0
pytestmark = pytest.mark.timeout(START_S + PATIENCE_S)

HANDLERS = """
from a2a_zmq.handlers import current_task, task
from a2a_zmq.llm import chat_model


@task("ask")
async def ask(payload):
    return {"said": (await chat_model(payload["provider"]).ainvoke(payload["text"])).content}


@task("ask_in_child", executor="process")
def ask_in_child(payload):
    return {"said": "".join(chunk.content for chunk in chat_model(payload["provider"]).stream(payload["text"]))}


@task("who")
async def who(payload):
    return {"task": current_task().task_id}


@task("who_in_child", executor="process")
def who_in_child(payload):
    return {"task": current_task().task_id}


@task("who_in_thread", executor="thread")
def who_in_thread(payload):
    return {"task": current_task().task_id}
"""

GRAPHS = """
from langgraph.graph import END, START, MessagesState, StateGraph

from a2a_zmq.handlers import current_task
from a2a_zmq.llm import chat_model

MODEL = chat_model("patient")


def ask(state):
    answer = MODEL.invoke(state["messages"])
    return {"messages": [answer.content, current_task().task_id]}


builder = StateGraph(MessagesState)
builder.add_node("ask", ask)
builder.add_edge(START, "ask")
builder.add_edge("ask", END)
graph = builder.compile()
"""


def table(name: str, values: dict[str, Any]) -> str:
    return f"[{name}]\n" + "\n".join(f"{key} = {value!r}" for key, value in values.items()) + "\n"


@pytest.fixture(scope="module")
def models() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture
def server(models: OpenAIServer) -> OpenAIServer:
    models.replies.clear()
    models.asked.clear()
    models.default = Reply("hello")
    return models


@pytest.fixture(scope="module")
def folder(no_orphans: Path) -> Path:
    documents = no_orphans / "documents"
    (documents / "sub").mkdir(parents=True)
    (documents / "sub" / "moon.md").write_text("The moon is 384400 km away.", encoding="utf-8")
    (no_orphans / "secret.md").write_text("nobody may read this", encoding="utf-8")
    (documents / "link.md").symlink_to(no_orphans / "secret.md")
    return documents


@pytest.fixture(scope="module")
def fleet(no_orphans: Path, models: OpenAIServer) -> Iterator[LocalFleet]:
    (no_orphans / "asking.py").write_text(HANDLERS, encoding="utf-8")
    (no_orphans / "graphs.py").write_text(GRAPHS, encoding="utf-8")
    project = no_orphans / "langgraph.json"
    project.write_text('{"graphs": {"asking": "./graphs.py:graph"}}', encoding="utf-8")
    providers = no_orphans / "providers.toml"
    providers.write_text(
        table("assistant", models.provider(max_wait_s=0.5))
        + table("pair", models.provider(concurrency=2, max_wait_s=40))
        + table("patient", models.provider(max_wait_s=600))
        + table("single", models.provider(concurrency=1))
        + table("few", models.provider(requests_per_minute=3, max_wait_s=0)),
        encoding="utf-8",
    )
    env = {
        "A2A_WORKER_GRAPHS": f"{REPOSITORY / 'examples' / 'graphs' / 'langgraph.json'},{project}",
        "A2A_WORKER_HANDLERS": "asking",
        "A2A_LLM_PROVIDERS": str(providers),
        "PYTHONPATH": f"{no_orphans}:{REPOSITORY}",
    }
    with user_fleet(workers=2, env=env, start_timeout_s=START_S) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def client(fleet: LocalFleet) -> Iterator[FleetClient]:
    with client_of(fleet) as client:
        yield client


def counted(fleet: LocalFleet, metric: str, **labels: str) -> float:
    """Over both workers."""
    return sum(total(scrape(fleet, name), f"a2a_llm_{metric}", **labels) for name in ("worker-1", "worker-2"))


def question(text: str, folder: Path) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "folder": str(folder)}


def test_an_agent_uses_its_tools_until_it_can_answer(
    fleet: LocalFleet, client: FleetClient, server: OpenAIServer, folder: Path
) -> None:
    before = counted(fleet, "tokens_total", provider="assistant", kind="output")
    server.replies.extend(
        [
            Reply(tool=("list_documents", {})),
            Reply(tool=("read_document", {"name": "sub/moon.md"})),
            Reply(tool=("calculate", {"expression": "384400 * 2"})),
            Reply("There and back it is 768800 km."),
        ]
    )
    handle = client.submit_graph("assistant", question("How far is it to the moon and back?", folder), thread_id="moon")
    messages = handle.result(PATIENCE_S)["messages"]
    assert [message["type"] for message in messages] == ["human", *["ai", "tool"] * 3, "ai"]
    said = [message["content"] for message in messages]
    assert said[2].split() == ["link.md", "sub/moon.md"]
    assert said[4] == "The moon is 384400 km away."
    assert said[6] == "768800"
    assert said[7] == "There and back it is 768800 km."
    assert {each["function"]["name"] for each in server.asked[0]["tools"]} == {
        "calculate",
        "list_documents",
        "read_document",
    }
    assert "folder" not in str(server.asked[0]["tools"]), "which folder is not the model's to choose"
    assert counted(fleet, "tokens_total", provider="assistant", kind="output") - before == 4 * 7
    assert complaints(fleet) == []


def test_a_conversation_goes_on_in_its_thread(
    fleet: LocalFleet, client: FleetClient, server: OpenAIServer, folder: Path
) -> None:
    for text in ("I am Ada.", "Who am I?"):
        client.submit_graph("assistant", question(text, folder), thread_id="ada").result(PATIENCE_S)
    assert [message["content"] for message in server.asked[1]["messages"][1:]] == ["I am Ada.", "hello", "Who am I?"]


def test_tools_reach_nothing_outside_of_their_folder_and_calculate_nothing_but_numbers(
    client: FleetClient, server: OpenAIServer, folder: Path
) -> None:
    tries = [
        ("read_document", {"name": "../secret.md"}),
        ("read_document", {"name": str(folder.parent / "secret.md")}),
        ("read_document", {"name": "link.md"}),
        ("calculate", {"expression": "__import__('os').getpid()"}),
        ("calculate", {"expression": "9**9**9"}),
        ("calculate", {"expression": "1/0"}),
    ]
    server.replies.extend(Reply(tool=each) for each in tries)
    value = client.submit_graph("assistant", question("Try.", folder)).result(PATIENCE_S)
    answers = [message for message in value["messages"] if message["type"] == "tool"]
    assert [message["status"] for message in answers] == ["error"] * len(tries)
    assert "nobody may read this" not in str(value)
    assert value["messages"][-1]["content"] == "hello", "the model hears what was wrong, and goes on"


def test_a_graph_whose_provider_is_paused_is_put_off_and_not_failed(
    fleet: LocalFleet, client: FleetClient, server: OpenAIServer, folder: Path
) -> None:
    put_off = total(scrape(fleet, "distributor-1"), "a2a_task_pauses_total", reason="put_off")
    server.replies.extend([Reply(tool=("list_documents", {})), Reply(status=429, headers={"Retry-After": "2"})])
    handle = client.submit_graph("assistant", question("What is there?", folder), max_attempts=1)
    assert handle.result(PATIENCE_S)["messages"][-1]["content"] == "hello"
    assert total(scrape(fleet, "distributor-1"), "a2a_task_pauses_total", reason="put_off") > put_off
    assert len(server.asked) == 3, "what had been answered was not asked again"
    assert counted(fleet, "throttled_total", provider="assistant") == 1
    assert counted(fleet, "errors_total", provider="assistant", reason="429") == 1


def test_all_workers_together_keep_to_a_budget(fleet: LocalFleet, client: FleetClient, server: OpenAIServer) -> None:
    server.busiest = 0
    payloads = [{"provider": "pair", "text": str(number)} for number in range(12)]
    handles = [
        client.submit(kind, payload)
        for kind, half in (("ask", payloads[:6]), ("ask_in_child", payloads[6:]))
        for payload in half
    ]
    assert [handle.result(PATIENCE_S)["said"].strip() for handle in handles] == ["hello"] * 12
    assert 1 <= server.busiest <= 2
    assert counted(fleet, "requests_total", provider="pair") == 12
    assert counted(fleet, "request_seconds_count", provider="pair", model="tester") == 12
    for kind, number in (("input", 11), ("output", 7), ("cached", 4)):
        assert counted(fleet, "tokens_total", provider="pair", kind=kind) == 12 * number
    assert counted(fleet, "waits_total", provider="pair", reason="concurrency") == counted(
        fleet, "wait_seconds_count", provider="pair"
    )


def test_what_the_budget_does_not_allow_is_not_sent(
    fleet: LocalFleet, client: FleetClient, server: OpenAIServer
) -> None:
    handles = [client.submit("ask", {"provider": "few", "text": "hi"}, max_attempts=1) for _ in range(5)]
    errors = []
    for handle in handles:
        try:
            handle.result(PATIENCE_S)
        except TaskFailed as error:
            errors.append(str(error))
    assert len(errors) == 2
    assert all("ModelBusy: the budget of provider 'few' (requests) is full, retry after" in each for each in errors)
    assert len(server.asked) == 3
    assert counted(fleet, "errors_total", provider="few", reason="budget") == 2


@pytest.mark.parametrize("kind", ["who", "who_in_child", "who_in_thread"])
def test_code_knows_the_task_that_it_runs_for(client: FleetClient, kind: str) -> None:
    handle = client.submit(kind, {})
    assert handle.result(PATIENCE_S) == {"task": handle.task_id}


def test_a_call_of_a_graph_does_not_wait_longer_than_the_task_may_run(
    client: FleetClient, server: OpenAIServer
) -> None:
    """It would be stopped, and have failed; so it gives its worker free and comes back."""
    server.replies.append(Reply(status=429, headers={"Retry-After": "15"}))
    handle = client.submit_graph("asking", {"messages": ["hi"]}, timeout_s=12, max_attempts=1)
    said = [message["content"] for message in handle.result(PATIENCE_S)["messages"]]
    assert said == ["hi", "hello", handle.task_id]


def test_the_place_of_a_killed_worker_comes_back(fleet: LocalFleet, client: FleetClient, server: OpenAIServer) -> None:
    never = threading.Event()
    server.replies.append(Reply("late", until=never))
    try:
        handle = client.submit("ask_in_child", {"provider": "single", "text": "hi"})
        wait_until(lambda: server.asked, "the model is asked", PATIENCE_S)
        for name in ("worker-1", "worker-2"):
            fleet.kill(name)
        assert handle.result(PATIENCE_S)["said"].strip() == "hello"
    finally:
        never.set()
    assert len(server.asked) == 2
    fleet.wait_ready()
