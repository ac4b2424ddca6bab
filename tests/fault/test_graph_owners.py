"""Who has a graph's thread, when the owner's clock is wrong and when it wakes up too late."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from a2a_zmq import FleetClient
from a2a_zmq.checkpoint import AsyncRedisSaver
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import REPOSITORY, client_of, scrape, total, wait_until

# A worker that is started again loads LangGraph in two processes: many seconds on a busy host.
PATIENCE_S = 50.0
STEPS = 7
# Sessions allow 30 s. Much more than a run needs to move to the other worker, on a busy host too: so the ids of later
# checkpoints, which are made from the clock, are below those of earlier ones.
BEHIND_S = 25
BEHIND = "worker-1"
LIBFAKETIME = next(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"), None)

# Each step says when it begins and ends, and waits in between for a file of the test's.
GRAPH = """
import os
import time
from pathlib import Path
from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    n: int
    place: str


def note(state: State, event: str) -> None:
    with (Path(state["place"]) / "ledger").open("a") as ledger:
        offset = time.time() - time.monotonic()
        ledger.write(f"{state['n']} {event} {os.environ['WORKER_ID']} {os.getpid()} {offset}\\n")


def step(state: State) -> State:
    note(state, "begin")
    while not (Path(state["place"]) / f"gate {state['n']}").exists():
        time.sleep(0.01)
    note(state, "end")
    return {"n": state["n"] + 1}


builder = StateGraph(State)
before = START
for number in range(7):
    builder.add_node(f"step{number}", step)
    builder.add_edge(before, f"step{number}")
    before = f"step{number}"
builder.add_edge(before, END)
graph = builder.compile()
"""

# libfaketime fails sleeps until a time of the clock that only counts, which is how Python sleeps.
SITECUSTOMIZE = """
import select
import time

time.sleep = lambda seconds: (select.select([], [], [], seconds), None)[1]
"""


class Line(NamedTuple):
    step: int
    event: str
    worker: str
    pid: int
    clock: float  # the calendar's, counted from the start of the machine


class Run:
    """One task of the graph, and the place where its steps meet the test."""

    def __init__(self, client: FleetClient, place: Path) -> None:
        place.mkdir(exist_ok=True)
        self.place = place
        self.handle = client.submit_graph("steps", {"n": 0, "place": str(place)}, thread_id=place.name, max_attempts=10)

    def lines(self, event: str = "begin") -> list[Line]:
        ledger = self.place / "ledger"
        words = [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []
        found = [Line(int(step), kind, worker, int(pid), float(clock)) for step, kind, worker, pid, clock in words]
        return [line for line in found if line.event == event]

    def let(self, *steps: int) -> None:
        for step in steps:
            (self.place / f"gate {step}").touch()

    def begun(self, step: int, worker: str = "", times: int = 1) -> Line:
        """Once this step has begun so often: the last time it did."""

        def found() -> list[Line]:
            return [line for line in self.lines() if line.step == step and worker in ("", line.worker)]

        wait_until(
            lambda: len(found()) >= times,
            f"step {step} has begun {worker and 'on ' + worker}",
            PATIENCE_S,
        )
        return found()[-1]


@pytest.fixture(scope="module")
def project(no_orphans: Path) -> Path:
    (no_orphans / "slow_steps.py").write_text(GRAPH)
    file = no_orphans / "langgraph.json"
    file.write_bytes(orjson.dumps({"graphs": {"steps": "./slow_steps.py:graph"}}))
    return file


@pytest.fixture
def place(no_orphans: Path, request: pytest.FixtureRequest) -> Path:
    return Path(no_orphans, str(request.node.name)[:40])


@pytest.fixture
def clocks(project: Path) -> Iterator[LocalFleet]:
    """Two workers; the clock of the first one, and of its child processes, is behind."""
    if LIBFAKETIME is None:
        pytest.skip("libfaketime is not installed")
    # Only the calendar is wrong: a clock that counts from the start of the machine cannot be.
    (project.parent / "sitecustomize.py").write_text(SITECUSTOMIZE)
    behind = {
        "LD_PRELOAD": str(LIBFAKETIME),
        "FAKETIME": f"-{BEHIND_S}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": os.pathsep.join([str(project.parent), str(REPOSITORY)]),
    }
    # It makes every look at a clock slow as well: what is silent for a moment is not to be taken for dead.
    env = {"A2A_WORKER_GRAPHS": str(project), "A2A_WORKER_SLOTS": "1", "A2A_DEAD_AFTER_MS": "8000"}
    with LocalFleet(workers=2, env=env, env_of={BEHIND: behind}) as fleet:
        yield fleet


@pytest.fixture
def fleet(project: Path) -> Iterator[LocalFleet]:
    with LocalFleet(workers=2, env={"A2A_WORKER_GRAPHS": str(project), "A2A_WORKER_SLOTS": "1"}) as fleet:
        yield fleet


def stored(fleet: LocalFleet, thread_id: str) -> list[Any]:
    """All checkpoints of a thread with their pending writes, newest first."""

    async def read() -> list[Any]:
        async with AsyncRedisSaver.from_url(f"redis://127.0.0.1:{fleet.redis_port}") as saver:
            config: Any = {"configurable": {"thread_id": thread_id}}
            return [(each.checkpoint, each.metadata, each.pending_writes) async for each in saver.alist(config)]

    return asyncio.run(read())


def back(fleet: LocalFleet, worker: str, pid: int) -> None:
    """Wait until the worker's next process is ready."""
    wait_until(lambda: fleet.pids.get(worker) not in (None, 0, pid), f"{worker} was started again", PATIENCE_S)
    fleet.wait_ready([worker])


def other(worker: str) -> str:
    return "worker-2" if worker == "worker-1" else "worker-1"


@pytest.mark.timeout(180)
def test_a_worker_whose_clock_is_behind_goes_on_at_the_right_checkpoint(clocks: LocalFleet, place: Path) -> None:
    with client_of(clocks) as client:
        run = Run(client, place)
        run.let(0, 1)
        first = run.begun(2).worker
        if first == BEHIND:
            # From the clock that is right to the one that is behind there must be no wait, as there is for a restart.
            gone = clocks.kill(first)
            first = run.begun(2, other(first)).worker
            back(clocks, BEHIND, gone)
        second = other(first)
        left = clocks.kill(first, signal.SIGTERM)
        run.let(2)
        line = run.begun(3, second)
        late = run.begun(2, first)
        assert round(line.clock - late.clock) == -BEHIND_S
        back(clocks, first, left)
        killed = clocks.kill(second)
        run.begun(3, first)
        run.let(3)
        run.begun(4, first)
        back(clocks, second, killed)
        clocks.kill(first)
        run.begun(4, second)
        run.let(4, 5, 6)
        assert run.handle.result(PATIENCE_S)["n"] == STEPS
        steps = [line.step for line in run.lines()]
        assert steps == sorted(steps), "no finished step runs again"
        assert set(steps) == set(range(STEPS)), "none is left out"
        order = [checkpoint["id"] for checkpoint, *_ in stored(clocks, place.name)]
        assert order != sorted(order, reverse=True), "by their ids, which hosts' clocks make, another one is the latest"


@pytest.mark.timeout(120)
def test_a_stale_owner_that_is_woken_after_the_take_over_writes_nothing_more(fleet: LocalFleet, place: Path) -> None:
    with client_of(fleet) as client:
        run = Run(client, place)
        run.let(0, 1)
        stale = run.begun(2)
        frozen = (fleet.pids[stale.worker], stale.pid)
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            run.begun(2, other(stale.worker))
            run.let(*range(2, STEPS))
            assert run.handle.result(PATIENCE_S)["n"] == STEPS
            before = stored(fleet, place.name)
            late = total(scrape(fleet, "distributor-1"), "a2a_late_results_total")
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        wait_until(
            lambda: [line for line in run.lines("end") if line.pid == stale.pid], "the stale step has ended", PATIENCE_S
        )
        wait_until(lambda: fleet.ready(stale.worker), "the stale worker is back", PATIENCE_S)
        until = time.monotonic() + 2.0
        wait_until(
            lambda: total(scrape(fleet, "distributor-1"), "a2a_late_results_total") > late or time.monotonic() > until,
            "what it reports has come, or will not",
        )
        assert stored(fleet, place.name) == before
        assert [line.step for line in run.lines() if line.pid == stale.pid] == [0, 1, 2], "it began nothing more"
        again = Run(client, place)
        assert again.handle.result(PATIENCE_S)["n"] == STEPS
