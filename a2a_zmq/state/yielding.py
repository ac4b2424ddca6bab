"""Records that are handed in late: each is put only where no newer one of its task lives.

The coordinator keeps records in its spool while Redis is away, and tells distributors of them all the same. So by the
time when they are handed in, a distributor may have stored further attempts of these tasks. Which record is the newer
one is decided in the transaction itself, because a distributor may hand in its own spool at the same time.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, Final, NamedTuple

from a2a_zmq.interfaces import SectionWrite
from a2a_zmq.state import keys
from a2a_zmq.state.wire import Command
from a2a_zmq.tasks import read_object

# KEYS: live tasks. ARGV: id, record, created_at, retried and attempt of each. A record that cannot be read gives way.
SCRIPT: Final = b"""
local function count(value) return type(value) == 'number' and value or 0 end
for at = 1, #ARGV, 5 do
  local found, newer = redis.call('HGET', KEYS[1], ARGV[at]), false
  if found then
    local read, record = pcall(cjson.decode, found)
    if read and type(record) == 'table' and ARGV[at + 2] ~= '' and record.created_at == ARGV[at + 2] then
      local metadata = type(record.metadata) == 'table' and record.metadata or {}
      local retried, attempt = count(metadata.retried), count(metadata.attempt)
      local ours = tonumber(ARGV[at + 3])
      newer = retried > ours or (retried == ours and attempt >= tonumber(ARGV[at + 4]))
    end
  end
  if not newer then redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
end
"""


class Age(NamedTuple):
    """What tells which of two records of one id is the newer one.

    Attributes:
        created_at: when the task was submitted; an id that was used anew has another one.
        retried: how often an operator sent it around again.
        attempt: 0 if it names none.
    """

    created_at: str
    retried: int
    attempt: int


def age_of(record: bytes) -> Age | None:
    """None if it cannot be read."""
    value = read_object(record)
    if value is None:
        return None
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        metadata = {}
    created_at = value.get("created_at")
    return Age(
        created_at if isinstance(created_at, str) else "",
        _count(metadata.get("retried")),
        _count(metadata.get("attempt")),
    )


def _count(value: Any) -> int:
    return value if type(value) is int else 0


def command(write: SectionWrite) -> Command:
    """What puts the tasks of such a write within its transaction."""
    items = ((task_id, raw, *(age_of(raw) or Age("", 0, 0))) for task_id, raw in write.put_tasks.items())
    return ("EVAL", SCRIPT, 1, keys.tasks(write.section.distributor_id), *chain.from_iterable(items))


def apply_in_memory(live: dict[str, bytes], write: SectionWrite) -> None:
    """The same on a dict."""
    for task_id, raw in write.put_tasks.items():
        found = age_of(live[task_id]) if task_id in live else None
        ours = age_of(raw) or Age("", 0, 0)
        same = found is not None and found.created_at == ours.created_at != ""
        newer = found is not None and same and (found.retried, found.attempt) >= (ours.retried, ours.attempt)
        if not newer:
            live[task_id] = raw
