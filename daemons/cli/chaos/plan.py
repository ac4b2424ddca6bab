"""What is broken when: a list of timed faults that depends on the seed alone. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from daemons.cli.chaos.kinds import Kind

# Between the end of a fault and the next one: so long the fleet takes, usually, to be whole again, and a moment in
# which tasks get under way that the next one can hit.
PAUSE_S = 0.8
# Runs shorter than this have short faults only, so that they see many kinds.
LONG_RUN_S = 300.0
SHORT_FAULT_S = 2.5


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        number: from 1.
        at_s: when, in seconds after the start of the run; later if the fleet has not recovered from the last one.
        victim: agent id; "" where the kind has none.
        lasts_s: until it is healed.
        coin: chance that is left to the fault itself, below 1 (which direction, which task).
    """

    number: int
    at_s: float
    kind: Kind
    victim: str
    lasts_s: float
    coin: float


def make_plan(
    seed: int,
    duration_s: float,
    kinds: Mapping[Kind, int | None],
    agents: Mapping[str, Sequence[str]],
    *,
    once: bool = False,
) -> list[Fault]:
    """Faults for so many seconds: first one of each kind, in a random order, then by weight.

    Args:
        kinds: with how often each is to come, if that is fixed; then they come in a random order, and no others.
        agents: agent ids by role.
        once: stop when each kind was there. With that, and with fixed numbers, the duration is a bound.
    """
    chance = Random(seed)
    deck = [kind for kind in kinds for _ in range(kind.weight)]
    fixed = any(kinds.values())
    first = [kind for kind, count in kinds.items() for _ in range(count or 1)]
    chance.shuffle(first)
    plan: list[Fault] = []
    at_s = PAUSE_S
    while kinds and at_s < duration_s and not ((once or fixed) and not first):
        kind = first.pop() if first else chance.choice(deck)
        lasts_s = _lasts_s(kind, chance, duration_s)
        victim = chance.choice(list(agents[kind.victim])) if kind.victim else ""
        fault = Fault(len(plan) + 1, round(at_s, 3), kind, victim, lasts_s, chance.random())
        at_s += lasts_s + PAUSE_S * (1 + chance.random())
        if at_s > duration_s and plan:
            break
        plan.append(fault)
    return plan


def _lasts_s(kind: Kind, chance: Random, duration_s: float) -> float:
    low, high = kind.lasts_s
    if duration_s < LONG_RUN_S:
        high = max(low, min(high, SHORT_FAULT_S))
    if high <= low:
        return low
    # Short ones are more frequent, but all lengths come.
    return round(math.exp(chance.uniform(math.log(low), math.log(high))), 2)
