"""The circuit to Redis."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemons.runtime.breaker import PAUSE_MAX_S, PAUSE_MIN_S, Breaker, Circuit


def test_a_refused_connection_opens_it_at_once_and_a_single_late_reply_does_not() -> None:
    breaker = Breaker(lambda: 0.5)
    breaker.failed("timeout", certain=False)
    assert breaker.closed
    breaker.failed("timeout", certain=False)
    assert breaker.state is Circuit.OPEN
    refused = Breaker(lambda: 0.5)
    refused.failed("connection")
    assert (refused.state, refused.reason) == (Circuit.OPEN, "connection")


def test_a_success_between_two_late_replies_keeps_it_closed() -> None:
    breaker = Breaker(lambda: 0.5)
    for _ in range(5):
        breaker.failed("timeout", certain=False)
        breaker.succeeded()
    assert breaker.closed


def test_an_answered_probe_half_opens_it_and_only_a_success_closes_it() -> None:
    breaker = Breaker(lambda: 0.5)
    breaker.failed("oom")
    states = []
    for step in (breaker.answered, lambda: breaker.failed("oom"), breaker.answered, breaker.succeeded):
        step()
        states.append(breaker.state)
    assert states == [Circuit.HALF_OPEN, Circuit.OPEN, Circuit.HALF_OPEN, Circuit.CLOSED]
    assert breaker.reason == ""


def test_every_transition_is_told_once() -> None:
    told: list[Circuit] = []
    breaker = Breaker(lambda: 0.5, lambda: told.append(breaker.state))
    for step in (breaker.answered, breaker.succeeded):
        step()
    for _ in range(3):
        breaker.failed("connection")
    breaker.answered()
    breaker.answered()
    breaker.succeeded()
    assert told == [Circuit.OPEN, Circuit.HALF_OPEN, Circuit.CLOSED]


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 10_000))
def test_pauses_between_probes_are_bounded(chance: float, failures: int) -> None:
    breaker = Breaker(lambda: chance)
    breaker.failures = failures
    assert PAUSE_MIN_S / 2 <= breaker.pause_s() <= PAUSE_MAX_S
