"""Deaths that the operating system proves while the connection still stands."""

from __future__ import annotations

from typing import Any

from a2a_zmq.protocol import BootInfo, WatchWanted

WORKER = "worker-1"


def a_pipe(kit: Any, *, host: str = "host-a", fd: int = 7) -> Any:
    """A worker on this host, whose life mark is at this descriptor; the hub is on host-a."""
    hub, spoke = kit.hub(), kit.spoke(host=host)
    spoke._boot = BootInfo("spoke-boot", host, 22, 222, fd)
    return connected(hub, spoke)


def connected(hub: Any, *spokes: Any) -> Any:
    from tests.unit.protocol.conftest import Pipe

    pipe = Pipe(hub, *spokes)
    pipe.connect()
    return pipe


def test_a_process_of_the_same_host_that_says_how_is_watched_while_it_is_up(kit: Any) -> None:
    pipe = a_pipe(kit)
    assert pipe.hub.of(WatchWanted) == [WatchWanted(WORKER, "spoke-boot", 22, 222, 7)]
    assert pipe.spoke.of(WatchWanted) == [], "a hub says no descriptor"
    pipe.stopped.add(WORKER)
    pipe.advance(2)
    assert pipe.hub.downs() == ["silence"]
    assert pipe.hub.of(WatchWanted)[1:] == [WatchWanted(WORKER)], "whoever is down is not watched any more"


def test_nobody_else_is_watched(kit: Any) -> None:
    for pipe in (a_pipe(kit, host="host-b"), a_pipe(kit, host=""), a_pipe(kit, fd=0)):
        assert pipe.hub.ups() == 1
        pipe.hub.port.probed(WORKER, gone=True, now=pipe.now)
        assert [wanted for wanted in pipe.hub.of(WatchWanted) if wanted.pid] == []


def test_proof_of_death_does_not_wait_for_the_connection_to_end(kit: Any) -> None:
    pipe = a_pipe(kit)
    pipe.hub.port.exited(WORKER, "spoke-boot", pipe.now)
    assert pipe.hub.downs() == ["exited"]
    pipe.stopped.add(WORKER)
    pipe.disconnect()
    pipe.hub.port.exited(WORKER, "spoke-boot", pipe.now)
    pipe.advance(3)
    assert pipe.hub.downs() == ["exited"], "told once"


def test_proof_of_a_former_process_says_nothing_of_the_present_one(kit: Any) -> None:
    pipe = a_pipe(kit)
    pipe.hub.port.exited(WORKER, "former-boot", pipe.now)
    pipe.hub.port.exited("worker-9", "spoke-boot", pipe.now)
    pipe.advance(1)
    assert pipe.hub.downs() == []


def test_one_who_was_proved_dead_and_greets_again_is_let_in(kit: Any) -> None:
    """So the next process of this name is not kept out by its predecessor's session."""
    pipe = a_pipe(kit)
    pipe.hub.port.exited(WORKER, "spoke-boot", pipe.now)
    pipe.disconnect()
    successor = kit.spoke(boot="next-boot", host="host-a")
    again = connected(pipe.hub.port, successor)
    assert again.spoke.ups() == 1
    assert again.hub.downs() == []
