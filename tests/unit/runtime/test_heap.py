"""When a daemon gives back what a burst left free, and that the C library does."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from daemons.runtime.heap import HeapTrimmer, resident_bytes, trim_function

MB = 1 << 20


class Process:
    """A process whose memory and processor time are what the test says."""

    def __init__(self, mb: int = 100) -> None:
        self.mb = mb
        self.needed_mb = mb
        self.time = self.spent_s = 0.0
        self.trims = 0
        self.trimmer = HeapTrimmer(
            self.trim, resident=lambda: self.mb * MB, clock=lambda: self.time, cpu_s=lambda: self.spent_s
        )

    def trim(self) -> None:
        self.trims += 1
        self.mb = self.needed_mb

    def second(self, mb: int, *, cpu_s: float = 0.1) -> None:
        """One second later it has this much, and took so much of a processor."""
        self.mb = mb
        self.time += 1
        self.spent_s += cpu_s
        self.trimmer.look()


def test_what_a_burst_left_is_given_back_when_it_is_over() -> None:
    process = Process()
    for mb in (120, 150, 200):
        process.second(mb)
    assert process.trims == 0, "it was called while memory was still needed"
    process.second(200)
    assert process.trims == 1
    assert process.mb == 100


def test_a_busy_process_is_left_alone_until_there_is_time() -> None:
    process = Process()
    process.second(200)
    for _ in range(10):
        process.second(200, cpu_s=0.9)
    assert process.trims == 0
    process.second(200)
    assert process.trims == 1


def test_memory_that_is_needed_all_the_time_is_not_asked_for_again() -> None:
    process = Process()
    process.needed_mb = 200
    process.second(200)
    for _ in range(300):
        process.second(200)
    assert process.trims == 1


def test_memory_that_load_takes_again_and_again_is_given_back_twice_a_minute_at_most() -> None:
    process = Process()
    for _ in range(120):
        process.second(150)
    assert 2 <= process.trims <= 4


def test_little_growth_is_nobodys_business() -> None:
    process = Process()
    for _ in range(100):
        process.second(108)
    assert process.trims == 0


def test_after_quiet_that_took_less_memory_a_burst_is_measured_by_that() -> None:
    process = Process(200)
    process.second(100)
    process.second(150)
    process.second(150)
    assert process.trims == 1


@pytest.mark.skipif(trim_function() is None, reason="the C library is not glibc")
def test_freed_blocks_between_used_ones_are_given_back_to_the_system() -> None:
    trim = trim_function()
    assert trim is not None
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.free.argtypes = (ctypes.c_void_p,)
    blocks = [library.malloc(ctypes.c_size_t(16_000)) for _ in range(8_000)]
    for block in blocks:
        ctypes.memset(block, 1, 16_000)
    for block in blocks[::2]:
        library.free(block)
    before = resident_bytes()
    trim()
    assert before - resident_bytes() > 30 * MB
    for block in blocks[1::2]:
        library.free(block)


def test_a_system_that_does_not_say_how_much_memory_is_used_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(_path: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", unreadable)
    trims: list[int] = []
    HeapTrimmer(lambda: trims.append(1)).look()
    assert not trims
