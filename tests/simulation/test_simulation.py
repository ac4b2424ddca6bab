"""A slice of the simulation; ``make simulate`` runs many seeds."""

from __future__ import annotations

import pytest

from tests.simulation.scenario import run_seed


def test_without_faults_every_task_completes() -> None:
    result = run_seed(1, faults=False)
    assert result.violations == ()
    assert result.accepted == 40


@pytest.mark.parametrize("seed", range(40))
def test_faults_lose_nothing_and_record_nothing_twice(seed: int) -> None:
    result = run_seed(seed)
    assert result.violations == (), result.faults


@pytest.mark.parametrize("seed", [3, 11])
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    assert run_seed(seed).trace == run_seed(seed).trace
