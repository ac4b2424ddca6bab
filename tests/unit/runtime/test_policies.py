"""Users' policies: what is loaded from a setting, and real graphs that are slow, raise, block, or die."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from a2a_zmq.errors import ConfigError
from daemons.runtime.consults import Consult, Consulted
from daemons.runtime.policies import PolicyRunner
from daemons.runtime.policy_child import load_policy

PATIENCE_S = 60.0

# What the first task's id says is done.
GRAPH = """
import asyncio, ctypes, os, sys, threading, time
from langgraph.graph import END, START, StateGraph
from a2a_zmq.policies import PlacementState

async def place(state):
    kind = state["tasks"][0]["task_id"]
    if kind == "raise":
        raise ValueError("not\\ntoday")
    if kind == "wait":
        await asyncio.Event().wait()
    if kind == "block":
        time.sleep(3600)
    if kind == "exit":
        sys.exit(3)
    if kind == "crash":
        os.kill(os.getpid(), 11)
    if kind == "strange":
        return {"placements": {"t1": object()}}
    if kind == "nothing":
        return {}
    print("a policy may print")
    return {"placements": {"t1": "d1", "pid": os.getpid()}}

def work(state):
    if state["tasks"][0]["task_id"] == "block a thread":
        time.sleep(3600)
    return {}

builder = StateGraph(PlacementState)
builder.add_node("work", work)
builder.add_node("place", place)
builder.add_edge(START, "work")
builder.add_edge("work", "place")
builder.add_edge("place", END)
compiled = builder.compile()
nothing = {}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "my-policy.py"
    file.write_text(GRAPH)
    return file


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


class Asked:
    """A runner, and what it answered."""

    def __init__(self, runner: PolicyRunner) -> None:
        self.runner = runner
        self.answers: asyncio.Queue[Consulted] = asyncio.Queue()
        runner.answered = self.answers.put_nowait
        self._count = 0

    def ask(self, kind: str = "place", timeout_s: float = PATIENCE_S) -> int:
        self._count += 1
        facts = {"tasks": [{"task_id": kind}], "distributors": []}
        self.runner.ask(Consult(self._count, facts, timeout_s, "placements"))
        return self._count

    async def answer(self) -> Consulted:
        return await asyncio.wait_for(self.answers.get(), PATIENCE_S)

    async def told(self, kind: str = "place", timeout_s: float = PATIENCE_S) -> Consulted:
        number = self.ask(kind, timeout_s)
        told = await self.answer()
        assert told.question_id == number
        return told

    async def good_again(self) -> Consulted:
        """The first good answer, while another process starts."""
        async with asyncio.timeout(PATIENCE_S):
            while (told := await self.told()).reason == "busy":  # noqa: ASYNC110 - it is the asking that tells
                await asyncio.sleep(0.02)
        return told


@asynccontextmanager
async def asking(file: Path) -> AsyncIterator[Asked]:
    on_exit: list[Callable[[], Awaitable[None]]] = []
    runner = await PolicyRunner.open("placement_policy", f"{file}:compiled", on_exit)
    assert runner is not None
    keeping = asyncio.create_task(runner.keep())
    try:
        yield Asked(runner)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        for close in on_exit:
            await close()


def play(file: Path, story: Callable[[Asked], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asking(file) as asked:
            await story(asked)

    asyncio.run(main())


# ---------------------------------------------------------------- loading


def test_no_policy_is_the_default() -> None:
    async def main() -> None:
        assert await PolicyRunner.open("placement_policy", "", []) is None

    asyncio.run(main())


@pytest.mark.parametrize("name", ["compiled", "builder"])
def test_a_graph_in_a_file_compiled_or_not(file: Path, name: str) -> None:
    graph = load_policy("placement_policy", f"{file}:{name}")
    assert asyncio.run(graph.ainvoke({"tasks": [{"task_id": "t1"}]}))["placements"]["t1"] == "d1"


def test_a_graph_in_a_module(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.rename(file.with_name("my_policy_module.py"))
    monkeypatch.syspath_prepend(str(file.parent))
    assert load_policy("placement_policy", "my_policy_module:compiled") is not None


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("no_colon", "is not module:graph or file.py:graph"),
        (":graph", "is not module:graph or file.py:graph"),
        ("no_such_module_anywhere:graph", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("{file}:absent", "has no 'absent'"),
        ("{file}:nothing", "is a dict, not a graph"),
        ("{file}.py:graph", "FileNotFoundError"),
    ],
)
def test_a_mistake_is_named_with_its_setting(file: Path, reference: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_policy("placement_policy", reference.format(file=file))
    text = str(refused.value)
    assert text.startswith("placement_policy: ")
    assert says in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import sys\nsys.exit(3)\n", "placement_policy: cannot use .*: SystemExit: 3"),
        ("import os\nos._exit(3)\n", "placement_policy: importing .* ended with status 3"),
    ],
)
def test_a_module_that_exits_is_a_mistake_like_any_other(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        asyncio.run(PolicyRunner.open("placement_policy", f"{file}:graph", []))


# ---------------------------------------------------------------- running


def test_the_graphs_output_is_the_answer(file: Path) -> None:
    async def story(asked: Asked) -> None:
        pids = set()
        for _ in range(2):
            told = await asked.told()
            assert (told.reason, told.answer["t1"]) == ("", "d1")
            pids.add(told.answer["pid"])
        assert len(pids) == 1
        assert os.getpid() not in pids

    play(file, story)


@pytest.mark.parametrize(
    ("kind", "reason", "why"),
    [
        ("raise", "raised", "ValueError: not today"),
        ("strange", "invalid", "`placements` is no JSON: TypeError: Type is not JSON serializable: object"),
        ("nothing", "", ""),
    ],
)
def test_a_graph_that_gives_no_good_answer_is_asked_again_the_next_time(
    file: Path, kind: str, reason: str, why: str
) -> None:
    async def story(asked: Asked) -> None:
        pid = (await asked.told()).answer["pid"]
        told = await asked.told(kind)
        assert (told.answer, told.reason, told.why) == (None, reason, why)
        assert (await asked.told()).answer["pid"] == pid

    play(file, story)


def test_a_slow_graph_is_cancelled_and_asked_again_the_next_time(file: Path) -> None:
    async def story(asked: Asked) -> None:
        pid = (await asked.told()).answer["pid"]
        assert (await asked.told("wait", 0.05)).reason == "late"
        assert (await asked.told()).answer["pid"] == pid

    play(file, story)


@pytest.mark.parametrize("kind", ["block", "block a thread"])
def test_a_graph_that_blocks_is_killed_and_another_process_goes_on(file: Path, kind: str) -> None:
    async def story(asked: Asked) -> None:
        pid = (await asked.told()).answer["pid"]
        assert (await asked.told(kind, 0.05)).reason == "late"
        assert (await asked.good_again()).answer["pid"] != pid
        assert not runs(pid)

    play(file, story)


@pytest.mark.parametrize(("kind", "how"), [("crash", "SIGSEGV"), ("exit", "status")])
def test_a_graph_that_ends_its_process_is_started_anew(file: Path, kind: str, how: str) -> None:
    async def story(asked: Asked) -> None:
        pid = (await asked.told()).answer["pid"]
        told = await asked.told(kind)
        assert told.reason == "died"
        assert how in told.why
        assert (await asked.good_again()).answer["pid"] != pid

    play(file, story)


def test_one_question_is_worked_at_a_time(file: Path) -> None:
    async def story(asked: Asked) -> None:
        first, second = asked.ask("wait", 0.3), asked.ask()
        told = await asked.answer()
        assert (told.question_id, told.reason) == (second, "busy")
        assert (await asked.answer()).question_id == first

    play(file, story)


def test_a_policy_whose_files_are_broken_meanwhile_comes_back_when_they_are_mended(file: Path) -> None:
    write = file.write_text

    async def story(asked: Asked) -> None:
        write("this is no python")
        assert (await asked.told("crash")).reason == "died"
        assert (await asked.told()).reason == "busy"
        write(GRAPH)
        assert (await asked.good_again()).answer["t1"] == "d1"

    play(file, story)


def test_its_process_ends_with_it(file: Path) -> None:
    pids: list[Any] = []

    async def story(asked: Asked) -> None:
        pids.append((await asked.told()).answer["pid"])

    play(file, story)
    assert not runs(pids[0])
