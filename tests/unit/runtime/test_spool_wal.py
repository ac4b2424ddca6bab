"""A write-ahead log with a damage inside: told from one that a crash cut off, and from what an earlier log left."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest

from daemons.runtime.spool import SqliteSpool
from daemons.runtime.spool_wal import lost_transactions
from tests.unit.runtime.test_spool_file import kept

ROWS = 12


def a_log(directory: Path, *, began_anew: bool = False) -> Path:
    """The files of a process that was killed after as many transactions, copied while they were in use."""
    path = directory / "used.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE writes (data BLOB)")
    for number in range(ROWS):
        connection.execute("INSERT INTO writes VALUES (?)", (bytes([number]) * 6_000,))
    if began_anew:
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
        for number in range(3):
            connection.execute("INSERT INTO writes VALUES (?)", (bytes([number]) * 6_000,))
    for suffix in ("", "-wal"):
        shutil.copy(directory / f"used.db{suffix}", directory / f"killed.db{suffix}")
    connection.close()
    return directory / "killed.db-wal"


def rows(wal: Path) -> int:
    with sqlite3.connect(wal.with_name("killed.db")) as connection:
        found: int = connection.execute("SELECT COUNT(*) FROM writes").fetchone()[0]
    return found


@pytest.mark.parametrize("began_anew", [False, True])
def test_a_log_that_is_whole(tmp_path: Path, began_anew: bool) -> None:
    wal = a_log(tmp_path, began_anew=began_anew)
    assert not lost_transactions(wal)
    assert rows(wal) == ROWS + 3 * began_anew


@pytest.mark.parametrize("cut", [1, 23, 24, 500, 4_119, 4_120, 4_121, 9_000, 30_000])
def test_a_log_that_a_crash_cut_off(tmp_path: Path, cut: int) -> None:
    wal = a_log(tmp_path)
    wal.write_bytes(wal.read_bytes()[:-cut])
    assert not lost_transactions(wal)


def test_a_last_transaction_that_came_to_the_disk_in_parts(tmp_path: Path) -> None:
    wal = a_log(tmp_path)
    log = bytearray(wal.read_bytes())
    log[-2 * 4_120 + 100] ^= 1  # the first of its pages, not the one that commits
    wal.write_bytes(log)
    assert not lost_transactions(wal)
    assert rows(wal) == ROWS - 1


@pytest.mark.parametrize("where", [0.2, 0.4, 0.6, 0.8])
@pytest.mark.parametrize("length", [1, 64, 5_000])
def test_a_log_with_a_damage_inside(tmp_path: Path, where: float, length: int) -> None:
    """Symptom: 852 of 4,240 accepted tasks were gone, and nothing said so."""
    wal = a_log(tmp_path)
    log = bytearray(wal.read_bytes())
    start = 32 + int(where * len(log)) // 4_120 * 4_120 + 24 + 900
    log[start : start + length] = bytes(byte ^ 0x55 for byte in log[start : start + length])
    wal.write_bytes(log)
    assert lost_transactions(wal)
    assert rows(wal) < ROWS


@pytest.mark.parametrize("text", [b"", b"short", bytes(40), b"x" * 100_000])
def test_what_is_no_log(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x-wal").write_bytes(text)
    assert not lost_transactions(tmp_path / "x-wal")


def test_a_spool_with_such_a_log_says_so_keeps_a_copy_and_reads_the_rest(tmp_path: Path) -> None:
    kept_at = tmp_path / "used.db"
    told: list[Path] = []

    async def story() -> tuple[int, list[str]]:
        used = SqliteSpool(kept_at, 1 << 30)
        for number in range(ROWS):
            await used.append([kept(f"m{number}", 6_000)])
        for suffix in ("", "-wal"):
            shutil.copy(f"{kept_at}{suffix}", tmp_path / f"killed.db{suffix}")
        await used.close()
        wal = tmp_path / "killed.db-wal"
        log = bytearray(wal.read_bytes())
        log[len(log) // 2 : len(log) // 2 + 64] = bytes(64)
        wal.write_bytes(log)
        found = SqliteSpool(tmp_path / "killed.db", 1 << 30, on_damage=told.append)
        await found.look()
        rows = await found.read(0, 1 << 30)
        await found.close()
        again = SqliteSpool(tmp_path / "killed.db", 1 << 30, on_damage=told.append)
        await again.look()
        await again.close()
        return len(log), [row.write.mutation_id for row in rows]

    size, names = asyncio.run(story())
    assert 0 < len(names) < ROWS
    assert names == [f"m{number}" for number in range(len(names))]
    (copy,) = told
    assert copy.exists()
    assert copy.with_name(f"{copy.name}-wal").stat().st_size == size
