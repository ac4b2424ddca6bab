"""The tutorial, from its first command to its last, exactly as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.host import Host
from tests.docs.running import run_page


@pytest.mark.timeout(400)  # it waits for steps of graphs and starts a fleet three times, on hosts that are busy
def test_the_tutorial(repository: Path) -> None:
    with Host() as host:
        host.clone(repository)
        run_page(repository / "docs" / "tutorial.md", host)
        assert not (host.home / "fleet" / "run" / "supervisord.pid").exists()
