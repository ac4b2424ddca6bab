"""Run the graphs of this directory on a private fleet: ``python examples/graphs/run.py research | digest [FOLDER]``.

``research`` asks on the terminal before it publishes; ``--answer`` answers for you (several: one after the other).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from a2a_zmq import FleetClient, TaskWaiting
from a2a_zmq.client.handles import TaskHandle
from daemons.cli.fleet import LocalFleet

HERE = Path(__file__).parent
PATIENCE_S = 120.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph", choices=("research", "digest"))
    parser.add_argument("what", nargs="?", help="topic of the research, or folder of the digest")
    parser.add_argument("--answer", action="append", default=[], help="answer to its question")
    args = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory(prefix="a2a-graphs-") as scratch,
        LocalFleet(workers=2, env={"A2A_WORKER_GRAPHS": str(HERE / "langgraph.json")}) as fleet,
        FleetClient(**fleet.client_arguments(operator=False)) as client,
    ):
        if args.graph == "digest":
            given: dict[str, Any] = {"folder": str(Path(args.what or HERE.parents[1] / "docs").resolve())}
        else:
            report = str(Path(scratch) / "report.md")
            given = {"topic": args.what or "lease expires", "root": str(HERE.parents[1]), "report": report}
        handle = client.submit_graph(args.graph, given)
        print(f"task {handle.task_id}")
        value = outcome(handle, args.answer)
        if args.graph == "research":
            print(Path(value["published"]).read_text(encoding="utf-8"))
        else:
            for name, found in value["digest"].items():
                print(f"{name:>10}: {', '.join(found) if isinstance(found, list) else found}")
        return 0


def outcome(handle: TaskHandle, answers: list[str]) -> Any:
    """The graph's output; questions are answered on the way."""
    left = list(answers)
    while True:
        try:
            return handle.result(PATIENCE_S)
        except TaskWaiting as waiting:
            question = waiting.interrupts[0]["value"]
            print(f"\n{question['draft']}\n{question['question']}")
            answer = left.pop(0) if left else input("yes, or a topic: ")
            print(f"> {answer}")
            handle.resume(answer)


if __name__ == "__main__":
    sys.exit(main())
