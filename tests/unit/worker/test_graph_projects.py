"""What a ``langgraph.json`` may say, and the one line that says what is wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from a2a_zmq.errors import ConfigError
from a2a_zmq.handlers import InvalidInput
from daemons.worker.graphs.payload import GraphRequest
from daemons.worker.graphs.project import Project, read_project


def project(directory: Path, **content: Any) -> Project:
    for name in ("agent.py", "other.py"):
        (directory / name).write_text("")
    whole = {"dependencies": ["."], "graphs": {"agent": "./agent.py:graph"}, **content}
    file = directory / "langgraph.json"
    file.write_bytes(orjson.dumps({name: value for name, value in whole.items() if value is not None}))
    return read_project(file)


def refused(directory: Path, **content: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        project(directory, **content)
    text = str(caught.value)
    assert "\n" not in text
    assert str(directory) in text
    return text


def test_files_modules_and_descriptions_name_graphs(tmp_path: Path) -> None:
    graphs = {"a": "./agent.py:graph", "b": "other.py:make", "c": "pkg.mod:graph", "d": {"path": "./agent.py:graph"}}
    found = project(tmp_path, graphs=graphs).graphs
    agent, other = str(tmp_path / "agent.py"), str(tmp_path / "other.py")
    assert found == {"a": (agent, "graph"), "b": (other, "make"), "c": ("pkg.mod", "graph"), "d": (agent, "graph")}


def test_what_concerns_other_servers_is_left_alone(tmp_path: Path) -> None:
    more: dict[str, Any] = {"http": {"app": "./x.py:app"}, "store": {"index": {}}, "dockerfile_lines": ["RUN true"]}
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert project(tmp_path, python_version=here, **more).graphs


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ([["shop.models", "Order"]], frozenset({("shop.models", "Order")})),
        (None, frozenset()),
        (True, None),
    ],
)
def test_types_that_checkpoints_may_hold_are_named_as_for_langgraphs_server(
    tmp_path: Path, allowed: Any, expected: Any
) -> None:
    serde = {"allowed_msgpack_modules": allowed, "pickle_fallback": False}
    assert project(tmp_path, checkpointer={"ttl": {}, "serde": serde}).allowed_types == expected
    assert project(tmp_path, checkpointer={"path": "./x.py:saver"}).allowed_types == frozenset()


@pytest.mark.parametrize("allowed", ["shop.Order", ["shop.Order"], [["shop"]], [["shop", 1]], {"shop": "Order"}])
def test_types_that_are_named_wrongly_end_the_start(tmp_path: Path, allowed: Any) -> None:
    text = refused(tmp_path, checkpointer={"serde": {"allowed_msgpack_modules": allowed}})
    assert 'checkpointer.serde.allowed_msgpack_modules: expected a list of ["package.module", "Type"]' in text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"graphs": None}, "graphs: expected an object"),
        ({"graphs": {}}, "graphs: expected an object"),
        ({"graphs": {"a b": "./agent.py:graph"}}, "graphs.a b: use up to 100 ASCII letters"),
        ({"graphs": {"ünï": "./agent.py:graph"}}, "graphs.ünï: use up to 100 ASCII letters"),
        ({"graphs": {"a": "./agent.py"}}, 'graphs.a: expected "./file.py:variable"'),
        ({"graphs": {"a": 3}}, 'graphs.a: expected "./file.py:variable"'),
        ({"graphs": {"a": "./nowhere.py:graph"}}, "there is no file"),
        ({"graphs": {"a": "./agent.ts:graph"}}, "agent.ts is no Python file"),
        ({"python_version": "3.9"}, "python_version: the project wants Python 3.9"),
        ({"python_version": 3.11}, 'python_version: expected a text like "3.11", got 3.11'),
        ({"dependencies": "."}, "dependencies: expected a list"),
        ({"dependencies": ["./nowhere"]}, "dependencies: there is no directory"),
        ({"env": 3}, "env: expected a path"),
        ({"env": {"A": 1}}, "env: every value must be a text"),
        ({"env": ".nothing"}, "cannot be read"),
    ],
)
def test_a_bad_project_is_refused_by_file_and_key(tmp_path: Path, content: dict[str, Any], says: str) -> None:
    assert says in refused(tmp_path, **content)


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "langgraph.json"
    file.write_text("{graphs}")
    with pytest.raises(ConfigError, match="not JSON"):
        read_project(file)
    with pytest.raises(ConfigError, match="No such file"):
        read_project(tmp_path / "nowhere.json")


def test_variables_come_from_a_file_or_stand_there(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# keys\nexport MODEL='small one'\nURL=http://127.0.0.1 # local\n")
    assert project(tmp_path, env=".env").env == {"MODEL": "small one", "URL": "http://127.0.0.1"}
    assert project(tmp_path, env={"A": "1"}).env == {"A": "1"}


def test_local_packages_are_found_and_what_they_need_is_known(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "requirements.txt").write_text("# pinned\n-r more.txt\nlanggraph>=1\nno-such-thing==1.0\n")
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'x'\ndependencies = ['orjson', 'colorama; sys_platform == \"win32\"']\n"
    )
    found = project(tmp_path, dependencies=[".", "nothing-like-it>=2"])
    assert found.path == [str(tmp_path), str(tmp_path / "src")]
    assert found.missing() == ["no-such-thing", "nothing-like-it"]


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({}, "input: missing"),
        ({"input": {}, "thread": "x"}, "thread: a graph's task has only"),
        ({"input": {}, "thread_id": ""}, "thread_id: expected a text"),
        ({"input": {}, "thread_id": 7}, "thread_id: expected a text"),
        ({"input": {}, "config": []}, "config: expected an object"),
        ({"input": {}, "config": {"callbacks": []}}, "config.callbacks: a task may set only"),
        ({"input": {}, "config": {"configurable": {"thread_id": "x"}}}, "config.configurable.thread_id: is set by"),
        ({"input": {}, "config": {"metadata": {"run_id": "x"}}}, "config.metadata.run_id: is set by"),
        ({"input": {}, "config": {"configurable": {"__pregel_x": 1}}}, "__pregel_x: is set by"),
        ({"input": {}, "config": {"recursion_limit": 0}}, "config.recursion_limit: expected a whole number"),
        ({"input": {}, "interrupt_before": "node"}, "interrupt_before: expected a list of nodes"),
    ],
)
def test_a_bad_request_is_refused_before_anything_runs(payload: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        GraphRequest(payload, "task-1")
    assert says in str(caught.value)


def test_a_request_without_a_thread_has_one_of_its_own() -> None:
    request = GraphRequest({"input": {"n": 1}, "interrupt_after": "*"}, "task-1")
    assert request.thread_id == "task-1"
    assert request.interrupt_after == "*"
