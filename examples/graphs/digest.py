"""Map and reduce: each document of a folder is read in a branch of its own, then all are summed up.

What a branch has found is stored as it ends. If the worker dies, those that are done do not run again.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from a2a_zmq.handlers import InvalidInput

STOP_WORDS = frozenset(("and", "are", "for", "from", "has", "its", "not", "that", "the", "then", "was", "with"))
MOST_WORDS = 10


class State(TypedDict, total=False):
    """
    Attributes:
        folder: with the documents, *.md and *.txt.
        pages: what each branch has found.
    """

    folder: str
    files: list[str]
    pages: Annotated[list[dict[str, Any]], operator.add]
    digest: dict[str, Any]


class Page(TypedDict):
    path: str


def find(state: State) -> dict[str, Any]:
    folder = Path(state["folder"])
    if not folder.is_dir():
        raise InvalidInput(f"folder: there is no directory {folder}")  # no further attempt would find it
    return {"files": sorted(str(path) for pattern in ("*.md", "*.txt") for path in folder.glob(pattern))}


def each_file(state: State) -> list[Send] | str:
    return [Send("read", {"path": path}) for path in state["files"]] or "sum_up"


def read(state: Page) -> dict[str, Any]:
    path = Path(state["path"])
    text = path.read_text(encoding="utf-8", errors="replace")
    words = re.findall(r"[a-z]{3,}", text.lower())
    counted = Counter(word for word in words if word not in STOP_WORDS)
    title = next((line.lstrip("# ") for line in text.splitlines() if line.startswith("#")), path.name)
    return {"pages": [{"file": path.name, "title": title, "words": len(words), "top": counted.most_common(50)}]}


def sum_up(state: State) -> dict[str, Any]:
    pages = sorted(state.get("pages", []), key=lambda page: page["file"])
    total: Counter[str] = Counter()
    for page in pages:
        total.update(dict(page["top"]))
    longest = max(pages, key=lambda page: page["words"], default=None)
    digest = {
        "documents": len(pages),
        "words": sum(page["words"] for page in pages),
        "longest": longest and longest["title"],
        "top": [word for word, _ in total.most_common(MOST_WORDS)],
    }
    return {"digest": digest}


def build() -> StateGraph[Any]:
    builder: StateGraph[Any] = StateGraph(State)
    builder.add_node("find", find)
    builder.add_node("read", read, input_schema=Page)
    builder.add_node("sum_up", sum_up)
    builder.add_edge(START, "find")
    builder.add_conditional_edges("find", each_file, ["read", "sum_up"])
    builder.add_edge("read", "sum_up")
    builder.add_edge("sum_up", END)
    return builder


graph = build().compile()
