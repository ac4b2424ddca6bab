"""Dead letters: the records of failed tasks, kept until they are retried, too old, or too many.

They are few, and an operator may want one long after the results of that day have expired. So they are copied, in the
transaction that records the result, to a hash with an index by age. One Lua step keeps both in bounds: what has to go
is known to the server only. Ages are by its clock: one of a writer that is days ahead would do away with all letters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from a2a_zmq.interfaces import SectionWrite
from a2a_zmq.state import keys
from a2a_zmq.state.section import RetentionPolicy
from a2a_zmq.state.wire import Command

# KEYS: index, letters. ARGV: most letters, most bytes, time to live (ms), number of ids to drop, these ids,
# then id and record of each new letter. The member "" of the hash counts the bytes of all letters.
SCRIPT: Final = b"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local size = tonumber(redis.call('HGET', KEYS[2], '') or '0')
local function take(id)
  size = size - redis.call('HSTRLEN', KEYS[2], id)
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
end
local first = 5 + tonumber(ARGV[4])
for at = 5, first - 1 do take(ARGV[at]) end
for at = first, #ARGV, 2 do
  size = size - redis.call('HSTRLEN', KEYS[2], ARGV[at]) + #ARGV[at + 1]
  redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  redis.call('ZADD', KEYS[1], now, ARGV[at])
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3], 'LIMIT', 0, 1000)) do take(id) end
while size > tonumber(ARGV[2]) or redis.call('ZCARD', KEYS[1]) > tonumber(ARGV[1]) do
  local oldest = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
  if not oldest then break end
  take(oldest)
end
if redis.call('ZCARD', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[2])
else
  redis.call('HSET', KEYS[2], '', size)
  if #ARGV >= first then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
  end
end
return size
"""


def command(write: SectionWrite, policy: RetentionPolicy) -> Command:
    """What a write with letters, or ids to drop from them, adds to its transaction."""
    name = write.section.distributor_id
    limits = (policy.letters, policy.letter_bytes, int(policy.letter_ttl_s * 1000))
    drops = write.drop_letters
    new: Iterable[str | bytes] = (each for task_id in write.letters for each in (task_id, write.results[task_id]))
    return ("EVAL", SCRIPT, 2, keys.dead(name), keys.letters(name), *limits, len(drops), *drops, *new)


def apply_in_memory(
    letters: dict[str, tuple[float, bytes]], write: SectionWrite, policy: RetentionPolicy, wall: float
) -> None:
    """The same on a dict, oldest first."""
    for task_id in write.drop_letters:
        letters.pop(task_id, None)
    for task_id in write.letters:
        letters.pop(task_id, None)
        letters[task_id] = (wall, write.results[task_id])
    size = sum(len(record) for _, record in letters.values())
    for task_id, (since, record) in list(letters.items()):
        if since > wall - policy.letter_ttl_s and size <= policy.letter_bytes and len(letters) <= policy.letters:
            break
        size -= len(record)
        del letters[task_id]
