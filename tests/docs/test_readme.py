"""What the README shows works as it stands; only addresses are others, because the default ones may be somebody's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from a2a_zmq import FleetClient
from daemons.cli.fleet import LocalFleet, free_ports
from daemons.cli.main import app
from daemons.redis.embedded import EmbeddedRedis

README = Path(__file__).resolve().parent.parent.parent / "README.md"
ADDRESS = '"tcp://127.0.0.1:5550"'
Shown = Callable[[str], str]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def the_block_with(words: str) -> str:
    found = [block for block in blocks("python") if words in block]
    assert len(found) == 1, f"{len(found)} snippets have {words}"
    return found[0]


def promised(block: str) -> list[str]:
    """What comments say that is printed."""
    return re.findall(r"^ *print\(.*\)  # ([\d.]+)$", block, re.MULTILINE)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """A fleet whose worker has the README's own tasks."""
    directory = tmp_path_factory.mktemp("tasks")
    (directory / "my_tasks.py").write_text(the_block_with("@task("), encoding="utf-8")
    env = {"A2A_WORKER_HANDLERS": "my_tasks", "PYTHONPATH": f"{directory}:{README.parent}"}
    with LocalFleet(workers=1, env=env) as fleet:
        yield fleet


@pytest.fixture
def run(fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shown:
    """Runs a snippet of a client; gives what it printed."""

    def execute(block: str) -> str:
        assert ADDRESS in block
        monkeypatch.setenv("A2A_KEY_DIR", str(fleet.key_dir))
        exec(compile(block.replace(ADDRESS, repr(fleet.coordinator_address)), str(README), "exec"), {})
        return capsys.readouterr().out

    return execute


@pytest.mark.parametrize("words", [" FleetClient(", " AsyncFleetClient("])
def test_client_snippets_print_what_they_promise(words: str, run: Shown) -> None:
    block = the_block_with(words)
    assert promised(block)
    assert [line for line in run(block).splitlines() if re.fullmatch(r"[\d.]+", line)] == promised(block)


def test_the_task_snippet_offers_its_tasks(fleet: LocalFleet) -> None:
    with FleetClient(**fleet.client_arguments()) as client:
        for name in re.findall(r'@task\("(\w+)"', the_block_with("@task(")):
            assert client.submit(name, {"name": "Ada"}).result(10) == {"text": "hello Ada"}


def test_the_snippet_of_agents_as_objects(capsys: pytest.CaptureFixture[str]) -> None:
    above, below = (f'"tcp://127.0.0.1:{port}"' for port in free_ports(2))
    block = the_block_with("CoordinatorAgent(")
    with EmbeddedRedis() as redis:
        given = {
            "port=6379": f"port={redis.port}",
            'A2AConfig(agent_id="coordinator-1"': f'A2AConfig(agent_id="coordinator-1", bind_address={above}',
            'A2AConfig(agent_id="distributor-1"': f'A2AConfig(agent_id="distributor-1", bind_address={below}, '
            f"connect_addresses=({above},)",
            'A2AConfig(agent_id="worker-1"': f'A2AConfig(agent_id="worker-1", connect_addresses=({below},)',
        }
        for default, ours in given.items():
            assert block.count(default) == 1, default
            block = block.replace(default, ours)
        names: dict[str, Any] = {}
        try:
            exec(compile(block, str(README), "exec"), names)
        finally:
            for role in ("worker", "distributor", "coordinator"):
                if role in names:
                    names[role].close()
    assert "task-1" in capsys.readouterr().out


def test_commands_exist() -> None:
    text = "\n".join(blocks("sh")) + " ".join(re.findall(r"`(make [^`]+)`", README.read_text(encoding="utf-8")))
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z]+)", text))
    assert targets >= {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    known = {info.name or getattr(info.callback, "__name__", "") for info in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    used = set(re.findall(r"^a2actl ([a-z]+)", text, re.MULTILINE))
    assert used
    assert used <= known
