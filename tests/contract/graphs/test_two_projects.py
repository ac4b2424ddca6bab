"""Two projects in one worker, with modules and variables of the same names: the usual layout of LangGraph projects."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from a2a_zmq.errors import ConfigError
from daemons.worker.executors.forks import ForkServer
from daemons.worker.registry import Registry
from tests.contract.executors.conftest import START_S
from tests.contract.graphs.conftest import Make, told_by

AGENT = """
import os
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from utils.names import NAME


class State(TypedDict, total=False):
    how: str
    told: Any


def tell(state: State) -> State:
    from utils.late import LATE

    return {"told": [WHO, NAME, LATE, os.environ["API_KEY"], os.environ.get("ONLY_FIRST"), os.getpid()]}


builder = StateGraph(State)
builder.add_node("tell", tell)
builder.add_edge(START, "tell")
builder.add_edge("tell", END)
graph = builder.compile()
"""


@pytest.fixture
def projects(tmp_path: Path) -> list[Path]:
    """The first one names its graph by a file, the second one by a module."""
    files = []
    for name, source in (("first", "./agent.py:graph"), ("second", "agent:graph")):
        directory = tmp_path / name
        (directory / "utils").mkdir(parents=True)
        (directory / "agent.py").write_text(f"WHO = {name!r}\n{AGENT}")
        (directory / "utils" / "__init__.py").write_text("")
        (directory / "utils" / "names.py").write_text(f"NAME = {name!r}")
        (directory / "utils" / "late.py").write_text(f"LATE = {name!r}")
        env = {"API_KEY": name, **({"ONLY_FIRST": "yes"} if name == "first" else {})}
        files.append(directory / "langgraph.json")
        files[-1].write_bytes(orjson.dumps({"dependencies": ["."], "env": env, "graphs": {name: source}}))
    return files


EXPECTED = {
    "first": ["first", "first", "first", "first", "yes"],
    "second": ["second", "second", "second", "second", None],
}


@pytest.mark.parametrize(("forked", "spare_children", "turns"), [(True, 0, 3), (True, 2, 3), (False, 2, 1)])
def test_each_of_two_projects_runs_its_own_code_with_its_own_variables(
    make_worker: Make, projects: list[Path], *, forked: bool, spare_children: int, turns: int
) -> None:
    """Symptom: whichever was imported first in a child process gave the other one its modules and variables."""
    rig = make_worker(*projects, forked=forked, spare_children=spare_children)
    rig.executor.keep_warm()
    for turn in range(turns):
        for name, expected in EXPECTED.items():
            assert told_by(rig, name, "", f"{name}-{turn}")[:-1] == expected
    assert len(rig.executor.child_pids()) <= 1 + spare_children


def test_a_full_worker_runs_all_projects_side_by_side(make_worker: Make, projects: list[Path]) -> None:
    rig = make_worker(*projects, slots=2, spare_children=1)
    for number in range(20):
        name = ("first", "second")[number % 3 == 0]
        rig.start(f"graph:{name}", {"input": {}}, f"{name}-{number}")
    rig.wait(lambda: len(rig.finished) == 20, "all have ended", START_S)
    for task_id, (outcome,) in rig.finished.items():
        assert orjson.loads(outcome.result)["told"][:-1] == EXPECTED[task_id.partition("-")[0]]


def test_a_spare_child_is_ready_for_each_of_two_projects(make_worker: Make, projects: list[Path]) -> None:
    rig = make_worker(*projects, spare_children=2)
    rig.executor.keep_warm()
    rig.wait(lambda: len(rig.executor.spare_pids()) == 2, "two have started", START_S)
    spares = set(rig.executor.child_pids())
    used = {told_by(rig, name, "", name)[-1] for name in EXPECTED}
    assert used == spares


def test_handlers_do_not_meet_the_modules_of_a_project(
    make_worker: Make, projects: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine" / "utils").mkdir(parents=True)
    (tmp_path / "mine" / "utils" / "__init__.py").write_text("")
    (tmp_path / "mine" / "utils" / "names.py").write_text("NAME = 'handlers'")
    (tmp_path / "mine" / "naming.py").write_text(
        "def name(payload):\n    from utils.names import NAME\n    return NAME\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    rig = make_worker(projects[0], handlers=["naming:name"])
    for turn in range(2):
        assert told_by(rig, "first", "", f"graph-{turn}")[:-1] == EXPECTED["first"]
        assert rig.value("naming:name", task_id=f"handler-{turn}") == "handlers"


def test_a_task_type_of_two_projects_is_refused(projects: list[Path], forks: ForkServer) -> None:
    content = orjson.loads(projects[1].read_bytes())
    projects[1].write_bytes(orjson.dumps({**content, "graphs": {"first": "agent:graph"}}))
    with pytest.raises(ConfigError, match="'graph:first' is both") as caught:
        Registry.load((), map(str, projects), forks=forks)
    assert all(str(file) in str(caught.value) for file in projects)
