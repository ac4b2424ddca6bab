"""Texts that are kept cost about as much memory as they have bytes; else no bound in bytes holds."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from a2a_zmq.encoding import kept_json
from a2a_zmq.errors import MalformedMessage
from a2a_zmq.protocol.strict import dumps

RECORD = {"task_id": "0037ed796b6013d3234f00191faa", "status": "completed", "metadata": {"worker": "worker-1"}}


def overhead(encode: Callable[[Any], bytes], value: Any, count: int) -> float:
    """Memory that kept texts take, per byte of theirs."""
    kept: list[bytes] = [b""] * count
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            kept[number] = encode(value)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    return taken / sum(map(len, kept))


@pytest.mark.parametrize("encode", [kept_json, dumps])
@pytest.mark.parametrize(("value", "count"), [(RECORD, 1_000), ([1] * 10_000, 10)])
def test_kept_texts_take_no_buffers_of_which_they_fill_a_tenth(
    encode: Callable[[Any], bytes], value: Any, count: int
) -> None:
    assert overhead(encode, value, count) < 2
    assert encode(value) == orjson.dumps(value)


def test_what_is_no_json_is_refused_as_ever() -> None:
    with pytest.raises(orjson.JSONEncodeError):
        kept_json({1: object()})
    with pytest.raises(MalformedMessage):
        dumps({1: object()})
