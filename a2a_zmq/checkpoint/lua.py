"""What the scripts of the saver share.

KEYS of a script on a thread are :func:`a2a_zmq.checkpoint.keys.of_thread`, all in one slot. No command is newer than
Redis 7.0. Names are joined with NUL characters. The members of ``index`` all have the score 0, so they are in the order
of their bytes; the first one says what a member is::

    c NAMESPACE SEQ ID          a checkpoint; SEQ is the thread's counter, in 16 hex digits
    d NAMESPACE BASE SEQ ID     it needs its ancestors from the SEQ BASE on (DeltaChannel)
    e NAMESPACE SEQ ID          heard of (by a write or a subgraph's checkpoint), but not stored yet
    n NAMESPACE                 a namespace with checkpoints
    r RUN NAMESPACE ID          a checkpoint of a run
    s ID NAMESPACE              namespace of a subgraph call that started from the root graph's checkpoint ID
    w NAMESPACE ID TASK NUMBER  a pending write

``facts`` holds the counters ``seq`` and ``bytes``, when times to live last began again and how long they were
(``touched``), for each checkpoint (``c NAMESPACE ID``) what scripts have to know
of it, the SEQ of each one heard of (``e NAMESPACE ID``), and how many checkpoints use a blob (``b NAMESPACE CHANNEL
VERSION``).
"""

from __future__ import annotations

import hashlib
from typing import Final


class Script:
    """A script, and the name by which a server knows it once it has seen it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


ON_REGISTER: Final = r"""
local call = redis.call
local read_at
local function now()
  if not read_at then
    local time = call('TIME')
    read_at = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return read_at
end
local function unregister(thread)
  local size = tonumber(call('HGET', SIZES, thread) or '0')
  if size ~= 0 then call('HINCRBY', SIZES, '', -size) end
  call('HDEL', SIZES, thread)
  call('ZREM', THREADS, thread)
  if call('ZCARD', THREADS) == 0 then call('DEL', SIZES) end
end
local function purge()
  local expired = call('ZRANGEBYSCORE', THREADS, '-inf', '(' .. now(), 'LIMIT', 0, 100)
  for _, thread in ipairs(expired) do unregister(thread) end
end
"""

ON_THREAD: Final = (
    "local FACTS, CHECKPOINTS, BLOBS, WRITES, INDEX, FENCE, CLAIMS, THREADS, SIZES = unpack(KEYS)"
    + ON_REGISTER
    + r"""
local Z = '\0'
local state = call('HMGET', FACTS, 'seq', 'bytes', 'touched')
local seq, bytes = tonumber(state[1] or '0'), tonumber(state[2] or '0')
local bytes_before = bytes

local function join(...) return table.concat({...}, Z) end
local function hex(number) return string.format('%016x', number) end
local function below(prefix, from, count)
  return call('ZRANGEBYLEX', INDEX, '[' .. prefix .. Z, '(' .. prefix .. Z .. '\255', 'LIMIT', from, count)
end
local function newest(prefix, from, count)
  return call('ZREVRANGEBYLEX', INDEX, '(' .. prefix .. Z .. '\255', '[' .. prefix .. Z, 'LIMIT', from, count)
end
local function parts(member)
  local found = {}
  for part in string.gmatch(member .. Z, '(.-)%z') do found[#found + 1] = part end
  return found
end
local function add(key, field, value)
  if call('HSETNX', key, field, value) == 0 then return false end
  bytes = bytes + #field + #value
  return true
end
local function set(key, field, value)
  if add(key, field, value) then return end
  bytes = bytes - call('HSTRLEN', key, field) + #value
  call('HSET', key, field, value)
end
local function many(key, fields)
  local found = {}
  for from = 1, #fields, 1000 do
    local values = call('HMGET', key, unpack(fields, from, math.min(from + 999, #fields)))
    for _, value in ipairs(values) do found[#found + 1] = value end
  end
  return found
end
local function drop(key, field)
  local old = call('HSTRLEN', key, field)
  if call('HDEL', key, field) == 1 then bytes = bytes - old - #field end
end
local function fact(ns, id)
  local found = call('HGET', FACTS, join('c', ns, id))
  return found and cmsgpack.unpack(found)
end
local function drop_writes(ns, id)
  local prefix = join('w', ns, id)
  for _, member in ipairs(below(prefix, 0, -1)) do
    drop(WRITES, string.sub(member, 3))
    call('ZREM', INDEX, member)
  end
end
local function unuse(refs)
  for _, field in ipairs(refs) do
    local name = 'b' .. Z .. field
    if call('HINCRBY', FACTS, name, -1) <= 0 then
      call('HDEL', FACTS, name)
      drop(BLOBS, field)
    end
  end
end
local function unlist(ns, id, old)
  call('ZREM', INDEX, join('c', ns, hex(old.seq), id), join('d', ns, hex(old.base), hex(old.seq), id),
    join('r', old.run, ns, id))
end
local function forget_expected(ns, id)
  local expected = call('HGET', FACTS, join('e', ns, id))
  if expected then
    call('HDEL', FACTS, join('e', ns, id))
    call('ZREM', INDEX, join('e', ns, hex(expected), id))
  end
  return tonumber(expected or '0')
end
local drop_checkpoint
local function drop_namespace(ns)
  for _, member in ipairs(below(join('c', ns), 0, -1)) do drop_checkpoint(ns, parts(member)[4]) end
  for _, member in ipairs(below(join('e', ns), 0, -1)) do
    local id = parts(member)[4]
    forget_expected(ns, id)
    drop_writes(ns, id)
  end
end
local function drop_calls(id)
  for _, member in ipairs(below(join('s', id), 0, -1)) do
    call('ZREM', INDEX, member)
    drop_namespace(parts(member)[3])
  end
end
drop_checkpoint = function(ns, id)
  local old = fact(ns, id)
  if not old then return end
  unlist(ns, id, old)
  call('HDEL', FACTS, join('c', ns, id))
  drop(CHECKPOINTS, join(ns, id))
  unuse(old.refs)
  drop_writes(ns, id)
  if ns == '' then drop_calls(id) end
  if #below(join('c', ns), 0, 1) == 0 then call('ZREM', INDEX, join('n', ns)) end
end

local function settle_ttl(key, ttl)
  if ttl > 0 then call('PEXPIRE', key, ttl) else call('PERSIST', key) end
end
-- Times to live begin again with a write, but not more often than a thousand times in one of them.
local due_now
local function due(ttl)
  if due_now == nil then
    local at, before = string.match(state[3] or '', '^(%d+) (%d+)$')
    local age = at and now() - tonumber(at)
    due_now = not at or tonumber(before) ~= ttl or age < 0 or age * 1000 > ttl
  end
  return due_now
end
local function resize(thread, grown)
  if grown ~= 0 then
    call('HINCRBY', SIZES, '', grown)
    call('HSET', SIZES, thread, bytes)
  end
end
local function register(thread, ttl)
  call('HSETNX', SIZES, thread, 0)
  resize(thread, bytes - tonumber(call('HGET', SIZES, thread)))
  call('ZADD', THREADS, ttl > 0 and now() + ttl or '+inf', thread)
  if ttl == 0 or call('ZCARD', THREADS) == 1 then
    settle_ttl(THREADS, ttl)
    settle_ttl(SIZES, ttl)
  else  -- as long as the thread that stays longest; without an end if one does
    call('PEXPIRE', THREADS, ttl, 'GT')
    call('PEXPIRE', SIZES, ttl, 'GT')
  end
end
local function forget_thread(thread)
  call('UNLINK', FACTS, CHECKPOINTS, BLOBS, WRITES, INDEX)
  unregister(thread)
end
-- After something was removed: the counters, or nothing at all if nothing is left. Leaves every time to live as it is.
local function keep_rest(thread)
  if #below('c', 0, 1) == 0 and #below('e', 0, 1) == 0 then return forget_thread(thread) end
  call('HSET', FACTS, 'bytes', bytes, 'touched', '')  -- what is empty now, and written again, gets a time to live
  local grown = bytes - tonumber(call('HGET', SIZES, thread) or '0')
  if call('HEXISTS', SIZES, thread) == 1 and grown ~= 0 then
    call('HINCRBY', SIZES, '', grown)
    call('HSET', SIZES, thread, bytes)
  end
end

local function numbers(text)
  local found = {}
  for number in string.gmatch(text, '%d+') do found[#found + 1] = tonumber(number) end
  return found
end
-- The recorded fence if it is higher than this one, or if this caller has none although there is one.
local accepted
local function refused_by(fence, ttl)
  if fence == accepted then return nil end
  local recorded = call('GET', FENCE)
  if not recorded and fence == '' then
    accepted = fence
    return nil
  end
  local ours, theirs = numbers(fence), numbers(recorded or '')
  if fence == '' then return recorded end
  for at = 1, math.max(#ours, #theirs) do
    local mine, known = ours[at] or 0, theirs[at] or 0
    if mine < known then return recorded end
    if mine > known then break end
  end
  if fence ~= recorded then call('SET', FENCE, fence) end
  if fence ~= recorded or due(ttl) then settle_ttl(FENCE, ttl) end
  accepted = fence
  return nil
end
"""
)
