"""The spool's file: what was acknowledged is there, whatever happened to the process or the disk."""

from __future__ import annotations

import asyncio
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2a_zmq.interfaces import Section, SectionWrite
from daemons.runtime.spool import SqliteSpool
from daemons.runtime.spool_rows import Kept, SpoolBroken, SpoolRefused, decode, encode

T = TypeVar("T")
MB = 1024 * 1024
REPOSITORY = Path(__file__).resolve().parents[3]

WRITER = """
import asyncio, sys
from pathlib import Path
from daemons.runtime.spool import SqliteSpool
from tests.unit.runtime.test_spool_file import kept

async def main():
    spool = SqliteSpool(Path(sys.argv[1]), 1 << 30)
    await spool.look()
    number = 0
    while True:
        await spool.append([kept(f"{number}-{i}") for i in range(3)])
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


def kept(name: str, size: int = 100) -> Kept:
    return Kept(SectionWrite(Section("d1", "distributor"), 7, name, put_tasks={name: b"{" + b" " * size + b"}"}), 1)


def use(path: Path, work: Callable[[SqliteSpool], Awaitable[T]], limit: int = MB) -> T:
    """Open the spool as a new process would, do something, and close it."""

    async def main() -> T:
        spool = SqliteSpool(path, limit)
        await spool.look()
        try:
            return await work(spool)
        finally:
            await spool.close()

    return asyncio.run(main())


def names(path: Path) -> list[str]:
    async def read(spool: SqliteSpool) -> list[str]:
        rows = await spool.read(0, 1 << 30)
        assert len(rows) == spool.rows
        return [row.write.mutation_id for row in rows]

    return use(path, read)


texts = st.text(max_size=20)
blobs = st.dictionaries(texts, st.binary(max_size=50), max_size=4)


writes = st.builds(
    SectionWrite,
    st.builds(Section, texts, st.sampled_from(["coordinator", "distributor"])),
    st.integers(0, 2**40),
    texts,
    st.dictionaries(texts, texts),
    blobs,
    st.lists(texts),
    blobs,
    st.lists(st.binary(max_size=50)),
)


@given(writes, st.integers(0, 2**40))
def test_a_row_is_read_back_byte_for_byte(write: SectionWrite, version: int) -> None:
    row = encode(Kept(write, version))
    assert decode(row, 5) == Kept(write, version, 5, len(row))


@given(st.binary(max_size=60))
def test_what_is_no_row_is_refused(data: bytes) -> None:
    with pytest.raises(SpoolBroken):
        decode(data)


def test_nothing_is_opened_before_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "spool" / "a.db"

    async def nothing(spool: SqliteSpool) -> int:
        return spool.rows

    assert use(path, nothing) == 0
    assert not path.parent.exists()


def test_rows_come_in_order_by_portions_and_go_when_they_are_handed_in(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        for number in range(6):
            await spool.append([kept(f"{number}", 1000)])
        first = await spool.read(0, 2500)
        assert [row.write.mutation_id for row in first] == ["0", "1"]
        assert [row.write.mutation_id for row in await spool.read(first[-1].seq, 1)] == ["2"]
        await spool.remove(first[-1].seq)
        assert spool.rows == 4
        rest = await spool.read(0, MB)
        assert [row.write.mutation_id for row in rest] == ["2", "3", "4", "5"]
        await spool.remove(rest[-1].seq)
        assert (spool.rows, spool.size) == (0, 0)
        await spool.append([kept("after")])
        assert [row.write.mutation_id for row in await spool.read(rest[-1].seq, MB)] == ["after"]

    use(tmp_path / "a.db", work)
    assert names(tmp_path / "a.db") == ["after"]


@pytest.mark.parametrize("seed", range(4))
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.db"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "0\n"
    time.sleep(random.Random(seed).uniform(0.0, 0.05))
    writer.send_signal(signal.SIGKILL)
    said = writer.communicate(timeout=10)[0].split()
    acknowledged = int(said[-1]) if said else 0
    found = names(path)
    whole = [f"{number}-{i}" for number in range(acknowledged + 1) for i in range(3)]
    assert found[: len(whole)] == whole
    assert len(found) - len(whole) in (0, 3), "the batch that was under way is there as a whole or not at all"


def test_a_torn_end_of_the_file_costs_nothing_that_stood_before_it(tmp_path: Path) -> None:
    """As after a power failure in the midst of a write that was not acknowledged."""
    path, wal = tmp_path / "a.db", tmp_path / "a.db-wal"

    async def work(spool: SqliteSpool) -> tuple[bytes, bytes, int]:
        await spool.append([kept("1"), kept("2")])
        size = wal.stat().st_size
        await spool.append([kept("3", 20_000)])
        return path.read_bytes(), wal.read_bytes(), size

    database, log, size = use(path, work)
    for cut in range(size, len(log), 977):
        for garbage in (b"", bytes(300)):
            for old in tmp_path.iterdir():
                old.unlink()
            path.write_bytes(database)
            wal.write_bytes(log[:cut] + garbage)
            assert names(path) == ["1", "2"]


def test_the_bound_refuses_and_takes_again_when_there_is_room(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        await spool.append([kept("1", 6_000)])
        with pytest.raises(SpoolRefused, match="at most"):
            await spool.append([kept("2", 6_000)])
        await spool.append([kept("3", 1_000)])
        (first, *_) = await spool.read(0, 1)
        await spool.remove(first.seq)
        await spool.append([kept("4", 6_000)])

    use(tmp_path / "a.db", work, limit=10_000)
    assert names(tmp_path / "a.db") == ["3", "4"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_refuses_and_harms_nothing(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> int:
        taken = 0
        with largest_file(200_000):
            while taken < 100:
                try:
                    await spool.append([kept(f"{taken}", 10_000)])
                except SpoolRefused:
                    break
                taken += 1
            assert 0 < taken < 100
            with pytest.raises(SpoolRefused):
                await spool.append([kept("more", 10_000)])
            assert spool.rows == taken
        await spool.append([kept("room again")])
        return taken

    taken = use(tmp_path / "a.db", work, limit=1 << 30)
    assert names(tmp_path / "a.db") == [*(f"{number}" for number in range(taken)), "room again"]


def test_a_directory_that_cannot_be_written_refuses(tmp_path: Path) -> None:
    blocked = tmp_path / "spool"
    blocked.write_text("a file where the directory should be")

    async def work(spool: SqliteSpool) -> None:
        with pytest.raises(SpoolRefused):
            await spool.append([kept("1")])

    use(blocked / "a.db", work)


def test_another_process_of_the_agent_does_not_damage_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def work(spool: SqliteSpool) -> None:
        await spool.append([kept("1")])
        with closing(sqlite3.connect(path)) as other, other:
            assert other.execute("SELECT COUNT(*) FROM writes").fetchone() == (1,)
            other.execute("DELETE FROM writes")
        assert await spool.read(0, MB) == []

    use(path, work)


def test_a_row_that_cannot_be_read_is_said_and_not_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def work(spool: SqliteSpool) -> None:
        await spool.append([kept("1")])

    use(path, work)
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE writes SET data = x'00000001'")
    with pytest.raises(SpoolBroken, match="row 1"):
        names(path)


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "spool" / "a.db"

    async def work(spool: SqliteSpool) -> None:
        await spool.append([kept("1")])
        for part in path.parent.iterdir():
            assert part.stat().st_mode & 0o077 == 0, part
        assert path.parent.stat().st_mode & 0o077 == 0

    use(path, work)


NEARLY_FULL = """
import asyncio, sys
from pathlib import Path
from daemons.runtime.spool import SqliteSpool
from daemons.runtime.spool_rows import SpoolRefused
from tests.unit.runtime.test_spool_file import kept

async def look(path):
    spool = SqliteSpool(path, 1 << 20)
    await spool.look()
    rows = [row.write.mutation_id for row in await spool.read(0, 1 << 20)]
    try:
        await spool.append([kept("more", 10_000)])
    except SpoolRefused:
        rows.append("refused")
    await spool.close()
    return rows

async def main():
    disk = Path(sys.argv[1])
    first = SqliteSpool(disk / "a.db", 1 << 20)
    await first.append([kept("1"), kept("2")])
    parts = {name: (disk / name).read_bytes() for name in ("a.db", "a.db-wal")}
    await first.close()
    (disk / "damaged.db").write_bytes(b"no database" * 1000)
    (disk / "more").write_bytes(b"")
    for name in ("a.db", "a.db-wal"):  # as a power failure leaves it: without the index of the log
        (disk / name).write_bytes(parts[name])
    (disk / "a.db-shm").unlink(missing_ok=True)
    with open(disk / "more", "wb", buffering=0) as more:
        try:
            while more.write(bytes(4096)):
                pass
        except OSError:
            pass
        more.truncate(more.tell() - int(sys.argv[2]))
    print(*await look(disk / "a.db"), "|", *await look(disk / "fresh.db"), "|", *await look(disk / "damaged.db"))

asyncio.run(main())
"""


@pytest.mark.parametrize("free", [0, 12 * 1024])
def test_on_a_disk_that_is_as_good_as_full_what_is_kept_can_be_read_and_no_more_is_taken(
    tmp_path: Path, free: int
) -> None:
    """There is not even room for the files that SQLite makes beside its own."""
    mounted = f'mount -t tmpfs -o size=1m tmpfs "$0" && exec {sys.executable} -c "$1" "$0" {free}'
    apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted, str(tmp_path), NEARLY_FULL]
    done = subprocess.run(apart, check=False, capture_output=True, text=True, cwd=REPOSITORY, timeout=30)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespace: {done.stderr.strip()}")
    assert (done.stdout.strip(), done.stderr) == ("1 2 refused | refused | refused", "")
