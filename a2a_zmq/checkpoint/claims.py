"""Who may run on a thread: one run at a time, and of a run only its newest attempt.

A *run* is known by its id, and may be begun several times (attempts, rising numbers). Before an attempt reads anything
it claims the thread, and gets a fence above all that were given before; with it in its ``config`` (``a2a_fence``) the
saver refuses whatever an earlier attempt still writes. A claim is held for a time and renewed; a run that failed and
will be tried again leaves it to run out, so that no other run comes in between.

A thread belongs to the run that claimed it last. When another one has had it meanwhile, an earlier run cannot go on:
its checkpoint is not the newest any more. It is told so (``overtaken``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from a2a_zmq.checkpoint.calls import Call, Operation
from a2a_zmq.checkpoint.keys import encode
from a2a_zmq.checkpoint.layout import text
from a2a_zmq.checkpoint.lua import ON_THREAD, Script
from a2a_zmq.checkpoint.scripts import READING

if TYPE_CHECKING:
    from a2a_zmq.checkpoint.aio import AsyncRedisSaver

# An attempt that does not renew its claim for this long is taken to be gone.
HOLD_S: Final = 60.0
# Runs of a thread that are remembered: an attempt that wakes up later than so many turns would begin anew.
REMEMBERED: Final = 200

# CLAIMS has the fields "run", "attempt", "fence", "until" (ms) and "graph" of the last claim, "order", a counter, and
# for each run that is remembered ("r RUN") its newest attempt and its place in the order.
# ARGV: run, attempt, hold (ms), time to live (ms, 0 for ever), hash of the graph, runs remembered. The reply is what
# became of it; and if that is ok, the fence and the thread's newest checkpoint, as READ gives it.
_CLAIM: Final = Script(
    "claim",
    ON_THREAD
    + READING
    + r"""
local run, attempt, hold, ttl, graph = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local last = call('HMGET', CLAIMS, 'run', 'attempt', 'fence', 'until', 'graph')
local seen = tonumber(string.match(call('HGET', CLAIMS, 'r' .. Z .. run) or '', '^%d+') or '0')
if seen > attempt then return {'replaced', seen} end
local ours = last[1] == run
if ours and last[5] ~= graph and last[5] ~= '' and graph ~= '' then return {'changed', last[5]} end
if ours and tonumber(last[2]) == attempt then  -- the same claim again: its reply was lost
  call('HSET', CLAIMS, 'until', now() + hold)
  settle_ttl(CLAIMS, ttl)
  settle_ttl(FENCE, ttl)
  return {'ok', tonumber(last[3]), read('', '', true)}
end
if not ours then
  local left = tonumber(last[4] or '0') - now()
  if left > 0 then return {'busy', last[1], left} end
  if seen > 0 then return {'overtaken', last[1]} end
end
local fence = math.max(tonumber(last[3] or '0'), tonumber(string.match(call('GET', FENCE) or '', '^%d+') or '0')) + 1
local place = call('HINCRBY', CLAIMS, 'order', 1)
call('HSET', CLAIMS, 'run', run, 'attempt', attempt, 'fence', fence, 'until', now() + hold, 'graph', graph,
  'r' .. Z .. run, attempt .. ' ' .. place)
call('SET', FENCE, fence)
settle_ttl(CLAIMS, ttl)
settle_ttl(FENCE, ttl)
if place % tonumber(ARGV[6]) == 0 then
  local all = call('HGETALL', CLAIMS)
  for at = 1, #all, 2 do
    if string.sub(all[at], 1, 2) == 'r' .. Z then
      local old = tonumber(string.match(all[at + 1], '%d+$'))
      if old <= place - tonumber(ARGV[6]) then call('HDEL', CLAIMS, all[at]) end
    end
  end
end
return {'ok', fence, read('', '', true)}
""",
)

# ARGV: fence, hold (ms; 0 gives the thread back), time to live (ms, 0 for ever). The reply is 1 if it is still the last
# claim.
_RENEW: Final = Script(
    "renew",
    ON_THREAD
    + r"""
if call('HGET', CLAIMS, 'fence') ~= ARGV[1] then return 0 end
local hold = tonumber(ARGV[2])
call('HSET', CLAIMS, 'until', now() + hold)
if hold > 0 then settle_ttl(CLAIMS, tonumber(ARGV[3])) end  -- given back it stays as it was kept
return 1
""",
)

# ARGV: fence, time to live (ms), encoded thread id. The next write makes it the saver's own again. The reply is 1 if it
# is still the last claim.
_KEEP: Final = Script(
    "keep",
    ON_THREAD
    + r"""
if call('HGET', CLAIMS, 'fence') ~= ARGV[1] then return 0 end
local ttl = tonumber(ARGV[2])
for at = 1, 7 do settle_ttl(KEYS[at], ttl) end
call('HSET', FACTS, 'touched', string.format('%d %d', now(), ttl))
register(ARGV[3], ttl)
return 1
""",
)


@dataclass(frozen=True, slots=True)
class Claim:
    """What became of a claim.

    Attributes:
        outcome: ``ok``; ``busy`` (another run has the thread); ``replaced`` (a later attempt of this run had it);
            ``overtaken`` (another run has had it since this one's last attempt); ``changed`` (this run began with
            another graph).
        fence: to be put into ``config["configurable"]["a2a_fence"]``; 0 unless ok.
        holder: the other run, attempt, or hash of the graph; "" if ok.
        free_in_s: when busy, how long the other claim is still held if nobody renews it.
    """

    outcome: str
    fence: int = 0
    holder: str = ""
    free_in_s: float = 0.0


class ThreadClaims:
    """Claims on the threads of a saver."""

    def __init__(self, saver: AsyncRedisSaver, hold_s: float = HOLD_S) -> None:
        """
        Args:
            hold_s: seconds for which a claim holds unless it is renewed.
        """
        self._saver = saver
        self.hold_s = hold_s

    async def claim(self, thread_id: str, run: str, attempt: int, graph: str = "") -> Claim:
        """Claim a thread for an attempt of a run; may be repeated. The thread's newest checkpoint comes with it: the
        saver need not ask for it again.

        Args:
            graph: hash of the graph that is to run, by which a changed one is noticed.

        Raises:
            StateError: Redis could not be asked.
        """
        claim, newest = await self._saver._run(self._claim(thread_id, run, attempt, graph))
        if claim.outcome == "ok":
            self._saver._knows(thread_id, claim.fence, newest)
        return claim

    async def renew(self, thread_id: str, fence: int) -> bool:
        """Hold it for ``hold_s`` from now on; False if somebody else has claimed it since."""
        return await self._saver._run(self._renew(thread_id, fence, self.hold_s))

    async def release(self, thread_id: str, fence: int) -> bool:
        """Others may have the thread; False if somebody has claimed it already."""
        return await self._saver._run(self._renew(thread_id, fence, 0.0))

    async def keep(self, thread_id: str, fence: int, ttl_s: float) -> bool:
        """Keep the thread for so long from now on although nothing is written to it, if that is longer than the saver
        does; False if somebody has claimed it since.

        Raises:
            StateError: Redis could not be asked.
        """
        return await self._saver._run(self._keep(thread_id, fence, ttl_s))

    def _claim(self, thread_id: str, run: str, attempt: int, graph: str) -> Operation[tuple[Claim, Any]]:
        ttl, _ = self._saver._store.retention.arguments
        reply: Any = yield self._call(
            thread_id, _CLAIM, run, attempt, round(self.hold_s * 1000), ttl, graph, REMEMBERED
        )
        outcome = text(reply[0])
        if outcome == "ok":
            return Claim(outcome, fence=int(reply[1])), reply[2] if len(reply) > 2 else None
        holder = str(reply[1]) if isinstance(reply[1], int) else text(reply[1])
        return Claim(outcome, holder=holder, free_in_s=int(reply[2]) / 1000 if outcome == "busy" else 0.0), None

    def _renew(self, thread_id: str, fence: int, hold_s: float) -> Operation[bool]:
        ttl, _ = self._saver._store.retention.arguments
        reply = yield self._call(thread_id, _RENEW, fence, round(hold_s * 1000), ttl)
        return bool(reply)

    def _keep(self, thread_id: str, fence: int, ttl_s: float) -> Operation[bool]:
        ttl, _ = self._saver._store.retention.arguments
        wanted = round(ttl_s * 1000)
        if ttl == 0 or wanted <= ttl:  # it is kept for ever, or for longer
            return True
        reply = yield self._call(thread_id, _KEEP, fence, wanted, encode(thread_id))
        return bool(reply)

    def _call(self, thread_id: str, script: Script, *words: str | int) -> Call:
        return self._saver._store.on_thread(thread_id, script, *words)
