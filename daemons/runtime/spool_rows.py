"""Rows of the local spool: writes to the shared state, as bytes and back."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from a2a_zmq.errors import A2AError
from a2a_zmq.interfaces import Section, SectionWrite


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
