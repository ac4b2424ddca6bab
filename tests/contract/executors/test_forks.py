"""The process from which children are forked."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from a2a_zmq.errors import ConfigError
from daemons.worker.executors.forks import ForkServer
from daemons.worker.kinds import TaskKind
from daemons.worker.registry import Registry
from tests.contract.executors.conftest import HERE, START_S, Rig


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_ours(pid: int) -> bool:
    try:
        return parent_of(pid) == os.getpid()
    except FileNotFoundError:
        return False


@contextmanager
def select_on(pid: int) -> Iterator[Callable[[float], bool]]:
    """A function that waits until this process, nobody's child here, has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        yield lambda timeout_s: bool(select.select([descriptor], [], [], timeout_s)[0])
    finally:
        os.close(descriptor)


def test_a_child_that_cannot_be_forked_any_more_is_started(
    kinds: dict[str, TaskKind], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    forks = ForkServer([])
    assert forks.wait_ready(START_S)
    rig = Rig(kinds, forks)
    try:
        mark = tmp_path / "pid"
        rig.start("polite", {"mark": str(mark)}, "first")
        rig.wait(lambda: mark.exists() and mark.read_text(), "it runs")
        server = parent_of(int(mark.read_text()))
        assert server != os.getpid()
        os.kill(server, signal.SIGKILL)
        assert rig.end_of("first").error_kind == "killed"
        rig.wait(lambda: all(map(is_ours, rig.executor.child_pids())), "the spare child has ended, too")
        mark.unlink()
        rig.start("polite", {"mark": str(mark)}, "second")
        rig.wait(lambda: mark.exists() and mark.read_text(), "the next one runs", START_S)
        assert parent_of(int(mark.read_text())) == os.getpid()
    finally:
        rig.close()
        forks.close()


def test_a_projects_mistakes_are_told_as_without_forks(server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import os, sys\nprint('noise', file=sys.stderr)\nos._exit(3)\n")
    file = tmp_path / "langgraph.json"
    file.write_bytes(orjson.dumps({"graphs": {"broken": "./broken.py:graph"}}))
    told: list[Any] = []
    for forks in (None, server):
        assert forks is None or forks.wait_ready(START_S)
        with pytest.raises(Exception, match="exit status 3") as error:
            Registry.load((), [str(file)], forks=forks)
        told.append((error.type, str(error.value)))
    assert told[0] == told[1]


def test_what_one_fork_was_told_of_chat_models_no_other_one_knows(server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "modelled.py").write_text("from a2a_zmq.llm import chat_model\nchat_model('slow')\n")
    file = tmp_path / "langgraph.json"
    file.write_bytes(orjson.dumps({"graphs": {"modelled": "./modelled.py:graph"}}))
    models = {"providers": {"fast": {"model": "openai:gpt"}}, "redis_url": "", "connection": {}}
    told: list[list[str]] = []
    for forks in (None, server):
        assert forks is None or forks.wait_ready(START_S)
        told.append([])
        for each in (models, None):
            with pytest.raises(ConfigError, match="modelled") as error:
                Registry.load((), [str(file)], each, forks)
            told[-1].append(str(error.value))
    assert told[0] == told[1]
    assert "no provider 'slow' (known: fast)" in told[0][0]
    assert "no chat models are configured" in told[0][1]


def test_no_child_outlives_the_server(tmp_path: Path) -> None:
    own = ForkServer([])
    assert own.wait_ready(START_S)
    reading, writing = os.pipe()  # a child waits for what it is told first
    with (tmp_path / "log").open("wb") as log:
        forked = own.start([], log.fileno(), log.fileno(), log.fileno(), reading)
    assert forked is not None
    with select_on(forked.pid) as ended:
        own.close()
        assert ended(START_S)
    os.close(reading)
    os.close(writing)


def test_a_server_that_answers_late_keeps_its_children_and_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its running children were killed with it."""
    monkeypatch.setattr("daemons.worker.executors.forks.ANSWER_S", 0.2)
    own = ForkServer([])
    assert own.wait_ready(START_S)
    reading, writing = os.pipe()
    with (tmp_path / "log").open("wb") as log:
        files = (log.fileno(), log.fileno(), log.fileno(), reading)
        first, second = own.start([], *files), own.start([], *files)
        assert first is not None
        assert second is not None
        server = parent_of(first.pid)
        with select_on(first.pid) as ended, select_on(second.pid) as also_ended:
            os.kill(server, signal.SIGSTOP)
            assert own.start([], *files) is None, "late"
            assert own.start([], *files) is None, "and not asked again meanwhile"
            os.kill(second.pid, signal.SIGKILL)
            assert also_ended(START_S)
            assert own.ask_exit_status(second.pid) == -signal.SIGKILL
            os.kill(server, signal.SIGCONT)
            monkeypatch.setattr("daemons.worker.executors.forks.ANSWER_S", START_S)
            os.kill(first.pid, signal.SIGALRM)
            assert first.wait(START_S) == -signal.SIGALRM, "it ran on, and its status is its own"
            assert ended(0)
        third = own.start([], *files)
        assert third is not None
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        assert children == [str(third.pid)], "the one that came late has ended, and all were reaped"
    own.close()
    os.close(reading)
    os.close(writing)
