"""Tasks for a fleet until standard input is closed: ``python -m tests.debian.load KEY_DIR``.

Prints how many were submitted, how many of them have their results, and the longest that a single one took.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from a2a_zmq import FleetClient, TaskHandle
from a2a_zmq.errors import A2AError

PAUSE_S = 0.05
RESULT_S = 120.0
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("compute", {"operation": "sum", "numbers": [1, 2]}),
    ("sleep", {"seconds": 0.5}),
    ("noop", {}),
]
ADDRESS = "tcp://127.0.0.1:5550"


def one_by_one(fleet: FleetClient, closed: threading.Event, took: list[float]) -> None:
    """What somebody sees who waits for each result."""
    while not closed.wait(PAUSE_S):
        began = time.monotonic()
        fleet.submit("noop", {}).result(RESULT_S)
        took.append(time.monotonic() - began)


def until_input_ends(closed: threading.Event) -> None:
    sys.stdin.read()
    closed.set()


def wait_for_all(handles: list[TaskHandle]) -> list[str]:
    """Those without a result, and why."""
    bad = []
    for handle in handles:
        try:
            handle.result(RESULT_S)
        except A2AError as error:
            bad.append(f"{handle.task_id}: {type(error).__name__}: {error}")
    return bad


def main() -> int:
    closed = threading.Event()
    threading.Thread(target=until_input_ends, args=(closed,), daemon=True).start()
    handles: list[TaskHandle] = []
    took: list[float] = []
    with FleetClient(ADDRESS, key_dir=sys.argv[1]) as fleet:
        waiting = threading.Thread(target=one_by_one, args=(fleet, closed, took))
        waiting.start()
        while not closed.wait(PAUSE_S):
            kind, payload = KINDS[len(handles) % len(KINDS)]
            handles.append(fleet.submit(kind, payload))
            print("submitted", len(handles), flush=True)
        waiting.join()
        bad = wait_for_all(handles)
    submitted = len(handles) + len(took)
    report = {"submitted": submitted, "completed": submitted - len(bad), "bad": bad[:10]}
    print(json.dumps({**report, "longest_s": round(max(took, default=0.0), 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
