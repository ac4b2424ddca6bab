"""Does the simulation notice when the protocol is broken? Each planted bug takes one safeguard away; seeds run until
one tells.

``python -m tests.simulation.mutants`` prints the table; exit status 1 if a bug survives.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import repeat
from typing import Any, NamedTuple
from unittest import mock

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.fences import FenceGuard
from a2a_zmq.interfaces import SectionWrite
from a2a_zmq.protocol import session
from a2a_zmq.protocol.crypto import Mac
from a2a_zmq.protocol.link import Link
from a2a_zmq.protocol.outbound import Outbound
from a2a_zmq.state import lease_rules, memory, section
from a2a_zmq.state.section import Known, Snapshot
from daemons.coordinator import failover
from daemons.coordinator.failover import Failover
from daemons.distributor.consulting import RetryPolicy
from daemons.distributor.memory import RUNNING, LiveTask
from daemons.distributor.outcomes import Outcomes
from daemons.distributor.pauses import Pauses
from daemons.distributor.recovery import Recovery
from daemons.runtime.engine import Engine
from daemons.runtime.merging import Merger
from tests.simulation.disk import Disk
from tests.simulation.plan import MODES
from tests.simulation.scenario import run_seed

Bug = Callable[[], AbstractContextManager[None]]
BUGS: dict[str, Bug] = {}
# Where the rarer ones were found last: looked at first.
KNOWN_SEEDS: dict[str, int] = {
    "the store does not check the fence": 27,
    "a new owner does not raise the fence": 27,
    "signatures are not checked": 37,
    "orders with a lower fence are obeyed": 205,
    "a task taken over keeps its attempt number": 16,
    "a spool is merged as if its tasks were still there": 162,
    "a spool is merged as it was when the process began": 1096,
}
# More than any of them needs, by a wide margin.
MOST_SEEDS = 1000


def planted(name: str) -> Callable[[Callable[[], Iterator[None]]], Bug]:
    def register(function: Callable[[], Iterator[None]]) -> Bug:
        BUGS[name] = contextmanager(function)
        return BUGS[name]

    return register


# ---------------------------------------------------------------- the store and its owners


@planted("the store does not check the fence")
def no_fence_check() -> Iterator[None]:
    judge = section.judge

    def lenient(write: SectionWrite, found: Snapshot, known: Known | None) -> int | None:
        raised = SectionWrite(write.section, max(write.fence, found.fence), write.mutation_id)
        return judge(raised, found, known)

    with mock.patch.object(memory, "judge", lenient):
        yield


@planted("a new owner does not raise the fence")
def fence_not_raised() -> Iterator[None]:
    decide = lease_rules.decide

    def lazy(*args: Any, **kwargs: Any) -> lease_rules.Grant | None:
        grant = decide(*args, **kwargs)
        return grant._replace(fence=max(1, grant.fence - 1)) if grant is not None and grant.write else grant

    with mock.patch.object(memory, "decide", lazy):
        yield


@planted("an owner writes on when its lease may have ended")
def no_self_fence() -> Iterator[None]:
    forever = property(lambda self: math.inf, lambda self, value: None)
    with mock.patch.object(Engine, "safe_until", forever, create=True):
        yield


@planted("a lost reply is retried blindly")
def blind_retries() -> Iterator[None]:
    """As a client library's own retries do: nobody looks whether the write was applied."""
    judge = section.judge

    def forgetful(write: SectionWrite, found: Snapshot, known: Known | None) -> int | None:
        return judge(SectionWrite(write.section, write.fence, write.mutation_id + "'"), found, known)

    with mock.patch.object(memory, "judge", forgetful):
        yield


@planted("a lost state is not noticed")
def loss_not_noticed() -> Iterator[None]:
    with ExitStack() as stack:
        for module in (memory, section):
            stack.enter_context(mock.patch.object(module, "check_not_lost", return_value=None))
        yield


# ---------------------------------------------------------------- order


@planted("messages are sent before the batch is applied")
def sent_before_persisted() -> Iterator[None]:
    commit = Engine._commit

    def early(self: Engine, now: Now) -> None:
        before = self._pending
        commit(self, now)
        if self._pending is not None and self._pending is not before:
            after, self._pending.batch.after = self._pending.batch.after, []
            self._perform(after, now)

    with mock.patch.object(Engine, "_commit", early):
        yield


@planted("an attempt is sent before it is stored")
def attempt_before_stored() -> Iterator[None]:
    store_next = Outcomes.store_next

    def hasty(self: Outcomes, task: LiveTask, attempt: int, **how: Any) -> None:
        store_next(self, task, attempt, **how)
        if not task.not_before:
            self._dispatcher.add(task, self._memory.workers.values())

    with mock.patch.object(Outcomes, "store_next", hasty):
        yield


# ---------------------------------------------------------------- links


@planted("acknowledged before it is durable")
def acknowledged_early() -> Iterator[None]:
    commit = Engine._commit

    def early(self: Engine, now: Now) -> None:
        for port in self.ports:
            port.acknowledge(port.marks(), now)
        commit(self, now)

    with mock.patch.object(Engine, "_commit", early):
        yield


@planted("no acknowledgement is sent")
def acknowledgements_skipped() -> Iterator[None]:
    with mock.patch.object(Outbound, "acknowledge", return_value=None):
        yield


@planted("a message that comes again is handled again")
def no_duplicate_check() -> Iterator[None]:
    received = Link.received

    def forgetful(self: Link, seq: int, request_id: str) -> bool:
        received(self, seq, request_id)
        return True

    with mock.patch.object(Link, "received", forgetful):
        yield


@planted("signatures are not checked")
def signatures_not_checked() -> Iterator[None]:
    def trusting(frame: bytes, mac: Mac) -> bytes | None:
        return frame[:-80] + b"}"

    with mock.patch.object(session, "open_frame", trusting):
        yield


@planted("orders with a lower fence are obeyed")
def lower_fences_obeyed() -> Iterator[None]:
    with mock.patch.object(FenceGuard, "admits", return_value=True):
        yield


# ---------------------------------------------------------------- attempts


@planted("a report counts whatever its attempt")
def no_attempt_check() -> Iterator[None]:
    report = Outcomes.report

    def gullible(self: Outcomes, worker: Any, item: Any, now: Now) -> None:
        task = self._memory.live.get(item.get("task_id"))
        if task is not None and task.phase is RUNNING:
            worker = self._memory.workers.get(task.worker, worker)
            item = {**item, "attempt": task.attempt}
        report(self, worker, item, now)

    with mock.patch.object(Outcomes, "report", gullible):
        yield


@planted("a task taken over keeps its attempt number")
def no_new_attempt() -> Iterator[None]:
    def same(self: Recovery, task: LiveTask, _now: Now) -> None:
        self._outcomes.store_next(task, task.recorded + 1)
        self._journal.backlog.append(task)

    with mock.patch.object(Recovery, "_queue_again", same):
        yield


# ---------------------------------------------------------------- tasks that go elsewhere


@planted("a task goes elsewhere before it is taken away")
def moved_early() -> Iterator[None]:
    def hasty(self: Failover, now: Now) -> None:
        for move in list(self._moves.values()):
            if not move.asked and move.stored <= self._desk.staging.applied:
                self._evicted(list(move.home.moving), move, move.fence, now)

    with mock.patch.object(Failover, "settle", hasty):
        yield


@planted("a task that goes elsewhere keeps its attempt number")
def moved_with_its_attempt() -> Iterator[None]:
    with mock.patch.object(failover, "moved_record", lambda record, name, now: orjson.dumps(record)):
        yield


@planted("a spool is merged as if its tasks were still there")
def merged_blindly() -> Iterator[None]:
    """Only by what its own section holds."""
    choose = Merger._choose

    async def alone(self: Merger, write: SectionWrite, end: int) -> None:
        if write.section.writer == "distributor":
            self._distributors = []
        await choose(self, write, end)

    with mock.patch.object(Merger, "_choose", alone), mock.patch.object(Merger, "_elsewhere", return_value=set()):
        yield


@planted("a spool is merged as it was when the process began")
def spool_not_looked_at_again() -> Iterator[None]:
    """What the other process on this host kept since is not seen, and nothing stops that one."""

    async def as_before(self: Disk, fence: int) -> None:
        """Count nothing, say nothing."""

    with mock.patch.object(Disk, "take", as_before):
        yield


# ---------------------------------------------------------------- tasks that wait for answers


@planted("a question is told before it is stored")
def question_told_early() -> Iterator[None]:
    wait = Pauses.wait

    def hasty(self: Pauses, task: LiveTask, item: dict[str, Any], now: Now) -> None:
        wait(self, task, item, now)
        self.tell([task])

    with mock.patch.object(Pauses, "wait", hasty):
        yield


@planted("a new owner runs what waits for an answer")
def waiting_is_run() -> Iterator[None]:
    with mock.patch.object(Pauses, "take", return_value=None):
        yield


# ---------------------------------------------------------------- policies


@planted("a failed attempt waits until its policy answers")
def no_fallback() -> Iterator[None]:
    consider, conclude = RetryPolicy.consider, RetryPolicy._conclude

    def trusting(self: RetryPolicy, task: LiveTask, due: float, earliest: float, now: Now) -> float:
        return math.inf if consider(self, task, due, earliest, now) > due else due

    def only_if_good(self: RetryPolicy, choice: dict[Any, Any], now: Now) -> None:
        if not choice:
            self._open = []
        conclude(self, choice, now)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(RetryPolicy, "consider", trusting))
        stack.enter_context(mock.patch.object(RetryPolicy, "_conclude", only_if_good))
        yield


# ---------------------------------------------------------------- the hunt


class Found(NamedTuple):
    """What gave a bug away; ``seeds`` is 0 if nothing did."""

    bug: str
    seeds: int
    seed: int
    violation: str


def hunt(bug: str, most: int, mode: str | None) -> Found:
    """Run seeds with this bug until one tells that does not fail without it."""
    known = KNOWN_SEEDS.get(bug)
    first = [] if known is None or mode else [known]
    for count, seed in enumerate([*first, *range(most)], 1):
        with BUGS[bug]():
            try:
                violations = run_seed(seed, mode).violations
            except Exception as error:
                violations = (f"{type(error).__name__}: {error}",)
        if violations and not run_seed(seed, mode).violations:
            return Found(bug, count, seed, violations[0])
    return Found(bug, 0, 0, "SURVIVED")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description="Plant bugs and find them.")
    parser.add_argument("--seeds", type=int, default=MOST_SEEDS, help="at most, for each bug")
    parser.add_argument("--only", default="", help="bugs whose name has this in it")
    parser.add_argument("--mode", choices=MODES, help="of all seeds; by default each seed chooses")
    args = parser.parse_args(argv)
    bugs = [name for name in BUGS if args.only in name]
    survived = 0
    print(f"{'planted bug':60} {'seeds':>5} {'in seed':>7}  found by")
    with ProcessPoolExecutor(2) as pool:
        for found in pool.map(hunt, bugs, repeat(args.seeds), repeat(args.mode)):
            survived += not found.seeds
            print(f"{found.bug:60} {found.seeds:5} {found.seed:7}  {found.violation[:110]}", flush=True)
    print(f"{len(bugs) - survived} of {len(bugs)} planted bugs were found")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
