"""The how-to guides, each exactly as it stands, on one fleet as the tutorial sets it up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.host import Host
from tests.docs.running import ENVIRONMENT, run_page

GUIDES = sorted((Path(__file__).resolve().parent.parent.parent / "docs" / "howto").glob("*.md"))
# Of each log, where a guide fails.
LINES_SHOWN = 12
WIDTH_SHOWN = 400
# As in the tutorial's second section.
A_FLEET = """
cd ~/a2a-zmq
. .venv/bin/activate
cp -r config ~/fleet
cd ~/fleet
supervisord -c supervisord.conf
a2actl --timeout 60 status --wait
"""
# The guide before may have restarted some of it a moment ago.
UNTIL_READY = """
for port in 9550 9560 9570 9571; do
    until curl -sf 127.0.0.1:$port/readyz; do sleep 0.2; done
done
"""


@pytest.fixture(scope="module")
def host(repository: Path) -> Iterator[Host]:
    with Host() as host:
        host.clone(repository)
        host.terminal().run(A_FLEET)
        yield host


@pytest.mark.timeout(400)  # a worker, and often a graph, is started by most of them
@pytest.mark.parametrize("guide", GUIDES, ids=[guide.stem for guide in GUIDES])
def test_the_guide(guide: Path, host: Host) -> None:
    try:
        run_page(guide, host, ENVIRONMENT + UNTIL_READY)
    except BaseException as error:
        error.add_note(last_lines(host.home / "fleet" / "run"))
        raise


def last_lines(directory: Path) -> str:
    """What the fleet's daemons said last: with the host it is gone."""
    found = []
    for log in sorted(directory.glob("*.log")):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_SHOWN:]
        found += [f"--- {log.name}", *(line[:WIDTH_SHOWN] for line in lines)]
    return "\n".join(found)
