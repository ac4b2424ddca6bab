"""What users and operators do while everything fails: cancel, submit again, retry; in processes that freeze, with
clocks that jump, and with limits so small that every queue is full.

The promises are those of :mod:`tests.simulation.scenario`; besides, whoever waits is told what was recorded, every
core's own invariants hold at the end, and no loop spins.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import random
import sys
from collections.abc import Callable
from typing import Any

import orjson
import structlog

from a2a_zmq.client.entries import Call, Entry
from a2a_zmq.clock import Now
from a2a_zmq.interfaces import Section
from a2a_zmq.protocol.config import PortConfig
from a2a_zmq.protocol.message import Role
from a2a_zmq.protocol.ports import Port
from daemons.coordinator.core import CoordinatorCore
from daemons.distributor.core import DistributorCore
from daemons.runtime.contract import Core
from daemons.worker.config import WorkerConfig
from daemons.worker.core import WorkerCore
from tests.simulation import scenario
from tests.simulation.fleet import Agent, Fleet
from tests.simulation.network import Faults
from tests.simulation.virtual import VirtualLoop, run_virtual

KINDS = (*scenario.KINDS, "cancel", "cancel", "cancel", "again", "clock", "freeze", "freeze", "several", "long outage")
RETRY_KINDS = ("cancel", "cancel", "retry", "retry", "worker", "distributor", "coordinator", "redis", "reply", "freeze")
TASKS = 40
# An engine that takes so many turns at one moment of time spins.
MAX_TURNS_AT_ONCE = 300


def tight(core: Core, chooser: random.Random) -> None:
    """Limits so small that every one of them is met. (A submission is taken whole, so what is taken in all stays larger
    than the client's batch.)"""
    if isinstance(core, CoordinatorCore):
        _limit(
            core.desk,
            assign_window=chooser.choice((1, 3, 10)),
            move_chunk=chooser.choice((1, 2)),
            message_bytes=chooser.choice((400, 2_000)),
            max_staged_tasks=chooser.choice((41, 80)),
            max_pending_checks=chooser.choice((1, 4)),
            max_backlog_bytes=chooser.choice((2_000, 100_000)),
        )
        core.config = core.desk.clients._config = core.desk.config
    elif isinstance(core, DistributorCore):
        _limit(
            core._memory,
            message_bytes=chooser.choice((300, 1_500)),
            write_bytes=chooser.choice((300, 3_000)),
            backlog_slice=1,
            max_unreported=chooser.choice((1, 4)),
            history_per_cut=3,
            max_unrecorded=chooser.choice((1, 5)),
            sweep_slice=3,
        )
        core._journal._config = core._memory.config


def _limit(owner: Any, **limits: int) -> None:
    owner.config = dataclasses.replace(owner.config, **limits)


class FreezingAgent(Agent):
    """A process that can be stopped (SIGSTOP): what comes to it meanwhile is there when it goes on."""

    missed: list[tuple[Callable[..., Any], tuple[Any, ...]]]

    def start(self) -> None:
        super().start()
        shell, self.missed = self.shell, []
        assert shell is not None
        for socket in self.sockets:
            for name in ("on_frames", "on_connected", "on_disconnected"):
                if hasattr(socket, name):
                    setattr(socket, name, self._gate(getattr(socket, name), shell))
        turn, turns = shell.turn, [0.0, 0]

        def gated_turn() -> None:
            if self.frozen and self.shell is shell:
                shell._turn_wanted = False
                return
            at = self.fleet.loop.time()
            turns[:] = [at, turns[1] + 1 if turns[0] == at else 1]
            if turns[1] == MAX_TURNS_AT_ONCE:
                self.fleet.violations.append(f"{self.name} spins at {at:.3f}")
            turn()

        shell.turn = gated_turn  # type: ignore[method-assign]
        shell.event = self._gate(shell.event, shell)  # type: ignore[method-assign]

    def _gate(self, callback: Callable[..., Any], shell: object) -> Callable[..., Any]:
        def gated(*args: Any) -> None:
            if self.frozen and self.shell is shell:
                self.missed.append((callback, args))
            else:
                callback(*args)

        return gated

    def thaw(self) -> None:
        self.frozen = False
        missed, self.missed[:] = list(self.missed), []
        if self.alive and self.shell is not None:
            for callback, args in missed:
                callback(*args)
            self.shell.turn()

    def _core(self) -> tuple[Core, Any]:
        core, store = super()._core()
        chooser = self.restless.tightness
        if chooser is not None:
            if isinstance(core, WorkerCore):
                limits = {"slots": 1, "max_limit": chooser.choice((2, 8)), "keep_results": chooser.choice((1, 3, 50))}
                config = WorkerConfig(message_bytes=200, async_slots=chooser.choice((1, 3)), **limits)
                core = WorkerCore(
                    self.name, self.upstream, config=config, task_types=["noop", "work"], meter=core._meter
                )
            tight(core, chooser)
        return core, store

    def _ports(self, core: Core) -> list[Port]:
        ports = super()._ports(core)
        chooser = self.restless.tightness
        for port in ports if chooser is not None else ():
            assert chooser is not None
            limits = {"outbox_max_messages": chooser.choice((3, 8)), "window_messages": chooser.choice((1, 2))}
            config: PortConfig = dataclasses.replace(PortConfig(), ack_every=1, **limits)
            setattr(port, "config", config)  # noqa: B010 - hubs and spokes have one, the protocol does not say so
            for peer in getattr(port, "_peers", {}).values():
                peer.link._config = config
        return ports

    @property
    def restless(self) -> RestlessFleet:
        assert isinstance(self.fleet, RestlessFleet)
        return self.fleet


class Nobody:
    """Submits a task once more and does not wait for it."""

    def accepted(self, entry: Entry) -> None: ...

    def finished(self, entry: Entry) -> None: ...


class RestlessFleet(Fleet):
    """A fleet whose client changes its mind.

    Attributes:
        ended: task id → (section, status, attempt) of each result that was recorded.
        cancelled, retried: ids that the client wanted ended, or sent around again.
        hanging: ids of tasks that never end by themselves.
    """

    def __init__(self, loop: VirtualLoop, seed: int, *, distributors: int, limits: random.Random | None) -> None:
        self.tightness = limits
        self.wall_offset = 0.0
        self.ended: dict[str, list[tuple[Section, str, int]]] = {}
        self.cancelled: set[str] = set()
        self.retried: set[str] = set()
        self.hanging: set[str] = set()
        super().__init__(loop, seed, distributors=distributors, workers=2)
        self.client_role = Role.OPERATOR

    def _add(self, agent: Agent) -> None:
        super()._add(FreezingAgent(self, agent.name, agent.role, agent.address, agent.upstream, agent.upstream_address))

    def now(self) -> Now:
        now = self.loop.now()
        return Now(now.mono, now.wall + self.wall_offset)

    def read_log(self) -> None:
        for _client, mutation_id, _version in self.redis.log:
            write, _fence = self._writes[mutation_id]
            for task_id, raw in write.results.items():
                record = orjson.loads(raw)
                attempt = (record.get("metadata") or {}).get("attempt") or 0
                self.ended.setdefault(task_id, []).append((write.section, record["status"], attempt))
        super().read_log()

    def submit_again(self, task_id: str) -> None:
        assert self.connection is not None
        body = orjson.dumps({"task_id": task_id, "task_type": "work", "payload": {"seconds": 0.01}, "metadata": {}})
        self.connection.submit([Entry(task_id, body, Nobody(), check=True)])

    def submit_hanging(self, task_id: str, chooser: random.Random) -> None:
        assert self.connection is not None
        self.hanging.add(task_id)
        metadata = {
            "max_attempts": chooser.choice((1, 2)),
            "timeout_s": chooser.choice((0.05, 0.3)),
            "priority": chooser.choice((0, 5, -5)),
        }
        body = orjson.dumps({"task_id": task_id, "task_type": "work", "payload": {"hang": True}, "metadata": metadata})
        self.connection.submit([Entry(task_id, body, self._sink)])

    def ask(self, action: str, ids: list[str]) -> None:
        assert self.connection is not None
        self.note(action, *ids)
        self.connection.request(Call(action, {"task_ids": ids}, lambda call: None, repeatable=action != "retry_tasks"))


def run_seed(seed: int, *, kinds: tuple[str, ...] = KINDS, limits: bool = False) -> scenario.Result:
    """Run one seed to its end."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

    async def main(loop: VirtualLoop) -> scenario.Result:
        chooser = random.Random(f"turmoil {seed}")
        small = random.Random(f"limits {seed}") if limits else None
        fleet = RestlessFleet(loop, seed, distributors=chooser.choice((1, 1, 2)), limits=small)
        plan: list[str] = []
        try:
            await fleet.start()
            loading = loop.create_task(_load(fleet, chooser))
            await _nemesis(fleet, chooser, plan, kinds)
            await loading
            scenario._calm(fleet)
            for agent in fleet.agents.values():
                if isinstance(agent, FreezingAgent) and agent.frozen:
                    agent.thaw()
            await scenario._settle(fleet, TASKS)
            _check(fleet)
        finally:
            await fleet.stop()
        violations = (*fleet.violations, *(f"error: {error}" for error in fleet.errors))
        return scenario.Result(
            seed, fleet.trace(), len(fleet.accepted), violations, tuple(plan), tuple(fleet.notes) if violations else ()
        )

    return run_virtual(main)


async def _load(fleet: RestlessFleet, chooser: random.Random) -> None:
    for number in range(TASKS):
        if number % 8 == 7:
            fleet.submit_hanging(f"task-{number}", chooser)
        else:
            seconds = chooser.choice((0.0005, 0.001, 0.005, 0.05, 0.3, 1.0))
            fleet.submit(f"task-{number}", seconds=seconds, fail_times=chooser.choice((0, 0, 0, 0, 1, 2)))
        await asyncio.sleep(chooser.uniform(0, scenario.FAULT_TIME_S / TASKS * 1.5))


async def _nemesis(fleet: RestlessFleet, chooser: random.Random, plan: list[str], kinds: tuple[str, ...]) -> None:
    until = fleet.loop.time() + scenario.FAULT_TIME_S
    if chooser.random() < 0.5:
        fleet.network.faults = Faults(
            drop=chooser.choice((0, 0, 0.01, 0.05)),
            duplicate=chooser.choice((0, 0.02, 0.1)),
            reorder=chooser.choice((0, 0, 0.02)),
            delay_max_s=chooser.choice((0.002, 0.02, 0.1)),
        )
        plan.append(f"network {fleet.network.faults}")
    while fleet.loop.time() < until:
        await asyncio.sleep(chooser.uniform(0.02, 0.4))
        kind = chooser.choice(kinds)
        plan.append(f"{fleet.loop.time():.3f} {kind}")
        await _strike(fleet, chooser, kind)


async def _strike(fleet: RestlessFleet, chooser: random.Random, kind: str) -> None:
    if kind == "cancel":
        ids = sorted({f"task-{chooser.randrange(TASKS)}" for _ in range(chooser.choice((1, 3, 10)))})
        fleet.cancelled.update(ids)
        fleet.ask("cancel_tasks", ids)
    elif kind == "again":
        known = sorted(fleet.accepted)
        for task_id in chooser.sample(known, min(3, len(known))):
            fleet.submit_again(task_id)
    elif kind == "retry":
        ended = [(task_id, outcomes[0]) for task_id, outcomes in sorted(fleet.finished.items())]
        ids = [task_id for task_id, end in ended if isinstance(end, dict) and end["status"] != "completed"][:5]
        fleet.retried.update(ids)
        if ids:
            fleet.ask("retry_tasks", ids)
    elif kind == "clock":
        fleet.wall_offset += chooser.choice((-3600, -40, -5, 5, 40, 3600))
        fleet.note("clock", fleet.wall_offset)
    elif kind == "freeze":
        agent = fleet.agents[chooser.choice(list(fleet.agents))]
        if isinstance(agent, FreezingAgent) and agent.alive:
            fleet.note("freeze", agent.name)
            agent.frozen = True
            await asyncio.sleep(chooser.choice((0.1, 0.6, 1.0, 2.0, 6.0)))
            agent.thaw()
            fleet.note("thaw", agent.name)
    elif kind == "several":
        for name in chooser.sample(list(fleet.agents), chooser.choice((2, 3, len(fleet.agents)))):
            fleet.agents[name].crash()
    elif kind == "long outage":
        fleet.redis.take_away()
        await asyncio.sleep(10)
        fleet.redis.give_back()
    else:
        await scenario._strike(fleet, chooser, kind)


def _check(fleet: RestlessFleet) -> None:
    fleet.read_log()
    # Of what was sent around again there may be a result for each life.
    fleet.violations = [
        each for each in fleet.violations if not (each.endswith("recorded twice") and each.split()[0] in fleet.retried)
    ]
    problems = fleet.violations
    problems.extend(f"{task_id}: accepted, never recorded" for task_id in sorted(fleet.accepted - fleet.ended.keys()))
    for task_id, outcomes in fleet.finished.items():
        end = outcomes[0]
        if len(outcomes) != 1 or not isinstance(end, dict):
            problems.append(f"{task_id}: told {outcomes}")
            continue
        allowed = {"failed" if task_id in fleet.hanging else "completed"}
        if task_id in fleet.cancelled:
            allowed.add("abandoned")
        if scenario.taken_for_a_killer(fleet, end):
            allowed.add("failed")
        if end["status"] not in allowed or end["status"] not in {each[1] for each in fleet.ended.get(task_id, ())}:
            problems.append(f"{task_id}: told {end['status']} {end.get('error')}, recorded {fleet.ended.get(task_id)}")
    for agent in fleet.agents.values():
        core = agent.shell.engine.core if agent.shell is not None else None
        if isinstance(core, DistributorCore):
            problems.extend(f"{agent.name}: {each}" for each in core.violations())
        elif isinstance(core, CoordinatorCore):
            problems.extend(f"{agent.name}: {each}" for each in core.desk.ledger.deep_audit())


def main(argv: list[str] | None = None) -> int:
    """``python -m tests.simulation.turmoil --seeds 200 --limits``: exit status 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="turmoil")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--limits", action="store_true", help="with limits so small that all are met")
    parser.add_argument("--retry", action="store_true", help="with operators that send ended tasks around again")
    args = parser.parse_args(argv)
    broken = 0
    for seed in range(args.first, args.first + args.seeds):
        result = run_seed(seed, kinds=RETRY_KINDS if args.retry else KINDS, limits=args.limits)
        if result.violations:
            broken += 1
            print(f"seed {seed}: {'; '.join(result.violations)[:600]}", flush=True)
    print(f"{args.seeds} seeds, {broken} with violations")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
