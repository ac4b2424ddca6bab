"""The hash by which a graph is known to be the same one elsewhere.

A checkpoint names channels, nodes and edges. In a graph that has others it resumes *silently wrong*: what a step was to
trigger does not exist, so nothing is left to do. So the hash covers the structure (nodes, what triggers them, channels
and their kinds, edges, subgraphs), and not the code of the nodes, which may be mended while runs wait. What the
functional API makes has no structure: its steps are told apart by the order of the calls, so there the source counts.
"""

from __future__ import annotations

import hashlib
import inspect
import textwrap
from collections.abc import Iterable
from typing import Any

import orjson

# Enough to tell apart what one fleet ever has, short enough for a terminal.
HASH_CHARS = 16


def fingerprint(graph: Any) -> str:
    """The hash of a compiled graph (``langgraph.pregel.Pregel``)."""
    described = orjson.dumps(_describe(graph), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(described).hexdigest()[:HASH_CHARS]


def _describe(graph: Any) -> dict[str, Any]:
    builder = getattr(graph, "builder", None)
    out: dict[str, Any] = {
        "nodes": {name: _node(node) for name, node in graph.nodes.items()},
        "channels": {name: _kind(channel) for name, channel in graph.channels.items()},
        "input": graph.input_channels,
        "output": graph.output_channels,
        "interrupts": [_names(graph.interrupt_before_nodes), _names(graph.interrupt_after_nodes)],
    }
    if builder is None:
        out["source"] = {name: _source(node.bound) for name, node in graph.nodes.items()}
    else:
        out["edges"] = sorted(map(list, builder.edges))
        out["joins"] = sorted([sorted(starts), end] for starts, end in builder.waiting_edges)
        out["branches"] = {
            start: {name: sorted(map(str, (branch.ends or {}).values())) for name, branch in branches.items()}
            for start, branches in builder.branches.items()
        }
    return out


def _node(node: Any) -> dict[str, Any]:
    channels = node.channels
    return {
        "triggers": sorted(node.triggers),
        "channels": channels if isinstance(channels, str) else sorted(channels),
        "subgraphs": [_describe(each) for each in node.subgraphs or () if hasattr(each, "nodes")],
    }


def _kind(channel: Any) -> str:
    """The kind of a channel; a reducer counts by its name."""
    operator = getattr(channel, "operator", None)
    reducer = getattr(operator, "__qualname__", "") if operator is not None else ""
    return f"{type(channel).__name__} {reducer}".strip() if hasattr(channel, "update") else f"managed {channel!r}"


def _names(nodes: Iterable[str] | str) -> list[str]:
    return [nodes] if isinstance(nodes, str) else sorted(nodes)


def _source(bound: Any) -> str:
    function = inspect.unwrap(getattr(bound, "afunc", None) or getattr(bound, "func", None) or bound)
    function = getattr(function, "func", function)  # a partial
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(function).__name__)}"
