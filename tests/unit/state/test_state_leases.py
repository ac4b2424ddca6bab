"""The lease rules and the keeper, on a clock of their own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2a_zmq.errors import StateError
from a2a_zmq.interfaces import Held
from a2a_zmq.state.lease_rules import (
    Grant,
    LeaseKeeper,
    LeaseStep,
    decide,
    lease_value,
    parse_lease_value,
    safe_until,
)

TTL_MS = 5000


def held(asked_at: float, fence: int = 1) -> Held:
    return Held("lease", "me", fence, safe_until(asked_at, TTL_MS))


def keeper(chance: float = 0.5) -> LeaseKeeper:
    return LeaseKeeper(TTL_MS, lambda: chance)


def test_a_lease_text_keeps_an_owner_with_bars() -> None:
    assert parse_lease_value(lease_value("a|host|1|2|boot", 17)) == ("a|host|1|2|boot", 17)


@pytest.mark.parametrize("text", ["", "foreign", "a|host|1|2|boot|", "a|-1", "a|1_0", "a| 1", "a|²"])
def test_a_foreign_text_is_named_with_its_key(text: str) -> None:
    with pytest.raises(StateError, match=r"^lease:x holds a foreign text: "):
        parse_lease_value(text, "lease:x")


@pytest.mark.parametrize(
    ("lease", "recorded", "options", "expected"),
    [
        (None, 0, {}, Grant(1, write=True)),
        (None, 4, {}, Grant(5, write=True)),
        (None, 4, {"min_fence": 9}, Grant(10, write=True)),
        ("other|4", 4, {}, None),
        ("other|4", 4, {"steal_from": "someone"}, None),
        ("other|4", 4, {"steal_from": "other"}, Grant(5, write=True)),
        ("me|4", 4, {}, Grant(4, write=False)),
        ("me|4", 6, {}, Grant(7, write=True)),  # a header from after ours: never write with a fence behind it
        ("me|4", 4, {"min_fence": 4}, Grant(5, write=True)),
        ("me|4", 4, {"new_epoch": True}, Grant(5, write=True)),
        ("me|9", 0, {"min_fence": 2}, Grant(9, write=False)),
        ("other|9", 0, {"steal_from": "other"}, Grant(10, write=True)),  # the header was lost, the lease was not
    ],
)
def test_who_gets_a_lease_and_with_which_fence(
    lease: str | None, recorded: int, options: dict[str, object], expected: Grant | None
) -> None:
    steal_from, min_fence = options.get("steal_from"), options.get("min_fence", 0)
    assert steal_from is None or isinstance(steal_from, str)
    assert isinstance(min_fence, int)
    grant = decide(
        lease, recorded, "me", steal_from=steal_from, min_fence=min_fence, new_epoch=bool(options.get("new_epoch"))
    )
    assert grant == expected


def test_a_new_keeper_asks_at_once_and_only_once() -> None:
    k = keeper()
    assert k.step(0.0) is LeaseStep.ACQUIRE
    assert k.step(100.0) is None
    assert k.next_deadline() == math.inf
    assert not k.may_act(0.0)


@given(chance=st.floats(0, 1, exclude_max=True))
def test_a_lease_is_renewed_at_a_third_of_its_time_give_or_take_a_fifth(chance: float) -> None:
    k = keeper(chance)
    k.step(0.0)
    k.acquired(held(0.0), 0.01)
    assert k.may_act(0.02)
    due = k.next_deadline()
    assert 1.333 <= due - 0.01 <= 2.001
    assert k.step(due - 0.001) is None
    assert k.step(due) is LeaseStep.RENEW


def test_a_renewal_moves_the_end() -> None:
    k = keeper()
    k.step(0.0)
    k.acquired(held(0.0), 0.0)
    assert k.step(2.0) is LeaseStep.RENEW
    assert k.held is not None
    k.held.safe_until = safe_until(2.0, TTL_MS)
    k.renewed(2.1)
    assert k.may_act(5.0)
    assert k.step(3.0) is None


def test_without_a_renewal_it_stops_before_the_lease_ends_and_says_so_once() -> None:
    k = keeper()
    k.step(0.0)
    k.acquired(held(0.0), 0.0)
    steps, now = [], 0.0
    while now < 6.0:
        step = k.step(now)
        if step is not None:
            steps.append((step, now))
        if step in (LeaseStep.RENEW, LeaseStep.ACQUIRE):
            k.unavailable(now)
        now = round(now + 0.05, 2)
    kinds = [step for step, _ in steps]
    assert kinds.count(LeaseStep.STOP) == 1
    stopped_at = next(at for step, at in steps if step is LeaseStep.STOP)
    assert 3.3 <= stopped_at <= 3.4
    assert kinds[0] is LeaseStep.RENEW
    assert kinds[-1] is LeaseStep.ACQUIRE
    assert kinds.index(LeaseStep.STOP) > 2  # several renewals were tried before


def test_a_renewal_without_an_answer_does_not_keep_it_acting() -> None:
    k = keeper()
    k.step(0.0)
    k.acquired(held(0.0), 0.0)
    assert k.step(2.0) is LeaseStep.RENEW
    assert k.next_deadline() == pytest.approx(3.3)
    assert k.step(3.31) is LeaseStep.STOP
    k.renewed(3.4)  # the answer came after all, too late
    assert not k.may_act(3.4)
    assert k.step(3.4) is LeaseStep.ACQUIRE


def test_a_lost_lease_is_asked_for_again_at_once() -> None:
    k = keeper()
    k.step(0.0)
    k.acquired(held(0.0), 0.0)
    k.step(2.0)
    k.lost(2.1)
    assert not k.may_act(2.1)
    assert k.step(2.1) is LeaseStep.ACQUIRE


def test_a_refused_keeper_asks_again_soon_but_not_before_the_lease_can_end() -> None:
    k = keeper()
    k.step(0.0)
    k.refused(1.0, 5000)
    assert 1.2 <= k.next_deadline() <= 1.3
    assert k.step(1.1) is None
    assert k.step(1.3) is LeaseStep.ACQUIRE
    k.refused(1.3, 10)
    assert 1.31 < k.next_deadline() < 1.4


def test_a_keeper_that_is_woken_late_stops_rather_than_renews() -> None:
    k = keeper()
    k.step(0.0)
    k.acquired(held(0.0), 0.0)
    assert k.step(60.0) is LeaseStep.STOP
    assert k.step(60.0) is LeaseStep.ACQUIRE
