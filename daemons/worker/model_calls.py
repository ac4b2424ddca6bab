"""Counting what runs ask of chat models. Pure."""

from __future__ import annotations

from a2a_zmq.llm import calls
from a2a_zmq.llm.calls import Call
from daemons.runtime.contract import Meter


def count_call(meter: Meter, call: Call) -> None:
    provider, model = call.provider, call.model
    if call.waited_for:
        meter.count("llm_waits_total", provider=provider, reason=call.waited_for)
        meter.observe("llm_wait_seconds", call.waited_s, provider=provider)
    if call.outcome != calls.REFUSED:
        meter.count("llm_requests_total", provider=provider, model=model)
    if call.outcome != calls.OK:
        meter.count("llm_errors_total", provider=provider, model=model, reason=call.outcome)
    else:
        meter.observe("llm_request_seconds", call.seconds, provider=provider, model=model)
    if call.throttled:
        meter.count("llm_throttled_total", provider=provider, model=model)
    for kind, number in call.tokens.items():
        meter.count("llm_tokens_total", number, provider=provider, model=model, kind=kind)
