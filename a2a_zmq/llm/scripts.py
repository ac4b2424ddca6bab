"""The scripts that keep a provider's budget in Redis. Pure.

KEYS are :func:`a2a_zmq.llm.keys.of_provider`. Time is the server's. ``WINDOW`` has for each second of the last minute
the requests (``r SECOND``) and tokens (``t SECOND``) that began in it, so in no 60 seconds there are more than the
budget allows; ``next`` counts tickets of the queue. ``CALLS`` has ``until ticket tokens`` of a call that waits, and
``second tokens`` of one that runs.
"""

from __future__ import annotations

from typing import Final

from a2a_zmq.checkpoint.lua import Script

_PRELUDE: Final = r"""
local WINDOW, RUNNING, QUEUE, CALLS, PAUSE = unpack(KEYS)
local call = redis.call
local time = call('TIME')
local second = tonumber(time[1])
local now = second * 1000 + math.floor(time[2] / 1000)
local KEEP = 180000
local LOOK = 200  -- of a longer queue only the first are looked at; the others want a request each
local function keep()
  for _, key in ipairs({WINDOW, RUNNING, QUEUE, CALLS}) do call('PEXPIRE', key, KEEP) end
end
"""

# ARGV: call, tokens, requests a minute, tokens a minute, calls at a time (0: no bound; each), lease (ms), how long a
# call that waits is believed to live (ms). The reply: 1 and 0, or 0, milliseconds that it will take at least, and what
# is missing.
#
# Who waits gets its turn in order. A call may go if there is room for it *and* for all that are before it, so it takes
# nothing from them, and nobody has to wait until each of them has looked.
ACQUIRE: Final = Script(
    "acquire",
    _PRELUDE
    + r"""
local id, tokens = ARGV[1], tonumber(ARGV[2])
local most_requests, most_tokens, most_calls = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local lease, patience = tonumber(ARGV[6]), tonumber(ARGV[7])
if most_tokens > 0 and tokens > most_tokens then tokens = most_tokens end

for _, gone in ipairs(call('ZRANGEBYSCORE', RUNNING, '-inf', now)) do
  call('ZREM', RUNNING, gone)
  call('HDEL', CALLS, gone)
end
if call('ZSCORE', RUNNING, id) then return {1, 0, ''} end  -- the reply was lost

-- who is before us
local rank = call('ZRANK', QUEUE, id)
local before = rank or call('ZCARD', QUEUE)
local ahead, ahead_tokens = math.max(0, before - LOOK), 0
for _, other in ipairs(before > 0 and call('ZRANGE', QUEUE, 0, math.min(before, LOOK) - 1) or {}) do
  local wish = call('HGET', CALLS, other)
  local till, wanted = string.match(wish or '', '^(%d+) %d+ (%d+)$')
  if till and tonumber(till) > now then
    ahead = ahead + 1
    ahead_tokens = ahead_tokens + math.min(tonumber(wanted), most_tokens > 0 and most_tokens or tonumber(wanted))
  else
    call('ZREM', QUEUE, other)
    call('HDEL', CALLS, other)
  end
end

-- what the last minute has had
local requests, used, seconds = {}, {}, {}
local sum_requests, sum_tokens = 0, 0
local fields = call('HGETALL', WINDOW)
for at = 1, #fields, 2 do
  local kind, when = string.match(fields[at], '^([rt]) (%d+)$')
  if kind then
    when = tonumber(when)
    local number = tonumber(fields[at + 1])
    if when < second - 60 then
      call('HDEL', WINDOW, fields[at])
    elseif kind == 'r' then
      requests[when] = number
      sum_requests = sum_requests + number
      seconds[#seconds + 1] = when
    else
      used[when] = number
      sum_tokens = sum_tokens + number
    end
  end
end
table.sort(seconds)

-- milliseconds until so much of the minute has passed that there is room
local function until_room(sum, of, most, wanted)
  if most == 0 or sum + wanted <= most then return 0 end
  for _, when in ipairs(seconds) do
    sum = sum - (of[when] or 0)
    if sum + wanted <= most then return math.max(1, (when + 61) * 1000 - now) end
  end
  return 60000
end
local wait, missing = math.max(0, call('PTTL', PAUSE)), 'paused'
local longer = until_room(sum_requests, requests, most_requests, ahead + 1)
if longer > wait then wait, missing = longer, 'requests' end
longer = until_room(sum_tokens, used, most_tokens, ahead_tokens + tokens)
if longer > wait then wait, missing = longer, 'tokens' end
if wait == 0 and most_calls > 0 and call('ZCARD', RUNNING) + ahead >= most_calls then
  wait, missing = math.min(1000, 50 * (ahead + 1)), 'concurrency'  -- nobody knows: when to look again
end

if wait > 0 then
  local ticket = rank and call('ZSCORE', QUEUE, id) or call('HINCRBY', WINDOW, 'next', 1)
  call('ZADD', QUEUE, ticket, id)
  call('HSET', CALLS, id, string.format('%d %d %d', now + patience, ticket, tokens))
  keep()
  return {0, wait, missing}
end
call('ZREM', QUEUE, id)
call('ZADD', RUNNING, now + lease, id)
call('HSET', CALLS, id, string.format('%d %d', second, tokens))
call('HINCRBY', WINDOW, 'r ' .. second, 1)
call('HINCRBY', WINDOW, 't ' .. second, tokens)
keep()
return {1, 0, ''}
""",
)

# ARGV: call, tokens that it used (-1: nobody knows, so what it reserved). It runs and waits no more.
SETTLE: Final = Script(
    "settle",
    _PRELUDE
    + r"""
local id, tokens = ARGV[1], tonumber(ARGV[2])
local began, reserved = string.match(call('HGET', CALLS, id) or '', '^(%d+) (%d+)$')
if began and tokens >= 0 and call('HEXISTS', WINDOW, 't ' .. began) == 1 then
  call('HINCRBY', WINDOW, 't ' .. began, tokens - tonumber(reserved))
end
call('HDEL', CALLS, id)
call('ZREM', RUNNING, id)
call('ZREM', QUEUE, id)
return 1
""",
)

# ARGV: milliseconds. A longer pause stays.
PAUSE: Final = Script(
    "pause",
    _PRELUDE
    + r"""
if call('PTTL', PAUSE) < tonumber(ARGV[1]) then call('SET', PAUSE, '1', 'PX', ARGV[1]) end
return 1
""",
)

# ARGV: lease (ms), calls that still run. One whose place has expired gets none back.
RENEW: Final = Script(
    "renew",
    _PRELUDE
    + r"""
for at = 2, #ARGV do
  local till = call('ZSCORE', RUNNING, ARGV[at])
  if till and tonumber(till) > now then call('ZADD', RUNNING, now + tonumber(ARGV[1]), ARGV[at]) end
end
keep()
return 1
""",
)
