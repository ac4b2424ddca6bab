"""A research graph: three searches side by side, a draft, and a human who approves it or says what to look for instead.

::

    plan ─┬─> documents ─┬─> draft ─> approval ─┬─> publish
          ├─> code ──────┤               ▲      │
          └─> tests ─────┘               └──────┴── "look for …": back to plan
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

# Places that a report names; the best ones.
MOST = 8
LINE_CHARS = 120


class State(TypedDict, total=False):
    """
    Attributes:
        topic: words to look for.
        root: the directory to be searched.
        report: file that is written when it is approved.
        found: (hits, place, line) of all searches; lists of three once they were in a checkpoint.
    """

    topic: str
    root: str
    report: str
    words: list[str]
    found: Annotated[list[tuple[int, str, str]], operator.add]
    draft: str
    published: str


def plan(state: State) -> dict[str, Any]:
    words = [word for word in re.findall(r"\w+", state["topic"].lower()) if len(word) > 2]
    return {"words": words or [state["topic"].lower()]}


def search(state: State, files: Iterable[Path]) -> dict[str, Any]:
    """Lines with most of the words, best first."""
    root = Path(state["root"])
    found: list[tuple[int, str, str]] = []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            hits = sum(word in line.lower() for word in state["words"])
            if hits:
                found.append((hits, f"{file.relative_to(root)}:{number}", line.strip()[:LINE_CHARS]))
    found.sort(key=lambda each: (-each[0], each[1]))
    return {"found": found[:MOST]}


def documents(state: State) -> dict[str, Any]:
    return search(state, sorted(Path(state["root"]).glob("docs/*.md")))


def code(state: State) -> dict[str, Any]:
    root = Path(state["root"])
    return search(state, sorted([*root.glob("a2a_zmq/**/*.py"), *root.glob("daemons/**/*.py")]))


def tests(state: State) -> dict[str, Any]:
    return search(state, sorted(Path(state["root"]).glob("tests/**/*.py")))


def draft(state: State) -> dict[str, Any]:
    """Only of this round: earlier ones looked for something else."""
    best = [each for each in state["found"] if any(word in each[2].lower() for word in state["words"])]
    best.sort(key=lambda each: (-each[0], each[1]))
    lines = list(dict.fromkeys(f"- `{place}` {line}" for _, place, line in best))  # rounds may find the same
    return {"draft": "\n".join([f"# {state['topic']}", "", *lines[:MOST], ""])}


def approval(state: State) -> Command[str]:
    answer = interrupt({"question": "Publish this, or look for something else?", "draft": state["draft"]})
    if isinstance(answer, str) and answer.lower() not in {"yes", "publish"}:
        return Command(goto="plan", update={"topic": answer})
    return Command(goto="publish")


def publish(state: State) -> dict[str, Any]:
    Path(state["report"]).write_text(state["draft"], encoding="utf-8")
    return {"published": state["report"]}


def build() -> StateGraph[Any]:
    builder: StateGraph[Any] = StateGraph(State)
    builder.add_node("plan", plan)
    for name, node in (("documents", documents), ("code", code), ("tests", tests)):
        builder.add_node(name, node)
        builder.add_edge("plan", name)
    builder.add_node("draft", draft)
    builder.add_edge(["documents", "code", "tests"], "draft")
    builder.add_node("approval", approval, destinations=("plan", "publish"))
    builder.add_edge("draft", "approval")
    builder.add_node("publish", publish)
    builder.add_edge(START, "plan")
    builder.add_edge("publish", END)
    return builder


graph = build().compile()
