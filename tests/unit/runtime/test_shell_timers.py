"""Timers of the real event loop: a deadline is kept without looking again and again whether it has come."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from a2a_zmq.clock import timer_delay_s


@pytest.mark.parametrize("wait_s", [0.0001, 0.0004, 0.0011, 0.0014, 0.0026, 0.005])
def test_a_timer_never_fires_before_its_deadline(wait_s: float) -> None:
    async def fired_after() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(timer_delay_s(wait_s))
        return loop.time() - began

    # The loop's clock stands still while it works, so what it says may be a little less than what passed.
    assert uvloop.run(fired_after()) >= wait_s - 0.0002


def test_timer_delays_are_whole_milliseconds_and_never_negative() -> None:
    assert [timer_delay_s(wait_s) for wait_s in (-1.0, 0.0, 0.0001, 0.0015, 0.002)] == [0.0, 0.0, 0.001, 0.002, 0.002]
