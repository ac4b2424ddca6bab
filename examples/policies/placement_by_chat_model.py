r"""A placement policy that asks a chat model which distributor should run what. See docs/policies.md.

    PYTHONPATH=. PLACEMENT_MODEL=openai:gpt-4.1-mini \
        a2a-coordinator --placement-policy examples.policies.placement_by_chat_model:graph --policy-timeout-ms 5000

``PLACEMENT_MODEL`` is what LangChain's ``init_chat_model`` takes; ``pip install langchain`` and the package of your
provider, for example ``langchain-openai``.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from importlib import import_module
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers import JsonOutputParser
from langgraph.graph import END, START, StateGraph

from a2a_zmq.policies import PlacementState

INSTRUCTIONS = """You place tasks on sites. Prefer the site with the lowest load per slot; keep tasks of one type
together where that costs little. Answer with one JSON object that maps each task type to the id of one candidate."""


def configured_model() -> BaseChatModel:
    model: BaseChatModel = import_module("langchain.chat_models").init_chat_model(
        os.environ["PLACEMENT_MODEL"], temperature=0
    )
    return model


def prompt(state: PlacementState) -> str:
    """Counts by type instead of single tasks: the model's time grows with what it reads."""
    tasks = state["tasks"]
    counts = Counter(task["task_type"] for task in tasks)
    candidates = {task["task_type"]: task["candidates"] for task in tasks}
    sites = [{name: site[name] for name in ("id", "load", "slots")} for site in state["distributors"]]
    types = [{"type": name, "tasks": count, "candidates": candidates[name]} for name, count in counts.items()]
    return json.dumps({"sites": sites, "types": types})


def build(model: BaseChatModel | None = None) -> Any:
    """The graph, compiled.

    Args:
        model: whom to ask; by default the one that ``PLACEMENT_MODEL`` names, made when it is first needed.
    """
    models = [model] if model is not None else []

    async def decide(state: PlacementState) -> PlacementState:
        if not models:
            models.append(await asyncio.to_thread(configured_model))
        said = await models[0].ainvoke([("system", INSTRUCTIONS), ("human", prompt(state))])
        choice = JsonOutputParser().invoke(
            said
        )  # raises where that is no JSON: then the built-in rules place the batch
        return {"placements": {task["task_id"]: choice.get(task["task_type"]) for task in state["tasks"]}}

    policy = StateGraph(PlacementState)
    policy.add_node("decide", decide)
    policy.add_edge(START, "decide")
    policy.add_edge("decide", END)
    return policy.compile(name="placement_by_chat_model")


graph = build()
