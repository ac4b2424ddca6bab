"""The scripts that remove, copy and count. Each may be repeated: the second time changes nothing."""

from __future__ import annotations

from typing import Final

from a2a_zmq.checkpoint.lua import ON_REGISTER, ON_THREAD, Script

# ARGV: encoded thread id.
DELETE_THREAD: Final = Script("delete_thread", ON_THREAD + "forget_thread(ARGV[1])\nreturn 'ok'\n")

# ARGV: encoded thread id, then runs. Returns how many checkpoints went.
DELETE_RUNS: Final = Script(
    "delete_runs",
    ON_THREAD
    + r"""
local count = 0
for at = 2, #ARGV do
  for _, member in ipairs(below(join('r', ARGV[at]), 0, -1)) do
    local found = parts(member)
    drop_checkpoint(found[3], found[4])
    count = count + 1
  end
end
if count > 0 then keep_rest(ARGV[1]) end
return count
""",
)

# ARGV: encoded thread id. Keeps each namespace's latest checkpoint and the ancestors that it is rebuilt from; subgraph
# calls stay with the checkpoint that they started from.
PRUNE: Final = Script(
    "prune",
    ON_THREAD
    + r"""
local kept = {}
local spaces = below('n', 0, -1)
for _, member in ipairs(spaces) do
  local ns = parts(member)[2]
  local id = parts(newest(join('c', ns), 0, 1)[1])[4]
  local known = fact(ns, id)
  kept[join(ns, id)] = true
  for _ = 1, known.depth do
    id = known.parent
    known = fact(ns, id)
    if not known then break end
    kept[join(ns, id)] = true
  end
end
for _, member in ipairs(spaces) do
  local ns = parts(member)[2]
  for _, each in ipairs(below(join('c', ns), 0, -1)) do
    local id = parts(each)[4]
    if not kept[join(ns, id)] then drop_checkpoint(ns, id) end
  end
end
if #spaces > 0 then keep_rest(ARGV[1]) end
return 'ok'
""",
)

# The whole thread as Redis packs it; nothing where there is none. Its order, counters and all come with it.
EXPORT: Final = Script(
    "export",
    ON_THREAD
    + r"""
if #below('c', 0, 1) == 0 then return {} end
local packed = {}
for at = 1, 5 do packed[at] = call('DUMP', KEYS[at]) or '' end
return packed
""",
)

# ARGV: time to live (ms), encoded thread id, a token of this copy, then what EXPORT gave. Returns ok, or exists.
IMPORT: Final = Script(
    "import",
    ON_THREAD
    + r"""
local ttl, thread = tonumber(ARGV[1]), ARGV[2]
if call('EXISTS', INDEX) == 1 then
  return call('HGET', FACTS, 'copy') == ARGV[3] and 'ok' or 'exists'
end
for at = 1, 5 do
  if ARGV[3 + at] ~= '' then call('RESTORE', KEYS[at], ttl, ARGV[3 + at], 'REPLACE') end
end
call('HSET', FACTS, 'copy', ARGV[3])
bytes = tonumber(call('HGET', FACTS, 'bytes'))
purge()
register(thread, ttl)
return 'ok'
""",
)

# KEYS: a bucket's register. Returns bytes and number of its threads, after it has forgotten those that expired.
TALLY: Final = Script(
    "tally",
    "local THREADS, SIZES = unpack(KEYS)"
    + ON_REGISTER
    + "purge()\nreturn {tonumber(call('HGET', SIZES, '') or '0'), call('ZCARD', THREADS)}\n",
)
