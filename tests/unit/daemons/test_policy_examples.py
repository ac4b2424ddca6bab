"""The example policies, with a chat model that says what is written here."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from daemons.distributor.consulting import Decision, judge
from daemons.runtime.policy_child import load_policy
from examples.policies import retry_by_chat_model
from examples.policies.placement_by_chat_model import build, prompt

FACTS: Any = {
    "tasks": [
        {"task_id": f"t{number}", "task_type": task_type, "candidates": ["d1", "d2"], "labels": {}, "priority": 0}
        for number, task_type in enumerate(("train", "train", "resize"))
    ],
    "distributors": [{"id": "d1", "load": 3, "slots": 4}, {"id": "d2", "load": 0, "slots": 4}],
}


def decided(says: str) -> Any:
    model = GenericFakeChatModel(messages=iter([AIMessage(content=says)]))
    return asyncio.run(build(model).ainvoke(FACTS))["placements"]


@pytest.mark.parametrize("form", ["{}", "```json\n{}\n```"])
def test_tasks_go_where_the_model_says(form: str) -> None:
    says = form.replace("{}", '{"train": "d2", "resize": "d1"}')
    assert decided(says) == {"t0": "d2", "t1": "d2", "t2": "d1"}


def test_types_that_the_model_does_not_name_are_left_to_the_built_in_rules() -> None:
    assert decided('{"train": "d2"}') == {"t0": "d2", "t1": "d2", "t2": None}


def test_what_is_no_json_raises_and_so_falls_back() -> None:
    with pytest.raises(ValueError, match="Invalid json output"):
        decided("I would rather not.")


def test_the_model_reads_counts_and_not_every_task() -> None:
    assert '"type": "train", "tasks": 2' in prompt(FACTS)
    assert "t0" not in prompt(FACTS)


def test_the_setting_in_its_text_loads() -> None:
    reference = "examples.policies.placement_by_chat_model:graph"
    assert load_policy("placement_policy", reference).name == "placement_by_chat_model"


# ---------------------------------------------------------------- retries

FAILED: Any = {
    "tasks": [
        {
            "task_id": f"t{number}",
            "task_type": "scrape",
            "kind": "raised",
            "error": error,
            "worker": worker,
            "candidates": ["w1", "w2"],
            "failures": 1,
            "max_attempts": 3,
        }
        for number, (error, worker) in enumerate(
            (("429 too many requests", "w1"), ("429 too many requests", "w1"), ("disk full", "w2"), ("404", "w1"))
        )
    ],
    "workers": [],
}


def retried(says: str) -> dict[str, Any]:
    """What the distributor makes of the answer."""
    model = GenericFakeChatModel(messages=iter([AIMessage(content=says)]))
    retries = asyncio.run(retry_by_chat_model.build(model).ainvoke(FAILED))["retries"]
    return {task_id: judge(value, frozenset({"w1", "w2"})) for task_id, value in retries.items()}


def test_the_model_decides_on_each_kind_of_failure() -> None:
    says = """```json
    {"1": {"do": "later", "seconds": 60}, "2": {"do": "elsewhere"}, "3": {"do": "give up", "reason": "No such page."}}
    ```"""
    assert retried(says) == {
        "t0": Decision(after_s=60.0),
        "t1": Decision(after_s=60.0),
        "t2": Decision(avoid=("w2",)),
        "t3": Decision(give_up="No such page."),
    }


def test_failures_that_the_model_does_not_name_are_left_to_the_built_in_rules() -> None:
    assert retried('{"2": {"do": "retry"}, "3": "what?"}') == dict.fromkeys(("t0", "t1", "t2", "t3"))


@pytest.mark.parametrize("seconds", ["-5", '"soon"', "1e12"])
def test_nonsense_of_the_model_is_no_decision(seconds: str) -> None:
    assert isinstance(retried(f'{{"1": {{"do": "later", "seconds": {seconds}}}}}')["t0"], str)


def test_the_model_reads_each_failure_once() -> None:
    shown = retry_by_chat_model.prompt(retry_by_chat_model.alike(FAILED))
    assert shown.count("429") == 1
    assert '"tasks": 2' in shown
    assert "t0" not in shown


def test_the_retry_policys_setting_in_its_text_loads() -> None:
    reference = "examples.policies.retry_by_chat_model:graph"
    assert load_policy("retry_policy", reference).name == "retry_by_chat_model"
