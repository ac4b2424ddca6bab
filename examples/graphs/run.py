"""Run the graphs of this directory on a private fleet.

::

    python examples/graphs/run.py research ["TOPIC"]
    python examples/graphs/run.py digest [FOLDER]
    python examples/graphs/run.py assistant ["QUESTION"] [--folder FOLDER] [--providers FILE.toml]

``research`` asks on the terminal before it publishes; ``--answer`` answers for you (several: one after the other).
``assistant`` uses the small model that ``make venv`` installs, or the provider ``assistant`` of a file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from a2a_zmq import FleetClient, FleetError, TaskWaiting
from a2a_zmq.client.handles import TaskHandle
from daemons.cli.fleet import LocalFleet

HERE = Path(__file__).parent
DOCUMENTS = HERE.parents[1] / "docs"
QUESTION = "What is 6 * 7?"
PATIENCE_S = 120.0
PROVIDER = """
[assistant]
model = "smollm2"
model_provider = "openai"
base_url = "{url}"
api_key_env = "SMALL_MODEL_KEY"
options = {{ temperature = 0, max_tokens = 60 }}
concurrency = 1
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", choices=("research", "digest", "assistant"))
    parser.add_argument("what", nargs="?", help="topic of the research, folder of the digest, or question")
    parser.add_argument("--answer", action="append", default=[], help="answer to a question of the research")
    parser.add_argument("--folder", type=Path, default=DOCUMENTS, help="documents that the assistant may read")
    parser.add_argument("--providers", type=Path, help="TOML file with the provider [assistant]")
    args = parser.parse_args(argv)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="a2a-graphs-")))
        env = {"A2A_WORKER_GRAPHS": str(HERE / "langgraph.json")}
        if args.graph == "assistant":
            env |= model_environment(args.providers, scratch, stack)
        fleet = stack.enter_context(LocalFleet(workers=2, env=env))
        client = stack.enter_context(FleetClient(**fleet.client_arguments(operator=False)))
        handle = client.submit_graph(args.graph, given(args, scratch))
        print(f"task {handle.task_id}")
        try:
            value = outcome(handle, args.answer)
        except (FleetError, NoAnswer) as error:
            print(error, file=sys.stderr)
            return 1
        show(args.graph, value)
        if args.graph == "assistant":
            print(f"tokens: {tokens(fleet)}")
        return 0


def given(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The graph's input."""
    if args.graph == "digest":
        return {"folder": str(Path(args.what or DOCUMENTS).resolve())}
    if args.graph == "assistant":
        message = {"role": "user", "content": args.what or QUESTION}
        return {"messages": [message], "folder": str(args.folder.resolve())}
    return {"topic": args.what or "lease expires", "root": str(HERE.parents[1]), "report": str(scratch / "report.md")}


def model_environment(providers: Path | None, scratch: Path, stack: ExitStack) -> dict[str, str]:
    """Variables by which the workers know the model."""
    if providers is None:
        url = stack.enter_context(import_module("small_model").served())
        providers = scratch / "providers.toml"
        providers.write_text(PROVIDER.format(url=url), encoding="utf-8")
    return {"A2A_LLM_PROVIDERS": str(providers.resolve()), "SMALL_MODEL_KEY": "none is needed"}


class NoAnswer(Exception):
    """The graph asks, and nobody is there who answers."""

    def __init__(self, task_id: str) -> None:
        # Our fleet ends with us, and the question with it; where a fleet goes on, its task waits.
        super().__init__(
            f"task {task_id} waits for an answer, and there is no input: run this again with --answer yes (in a fleet "
            f"that goes on: a2actl resume {task_id} --text yes --wait)"
        )


def outcome(handle: TaskHandle, answers: list[str]) -> Any:
    """The graph's output; questions are answered on the way.

    Raises:
        NoAnswer: there is no answer left.
    """
    left = list(answers)
    while True:
        try:
            return handle.result(PATIENCE_S)
        except TaskWaiting as waiting:
            question = waiting.interrupts[0]["value"]
            print(f"\n{question['draft']}\n{question['question']}")
            try:
                answer = left.pop(0) if left else input("yes, or a topic: ")
            except EOFError:
                raise NoAnswer(handle.task_id) from None
            print(f"> {answer}")
            handle.resume(answer)


def show(graph: str, value: Any) -> None:
    if graph == "research":
        print(Path(value["published"]).read_text(encoding="utf-8"))
    elif graph == "digest":
        for name, found in value["digest"].items():
            print(f"{name:>10}: {', '.join(found) if isinstance(found, list) else found}")
    else:
        for message in value["messages"]:
            print(f"{message['type']:>10}: {message['content']}")
            for call in message.get("tool_calls") or ():
                print(f"{'calls':>10}: {call['name']} {call['args']}")


def tokens(fleet: LocalFleet) -> str:
    """What the workers' metrics say was used."""
    used = [
        line.partition("kind=")[2].replace('"', "").replace("}", "")
        for name in fleet.daemons
        if name.startswith("worker")
        for line in fleet.get(name, "/metrics")[1].splitlines()
        if line.startswith("a2a_llm_tokens_total{")
    ]
    return ", ".join(used) or "none"


if __name__ == "__main__":
    sys.exit(main())
