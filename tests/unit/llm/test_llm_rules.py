"""Rules of calls to chat models: how long a provider asks to wait, what is repeated, who gives up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2a_zmq.errors import ModelBusy
from a2a_zmq.llm import rules
from a2a_zmq.llm.rules import Answer, Waiting, judge, retry_after

NOON = 1_794_000_000.0  # Fri, 06 Nov 2026 20:00:00 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "12"}, 12.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "999999999"}, rules.LONGEST_PAUSE_S),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({"Retry-After": "Fri, 06 Nov 2026 21:20:30 GMT"}, 30.0),
        ({"Retry-After": "Fri, 06 Nov 2026 21:19:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOON) == seconds


def test_a_date_is_compared_with_the_answers_own_clock() -> None:
    headers = {"Date": "Fri, 06 Nov 2026 10:00:00 GMT", "Retry-After": "Fri, 06 Nov 2026 10:00:07 GMT"}
    assert retry_after(headers, NOON) == 7.0


@given(st.dictionaries(st.sampled_from(["Retry-After", "retry-after-ms", "Date"]), st.text(max_size=30)))
def test_whatever_a_provider_says_pauses_are_bounded(headers: dict[str, str]) -> None:
    seconds = retry_after(headers, NOON)
    assert seconds is None or 0 <= seconds <= rules.LONGEST_PAUSE_S


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_provider_that_asks_for_less_pauses_everybody(status: int) -> None:
    failure = judge("other", status, 7.0, 0, lambda: 0.5)
    assert (failure.again, failure.pause_s, failure.sleep_s, failure.unbilled) == (True, 7.0, 0.0, True)


@pytest.mark.parametrize(
    ("kind", "status", "again"),
    [
        ("other", 500, True),
        ("other", 503, True),
        ("other", 408, True),
        ("other", 400, False),
        ("other", 401, False),
        ("timeout", None, True),
        ("connection", None, True),
        ("cancelled", None, False),
        ("other", None, False),
    ],
)
def test_what_may_end_otherwise_is_tried_again(kind: str, status: int | None, again: bool) -> None:
    failure = judge(kind, status, None, 0, lambda: 0.5)
    assert failure.again is again
    assert failure.pause_s == 0
    assert failure.reason == (kind if status is None else str(status))


def test_a_refusal_without_a_time_pauses_longer_each_time() -> None:
    pauses = [judge("other", 429, None, tries, lambda: 0.5).pause_s for tries in range(8)]
    assert pauses == sorted(pauses)
    assert pauses[0] == rules.BACKOFF_S
    assert pauses[-1] == rules.LONGEST_BACKOFF_S


def test_who_waits_asks_again_before_its_time_is_over() -> None:
    waiting = Waiting("fast", 100.0, 110.0)
    assert waiting.missing == ""
    assert waiting.pause(Answer(False, 0.4, "requests"), 100.0, 0.0) == 0.4
    assert waiting.pause(Answer(False, 9.0, "tokens"), 100.5, 0.0) == rules.LATEST_S
    assert waiting.missing == "tokens"
    assert waiting.pause(Answer(False, 0.001, "concurrency"), 109.99, 1.0) == pytest.approx(0.01)


@pytest.mark.parametrize(("wait_s", "now"), [(11.0, 100.0), (0.05, 110.0), (60.0, 105.0)])
def test_who_would_be_too_late_hears_so_at_once(wait_s: float, now: float) -> None:
    with pytest.raises(ModelBusy, match="'fast'") as caught:
        Waiting("fast", 100.0, 110.0).pause(Answer(False, wait_s, "requests"), now, 0.0)
    assert caught.value.retry_after_s >= wait_s
    assert caught.value.missing == "requests"


@given(st.floats(0, 4000), st.floats(0, 1), st.floats(100, 109.9))
def test_a_wait_never_ends_long_after_its_time(wait_s: float, chance: float, now: float) -> None:
    try:
        pause = Waiting("fast", 100.0, 110.0).pause(Answer(False, wait_s, "tokens"), now, chance)
    except ModelBusy:
        return
    assert 0 < pause <= 110.001 - now
    assert not math.isnan(pause)
