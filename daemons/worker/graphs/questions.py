"""What a graph's run asks, and which answers it has taken already.

LangGraph keeps the answers that a node has got in pending writes, and stores them together with the next question. An
answer that comes again after that (its worker died before it had told of the next question) would be taken for the
answer to the next one: older versions give all questions of a node the same id, newer ones still accept it. So a
question's id says how many answers came before it, and an answer is handed on only as long as no more have come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langgraph.checkpoint.serde.types import INTERRUPT, RESUME

SEPARATOR = "."

Writes = Sequence[tuple[str, str, Any]]  # task, channel, value


def ask(interrupts: Iterable[Any], pending: Writes) -> list[dict[str, Any]]:
    """These questions as the fleet knows them.

    Args:
        interrupts: LangGraph's ``Interrupt`` objects.
        pending: writes of the thread's newest checkpoints.
    """
    answered = _answered(pending)
    return [{"id": _named(each.id, answered.get(each.id, 0)), "value": each.value} for each in interrupts]


def not_taken(answers: Mapping[str, Any], pending: Writes) -> dict[str, Any]:
    """LangGraph's id → answer, of those that the run has not taken yet."""
    answered = _answered(pending)
    found: dict[str, Any] = {}
    for name, value in answers.items():
        interrupt_id, _, count = name.partition(SEPARATOR)
        if answered.get(interrupt_id, -1) == int(count or "0"):
            found[interrupt_id] = value
    return found


def _answered(pending: Writes) -> dict[str, int]:
    """How many answers were taken, by the ids of the questions that are open."""
    taken = {task: len(value) for task, channel, value in pending if channel == RESUME and isinstance(value, list)}
    found: dict[str, int] = {}
    for task, channel, value in pending:
        for each in value if channel == INTERRUPT else ():
            # A graph around the one that asks has the same question, without the answers before it.
            found[each.id] = max(found.get(each.id, 0), taken.get(task, 0))
    return found


def _named(interrupt_id: str, count: int) -> str:
    return f"{interrupt_id}{SEPARATOR}{count}" if count else interrupt_id
