"""Whether a SQLite write-ahead log lost transactions that had been durable. Pure, but for reading the file.

SQLite takes a log to end at the first frame whose checksum does not fit, since that is what a crash in the middle of a
write leaves behind. Where frames of *later* transactions follow, it was no crash: each transaction was forced to the
disk before the next one began, so what does not fit was damaged afterwards, and all behind it is lost without a word.

Format: "WAL-Index and WAL file format" of SQLite's documentation. A header of 32 bytes, then frames: 24 bytes (page,
size of the database after a commit or 0, two salts, two checksums) and a page. Checksums run on from frame to frame.
"""

from __future__ import annotations

import sys
from array import array
from pathlib import Path
from struct import Struct
from typing import Final

_HEADER: Final = Struct(">8I")
_FRAME: Final = Struct(">6I")
_MAGIC: Final = {0x377F0682: "little", 0x377F0683: "big"}  # → in what order words are added up
# A longer log (SQLite keeps it near 4 MB) is looked at up to here: summing up is slow, some 10 MB/s.
MAX_BYTES: Final = 64 * 1024 * 1024


def lost_transactions(wal: Path) -> bool:
    """Whether there is a frame that does not fit, and behind it one of a later transaction.

    False for a log that is written to meanwhile: then its process has not crashed.

    Raises:
        OSError: it cannot be read.
    """
    before = wal.stat()
    with wal.open("rb") as file:
        log = file.read(MAX_BYTES)
    after = wal.stat()
    return (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size) and _broken(log)


def _broken(log: bytes) -> bool:
    if len(log) < _HEADER.size:
        return False
    magic, _, page_bytes, _, salt1, salt2, sum1, sum2 = _HEADER.unpack_from(log)
    order = _MAGIC.get(magic)
    size = _FRAME.size + page_bytes
    if order is None or not page_bytes or _sums(log[: _HEADER.size - 8], order, (0, 0)) != (sum1, sum2):
        return False  # SQLite begins such a log anew
    sums, fits, ended = (sum1, sum2), True, False
    for start in range(_HEADER.size, len(log) - size + 1, size):
        _, commit, its1, its2, sum1, sum2 = _FRAME.unpack_from(log, start)
        if (its1, its2) != (salt1, salt2):
            fits = False  # left over from before the log began anew (then so are all behind it), or hit itself
            continue
        if fits:
            sums = _sums(log[start : start + 8], order, sums)
            sums = _sums(log[start + _FRAME.size : start + size], order, sums)
            fits = sums == (sum1, sum2)
        elif ended:
            return True
        ended = not fits and commit != 0
    return False


def _sums(part: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """SQLite's checksum of a multiple of eight bytes, going on from ``sums``."""
    words = array("I", part)
    if order != sys.byteorder:
        words.byteswap()
    one, two = sums
    pairs = iter(words)
    for first, second in zip(pairs, pairs, strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two
