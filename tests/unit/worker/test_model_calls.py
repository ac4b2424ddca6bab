"""What becomes of the report of a call to a chat model."""

from __future__ import annotations

from typing import Any

import pytest

from a2a_zmq.llm.calls import Call
from daemons.meter import PrometheusMeter
from daemons.worker.model_calls import count_call

SENT: list[Any] = ["fast", "gpt", "ok", 1.5, {"input": 11, "output": 7, "cached": 4}, 0.25, "tokens", False]


def value(meter: PrometheusMeter, name: str, **labels: str) -> float | None:
    return meter.registry.get_sample_value(f"a2a_llm_{name}", labels)


def counted(*calls: Call) -> PrometheusMeter:
    unknown: list[str] = []
    meter = PrometheusMeter(on_unknown=unknown.append)
    for call in calls:
        count_call(meter, call)
    assert unknown == []
    return meter


def test_a_call_that_succeeded() -> None:
    meter = counted(Call.parse(SENT), Call.parse(SENT))
    named = {"provider": "fast", "model": "gpt"}
    assert value(meter, "requests_total", **named) == 2
    assert value(meter, "request_seconds_sum", **named) == 3.0
    assert value(meter, "tokens_total", kind="input", **named) == 22
    assert value(meter, "tokens_total", kind="output", **named) == 14
    assert value(meter, "tokens_total", kind="cached", **named) == 8
    assert value(meter, "waits_total", provider="fast", reason="tokens") == 2
    assert value(meter, "wait_seconds_sum", provider="fast") == 0.5
    assert value(meter, "errors_total", reason="ok", **named) is None


def test_one_that_failed_and_one_that_was_not_sent() -> None:
    refused = Call("fast", "gpt", "429", 0.5, {}, 0.0, "", throttled=True)
    unsent = Call("fast", "gpt", "budget", 0.0, {}, 60.0, "requests", throttled=False)
    meter = counted(refused, unsent)
    named = {"provider": "fast", "model": "gpt"}
    assert value(meter, "requests_total", **named) == 1
    assert value(meter, "request_seconds_count", **named) is None
    assert value(meter, "throttled_total", **named) == 1
    assert value(meter, "errors_total", reason="429", **named) == 1
    assert value(meter, "errors_total", reason="budget", **named) == 1
    assert value(meter, "waits_total", provider="fast", reason="requests") == 1


@pytest.mark.parametrize(
    "values",
    [
        [],
        SENT[:-1],
        [*SENT[:4], None, *SENT[5:]],
        [*SENT[:4], {"input": "many"}, *SENT[5:]],
        [*SENT[:3], "long", *SENT[4:]],
    ],
)
def test_what_is_no_call_is_refused(values: list[Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Call.parse(values)
