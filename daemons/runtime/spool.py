"""The local spool: what Redis could not take is kept on this host's disk, in order, until it can.

One SQLite file for each agent, in WAL mode with ``synchronous=FULL``: a call of :meth:`SqliteSpool.append` is one
transaction and so one forced write, however many writes it carries. All work is done by one thread, so the event loop
never waits for the disk. The file is opened when it is first needed; in normal running nothing here costs anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import orjson

from a2a_zmq.errors import A2AError
from a2a_zmq.interfaces import Section, SectionWrite

T = TypeVar("T")

# How long another process of the same agent (one that is still dying) may hold the file.
LOCK_WAIT_S: Final = 2.0
# Beside its bytes a row costs a few of SQLite's own; counted so that the bound is one of the disk.
ROW_OVERHEAD: Final = 64

_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS writes (seq INTEGER PRIMARY KEY AUTOINCREMENT, data BLOB NOT NULL)"
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# After these SQLite has rolled back, and trying again later is safe. What a failed *fsync* leaves behind nobody knows.
_REFUSED: Final = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_IOERR_WRITE,
)


class SpoolRefused(A2AError):
    """Nothing was kept, and nothing harmed: the bound is reached, the disk is full, the file cannot be written."""


class SpoolBroken(A2AError):
    """The disk fails. What was kept may be incomplete in memory, not on disk: leave, and read it again at the start."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One kept write, and the version that its section was to get by it.

    Attributes:
        size: bytes of the row that it was read from.
    """

    write: SectionWrite
    version: int
    seq: int = 0
    size: int = 0


class Spool(Protocol):
    """Where writes are kept. One writer; all but :meth:`close` may raise :class:`SpoolBroken`."""

    @property
    def rows(self) -> int:
        """Writes that are kept."""

    @property
    def size(self) -> int:
        """Their bytes."""

    @property
    def limit(self) -> int:
        """Bytes that are kept at most."""

    async def append(self, kept: Sequence[Kept]) -> None:
        """Keep all of these or none; durable when it returns.

        Raises:
            SpoolRefused: nothing was kept.
        """

    async def read(self, after: int, max_bytes: int) -> list[Kept]:
        """The oldest rows behind ``after``, no more than ``max_bytes`` (but one at least)."""

    async def remove(self, upto: int) -> None:
        """Forget all rows up to this one.

        Raises:
            SpoolRefused: they are still there.
        """

    async def discard(self) -> None:
        """Forget everything by doing away with the file, which a full disk cannot refuse."""

    async def close(self) -> None: ...


def encode(kept: Kept) -> bytes:
    """A row: four bytes of length, a JSON head, then the records, byte for byte as they were."""
    write = kept.write
    blobs: list[bytes] = [*write.put_tasks.values(), *write.results.values(), *write.history]
    head = orjson.dumps(
        {
            "section": tuple(write.section),
            "fence": write.fence,
            "version": kept.version,
            "mutation": write.mutation_id,
            "header": write.header,
            "put": [(key, len(raw)) for key, raw in write.put_tasks.items()],
            "drop": write.drop_tasks,
            "results": [(key, len(raw)) for key, raw in write.results.items()],
            "history": [len(raw) for raw in write.history],
            "letters": write.letters,
            "drop_letters": write.drop_letters,
        }
    )
    return b"".join((len(head).to_bytes(4, "big"), head, *blobs))


def decode(data: bytes, seq: int = 0) -> Kept:
    """
    Raises:
        SpoolBroken: this is no row.
    """
    try:
        end = 4 + int.from_bytes(data[:4], "big")
        head = orjson.loads(data[4:end])
        at = end

        def take(size: int) -> bytes:
            nonlocal at
            at += size
            return data[at - size : at]

        puts = {key: take(size) for key, size in head["put"]}
        results = {key: take(size) for key, size in head["results"]}
        history = [take(size) for size in head["history"]]
        section = Section(*head["section"])
        write = SectionWrite(
            section,
            head["fence"],
            head["mutation"],
            head["header"],
            puts,
            head["drop"],
            results,
            history,
            head["letters"],
            head["drop_letters"],
        )
        version = head["version"]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise SpoolBroken(f"row {seq} of the spool cannot be read: {error}") from error
    if at != len(data):
        raise SpoolBroken(f"row {seq} of the spool has {len(data)} bytes, not {at}")
    return Kept(write, version, seq, len(data))


class SqliteSpool:
    """Implements :class:`Spool` on a file."""

    def __init__(self, path: Path, limit: int) -> None:
        """
        Args:
            path: of the file; its directory is made when it is first needed.
            limit: bytes.
        """
        self.path = path
        self.rows = 0
        self.size = 0
        self.limit = limit
        self.damaged: Path | None = None  # where a file was put that could not be read
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")

    async def look(self) -> None:
        """At the start: is there anything from before? Opens nothing if there is no file.

        Raises:
            SpoolBroken: the file cannot be opened.
        """
        if self.path.exists():
            await self._run(self._count)

    async def append(self, kept: Sequence[Kept]) -> None:
        rows = [encode(each) for each in kept]
        size = sum(map(len, rows)) + ROW_OVERHEAD * len(rows)
        if self.size + size > self.limit:
            raise SpoolRefused(f"the spool holds {self.size >> 20} MB of at most {self.limit >> 20}")
        await self._run(lambda connection: self._insert(connection, rows))
        self.rows += len(rows)
        self.size += size

    async def read(self, after: int, max_bytes: int) -> list[Kept]:
        return await self._run(lambda connection: _select(connection, after, max_bytes)) if self.rows else []

    async def remove(self, upto: int) -> None:
        await self._run(lambda connection: self._delete(connection, upto))

    async def discard(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._unlink)
        self.rows = self.size = 0

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    # ------------------------------------------------------------ in the thread

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._open())
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0)
            if code & 0xFF in _DAMAGED and self.damaged is None:
                self._set_aside()
                return work(self._open())
            if code in _REFUSED or code & 0xFF in _REFUSED:
                raise SpoolRefused(f"{self.path}: {error}") from error
            raise SpoolBroken(f"{self.path}: {error}") from error
        except OSError as error:
            raise SpoolRefused(f"{self.path}: {error.strerror or error}") from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.touch(mode=0o600)
            connection = sqlite3.connect(self.path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute(_SCHEMA)
                for (verdict,) in connection.execute("PRAGMA quick_check(1)"):
                    if verdict != "ok":
                        raise _damage(verdict)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _set_aside(self) -> None:
        """A file that cannot be read is kept for whoever can make something of it; work goes on with a new one."""
        self._close()
        self.damaged = self.path.with_name(f"{self.path.name}.damaged-{time.time():.0f}")
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            with contextlib.suppress(FileNotFoundError):
                part.rename(self.damaged.with_name(self.damaged.name + suffix))

    def _count(self, connection: sqlite3.Connection) -> None:
        rows, size = connection.execute("SELECT COUNT(*), COALESCE(SUM(LENGTH(data)), 0) FROM writes").fetchone()
        self.rows, self.size = rows, size + ROW_OVERHEAD * rows

    def _insert(self, connection: sqlite3.Connection, rows: list[bytes]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany("INSERT INTO writes (data) VALUES (?)", [(row,) for row in rows])
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back already
                connection.execute("ROLLBACK")
            raise

    def _delete(self, connection: sqlite3.Connection, upto: int) -> None:
        connection.execute("DELETE FROM writes WHERE seq <= ?", (upto,))
        self._count(connection)
        if not self.rows:  # give the room back; both cost nothing on an empty file
            with contextlib.suppress(sqlite3.OperationalError):  # on a full disk, another time
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _unlink(self) -> None:
        self._close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _damage(verdict: Any) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(f"damaged: {verdict}")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _select(connection: sqlite3.Connection, after: int, max_bytes: int) -> list[Kept]:
    found: list[Kept] = []
    size = 0
    for seq, data in connection.execute("SELECT seq, data FROM writes WHERE seq > ? ORDER BY seq", (after,)):
        size += len(data)
        if found and size > max_bytes:
            break
        found.append(decode(data, seq))
    return found
