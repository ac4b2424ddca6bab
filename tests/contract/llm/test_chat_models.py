"""Chat models as graphs and handlers call them, against a real HTTP server and a real Redis."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import redis
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import tool
from pydantic import BaseModel

from a2a_zmq.errors import ConfigError, ModelBusy
from a2a_zmq.handlers import TaskContext, TaskStopped, running
from a2a_zmq.llm.calls import Call
from a2a_zmq.llm.models import Models
from tests.openai_server import USAGE, OpenAIServer, Reply

TOKENS = {"input": 11, "output": 7, "cached": 4}


class Process:
    """What one process of the fleet has."""

    def __init__(self, server: OpenAIServer, name: str, url: str, **bounds: Any) -> None:
        self.calls: list[Call] = []
        self.name = name
        self.models = Models({name: server.provider(**bounds)}, url, None, self.calls.append)

    def model(self, **options: Any) -> BaseChatModel:
        return self.models.get(self.name, options)

    @property
    def outcomes(self) -> list[str]:
        return [call.outcome for call in self.calls]


@pytest.fixture
def process(server: OpenAIServer, provider: str, one_url: str) -> Iterator[Callable[..., Process]]:
    """A function that makes one; all have the same provider."""
    made: list[Process] = []

    def make(**bounds: Any) -> Process:
        made.append(Process(server, provider, one_url, **bounds))
        return made[-1]

    yield make
    for each in made:
        each.models.close()


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


class City(BaseModel):
    """A city."""

    name: str


async def joined(model: BaseChatModel) -> str:
    return "".join([str(chunk.content) async for chunk in model.astream("hi")])


CALLS: dict[str, Callable[[BaseChatModel], object]] = {
    "invoke": lambda model: model.invoke("hi").content,
    "ainvoke": lambda model: asyncio.run(model.ainvoke("hi")).content,
    "stream": lambda model: "".join(str(chunk.content) for chunk in model.stream("hi")).strip(),
    "astream": lambda model: asyncio.run(joined(model)).strip(),
    "batch": lambda model: model.batch(["hi"])[0].content,
    "bind": lambda model: model.bind(stop=["x"]).invoke("hi").content,
    "tools": lambda model: model.bind_tools([weather]).invoke("hi").content,
}


@pytest.mark.parametrize("how", CALLS)
def test_each_call_is_one_request_with_the_tokens_that_the_model_says(
    process: Callable[..., Process], server: OpenAIServer, how: str
) -> None:
    mine = process(requests_per_minute=100, tokens_per_minute=10_000)
    assert CALLS[how](mine.model()) == "hello"
    assert len(server.asked) == 1
    (call,) = mine.calls
    assert (call.provider, call.model, call.outcome) == (mine.name, "tester", "ok")
    assert call.tokens == TOKENS
    assert call.seconds > 0
    assert (call.waited_for, call.throttled) == ("", False)


def test_it_is_the_model_that_langchain_makes(process: Callable[..., Process], server: OpenAIServer) -> None:
    from langchain_openai import ChatOpenAI

    mine = process(options={"temperature": 0.5})
    model = mine.model()
    assert isinstance(model, ChatOpenAI)
    assert type(model).__name__ == "ChatOpenAI"
    assert mine.model() is model
    assert mine.model(temperature=0.9) is not model
    server.replies.append(Reply(tool=("City", {"name": "Rome"})))
    found = model.with_structured_output(City, method="function_calling").invoke("which?")
    assert found == City(name="Rome")
    assert server.asked[0]["temperature"] == 0.5
    assert server.keys[0] == f"Bearer {os.environ['PATH'].strip()}"
    mine.model(temperature=0.9).invoke("hi")
    assert server.asked[1]["temperature"] == 0.9
    assert mine.outcomes == ["ok", "ok"]


def test_a_model_that_tells_no_usage_is_estimated(process: Callable[..., Process], server: OpenAIServer) -> None:
    server.default = Reply("one two three four", usage=None)
    mine = process()
    mine.model().invoke("x" * 400)
    list(mine.model().stream("x" * 400))
    for call in mine.calls:
        assert set(call.tokens) == {"estimated"}
        assert 100 < call.tokens["estimated"] < 130


def test_calls_run_one_after_the_other_in_the_whole_fleet(
    process: Callable[..., Process], server: OpenAIServer
) -> None:
    processes = [process(concurrency=2) for _ in range(3)]
    for each in processes:
        each.model()
    with ThreadPoolExecutor(9) as threads:
        said = list(threads.map(lambda number: processes[number % 3].model().invoke("hi").content, range(18)))
    assert said == ["hello"] * 18
    assert server.busiest <= 2
    waited = [call for each in processes for call in each.calls if call.waited_for]
    assert {call.waited_for for call in waited} == {"concurrency"}
    assert all(call.waited_s > 0 for call in waited)


def test_many_at_a_time_on_one_loop(process: Callable[..., Process], server: OpenAIServer) -> None:
    mine = process(concurrency=2)

    async def main() -> list[Any]:
        return await asyncio.gather(*(mine.model().ainvoke("hi") for _ in range(8)))

    assert len(asyncio.run(main())) == 8
    assert server.busiest <= 2
    assert mine.outcomes == ["ok"] * 8


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
def test_a_refusal_with_a_time_pauses_the_whole_fleet(
    process: Callable[..., Process], server: OpenAIServer, how: str
) -> None:
    first, second = process(max_wait_s=5), process(max_wait_s=5)
    server.replies.append(Reply(status=429, headers={"Retry-After": "40"}))
    with pytest.raises(ModelBusy, match="paused") as caught:
        CALLS[how](first.model())
    assert 35 < caught.value.retry_after_s <= 40
    first.models.close()  # the fleet is told in the background: until that is done
    with pytest.raises(ModelBusy, match="paused"):
        CALLS[how](second.model())
    assert len(server.asked) == 1
    assert (first.outcomes, first.calls[0].throttled) == (["429"], True)
    assert (second.outcomes, second.calls[0].waited_for) == (["budget"], "paused")


def test_a_time_may_be_a_date(process: Callable[..., Process], server: OpenAIServer) -> None:
    mine = process(max_wait_s=5)
    server.replies.append(Reply(status=503, headers={"Retry-After": formatdate(time.time() + 40, usegmt=True)}))
    with pytest.raises(ModelBusy) as caught:
        mine.model().invoke("hi")
    assert 30 < caught.value.retry_after_s <= 41


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
def test_when_the_time_is_over_it_is_tried_again(
    process: Callable[..., Process], server: OpenAIServer, how: str
) -> None:
    mine = process(tokens_per_minute=10_000)
    server.replies.append(Reply(status=429, headers={"Retry-After": "1"}))
    began = time.monotonic()
    assert CALLS[how](mine.model()) == "hello"
    assert time.monotonic() - began >= 1
    assert mine.outcomes == ["429", "ok"]
    assert mine.calls[1].waited_for == "paused"


def test_what_fails_for_a_moment_is_tried_again_and_not_for_ever(
    process: Callable[..., Process], server: OpenAIServer
) -> None:
    mine = process(retries=1)
    server.replies.extend([Reply(status=500), Reply("well")])
    assert mine.model().invoke("hi").content == "well"
    server.default = Reply(status=502)
    with pytest.raises(Exception, match="not now"):
        mine.model().invoke("hi")
    assert mine.outcomes == ["500", "ok", "502", "502"]


def test_what_is_wrong_is_not_tried_again(process: Callable[..., Process], server: OpenAIServer) -> None:
    mine = process()
    server.default = Reply(status=400)
    with pytest.raises(Exception, match="not now"):
        mine.model().invoke("hi")
    assert mine.outcomes == ["400"]


def test_a_provider_that_is_not_there(process: Callable[..., Process], server: OpenAIServer) -> None:
    mine = process(retries=0)
    server.close()
    with pytest.raises(Exception, match="Connection"):
        mine.model().invoke("hi")
    assert mine.outcomes == ["connection"]


@pytest.fixture
def queued(provider: str, one_url: str) -> Iterator[Callable[[], int]]:
    """A function that says how many calls wait for their turn."""
    with redis.Redis.from_url(one_url) as client:
        yield lambda: client.zcard(f"{{llm:{provider}}}:queue")


def test_who_gives_up_leaves_no_place_behind(
    process: Callable[..., Process], server: OpenAIServer, queued: Callable[[], int], wait_until: Callable[..., None]
) -> None:
    mine, other = process(concurrency=1), process(concurrency=1)
    hold = threading.Event()
    server.replies.append(Reply("late", until=hold))

    async def main() -> None:
        sends = asyncio.create_task(mine.model().ainvoke("one"))
        await asyncio.to_thread(wait_until, lambda: server.asked, "the first call is sent")
        waits = asyncio.create_task(mine.model().ainvoke("two"))
        await asyncio.to_thread(wait_until, lambda: queued() == 1, "the second call waits")
        for task in (waits, sends):
            task.cancel()
        await asyncio.gather(waits, sends, return_exceptions=True)

    asyncio.run(main())
    assert other.model().invoke("hi").content == "hello"
    hold.set()
    assert mine.outcomes == ["cancelled"]


def test_a_stream_that_nobody_reads_to_its_end(process: Callable[..., Process], server: OpenAIServer) -> None:
    server.default = Reply("one two three")
    mine = process(concurrency=1)

    async def first() -> str:
        stream = mine.model().astream("hi")
        async for chunk in stream:
            await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
            return str(chunk.content)
        return ""

    stream = mine.model().stream("hi")
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    asyncio.run(first())
    assert mine.model().invoke("hi").content == "one two three"
    assert mine.outcomes == ["ok"] * 3


def test_a_call_does_not_wait_longer_than_its_task_may_run(
    process: Callable[..., Process], server: OpenAIServer
) -> None:
    mine = process(requests_per_minute=1)
    mine.model().invoke("hi")
    token = running.set(TaskContext("t", 1, deadline=time.monotonic() + 2))
    try:
        with pytest.raises(ModelBusy, match="requests"):
            mine.model().invoke("hi")
    finally:
        running.reset(token)


def test_a_run_that_is_to_end_does_not_wait_on(
    process: Callable[..., Process], server: OpenAIServer, queued: Callable[[], int], wait_until: Callable[..., None]
) -> None:
    mine, hold = process(concurrency=1), threading.Event()
    server.replies.append(Reply("late", until=hold))
    context = TaskContext("t", 1)
    with ThreadPoolExecutor(2) as threads:
        sends = threads.submit(mine.model().invoke, "one")
        wait_until(lambda: server.asked, "the first call is sent")

        def wait() -> str:
            running.set(context)
            try:
                return str(mine.model().invoke("two").content)
            except TaskStopped:
                return "stopped"

        waits = threads.submit(wait)
        wait_until(lambda: queued() == 1, "the second call waits")
        context.stop("cancelled")
        assert waits.result(10) == "stopped"
        hold.set()
        assert sends.result(10).content == "late"


def test_estimates_of_long_questions_are_reserved(process: Callable[..., Process], server: OpenAIServer) -> None:
    mine = process(tokens_per_minute=200, max_wait_s=0)
    server.default = Reply("hello", usage={**USAGE, "prompt_tokens": 100})
    mine.model().invoke("x" * 400)
    with pytest.raises(ModelBusy, match="tokens"):
        mine.model().invoke("x" * 400)
    assert len(server.asked) == 1


def test_no_more_is_reserved_for_an_answer_than_it_may_have(
    process: Callable[..., Process], server: OpenAIServer
) -> None:
    mine = process(tokens_per_minute=200, max_wait_s=0, expected_output_tokens=5000, options={"max_tokens": 30})
    mine.model().invoke("hi")
    mine.model(max_tokens=40).invoke("hi")
    mine.model().bind(max_tokens=20).invoke("hi")
    assert mine.outcomes == ["ok"] * 3


# ---------------------------------------------------------------- configuration


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("A2A_", "REDIS_", "OPENAI_"))}
    return subprocess.run(
        [sys.executable, "-c", code], env={**clean, **env}, capture_output=True, text=True, timeout=50, check=False
    )


ASK = "from a2a_zmq.llm import chat_model\nprint(chat_model('fast').invoke('hi').content)"


def test_a_process_outside_of_the_fleet(server: OpenAIServer, one_url: str, tmp_path: Path) -> None:
    table = "\n".join(f"{name} = {value!r}" for name, value in server.provider(requests_per_minute=50).items())
    (tmp_path / "providers.toml").write_text(f"[fast]\n{table}\n", encoding="utf-8")
    port = one_url.rpartition(":")[2]
    done = run(ASK, A2A_LLM_PROVIDERS=str(tmp_path / "providers.toml"), REDIS_PORT=port)
    assert (done.stdout, done.returncode) == ("hello\n", 0), done.stderr


def test_a_process_that_was_told_nothing_says_so() -> None:
    done = run(ASK)
    assert "no chat models are configured: set llm_providers of the worker, or A2A_LLM_PROVIDERS" in done.stderr


def test_importing_it_loads_no_langchain() -> None:
    done = run(
        "import sys, a2a_zmq.llm\nprint([n for n in sys.modules if n.startswith(('lang', 'redis', 'pydantic'))])"
    )
    assert done.stdout == "[]\n", done.stderr


def test_a_provider_that_nobody_configured_is_named(process: Callable[..., Process]) -> None:
    mine = process()
    with pytest.raises(ConfigError, match=rf"no provider 'slow' \(known: {mine.name}\)"):
        mine.models.get("slow", {})


def test_without_the_extra_it_says_what_to_install(
    process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "langchain.chat_models", None)
    with pytest.raises(ConfigError, match=r"pip install 'a2a-zmq\[llm\]'"):
        process().model()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"model": "tester"}, "model_provider"),
        ({"model": "x:tester", "model_provider": "nobody"}, "nobody"),
        ({"model": "openai:tester", "api_key_env": "NOT_SET_HERE"}, "NOT_SET_HERE is not set"),
        ({"model": "openai:tester"}, "OPENAI_API_KEY"),
        ({"model": "anthropic:tester"}, "langchain-anthropic"),
    ],
)
def test_a_model_that_cannot_be_made_is_named(
    table: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"^llm_providers\.fast: ") as caught:
        Models({"fast": table}).get("fast", {})
    assert words.replace("-", "_") in str(caught.value).replace("-", "_")
