"""One simulated run: the events of a plan, then quiet, then the last judgement.

What must hold at every moment is in :mod:`tests.simulation.witness`. In the end, besides: nothing that was accepted is
lost; the client is told of each task once, and what was recorded; no live task is left in the store, no
unacknowledged message on a link; every core's own invariants hold. The same seed gives the same trace.
"""

from __future__ import annotations

import gc
import random
from dataclasses import dataclass
from typing import Any

import structlog

from a2a_zmq.errors import RequestRefused
from daemons.coordinator.core import CoordinatorCore
from daemons.distributor.config import DistributorConfig
from daemons.distributor.core import DistributorCore
from tests.simulation import nemesis
from tests.simulation.agent import Agent
from tests.simulation.fleet import Fleet
from tests.simulation.plan import Plan, draw
from tests.simulation.virtual import VirtualLoop, run_virtual

# Virtual seconds that all retries, leases and audits together may need to settle. (A task whose cancelling was lost
# with the coordinator comes back to its distributor after 60 s.)
QUIET_S = 75.0


@dataclass(frozen=True, slots=True)
class Result:
    """
    Attributes:
        notes: everything that was noted, if anything was violated or it was asked for.
        virtual_s: how long it took, in the fleet's time.
    """

    plan: Plan
    trace: str
    accepted: int
    violations: tuple[str, ...]
    notes: tuple[str, ...]
    virtual_s: float


def run_seed(seed: int, mode: str | None = None) -> Result:
    """Run one seed to its end."""
    return run(draw(seed, mode))


def run(plan: Plan, *, keep_notes: bool = False) -> Result:
    """Run a plan to its end."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # a simulated fleet writes no logs

    async def main(loop: VirtualLoop) -> Result:
        limits = random.Random(f"limits {plan.seed}") if plan.limits else None
        fleet = Fleet(
            loop,
            plan.seed,
            distributors=plan.distributors,
            limits=limits,
            spool=plan.spool,
            coordinators=plan.coordinators,
            twins=plan.twins,
            provable=plan.provable,
            failover_s=plan.failover_s,
            graphs=plan.graphs,
            policy=plan.policy,
            tells=plan.tells,
        )
        try:
            await fleet.start()
            await nemesis.perform(fleet, plan.events)
            await settle(fleet)
            judge(fleet)
        finally:
            await fleet.stop()
        notes = tuple(fleet.notes) if keep_notes or fleet.violations else ()
        accepted = len(fleet.user.accepted_ids)
        return Result(plan, fleet.trace(), accepted, tuple(fleet.violations), notes, loop.time())

    # A run makes little garbage that refers to itself: it is cheaper to collect once, afterwards.
    gc.disable()
    try:
        return run_virtual(main)
    finally:
        gc.enable()


async def settle(fleet: Fleet) -> None:
    """Wait until everything that was asked for is done."""
    user = fleet.user
    await fleet.until(lambda: user.outcomes.keys() >= user.submitted, QUIET_S, "every task has an outcome")
    await fleet.until(
        lambda: answer_rest(fleet) and not unrecorded(fleet) - on_disks(fleet),
        QUIET_S,
        "what was accepted is recorded, or its end is on the disk of one that was replaced",
    )
    telling = fleet.telling
    if telling is not None:
        await fleet.until(
            lambda: answer_rest(fleet) and not telling.unread(), QUIET_S, "every stream is read to its end"
        )
    for agent in list(fleet.agents.values()):
        await let_own(fleet, agent)
    spools = [each.disk for each in fleet.agents.values() if not each.gone]
    await fleet.until(lambda: not any(disk.file.kept for disk in spools), QUIET_S, "every spool is empty")
    nothing_lives = "no live task is left in the store"
    if not await fleet.until(lambda: answer_rest(fleet) and not fleet.live(), QUIET_S, nothing_lives):
        fleet.violate(f"still live in the store: {fleet.live()}")
    if not await fleet.until(lambda: not unacknowledged(fleet), 10.0, "every message is acknowledged"):
        fleet.violate(f"not acknowledged: {unacknowledged(fleet)}")


def unrecorded(fleet: Fleet) -> set[str]:
    """What was accepted and has no result in the store."""
    return fleet.user.accepted_ids - fleet.witness.ended.keys() - fleet.loss.excused - fleet.loss.ends_gone


def on_disks(fleet: Fleet) -> set[str]:
    """Tasks with a result that waits in a spool. (Whoever was told of it does not answer what the task asked before,
    when another process, which cannot know the end, finds that it waits.)"""
    disks = [each.disk for each in fleet.agents.values() if not each.gone]
    return {task_id for disk in disks for write in disk.writes() for task_id in write.results}


def answer_rest(fleet: Fleet) -> bool:
    """What the client has a result of may run and wait again, after a retry or a loss of state: then an operator looks
    what waits, and answers."""
    fleet.user.answer_waiting([record for task_id in fleet.live() if (record := fleet.record(task_id)) is not None])
    return True


async def let_own(fleet: Fleet, agent: Agent) -> None:
    """What is on the disk of one that was replaced is handed in when it owns its section again. As an operator would,
    we see to it that it does: who owns it now is stopped for longer than its lease."""
    # One that has just woken may still take itself for the owner.
    settled = f"{agent.place} hands in, or sees that it was replaced"
    await fleet.until(
        lambda: not agent.disk.file.kept or fleet.acting(agent.name) not in (agent, None), QUIET_S, settled
    )
    other = fleet.acting(agent.name)
    if agent.disk.file.kept and other is not None and other is not agent:
        other.freeze()
        await fleet.until(lambda: not agent.disk.file.kept, 20.0, f"{agent.place} owns its section, and hands in")
        other.thaw()


def unacknowledged(fleet: Fleet) -> list[str]:
    """Links between living agents that still hold messages. (A coordinator that stands by acknowledges nothing,
    nor what it was sent when it led.)"""
    leader = fleet.leader()
    standing_by = {each for each in fleet.coordinators if leader is not None and each != leader.name}
    return [
        f"{agent.place} to {peer.agent_id}: {backlog}"
        for agent in fleet.agents.values()
        if agent.alive and agent.shell is not None
        for port in agent.shell.engine.ports
        for peer in port._peers.values()  # type: ignore[attr-defined]
        if peer.up and peer.agent_id not in standing_by and (backlog := peer.link.backlog()).messages
    ]


def taken_for_a_killer(fleet: Fleet, record: dict[str, Any]) -> bool:
    """Was it set aside because so many workers died while they had it? (That they did is looked up.)"""
    had = len(fleet.witness.given.get(record["task_id"], ()))
    return record["metadata"].get("error_kind") == "worker_lost" and had >= DistributorConfig().most_worker_deaths


def given_up(fleet: Fleet, record: dict[str, Any]) -> bool:
    """Did a policy end it?"""
    return record["metadata"].get("error_kind") == "given_up" and record["task_id"] in fleet.given_up


def judge(fleet: Fleet) -> None:
    """The last judgement."""
    user, witness, excused = fleet.user, fleet.witness, fleet.loss.excused
    for task_id in sorted(unrecorded(fleet)):
        fleet.violate(f"{task_id} was accepted and never recorded")
    for task_id, outcomes in user.outcomes.items():
        if len(outcomes) != 1:
            fleet.violate(f"{task_id}: the client was told {len(outcomes)} outcomes")
        end = outcomes[0]
        if not isinstance(end, dict):
            unknown = isinstance(end, RequestRefused) and end.code == "UNKNOWN_TASK"
            if not (unknown and task_id in excused | fleet.loss.untold):
                fleet.violate(f"{task_id}: the client was told {end!r}")
            continue
        allowed = {"failed" if task_id in user.hanging else "completed"}
        if task_id in user.cancelled:
            allowed.add("abandoned")
        if taken_for_a_killer(fleet, end) or given_up(fleet, end):
            allowed.add("failed")
        recorded = [each.status for each in witness.ended.get(task_id, ())]
        told = {*recorded, *witness.set_aside.get(task_id, ())}
        if end["status"] not in allowed or end["status"] not in told:
            fleet.violate(f"{task_id}: the client was told {end['status']} {end.get('error')}, recorded was {recorded}")
    if fleet.telling is not None:
        fleet.telling.judge()
    for agent in fleet.agents.values():
        core = agent.core
        if isinstance(core, DistributorCore):
            problems = core.violations()
        else:
            problems = core.desk.ledger.deep_audit() if isinstance(core, CoordinatorCore) else []
        for each in problems:
            fleet.violate(f"{agent.place}: {each}")
