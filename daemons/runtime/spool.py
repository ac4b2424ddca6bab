"""The local spool: what Redis could not take is kept on this host's disk, in order, until it can.

One SQLite file for each agent, in WAL mode with ``synchronous=FULL``: a call of :meth:`SqliteSpool.append` is one
transaction and so one forced write, however many writes it carries. All work is done by one thread, so the event loop
never waits for the disk. The file is opened when it is first needed; in normal running nothing here costs anything.

Two processes of an agent on one host (one acts, one stands by) have one file. Whoever takes the section over writes its
fence into it, reads what the other kept, and the other's later writes are refused. A process hands in only rows of its
own as they are; all others are for the next take-over, which merges them.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from daemons.runtime.spool_rows import Kept, SpoolBroken, SpoolRefused, decode, encode
from daemons.runtime.spool_wal import lost_transactions

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
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMMAP,
)
# No room for the index of the log that processes share: one that has the file for itself needs none.
_NO_INDEX: Final = (sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMMAP)
# The fence stands in the file's header (``PRAGMA user_version``), which has 32 bits for it.
_MAX_FENCE: Final = 2**31 - 1


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

    async def take(self, fence: int) -> None:
        """We take the section over with this fence: count what is kept, and let nobody with a lower one keep more.

        Raises:
            SpoolRefused: it cannot be looked at.
        """

    async def read(self, after: int, max_bytes: int, *, own: bool = False) -> list[Kept]:
        """The oldest rows behind ``after``, no more than ``max_bytes`` (but one at least).

        Args:
            own: only those that this process kept.

        Raises:
            SpoolRefused: they cannot be read now.
        """

    async def remove(self, upto: int, *, own: bool = False) -> None:
        """Forget all rows up to this one.

        Raises:
            SpoolRefused: they are still there.
        """

    async def discard(self, *, own: bool = False) -> None:
        """Forget everything, by doing away with the file if nothing else is there: a full disk cannot refuse that.

        What cannot be forgotten counts from now on as another process's.
        """

    async def close(self) -> None: ...


class SqliteSpool:
    """Implements :class:`Spool` on a file."""

    def __init__(self, path: Path, limit: int, *, on_damage: Callable[[Path], None] = lambda _: None) -> None:
        """
        Args:
            path: of the file; its directory is made when it is first needed.
            limit: bytes.
            on_damage: told, by a thread, where a file was put that could not be read.
        """
        self.path = path
        self.rows = 0
        self.size = 0
        self.limit = limit
        self._on_damage = on_damage
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # device and inode of the open one
        self._own: list[tuple[int, int]] = []  # first and last numbers of the rows that this process kept
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")

    async def look(self) -> None:
        """At the start: is there anything from before? Opens nothing if there is no file.

        Raises:
            SpoolBroken, SpoolRefused: the file cannot be opened.
        """
        await self._in_thread(self._look, None)

    async def take(self, fence: int) -> None:
        await self._in_thread(self._look, fence)

    async def append(self, kept: Sequence[Kept]) -> None:
        rows = [encode(each) for each in kept]
        size = sum(map(len, rows)) + ROW_OVERHEAD * len(rows)
        if self.size + size > self.limit:
            raise SpoolRefused(f"the spool holds {self.size >> 20} MB of at most {self.limit >> 20}")
        fence = min(max((each.write.fence for each in kept), default=0), _MAX_FENCE)
        await self._in_thread(self._guarded, lambda connection: self._insert(connection, rows, fence))
        self.rows += len(rows)
        self.size += size

    async def read(self, after: int, max_bytes: int, *, own: bool = False) -> list[Kept]:
        if not self.rows:
            return []
        return await self._in_thread(self._guarded, lambda connection: self._select(connection, after, max_bytes, own))

    async def remove(self, upto: int, *, own: bool = False) -> None:
        await self._in_thread(self._guarded, lambda connection: self._delete(connection, upto, own))

    async def discard(self, *, own: bool = False) -> None:
        await self._in_thread(self._discard, own)

    async def close(self) -> None:
        await self._in_thread(self._close)
        self._thread.shutdown(wait=False)

    # ------------------------------------------------------------ in the thread

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do it on the open file.

        One that cannot be read is set aside when it is opened, and only then: what was read or kept since is counted
        on, and must not be missing without a word.
        """
        try:
            try:
                connection = self._open()
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
                    raise
                self._set_aside()
                connection = self._open()
            return work(connection)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0)
            if code in _REFUSED or code & 0xFF in _REFUSED:
                raise SpoolRefused(f"{self.path}: {error}") from error
            raise SpoolBroken(f"{self.path}: {error}") from error
        except OSError as error:
            raise SpoolRefused(f"{self.path}: {error.strerror or error}") from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._file != self._there():
            self._close()  # another process of the agent has done away with it, and with all that stood there
        if self._connection is None:
            self._look_for_damage()
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.touch(mode=0o600)
            try:
                self._connection = self._connect()
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorcode", 0) not in _NO_INDEX:
                    raise
                self._connection = self._connect("PRAGMA locking_mode=EXCLUSIVE")
            self._file, self._own = self._there(), []
            self._count(self._connection)
        return self._connection

    def _connect(self, *first: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
        try:
            for statement in (*first, "PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", _SCHEMA):
                connection.execute(statement)
            for (verdict,) in connection.execute("PRAGMA quick_check(1)"):
                if verdict != "ok":
                    raise _damage(verdict)
        except BaseException:
            connection.close()
            raise
        return connection

    def _there(self) -> tuple[int, int] | None:
        """Device and inode of the file that is there."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _look_for_damage(self) -> None:
        """Where SQLite would leave transactions out without a word, whoever can make something of them gets a copy."""
        with contextlib.suppress(FileNotFoundError):
            if lost_transactions(self.path.with_name(self.path.name + "-wal")):
                self._keep_damaged(_copy)

    def _set_aside(self) -> None:
        """A file that cannot be read is kept for whoever can make something of it; work goes on with a new one."""
        self._close()
        self._keep_damaged(Path.rename)

    def _keep_damaged(self, keep: Callable[[Path, Path], Any]) -> None:
        damaged = self.path.with_name(f"{self.path.name}.damaged-{time.time():.0f}")
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                keep(self.path.with_name(self.path.name + suffix), damaged.with_name(damaged.name + suffix))
        self._on_damage(damaged)

    def _look(self, fence: int | None) -> None:
        if self._empty():
            self._close()
            self.rows = self.size = 0
            return
        if fence is not None:
            with contextlib.suppress(SpoolRefused):  # a disk that is too full for this takes nothing from anybody
                self._guarded(lambda connection: _set_fence(connection, min(fence, _MAX_FENCE)))
        try:
            self._guarded(self._count)
        except SpoolRefused:
            if not self._empty():  # else it was set aside, and there is no room for a new one
                raise
            self.rows = self.size = 0

    def _empty(self) -> bool:
        parts = (self.path, self.path.with_name(self.path.name + "-wal"))
        return not any(part.exists() and part.stat().st_size for part in parts)

    def _count(self, connection: sqlite3.Connection) -> None:
        rows, size = connection.execute("SELECT COUNT(*), COALESCE(SUM(LENGTH(data)), 0) FROM writes").fetchone()
        self.rows, self.size = rows, size + ROW_OVERHEAD * rows

    def _insert(self, connection: sqlite3.Connection, rows: list[bytes], fence: int) -> None:
        with _transaction(connection):
            taken = _fence(connection)
            if fence < taken:
                raise SpoolRefused(f"{self.path}: another process of this agent has taken over, with fence {taken}")
            if fence > taken:
                connection.execute(f"PRAGMA user_version={fence}")
            connection.executemany("INSERT INTO writes (data) VALUES (?)", [(row,) for row in rows])
            (last,) = connection.execute("SELECT last_insert_rowid()").fetchone()
        first = last - len(rows) + 1
        if self._own and self._own[-1][1] == first - 1:
            first = self._own.pop()[0]
        self._own.append((first, last))

    def _select(self, connection: sqlite3.Connection, after: int, max_bytes: int, own: bool) -> list[Kept]:
        found: list[Kept] = []
        size = 0
        for seq, data in connection.execute("SELECT seq, data FROM writes WHERE seq > ? ORDER BY seq", (after,)):
            if own and not any(first <= seq <= last for first, last in self._own):
                continue
            size += len(data)
            if found and size > max_bytes:
                break
            found.append(decode(data, seq))
        return found

    def _delete(self, connection: sqlite3.Connection, upto: int, own: bool) -> None:
        with _transaction(connection):
            for first, last in self._own if own else [(0, upto)]:
                connection.execute("DELETE FROM writes WHERE seq BETWEEN ? AND ?", (first, min(last, upto)))
        self._count(connection)
        if not self.rows:  # give the room back; both cost nothing on an empty file
            with contextlib.suppress(sqlite3.OperationalError):  # on a full disk, another time
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _discard(self, own: bool) -> None:
        # What cannot be removed stays where it is; whoever merges it finds it recorded.
        with contextlib.suppress(OSError, SpoolRefused):
            if not own or self._guarded(self._alone):
                self._close()
                for suffix in ("", "-wal", "-shm"):
                    self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
                self.rows = self.size = 0
            elif self._own:
                self._guarded(lambda connection: self._delete(connection, self._own[-1][1], own))
        self._own = []

    def _alone(self, connection: sqlite3.Connection) -> bool:
        """Whether there are no rows but ours."""
        self._count(connection)
        count = "SELECT COUNT(*) FROM writes WHERE seq BETWEEN ? AND ?"
        own = sum(int(connection.execute(count, each).fetchone()[0]) for each in self._own)
        return self.rows == own

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise


def _fence(connection: sqlite3.Connection) -> int:
    (fence,) = connection.execute("PRAGMA user_version").fetchone()
    return int(fence)


def _set_fence(connection: sqlite3.Connection, fence: int) -> None:
    """Also to a lower one: who has the lease now is right, and fences begin anew with a state that nobody remembers."""
    with _transaction(connection):
        if _fence(connection) != fence:
            connection.execute(f"PRAGMA user_version={fence}")


def _damage(verdict: Any) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(f"damaged: {verdict}")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _copy(source: Path, target: Path) -> None:
    """A disk that is full gets no copy; that it was wanted is said all the same."""
    try:
        shutil.copy2(source, target)
    except OSError:
        target.unlink(missing_ok=True)
