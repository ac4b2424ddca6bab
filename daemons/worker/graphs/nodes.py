"""A span for each run of a graph's node, the current one while it runs. In child processes, where traces are reported.

LangGraph tells callbacks of everything that runs; the runs of nodes are those that it marks with the step. They are
known by their ids, not by the context that they run in: so a node is a child of the run of its graph, and that of a
subgraph a child of the node that called it, whatever runs at the same time.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langgraph.errors import GraphBubbleUp
from opentelemetry import context as current
from opentelemetry import trace as api

from a2a_zmq.handlers import TaskContext
from a2a_zmq.tracing.export import SCOPE, Exporter
from a2a_zmq.tracing.spans import NODE
from daemons.worker.executors.invoke import one_line

# The tag that LangGraph gives the run of a node, before the number of its step.
STEP_TAG: Final = "graph:step:"


class NodeSpans(BaseCallbackHandler):
    """Callbacks of one run of a graph."""

    run_inline = True  # in the context of the node, in which its span is to be the current one

    def __init__(self, exporter: Exporter, task: TaskContext) -> None:
        self._tracer = exporter.handlers.get_tracer(SCOPE)
        self._clean = exporter.clean
        self._task = task
        self._around = api.get_current_span()  # the run of the task
        self._spans: dict[UUID, api.Span] = {}  # run of whatever kind → the span that it belongs to
        self._parents: dict[UUID, api.Span] = {}  # run of a node → the parent of its span

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        parent = self._spans.get(parent_run_id, self._around) if parent_run_id is not None else self._around
        step = next((tag for tag in tags or () if tag.startswith(STEP_TAG)), None)
        if step is None:
            self._spans[run_id] = parent
            return
        told = metadata or {}
        node = str(told.get("langgraph_node") or kwargs.get("name") or "")
        span = self._tracer.start_span(
            f"{NODE} {node}",
            api.set_span_in_context(parent),
            attributes={
                "a2a.task_id": self._task.task_id,
                "a2a.attempt": self._task.attempt,
                "langgraph.node": node,
                "langgraph.step": int(step.removeprefix(STEP_TAG)),
                "langgraph.namespace": str(told.get("langgraph_checkpoint_ns") or ""),
            },
        )
        self._spans[run_id] = span
        self._parents[run_id] = parent
        current.attach(api.set_span_in_context(span))

    def on_chain_end(self, outputs: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        self._ended(run_id, None)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._ended(run_id, error)

    def _ended(self, run_id: UUID, error: BaseException | None) -> None:
        span, parent = self._spans.pop(run_id, None), self._parents.pop(run_id, None)
        if span is None or parent is None:
            return
        if isinstance(error, GraphBubbleUp):  # it asks something, or goes to another graph: that is no error
            span.set_attribute("langgraph.interrupted", True)
        elif error is not None:
            span.set_status(api.Status(api.StatusCode.ERROR, self._clean(one_line(error))))
        span.end()
        current.attach(api.set_span_in_context(parent))
