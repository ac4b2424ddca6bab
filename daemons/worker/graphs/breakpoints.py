"""Where a run stands still: before or after nodes that the graph, or the task, names (``interrupt_before`` …).

LangGraph just returns there, and goes on when it is called again for the same thread. So after a run of a graph that
has breakpoints it is looked up whether anything is left to do; if so the task waits, with a question whose id names the
checkpoints that it stands at. An answer counts for these: LangGraph would go past the next breakpoint as well if a
worker died after it had reached that one, and before it had told of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from typing import Any, Final

from a2a_zmq.handlers import InvalidInput
from daemons.worker.graphs.payload import GraphRequest

ID: Final = "breakpoint-"
ID_CHARS: Final = 12

Nodes = Collection[str] | str


class Breakpoints:
    """Of one run.

    Attributes:
        nested: a subgraph has some of its own.
    """

    def __init__(self, compiled: Any, request: GraphRequest) -> None:
        """
        Raises:
            InvalidInput: the task names a node that the graph does not have.
        """
        for member in ("interrupt_before", "interrupt_after"):
            named = getattr(request, member)
            for node in named if isinstance(named, list) else ():
                if node not in compiled.nodes:
                    has = ", ".join(name for name in compiled.nodes if not name.startswith("__"))
                    raise InvalidInput(f"{member}: the graph has no node {node!r}, only {has}")
        self._before: Nodes = request.interrupt_before or compiled.interrupt_before_nodes
        self._after: Nodes = request.interrupt_after or compiled.interrupt_after_nodes
        self.nested = any(_has_some(subgraph) for subgraph in _subgraphs(compiled))

    def __bool__(self) -> bool:
        return bool(self._before or self._after or self.nested)

    async def reached(self, compiled: Any, config: dict[str, Any]) -> dict[str, Any] | None:
        """The question of a run that ended here without one; None if it has really ended."""
        snapshot = await compiled.aget_state(config, subgraphs=self.nested)
        return _question(snapshot) if snapshot.next else None

    async def unanswered(
        self, compiled: Any, config: dict[str, Any], run_id: str, answers: Collection[str]
    ) -> dict[str, Any] | None:
        """The question that an earlier attempt of this run has come to, if none of the answers is for it."""
        found = [each async for each in compiled.aget_state_history(config, limit=2)]
        if not found or (found[0].metadata or {}).get("run_id") != run_id or not found[0].next:
            return None
        if any(task.result is not None or task.interrupts or task.error for task in found[0].tasks):
            return None  # the step has begun, so it went on from here
        ran = found[1].next if len(found) > 1 else ()
        if not (_any_in(found[0].next, self._before) or _any_in(ran, self._after)):
            return None
        question = _question(found[0])
        return None if question["id"] in answers else question


def _question(snapshot: Any) -> dict[str, Any]:
    deepest = list(_deepest(snapshot))
    stands = hashlib.sha256("\n".join(each.config["configurable"]["checkpoint_id"] for each in deepest).encode())
    nodes = [name for each in deepest for name in each.next]
    value = {"breakpoint": f"stands before {', '.join(nodes)}", "next": nodes}
    return {"id": ID + stands.hexdigest()[:ID_CHARS], "value": value}


def _deepest(snapshot: Any) -> Iterator[Any]:
    """Where it stands in subgraphs, or here if in none."""
    within = [task.state for task in snapshot.tasks if getattr(task.state, "next", None)]
    for each in within:
        yield from _deepest(each)
    if not within:
        yield snapshot


def _any_in(names: Collection[str], nodes: Nodes) -> bool:
    return any(not name.startswith("__") for name in names) if nodes == "*" else any(name in nodes for name in names)


def _subgraphs(compiled: Any) -> Iterator[Any]:
    for node in compiled.nodes.values():
        yield from (each for each in node.subgraphs or () if hasattr(each, "nodes"))


def _has_some(graph: Any) -> bool:
    own = graph.interrupt_before_nodes or graph.interrupt_after_nodes
    return bool(own) or any(_has_some(each) for each in _subgraphs(graph))
