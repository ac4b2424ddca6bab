"""What a worker says of a graph that it cannot use: one line that names the file and the graph."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from a2a_zmq.errors import ConfigError
from daemons.worker import registry
from daemons.worker.executors.forks import ForkServer
from daemons.worker.registry import Registry

GRAPHS = """
from langgraph.graph import StateGraph

empty = StateGraph(dict)

def demanding(one, two, three):
    return empty

async def raising(config):
    raise ValueError("nothing\\nto make")

def leaving():
    raise SystemExit(7)

def five():
    return 5

number = 5
"""


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        ("./many.py:empty", "ValueError: Graph must have an entrypoint"),
        ("./many.py:demanding", "TypeError: demanding() missing 2 required positional arguments: 'two' and 'three'"),
        ("./many.py:raising", "ValueError: nothing to make"),
        ("./many.py:leaving", "SystemExit: 7"),
        ("./many.py:five", "made a int, which is no graph"),
        ("./many.py:number", "'number' is a int, not a graph"),
        ("./leaves.py:graph", "SystemExit: 7"),
        ("no.such.module:graph", "ModuleNotFoundError: No module named 'no'"),
    ],
)
def test_a_graph_that_cannot_be_used_is_named_with_its_file(
    forks: ForkServer, tmp_path: Path, graph: str, says: str
) -> None:
    """Symptom: of what a graph's function raised only the file was named, which may have many graphs."""
    (tmp_path / "many.py").write_text(GRAPHS)
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(7)\n")
    file = tmp_path / "langgraph.json"
    file.write_bytes(orjson.dumps({"graphs": {"mine": graph}}))
    with pytest.raises(ConfigError) as caught:
        Registry.load((), [str(file)], forks=forks)
    text = str(caught.value)
    assert text.startswith(f"worker_graphs: {file}: graphs.mine: ")
    assert says in text
    assert "\n" not in text


def test_what_takes_long_to_import_is_named_while_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Symptom: a worker whose project took a minute to import said nothing at all for so long."""
    monkeypatch.setattr(registry, "SLOW_IMPORT_S", 0.01)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "slow_to_come.py").write_text("import time\ntime.sleep(0.5)\ndef handle(payload): ...\n")
    with caplog.at_level("INFO"):
        Registry.load(["slow_to_come:handle"])
    told = [record.getMessage() for record in caplog.records if record.name == "a2a_zmq.registry"]
    assert [line.split()[0] for line in told] == ["still_importing"]
    assert all("slow_to_come:handle" in line for line in told)
