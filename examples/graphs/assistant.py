"""A chat agent that uses tools: it calculates, and reads the documents of one folder, until it can answer.

::

    model ─┬─> answer
      ▲    └── tools ──┐
      └──────────────┘

Each question and each use of a tool is a step of its own, so when the worker dies no question is asked twice that was
answered. The model is the provider ``assistant`` of the settings; several messages to one ``thread_id`` are a
conversation.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from langchain_core.messages import SystemMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode, tools_condition

from a2a_zmq.llm import chat_model

PROVIDER = "assistant"
INSTRUCTIONS = (
    "You are a helpful assistant. Use the tools to calculate and to read documents. Answer in short sentences."
)
MAX_CHARS = 4000
MAX_FILES = 100
# What a calculation may do; powers of powers would take for ever.
LARGEST = 10**12
OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


class State(MessagesState, total=False):
    """
    Attributes:
        folder: whose documents may be read; without it none.
    """

    folder: str


@tool
def calculate(expression: str) -> str:
    """The value of an arithmetic expression, for example "(3 + 4) * 2 / 7"."""
    return str(_value(ast.parse(expression, mode="eval").body))


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)  # type: ignore[arg-type]  # it is one of these
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return _bounded(OPERATORS[type(node.op)](_value(node.operand)))
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow) and abs(right) > 64:
            raise ValueError("the exponent is too large")
        return _bounded(OPERATORS[type(node.op)](left, right))
    raise ValueError("only numbers and + - * / // % ** are calculated")


def _bounded(number: float) -> float:
    if isinstance(number, complex) or abs(number) > LARGEST:
        raise ValueError("the number is too large")
    return number


@tool
def list_documents(folder: Annotated[str, InjectedState("folder")]) -> str:
    """Names of the documents that can be read."""
    root = Path(folder).resolve()
    names = (str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.suffix in (".md", ".txt"))
    return "\n".join(name for name, _ in zip(names, range(MAX_FILES), strict=False)) or "there are none"


@tool
def read_document(name: str, folder: Annotated[str, InjectedState("folder")]) -> str:
    """The text of one of the documents, by its name."""
    root = Path(folder).resolve()
    path = (root / name).resolve()  # where links and dots lead
    if not path.is_relative_to(root) or path.suffix not in (".md", ".txt") or not path.is_file():
        raise ValueError(f"there is no document {name!r}")
    return path.read_text(encoding="utf-8", errors="replace")[:MAX_CHARS]


TOOLS = [calculate, list_documents, read_document]


async def ask(state: State) -> dict[str, Any]:
    tools = TOOLS if state.get("folder") else TOOLS[:1]
    model = chat_model(PROVIDER).bind_tools(tools)
    return {"messages": [await model.ainvoke([SystemMessage(INSTRUCTIONS), *state["messages"]])]}


def build() -> StateGraph[Any]:
    builder: StateGraph[Any] = StateGraph(State)
    builder.add_node("model", ask)
    # What a tool complains of is the model's to mend.
    builder.add_node("tools", ToolNode(TOOLS, handle_tool_errors=True))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder


graph = build().compile()
