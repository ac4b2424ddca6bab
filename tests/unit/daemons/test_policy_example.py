"""The example policy, with a chat model that says what is written here."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from daemons.runtime.policies import load_policy
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
