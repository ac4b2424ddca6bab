"""Cuts a failing plan down to the events that it needs (delta debugging)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.simulation.plan import Event, Plan
from tests.simulation.scenario import Result, run

T = TypeVar("T")


def kinds_of(result: Result) -> set[str]:
    """What was violated, without names and numbers."""
    return {re.sub(r"[\w~]*[-~\d][\w.-]*|\[.*\]", "…", each)[:60] for each in result.violations}


def smallest(items: Sequence[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """A part of the items that still fails and of which nothing single can be left out.

    Args:
        fails: whether a part fails as the whole does.
    """
    kept = list(items)
    size = max(1, len(kept) // 2)
    while True:
        position, shrunk = 0, False
        while position < len(kept):
            without = kept[:position] + kept[position + size :]
            if fails(without):
                kept, shrunk = without, True
            else:
                position += size
        if size == 1 and not shrunk:
            return kept
        size = max(1, size // 2) if not shrunk or size > 1 else 1


def shrink(plan: Plan) -> tuple[Plan, Result, int]:
    """The smallest failing plan, what it gives, and how many runs that took; a plan that does not fail stays."""
    runs = 1
    best = run(plan)
    wanted = kinds_of(best)

    def fails(candidate: Plan) -> bool:
        nonlocal runs, best
        runs += 1
        result = run(candidate)
        if not wanted & kinds_of(result):
            return False
        best = result
        return True

    if not wanted:
        return plan, best, runs
    if plan.distributors > 1:
        places = {arg for event in plan.events for arg in event.args if isinstance(arg, str)}
        fewer = dataclasses.replace(plan, distributors=1)
        if not any(place.startswith(("distributor-2", "worker-2")) for place in places) and fails(fewer):
            plan = fewer
    events: list[Event] = smallest(plan.events, lambda some: fails(dataclasses.replace(plan, events=tuple(some))))
    plan = dataclasses.replace(plan, events=tuple(events))
    return plan, run(plan, keep_notes=True), runs + 1


def main(plan: Plan) -> int:
    """Print the smallest plan and its trace; exit status 1 if it fails."""
    small, result, runs = shrink(plan)
    if not result.violations:
        print(f"seed {plan.seed} does not fail")
        return 0
    print("\n".join(result.notes))
    print(f"seed {plan.seed}, mode {plan.mode}: {len(plan.events)} events became {len(small.events)} in {runs} runs:")
    print("".join(f"  {event}\n" for event in small.events), end="")
    print(f"with {small.distributors} distributors; violations:", *result.violations, sep="\n  ")
    return 1
