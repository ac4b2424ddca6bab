"""Every Redis key of the checkpoint saver: its name, what it holds, and how long it stays.

Threads are spread over :data:`BUCKETS` buckets. A bucket's name is the hash tag of all keys of its threads, and of the
bucket's own two keys, so in Redis Cluster one script can change a thread and the bucket's register of threads and sizes
together. Thread ids are percent-encoded, so no two keys are the same and none looks like a key of the shared state.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

BUCKETS: Final = 128  # part of every name: another number would find nothing of what is stored
DEFAULT_PREFIX: Final = "checkpoint"
# A run asks for the names of its thread's keys at every step.
_THREADS_AT_HAND: Final = 256


class Lifetime(StrEnum):
    """Why a kind of key cannot grow without a bound."""

    THREAD = "thread"  # every write trims it; it goes a time to live after the thread's last write
    REGISTER = "register"  # an entry for each thread, which goes with the thread; the key goes with its last thread


@dataclass(frozen=True, slots=True)
class KeyClass:
    """One kind of key; ``TAG`` in ``pattern`` is ``{PREFIX:BUCKET}``, ``ID`` an encoded thread id."""

    name: str
    pattern: str
    redis_type: str
    lifetime: Lifetime
    holds: str


KEY_CLASSES: Final[tuple[KeyClass, ...]] = (
    KeyClass("facts", "TAG:ID:facts", "hash", Lifetime.THREAD, "counters; what scripts know of each checkpoint"),
    KeyClass("checkpoints", "TAG:ID:checkpoints", "hash", Lifetime.THREAD, "checkpoint → itself, without values"),
    KeyClass("blobs", "TAG:ID:blobs", "hash", Lifetime.THREAD, "channel and version → value"),
    KeyClass("writes", "TAG:ID:writes", "hash", Lifetime.THREAD, "checkpoint, task and number → pending write"),
    KeyClass("index", "TAG:ID:index", "zset", Lifetime.THREAD, "order of checkpoints, and what belongs to what"),
    KeyClass("fence", "TAG:ID:fence", "string", Lifetime.THREAD, "highest fence seen; stays when a thread is deleted"),
    KeyClass("claims", "TAG:ID:claims", "hash", Lifetime.THREAD, "whose run has the thread; runs that had it lately"),
    KeyClass("threads", "TAG:threads", "zset", Lifetime.REGISTER, "encoded thread id by when it expires"),
    KeyClass("sizes", "TAG:sizes", "hash", Lifetime.REGISTER, 'encoded thread id → bytes; "" → bytes of all'),
)
_OF_THREAD: Final = tuple(kind.name for kind in KEY_CLASSES if kind.lifetime is Lifetime.THREAD)
_OF_BUCKET: Final = tuple(kind.name for kind in KEY_CLASSES if kind.lifetime is Lifetime.REGISTER)


@lru_cache(_THREADS_AT_HAND)
def encode(thread_id: str) -> str:
    """A thread id as it stands in names; ``%`` alone is the empty one."""
    return quote(thread_id, safe="") or "%"


def decode(encoded: str) -> str:
    return "" if encoded == "%" else unquote(encoded)


def tag(prefix: str, bucket: int) -> str:
    return f"{{{prefix}:{bucket:02x}}}"


def bucket_of(encoded: str) -> int:
    return zlib.crc32(encoded.encode()) % BUCKETS


def of_bucket(prefix: str, bucket: int) -> tuple[str, ...]:
    """Its register: ``threads`` and ``sizes``."""
    name = tag(prefix, bucket)
    return tuple(f"{name}:{kind}" for kind in _OF_BUCKET)


@lru_cache(_THREADS_AT_HAND)
def of_thread(prefix: str, encoded: str) -> tuple[str, ...]:
    """All keys that a script on a thread gets, in the order of :data:`KEY_CLASSES`: its own, then its bucket's."""
    bucket = bucket_of(encoded)
    name = tag(prefix, bucket)
    return (*(f"{name}:{encoded}:{kind}" for kind in _OF_THREAD), *of_bucket(prefix, bucket))


def of_kind(prefix: str, encoded: str, kind: str) -> str:
    """One key of a thread."""
    return f"{tag(prefix, bucket_of(encoded))}:{encoded}:{kind}"
