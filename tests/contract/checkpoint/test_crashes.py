"""Real graphs whose process is killed in the middle: another one continues, and does not repeat what had finished."""

from __future__ import annotations

import json
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.contract.checkpoint import crashing

# Imports LangGraph once; every process of a test is forked from it.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.contract.checkpoint.crashing"])


def start(url: str, prefix: str, graph: str, directory: Path) -> int | None:
    """Exit code of a process that runs it."""
    paths = directory / "log", directory / "result"
    process = CONTEXT.Process(target=crashing.main, args=(url, prefix, graph, *paths))
    process.start()
    process.join(50)
    process.kill()
    return process.exitcode


# Per graph: which nodes the second process runs, and the result.
CASES: dict[str, tuple[list[str], list[str]]] = {
    "linear": (["two", "three"], ["one", "two", "three"]),
    "linear blocking": (["two", "three"], ["one", "two", "three"]),
    "parallel": (["middle"], ["before", "left", "middle", "right"]),
    "parallel blocking": (["middle"], ["before", "left", "middle", "right"]),
    "sends": (["piece 3", "after"], ["before", *(f"piece {number}" for number in range(5)), "after"]),
    "subgraph": (["inner two"], ["before", "before", "inner one", "inner two"]),
    "functional": (["flow", "last"], ["first", "left", "right", "last"]),
    "unborn": (["one", "two", "three"], ["one", "two", "three"]),
}


@pytest.mark.parametrize("graph", CASES)
def test_after_a_kill_another_process_runs_only_what_was_not_finished(
    url: str, prefix: str, tmp_path: Path, graph: str
) -> None:
    log = tmp_path / "log"
    assert start(url, prefix, graph, tmp_path) == -signal.SIGKILL
    before = log.read_text().splitlines()
    assert start(url, prefix, graph, tmp_path) == 0
    again, result = CASES[graph]
    assert log.read_text().splitlines()[len(before) :] == again
    assert json.loads((tmp_path / "result").read_text()) == result


def test_an_interrupted_graph_is_answered_in_another_process(url: str, prefix: str, tmp_path: Path) -> None:
    assert start(url, prefix, "waiting", tmp_path) == 0
    assert start(url, prefix, "waiting", tmp_path) == 0
    assert json.loads((tmp_path / "result").read_text()) == ["before", "answer 3"]
    assert (tmp_path / "log").read_text().splitlines() == ["begin", "before", "ask", "ask"]


async def test_a_thread_without_a_checkpoint_says_so(open_saver: Any, thread: Any) -> None:
    """LangGraph continues a thread with input None, which is an error where nothing was stored: ask before."""
    async with open_saver() as saver:
        assert await saver.aget_tuple(thread(saver, "t").config()) is None
