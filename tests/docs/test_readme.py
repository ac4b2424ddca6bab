"""What the README shows works as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daemons.cli.fleet import free_ports
from daemons.redis.embedded import EmbeddedRedis
from tests.docs.host import Host
from tests.docs.running import IN_THE_CLONE, run_page
from tests.docs.snippets import snippets_of

README = Path(__file__).resolve().parent.parent.parent / "README.md"


@pytest.mark.timeout(400)  # a fleet, ten thousand tasks, and a worker of one's own
def test_five_minutes(repository: Path) -> None:
    with Host() as host:
        host.clone(repository)
        run_page(README, host, IN_THE_CLONE)


def test_the_snippet_of_agents_as_objects(capsys: pytest.CaptureFixture[str]) -> None:
    above, below = (f'"tcp://127.0.0.1:{port}"' for port in free_ports(2))
    (block,) = (each.text for each in snippets_of(README) if "CoordinatorAgent(" in each.text)
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
