"""Pending writes are stored before the checkpoint that follows them (langgraph#8039, #8234)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from a2a_zmq.checkpoint import lanes
from a2a_zmq.checkpoint.calls import Call
from a2a_zmq.checkpoint.scripts import COMMIT
from a2a_zmq.errors import StateError, StoreUnavailable


def operations(call: Call) -> list[str]:
    """Kinds of the operations of a commit: w for pending writes, p for a checkpoint."""
    words = list(call.words[3:])
    kinds = []
    while words:
        kind = str(words[0])
        kinds.append(kind)
        words = words[5 + 3 * int(words[4]) :] if kind == "w" else _after_checkpoint(words)
    return kinds


def _after_checkpoint(words: list[Any]) -> list[Any]:
    at = 9
    for each in (2, 1, 2):
        at += 1 + each * int(words[at])
    return words[at:]


class Gate:
    """Stands before Redis: notes what is committed, and holds or fails commits that have pending writes only."""

    def __init__(self, saver: Any) -> None:
        self.commits: list[list[str]] = []
        self.held = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None
        self._call: Callable[[Call], Awaitable[Any]] = saver._call
        saver._call = self

    async def __call__(self, call: Call) -> Any:
        if call.script is COMMIT:
            kinds = operations(call)
            if set(kinds) == {"w"}:
                self.held.set()
                await self.open.wait()
                if self.failure is not None:
                    raise self.failure
            self.commits.append(kinds)
        return await self._call(call)


async def test_a_checkpoint_goes_with_the_writes_that_were_handed_over_before_it(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        gate, t = Gate(saver), thread(saver, "t")
        await t.put(checkpoint_id="c1")
        tasks = [asyncio.create_task(t.write("c1", f"task{number}", number)) for number in range(3)]
        await asyncio.sleep(0)
        await t.put(checkpoint_id="c2", parent="c1")
        assert gate.commits == [["p"], ["w", "w", "w", "p"]]
        await asyncio.gather(*tasks)
        found = await saver.aget_tuple(t.config("c1"))
        assert found.pending_writes == [("task0", "n", 0), ("task1", "n", 1), ("task2", "n", 2)]


async def test_a_checkpoint_waits_for_writes_that_are_under_way(open_saver: Any, thread: Any, wait_for: Any) -> None:
    async with open_saver() as saver:
        gate, t = Gate(saver), thread(saver, "t")
        gate.open.clear()
        writing = asyncio.create_task(t.write("c1", "task", 1))
        await gate.held.wait()
        putting = asyncio.create_task(t.put(checkpoint_id="c2", parent="c1"))

        async def waiting() -> int:
            return len(saver._lanes._lanes["t"].waiting)

        await wait_for(waiting, 1)
        assert gate.commits == []
        gate.open.set()
        await asyncio.gather(writing, putting)
        assert gate.commits == [["w"], ["p"]]


async def test_writes_are_stored_even_if_nobody_awaits_them(open_saver: Any, thread: Any) -> None:
    """The task that should have awaited them was cancelled before its first step."""
    async with open_saver() as saver:
        t = thread(saver, "t")
        await t.put(checkpoint_id="c1")
        saver.aput_writes(t.config("c1"), [("n", 1)], "task").close()
        await t.put(checkpoint_id="c2", parent="c1")
        assert (await saver.aget_tuple(t.config("c1"))).pending_writes == [("task", "n", 1)]


async def test_what_is_written_is_the_value_of_the_call(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        t = thread(saver, "t")
        value = [1]
        writing = saver.aput_writes(t.config("c1"), [("n", value)], "task")
        value.append(2)
        await writing
        await t.put(checkpoint_id="c1")
        assert (await saver.aget_tuple(t.config())).pending_writes == [("task", "n", [1])]


async def test_a_checkpoint_is_not_stored_if_writes_before_it_could_not_be(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        gate, t = Gate(saver), thread(saver, "t")
        await t.put(checkpoint_id="c1")
        gate.failure = StoreUnavailable("oom")
        with pytest.raises(StoreUnavailable):
            await t.write("c1", "task", 1)
        gate.failure = None
        with pytest.raises(StoreUnavailable):
            await t.put(checkpoint_id="c2", parent="c1")
        assert await t.ids() == ["c1"]
        assert await saver.aget_tuple(t.config()) is not None  # another run starts from what is stored
        await t.put(checkpoint_id="c3", parent="c1")
        assert await t.ids() == ["c3", "c1"]


async def test_a_run_that_starts_from_what_is_stored_is_not_told_of_earlier_failures(
    open_saver: Any, thread: Any
) -> None:
    async with open_saver() as saver:
        gate, t = Gate(saver), thread(saver, "t")
        await t.put(checkpoint_id="c1")
        gate.failure = StoreUnavailable("timeout")
        with pytest.raises(StoreUnavailable):
            await t.write("c1", "task", 1)
        gate.failure = None
        assert await saver.aget_tuple(t.config()) is not None
        await t.put(checkpoint_id="c2", parent="c1")


async def test_who_reads_sees_the_writes_that_were_handed_over_before(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        t = thread(saver, "t")
        await t.put(checkpoint_id="c1")
        writing = saver.aput_writes(t.config("c1"), [("n", 1)], "task")
        assert (await saver.aget_tuple(t.config())).pending_writes == [("task", "n", 1)]
        await writing


async def test_a_lost_write_is_not_forgotten_because_another_checkpoint_was_lost_with_it(
    open_saver: Any, thread: Any
) -> None:
    async with open_saver() as saver:
        t = thread(saver, "t")
        call = saver._call

        async def fail(each: Call) -> Any:
            raise StoreUnavailable("connection")

        saver._call = fail
        results = await asyncio.gather(
            t.write("c1", "task", 1), t.put(checkpoint_id="s1", ns="sub"), return_exceptions=True
        )
        assert [type(result) for result in results] == [StoreUnavailable, StoreUnavailable]
        saver._call = call
        with pytest.raises(StoreUnavailable):
            await t.put(checkpoint_id="c2", parent="c1")


async def test_a_write_that_was_cancelled_does_not_take_others_with_it(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        gate, t = Gate(saver), thread(saver, "t")
        gate.open.clear()
        tasks = [asyncio.create_task(t.write("c1", f"task{number}", number)) for number in range(2)]
        await gate.held.wait()
        tasks[0].cancel()
        gate.open.set()
        await tasks[1]
        await t.put(checkpoint_id="c1")
        assert len((await saver.aget_tuple(t.config())).pending_writes) == 2


async def test_threads_do_not_wait_for_each_other(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        gate = Gate(saver)
        gate.open.clear()
        writing = asyncio.create_task(thread(saver, "slow").write("c1", "task", 1))
        await gate.held.wait()
        await thread(saver, "other").put()
        gate.open.set()
        await writing


async def test_many_parallel_writes_take_few_round_trips(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        gate, t = Gate(saver), thread(saver, "t")
        await asyncio.gather(*(t.write("c1", f"task{number}", number) for number in range(200)))
        await t.put(checkpoint_id="c1")
        assert len(gate.commits) <= 6
        assert len((await saver.aget_tuple(t.config())).pending_writes) == 200


async def test_a_value_that_cannot_be_stored_fails_its_task_only(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        t = thread(saver, "t")
        writing = saver.aput_writes(t.config("c1"), [("n", lambda: None)], "task")  # not raised by the call itself
        with pytest.raises(TypeError):
            await writing
        await t.put(checkpoint_id="c1")


async def test_a_tasks_first_write_stands_and_its_error_is_replaced(open_saver: Any, thread: Any) -> None:
    """As LangGraph's own savers have it: a task that runs again does not change what it wrote."""
    async with open_saver() as saver:
        t = thread(saver, "t")
        await t.put(checkpoint_id="c1")
        for number in (1, 2):
            await saver.aput_writes(t.config("c1"), [("n", number), ("__error__", number)], "task", "~path")
        found = await saver.aget_tuple(t.config())
        assert sorted(found.pending_writes, key=str) == [("task", "__error__", 2), ("task", "n", 1)]


async def test_pending_writes_are_in_the_order_of_their_tasks_paths(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        t = thread(saver, "t")
        for task, path in (("a", "~2"), ("b", "~1"), ("c", "")):
            await saver.aput_writes(t.config("c1"), [("x", 1), ("y", 2)], task, path)
        await t.put(checkpoint_id="c1")
        found = await saver.aget_tuple(t.config())
        assert [(task, channel) for task, channel, _ in found.pending_writes] == [
            (task, channel) for task in "cba" for channel in "xy"
        ]


class Held:
    """The same for the saver that blocks."""

    def __init__(self, saver: Any) -> None:
        self.commits: list[list[str]] = []
        self.held = threading.Event()
        self.open = threading.Event()
        self.failure: Exception | None = None
        self._call = saver._call
        saver._call = self

    def __call__(self, call: Call) -> Any:
        if call.script is COMMIT:
            kinds = operations(call)
            if kinds == ["w"]:
                self.held.set()
                assert self.open.wait(10)
                if self.failure is not None:
                    raise self.failure
            self.commits.append(kinds)
        return self._call(call)


@pytest.mark.parametrize("fails", [False, True])
def test_a_blocking_checkpoint_waits_for_writes_of_other_threads(
    open_blocking: Any, thread: Any, wait_until: Any, fails: bool
) -> None:
    with open_blocking() as saver:
        gate, t = Held(saver), thread(saver, "t")
        gate.failure = StoreUnavailable("oom") if fails else None
        errors: list[Exception] = []

        def caught(function: Any, *arguments: Any) -> None:
            try:
                function(*arguments)
            except StateError as error:
                errors.append(error)

        writing = threading.Thread(target=caught, args=(saver.put_writes, t.config("c1"), [("n", 1)], "task"))
        writing.start()
        assert gate.held.wait(10)
        putting = threading.Thread(target=caught, args=(saver.put, *t.arguments(checkpoint_id="c2", parent="c1")))
        putting.start()
        wait_until(lambda: saver._outstanding._changed._waiters, "the checkpoint waits")
        assert gate.commits == []
        gate.open.set()
        writing.join(10)
        putting.join(10)
        assert gate.commits == ([] if fails else [["w"], ["p"]])
        assert len(errors) == (2 if fails else 0)


class State(TypedDict):
    n: int


def three_steps(node: Any) -> Any:
    builder = StateGraph(State)
    for name, before in (("a", START), ("b", "a"), ("c", "b")):
        builder.add_node(name, node)
        builder.add_edge(before, name)
    builder.add_edge("c", END)
    return builder


async def test_a_step_of_a_graph_takes_one_round_trip(open_saver: Any) -> None:
    async def node(state: State) -> State:
        return {"n": state["n"] + 1}

    async with open_saver() as saver:
        gate = Gate(saver)
        graph = three_steps(node).compile(checkpointer=saver)
        await graph.ainvoke({"n": 0}, {"configurable": {"thread_id": "t"}}, durability="sync")
        # The input, and what it and each node led to (from Python 3.12 on the writes of the input go with it).
        assert [kinds.count("p") for kinds in gate.commits] == [1] * 5


async def test_with_sync_durability_a_step_ends_when_its_writes_are_stored(
    open_saver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writes of every finished step are there when the next step runs, however slow they are."""
    monkeypatch.setattr(lanes, "_LINGER_TURNS", 0)  # so that they do not go with the checkpoint
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    found: list[int] = []
    slowed: list[Call] = []
    async with open_saver() as saver, open_saver() as reader:
        call = saver._call

        async def slow(each: Call) -> Any:
            if each.script is COMMIT and "w" in operations(each):
                slowed.append(each)
                await asyncio.sleep(0.02)
            return await call(each)

        saver._call = slow

        async def node(state: State) -> State:
            history = [each async for each in reader.alist(config)]
            found.append(sum(1 for each in history[1:] if each.pending_writes))
            return {"n": state["n"] + 1}

        graph = three_steps(node).compile(checkpointer=saver)
        assert await graph.ainvoke({"n": 0}, config, durability="sync") == {"n": 3}
        assert found == [1, 2, 3]  # the input's, then one for each step
        assert len(slowed) >= 3
