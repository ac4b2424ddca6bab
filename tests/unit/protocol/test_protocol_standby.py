"""A process that stands by for another one of its name: it lets nobody in, and greets nobody."""

from __future__ import annotations

from typing import Any

import pytest

from a2a_zmq.protocol import PeerUp
from a2a_zmq.protocol.session import Phase

WORKER = "worker-1"


@pytest.fixture
def why() -> list[str]:
    """What ``closed()`` says: the last element."""
    return ["standing by"]


def test_a_hub_that_stands_by_lets_nobody_in_until_it_acts(kit: Any, make_pipe: Any, why: list[str]) -> None:
    pipe = make_pipe(kit.hub(closed=lambda: why[-1]), kit.spoke())
    pipe.connect()
    spoke = pipe.spoke.port
    assert spoke.refused == "standby"
    assert set(pipe.hub.reasons()) == set(pipe.spoke.reasons()) == {"standby"}
    pipe.advance(3)
    assert pipe.hub.ups() == 0
    why.append("")
    pipe.advance(0.3)
    assert pipe.hub.ups() == pipe.spoke.ups() == 1, "it is asked again soon, however long it has refused"
    assert spoke.refused == ""


def test_a_spoke_that_stands_by_greets_nobody_until_it_acts(kit: Any, make_pipe: Any) -> None:
    fences: list[int | None] = [None]
    pipe = make_pipe(kit.hub(), kit.spoke(claim=lambda: fences[-1]))
    pipe.connect()
    pipe.advance(3)
    assert pipe.tap == []
    assert pipe.spoke.port.phase is Phase.GREETING
    fences.append(3)
    pipe.advance(0.15)
    [up] = pipe.hub.of(PeerUp)
    assert up.peer.fence == 3


@pytest.mark.parametrize(("fence", "refused"), [(0, "identity"), (2, "replaced"), (3, "identity"), (4, "")])
def test_a_process_with_a_higher_fence_replaces_one_that_lives_on(
    kit: Any, make_pipe: Any, fence: int, refused: str
) -> None:
    hub = kit.hub()
    first = make_pipe(hub, kit.spoke(boot="first", claim=lambda: 3))
    second = make_pipe(hub, kit.spoke(boot="second", claim=lambda: fence))
    first.connect()
    second.route[WORKER] = b"second"
    second.spoke.port.connected(second.now)
    second.pump()
    assert hub.peer(WORKER).boot_id == ("first" if refused else "second")
    assert second.spoke.reasons() == ([refused] if refused else [])
    if not refused:
        first.route[WORKER] = b"again"
        first.spoke.port.disconnected(b"", first.now)
        first.spoke.port.connected(first.now)
        first.pump()
        assert first.spoke.reasons() == ["replaced"], "and does not come back"
