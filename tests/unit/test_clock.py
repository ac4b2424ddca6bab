"""Time as text."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from a2a_zmq.clock import iso, parse_iso


@example(1764324000.0)
@example(1764324000.9999997)  # rounds up to the next second
@example(1764325799.9999999)  # and to the next minute
@example(0.0000005)
@given(st.floats(0.0, 4e9))
def test_a_time_is_written_as_the_standard_library_writes_it(wall: float) -> None:
    expected = datetime.fromtimestamp(wall, UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
    assert iso(wall) == expected
    assert parse_iso(iso(wall)) == pytest.approx(wall, abs=1e-6)
