"""The scripts that every run needs. Each may be repeated: the second time changes nothing."""

from __future__ import annotations

from typing import Final

from a2a_zmq.checkpoint.lua import ON_THREAD, Script

# ARGV: time to live (ms, 0 for ever), checkpoints kept (0 all), encoded thread id, then operations up to the end:
#   w FENCE NAMESPACE ID n, n times: whether it may replace, TASK NUL NUMBER, value
#   p FENCE NAMESPACE ID record parent root run depth n, n times NAMESPACE and ID of the checkpoints around it,
#     n, n names of blobs it uses, n, n times name and value of blobs that are new
# The reply has for each operation: ok, or fenced and the recorded fence, or missing and names of blobs.
COMMIT: Final = Script(
    "commit",
    ON_THREAD
    + r"""
local ttl, keep, thread = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local at = 3
local function take()
  at = at + 1
  return ARGV[at]
end
local function take_many(each)
  local found = {}
  for _ = 1, tonumber(take()) * each do found[#found + 1] = take() end
  return found
end

local function append(list, ...)
  for _, each in ipairs({...}) do list[#list + 1] = each end
end
local function store_all(command, key, words)
  for from = 1, #words, 1000 do call(command, key, unpack(words, from, math.min(from + 999, #words))) end
end
local function list_all(listed) store_all('ZADD', INDEX, listed) end
-- Fields that are not there yet.
local function add_all(key, words)
  for _, each in ipairs(words) do bytes = bytes + #each end
  store_all('HSET', key, words)
end

-- Takes a number in the order for a checkpoint at the first sign of it. Its own record may come after those of
-- subgraphs that started from it, and must still stand before them: replays look for what was before it.
local function expect(ns, id)
  local known = call('HMGET', FACTS, join('c', ns, id), join('e', ns, id))
  if known[1] or known[2] then return end
  seq = seq + 1
  call('HSET', FACTS, join('e', ns, id), seq)
  call('ZADD', INDEX, 0, join('e', ns, hex(seq), id))
end
local function number(ns, id, expected)
  if expected then
    expected = tonumber(expected)
    forget_expected(ns, id)
    local last = newest(join('c', ns), 0, 1)[1]
    if not (last and hex(expected) <= parts(last)[3]) then return expected end
  end
  seq = seq + 1
  return seq
end
-- SEQ of the oldest ancestor that the values of delta channels are rebuilt from, `depth` steps back.
local function base_of(ns, own, parent, depth)
  local nearest = depth > 0 and fact(ns, parent)
  if not nearest then return own end
  if nearest.depth + 1 == depth then return nearest.base end
  for _ = 2, depth do
    local next = fact(ns, nearest.parent)
    if not next then break end
    nearest = next
  end
  return nearest.seq
end
local function trim(ns)
  local range = join('c', ns)
  local count = call('ZLEXCOUNT', INDEX, '[' .. range .. Z, '(' .. range .. Z .. '\255')
  if keep > 0 and count > keep then
    local floor = 'g'
    local pins = join('d', ns)
    local pin = below(pins, 0, 1)[1]
    local window = pin and parts(newest(range, keep - 1, 1)[1])[3]
    while pin and parts(pin)[4] < window do  -- what is no longer among the newest pins no ancestors
      call('ZREM', INDEX, pin)
      pin = below(pins, 0, 1)[1]
    end
    if pin then floor = parts(pin)[3] end
    for _ = 1, math.min(count - keep, 64) do
      local oldest = parts(below(range, 0, 1)[1])
      if oldest[3] >= floor then break end
      drop_checkpoint(ns, oldest[4])
    end
  end
  -- What was heard of long before the oldest one kept will not come any more: its process died before it was stored.
  local stale = below(join('e', ns), 0, 1)[1]
  while stale do
    local found, oldest = parts(stale), parts(below(range, 0, 1)[1])
    if tonumber(found[3], 16) + 64 >= tonumber(oldest[3], 16) then break end
    forget_expected(ns, found[4])
    drop_writes(ns, found[4])
    if ns == '' then drop_calls(found[4]) end
    stale = below(join('e', ns), 0, 1)[1]
  end
end

local function put_writes(ns, id)
  local writes = take_many(3)
  return function()
    expect(ns, id)
    local fields, given, new, listed, again = {}, {}, {}, {}, {}
    for i = 1, #writes, 3 do fields[#fields + 1] = join(ns, id, writes[i + 1]) end
    local there = many(WRITES, fields)
    for i, field in ipairs(fields) do
      local value = writes[3 * i]
      if not there[i] and not given[field] then
        given[field] = true
        append(new, field, value)
        append(listed, 0, 'w' .. Z .. field)
      elseif writes[3 * i - 2] == '1' then
        append(again, field, value)
      end
    end
    add_all(WRITES, new)
    list_all(listed)
    for i = 1, #again, 2 do set(WRITES, again[i], again[i + 1]) end
    return {'ok'}
  end
end

local function put(ns, id)
  local record, parent, root, run, depth = take(), take(), take(), take(), tonumber(take())
  local around, refs, values = take_many(2), take_many(1), take_many(2)
  return function()
    local asked, counts, missing, new = {join('c', ns, id), join('e', ns, id)}, {}, {'missing'}, {}
    for i, field in ipairs(refs) do asked[i + 2] = 'b' .. Z .. field end
    local found = many(FACTS, asked)
    for i, field in ipairs(refs) do counts[field] = tonumber(found[i + 2] or '0') end
    local given = {}
    for i = 1, #values, 2 do given[values[i]] = values[i + 1] end
    for _, field in ipairs(refs) do
      if counts[field] == 0 and not given[field] then append(missing, field) end
    end
    if #missing > 1 then return missing end
    for i = 1, #around, 2 do expect(around[i], around[i + 1]) end
    for field, value in pairs(given) do
      if counts[field] == 0 then append(new, field, value) else set(BLOBS, field, value) end
    end
    add_all(BLOBS, new)
    local old = found[1] and cmsgpack.unpack(found[1])
    local own = old and old.seq or number(ns, id, found[2])
    local base = base_of(ns, own, parent, depth)
    local known = {seq = own, run = run, parent = parent, depth = depth, base = base, refs = refs}
    local facts = {join('c', ns, id), cmsgpack.pack(known)}
    for _, field in ipairs(refs) do append(facts, 'b' .. Z .. field, counts[field] + 1) end
    store_all('HSET', FACTS, facts)
    if old then
      unlist(ns, id, old)
      unuse(old.refs)
    end
    set(CHECKPOINTS, join(ns, id), record)
    local listed = {0, join('c', ns, hex(own), id), 0, join('n', ns)}
    if base < own then append(listed, 0, join('d', ns, hex(base), hex(own), id)) end
    if run ~= '' then append(listed, 0, join('r', run, ns, id)) end
    if root ~= '' and string.find(ns, ':', 1, true) then append(listed, 0, join('s', root, ns)) end
    list_all(listed)
    trim(ns)
    return {'ok'}
  end
end

local replies, changed = {}, false
while at < #ARGV do
  local kind, fence, ns, id = take(), take(), take(), take()
  local apply = kind == 'p' and put(ns, id) or put_writes(ns, id)
  local recorded = refused_by(fence, ttl)
  local reply = recorded and {'fenced', recorded} or apply()
  if reply[1] == 'ok' then changed = true end
  replies[#replies + 1] = reply
end
if changed then
  if due(ttl) then
    call('HSET', FACTS, 'seq', seq, 'bytes', bytes, 'touched', string.format('%d %d', now(), ttl))
    for _, key in ipairs({FACTS, CHECKPOINTS, BLOBS, WRITES, INDEX}) do settle_ttl(key, ttl) end
    purge()
    register(thread, ttl)
  else
    call('HSET', FACTS, 'seq', seq, 'bytes', bytes)
    settle_ttl(BLOBS, ttl)  -- these two may have been empty, and so without one
    settle_ttl(WRITES, ttl)
    resize(thread, bytes - bytes_before)
  end
end
return replies
""",
)

# ARGV: fence, time to live of the fence (ms), whether values are wanted, then NAMESPACE and ID of each checkpoint (""
# for the latest). A fence is recorded: who reads a thread with one takes it over.
# The reply: fenced and the recorded fence; or ok, then for each checkpoint that is there its namespace, id, record,
# names of blobs, blobs (or nothing), and names and values of pending writes in turn.
READING: Final = r"""
local function read(ns, id, with_values)
  if id == '' then
    local last = newest(join('c', ns), 0, 1)[1]
    id = last and parts(last)[4] or ''
  end
  local known = fact(ns, id)
  if not known then return nil end
  local names = {}
  for _, member in ipairs(below(join('w', ns, id), 0, -1)) do names[#names + 1] = string.sub(member, 3) end
  local writes = {}
  for i, value in ipairs(many(WRITES, names)) do
    writes[2 * i - 1] = names[i]
    writes[2 * i] = value
  end
  local values = with_values and many(BLOBS, known.refs) or {}
  return {ns, id, call('HGET', CHECKPOINTS, join(ns, id)), known.refs, values, writes}
end
"""
READ: Final = Script(
    "read",
    ON_THREAD
    + READING
    + r"""
if ARGV[1] ~= '' then
  local recorded = refused_by(ARGV[1], tonumber(ARGV[2]))
  if recorded then return {'fenced', recorded} end
end
local reply = {'ok'}
for at = 4, #ARGV, 2 do reply[#reply + 1] = read(ARGV[at], ARGV[at + 1], ARGV[3] == '1') end
return reply
""",
)

# ARGV: NAMESPACE, ID ("" for the latest), how many at most. Returns the ids of its ancestors, the nearest first.
ANCESTORS: Final = Script(
    "ancestors",
    ON_THREAD
    + r"""
local ns, id, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
if id == '' then
  local last = newest(join('c', ns), 0, 1)[1]
  id = last and parts(last)[4] or ''
end
local found = {}
local known = fact(ns, id)
while known and known.parent ~= '' and #found < most do
  found[#found + 1] = known.parent
  known = fact(ns, known.parent)
end
return found
""",
)
