"""The wish for short time slices: of whom, who inherits it, and who takes it back."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading

import pytest

from daemons.cli.fleet import LocalFleet
from daemons.cli.processes import tree
from daemons.runtime.slices import SHORT_NS, short_slices, slice_ns, usual_slices
from tests.conftest import WaitUntil


def in_a_thread(*steps: object) -> list[object]:
    """What they return, one after the other in a thread of its own: nothing of it is left."""
    said: list[object] = []
    thread = threading.Thread(target=lambda: said.extend(step() for step in steps))  # type: ignore[operator]
    thread.start()
    thread.join(10)
    return said


@pytest.fixture
def heeded() -> None:
    """Kernels before 6.12 take the wish, and do not heed it."""
    if sys.platform != "linux":
        pytest.skip("Linux has this")
    if in_a_thread(short_slices, slice_ns) != ["", SHORT_NS]:
        pytest.skip("this kernel gives all threads the same slices")


@pytest.mark.usefixtures("heeded")
def test_threads_and_programs_inherit_the_wish_and_may_take_it_back() -> None:
    program = "from daemons.runtime.slices import *; print(slice_ns()); usual_slices(); print(slice_ns())"

    def run() -> list[int]:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        return [int(line) for line in done.stdout.split()]

    usual = slice_ns()
    assert usual > SHORT_NS
    assert in_a_thread(lambda: short_slices(inherited=False), slice_ns, run) == ["", SHORT_NS, [usual, usual]]
    found = in_a_thread(short_slices, lambda: in_a_thread(slice_ns), run, slice_ns, usual_slices, slice_ns)
    assert found == ["", [SHORT_NS], [SHORT_NS, usual], SHORT_NS, None, usual]
    assert slice_ns() == usual, "a thread asks for itself"


@pytest.mark.usefixtures("heeded")
def test_daemons_ask_for_short_slices_and_what_computes_for_them_does_not(wait_until: WaitUntil) -> None:
    usual = slice_ns()
    with LocalFleet(workers=1, env={"A2A_WORKER_HANDLERS": "daemons.cli.chaos.tasks"}) as fleet:
        for name, pid in fleet.pids.items():
            assert slice_ns(pid) == SHORT_NS, name

        def of_children() -> set[int]:
            found = set()
            for pid in tree(fleet.pids["worker-1"])[1:]:
                with contextlib.suppress(ProcessLookupError):  # some only look at modules
                    found.add(slice_ns(pid))
            return found

        wait_until(lambda: of_children() == {usual}, "its children are there and took it back")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has this")
def test_a_policy_that_somebody_chose_stays_as_it_is() -> None:
    program = (
        "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0));"
        "from daemons.runtime.slices import *; print(short_slices()); print(os.sched_getscheduler(0))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    if "scheduling policy" not in done.stdout:
        pytest.skip(f"it cannot be asked here: {done.stdout}")
    assert done.stdout.split("\n")[:2] == [f"scheduling policy {os.SCHED_IDLE}", str(os.SCHED_IDLE)]
