"""The authorisation table and retries."""

from __future__ import annotations

import random

import pytest

from a2a_zmq.protocol import (
    MessageType,
    Role,
    allowed,
    equal_jitter,
    may_join,
)
from a2a_zmq.protocol.authz import ALLOWED
from a2a_zmq.protocol.retry import Budget, BudgetPolicy, charge, refilled, succeeded

REQUEST, RESPONSE, EVENT = MessageType.REQUEST, MessageType.RESPONSE, MessageType.EVENT
CLIENT, OPERATOR, COORDINATOR, DISTRIBUTOR, WORKER = Role


@pytest.mark.parametrize(
    ("sender", "recipient", "type_", "action"),
    [
        (CLIENT, COORDINATOR, REQUEST, "submit_tasks"),
        (COORDINATOR, CLIENT, RESPONSE, "submit_tasks"),
        (COORDINATOR, CLIENT, EVENT, "task_results"),
        (OPERATOR, COORDINATOR, REQUEST, "retry_tasks"),
        (COORDINATOR, DISTRIBUTOR, REQUEST, "assign_tasks"),
        (COORDINATOR, DISTRIBUTOR, REQUEST, "assign_task"),
        (DISTRIBUTOR, COORDINATOR, EVENT, "workers_changed"),
        (DISTRIBUTOR, WORKER, REQUEST, "assign_tasks"),
        (WORKER, DISTRIBUTOR, EVENT, "task_handback"),
        (WORKER, DISTRIBUTOR, MessageType.HEARTBEAT, "heartbeat"),
        (DISTRIBUTOR, WORKER, MessageType.ACK, "ack"),
        (WORKER, DISTRIBUTOR, MessageType.ERROR, "assign_tasks"),
    ],
)
def test_what_is_allowed(sender: Role, recipient: Role, type_: MessageType, action: str) -> None:
    assert allowed(sender, recipient, type_, action)


@pytest.mark.parametrize(
    ("sender", "recipient", "type_", "action"),
    [
        (CLIENT, COORDINATOR, REQUEST, "retry_tasks"),
        (CLIENT, COORDINATOR, REQUEST, "drain_agent"),
        (CLIENT, COORDINATOR, EVENT, "task_results"),
        (CLIENT, COORDINATOR, RESPONSE, "submit_tasks"),
        (CLIENT, DISTRIBUTOR, REQUEST, "assign_tasks"),
        (CLIENT, CLIENT, EVENT, "goodbye"),
        (WORKER, DISTRIBUTOR, REQUEST, "assign_tasks"),
        (WORKER, DISTRIBUTOR, EVENT, "workers_changed"),
        (WORKER, COORDINATOR, EVENT, "task_results"),
        (WORKER, WORKER, MessageType.ERROR, ""),
        (DISTRIBUTOR, COORDINATOR, REQUEST, "submit_tasks"),
        (DISTRIBUTOR, WORKER, REQUEST, "resync"),
        (COORDINATOR, DISTRIBUTOR, EVENT, "ready"),
        (WORKER, DISTRIBUTOR, EVENT, "ready"),
        (WORKER, DISTRIBUTOR, EVENT, ""),
    ],
)
def test_what_is_not(sender: Role, recipient: Role, type_: MessageType, action: str) -> None:
    assert not allowed(sender, recipient, type_, action)


def test_who_may_join_whom() -> None:
    pairs = {(spoke, hub) for spoke in Role for hub in Role if may_join(spoke, hub)}
    assert pairs == {(CLIENT, COORDINATOR), (OPERATOR, COORDINATOR), (DISTRIBUTOR, COORDINATOR), (WORKER, DISTRIBUTOR)}
    assert {frozenset(pair) for pair in ALLOWED} == {frozenset(pair) for pair in pairs}


def test_backoff_grows_to_its_cap_and_is_spread_over_the_upper_half() -> None:
    assert [equal_jitter(n, base_s=0.1, cap_s=1.0, rng=lambda: 1.0) for n in range(6)] == pytest.approx(
        [0.1, 0.1, 0.2, 0.4, 0.8, 1.0]
    )
    assert equal_jitter(10_000, base_s=0.1, cap_s=1.0, rng=lambda: 0.0) == 0.5
    rng = random.Random(1).random
    drawn = [equal_jitter(3, base_s=0.1, cap_s=1.0, rng=rng) for _ in range(200)]
    assert 0.2 <= min(drawn) < 0.25
    assert 0.35 < max(drawn) <= 0.4


def test_a_budget_puts_retries_off_one_after_the_other_and_refills() -> None:
    policy = BudgetPolicy(most=3, per_s=2, per_success=0.5, longest_s=2)
    budget = Budget(2, 0)
    waits = []
    for _ in range(8):
        wait_s, budget = charge(budget, policy, 0)
        waits.append(wait_s)
    assert waits == [0, 0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0], "at most so long"
    assert succeeded(budget, policy, 0).tokens == budget.tokens + 0.5
    assert refilled(budget, policy, 3).tokens == 2
    assert refilled(budget, policy, 100).tokens == 3
    assert refilled(Budget(1, 5), policy, 0.1) == Budget(1, 5)  # time does not run backwards
