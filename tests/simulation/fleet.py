"""A whole fleet in one process on virtual time: the real cores, ports, engines, shells, lease keeping and client;
simulated network, store, processes and executors. Everything random comes from one seed, so a run replays exactly."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.interfaces import INBOX, Section
from a2a_zmq.protocol.message import Role
from a2a_zmq.state import keys
from a2a_zmq.state.lease_rules import parse_lease_value
from a2a_zmq.state.memory_world import MemoryRedis
from daemons.runtime.procs import ProcessIdentity
from tests.simulation.agent import Agent, Upstream
from tests.simulation.loss import Loss
from tests.simulation.network import Network
from tests.simulation.store import WatchedStore, Wire
from tests.simulation.telling import Telling
from tests.simulation.user import User
from tests.simulation.virtual import STOP_S, WALL_EPOCH_S, VirtualLoop
from tests.simulation.witness import Witness

COORDINATOR = "coordinator-1"


def twin_of(name: str) -> str:
    """The place of the process that stands by for this distributor."""
    return f"{name}/twin"


class Fleet:
    """The world of one run.

    Attributes:
        agents: place → process; a twin of an agent has a place of its own.
        coordinators, distributors: ids of all of them.
        witness: judges what happens while it happens.
        loss: what a lost state excuses.
        violations: what should not have been.
        trace: digest of everything noted, for "same seed, same run".
    """

    def __init__(
        self,
        loop: VirtualLoop,
        seed: int,
        *,
        distributors: int = 1,
        workers: int = 2,
        limits: random.Random | None = None,
        spool: bool = False,
        coordinators: int = 1,
        twins: bool = False,
        provable: bool = True,
        failover_s: float = 30.0,
        graphs: bool = False,
        policy: bool = False,
        tells: bool = False,
    ) -> None:
        """
        Args:
            limits: makes everything small.
            spool: owners keep on their disks what the store cannot take.
            coordinators, twins: of them one leads; each distributor has a second process that stands by.
            failover_s: the coordinator's setting.
            graphs: tasks are runs of a graph, which all workers have.
            policy: where a task goes, and what becomes of it where it failed, is asked of policies, which answer well,
                badly, late or never.
            tells: runs tell what they do, and the client reads along.
            provable: whether who stands by is on the same host, and sees that the owner was killed.
        """
        self.loop = loop
        self.rng = random.Random(seed)
        self.limits = limits
        self.spool = spool
        self.failover_s = failover_s
        self.graphs = graphs
        self.policy = policy
        self.given_up: set[str] = set()  # ids of tasks that a policy gave up, whether or not it was heard
        self.checkpoints: dict[str, int] = {}  # task id → pauses that its graph has left behind
        self.wall_offset = self._now_offset = 0.0
        self._now = Now(-1.0, 0.0)  # read last; it is asked for many times at every moment
        self.violations: list[str] = []
        self.notes: list[str] = []
        self._trace = hashlib.sha256()
        self.network = Network(loop, self.rng)
        self.redis = MemoryRedis(self.now)
        self.witness = Witness(self.violate, self.note)
        self.witness.clock = loop.time
        self.witness.lease_pid = self._lease_pid
        self.witness.is_overtaken = self._is_overtaken
        self.network.sent = self.witness.sent
        self.user = User(self)
        self.loss = Loss(self)
        self.witness.on_stored = self.loss.stored
        self.telling = Telling(self, seed) if tells else None
        self.losses = 0
        self.gone_pids: set[int] = set()
        self.over = False
        self._away: Counter[str] = Counter()
        self._pid = 100
        self.agents: dict[str, Agent] = {}
        self.distributors = [f"distributor-{number}" for number in range(1, distributors + 1)]
        self.coordinators = [f"coordinator-{number}" for number in range(1, coordinators + 1)]
        for name in self.coordinators:
            elsewhere = not provable and name != COORDINATOR
            self._add(Agent(self, name, Role.COORDINATOR, name, elsewhere=elsewhere))
        leaders = tuple(Upstream(name, (name,)) for name in self.coordinators)
        for number, name in enumerate(self.distributors, 1):
            places = (name, twin_of(name)) if twins else (name,)
            for place in places:
                elsewhere = not provable and (place != name or not twins)
                agent = Agent(self, name, Role.DISTRIBUTOR, place, leaders, place, elsewhere)
                if place != name and not elsewhere:
                    agent.disk.file = self.agents[name].disk.file
                self._add(agent)
            for w in range(1, workers + 1):
                self._add(Agent(self, f"worker-{number}{w}", Role.WORKER, "", (Upstream(name, places),)))

    def _add(self, agent: Agent) -> None:
        self.agents[agent.place] = agent

    def add_twin(self, name: str) -> Agent:
        """Start a second process of this agent on another host; where it listens it is found from now on."""
        first = self.agents[name]
        twin = Agent(self, name, first.role, first.address, first.upstreams)
        twin.place, twin.elsewhere = f"{name}/{self._pid}", True
        self._add(twin)
        twin.start()
        return twin

    def remove(self, twin: Agent) -> None:
        """End it for good, and its host with its disk: whoever comes after it cannot know what stands there."""
        if self.agents.pop(twin.place, None) is not None:
            twin.crash()
            twin.overtaken()
            self.loss.disk_gone(twin)

    # ------------------------------------------------------------ world

    def now(self) -> Now:
        mono, now = self.loop.time(), self._now
        if now.mono != mono or self._now_offset != self.wall_offset:
            self._now_offset = self.wall_offset
            now = self._now = Now(mono, WALL_EPOCH_S + mono + self.wall_offset)
        return now

    def note(self, *what: Any) -> None:
        line = f"{self.loop.time():.6f} " + " ".join(map(str, what))
        self._trace.update(line.encode())
        self.notes.append(line)

    def violate(self, what: str) -> None:
        self.note("VIOLATION", what)
        self.violations.append(what)

    def trace(self) -> str:
        return self._trace.hexdigest()

    def next_pid(self) -> int:
        self._pid += 1
        return self._pid

    async def wait_gone(self, pid: int, start_time: int) -> bool:
        await asyncio.sleep(0.001)
        return pid in self.gone_pids

    def owner_is_dead(self, owner: str, identity: ProcessIdentity) -> bool:
        _, host, pid, *_ = owner.split("|")
        return host == identity.host_id and int(pid) in self.gone_pids

    # ------------------------------------------------------------ store

    def replaced(self, owner: str) -> None:
        """This process has the lease now: what others of the same name remember does not count any more."""
        name, _, pid, *_ = owner.split("|")
        new = next((agent for agent in self.agents.values() if agent.pid == int(pid)), None)
        if new is not None:
            new.overtaken_pid = 0
        for agent in self.agents.values():
            same = agent.name == name or {agent.name, name} <= set(self.coordinators)
            if same and agent.pid != int(pid):
                self.loss.replaced(agent, new)
                if agent.role is Role.DISTRIBUTOR:
                    agent.overtaken(new)

    def wire(self, inner: Any, agent: Agent) -> Any:
        return Wire(inner, agent, self.redis, self.rng, self.witness)

    def store(self, agent: Agent) -> Any:
        return self.wire(WatchedStore(self.redis, agent.place, self.witness), agent)

    def spools(self, agent: Agent) -> bool:
        """Whether this owner keeps on its disk what the store cannot take, and goes on."""
        standbys = agent.role is Role.COORDINATOR and len(self.coordinators) > 1
        return self.spool and not standbys

    def _is_overtaken(self, place: str) -> bool:
        """Whether another process has this one's lease, and this one goes on with its spool."""
        agent = self.agents.get(place)
        return agent is not None and self.spools(agent) and agent.pid == agent.overtaken_pid

    def _lease_pid(self, section: Section) -> int | None:
        """Which process has the lease of this section now."""
        text = self.redis.peek().leases.get(keys.lease(section))
        return int(parse_lease_value(text)[0].split("|")[2]) if text is not None else None

    def take_away(self, place: str = "") -> None:
        """The store cannot be reached from this place ("": from anywhere). Outages add up."""
        self._away[place] += 1
        self.redis.take_away(place)

    def give_back(self, place: str = "") -> None:
        self._away[place] -= 1
        if not self._away[place]:
            self.redis.give_back(place)

    def wipe(self) -> None:
        """The store starts empty."""
        before = self.redis.peek()
        self.losses += 1
        self.redis.wipe()
        self.note("store wiped")
        self.loss.state_lost(before)

    def restore(self, copy: object) -> None:
        """The store goes back to an older copy."""
        before = self.redis.peek()
        self.losses += 1
        self.redis.restore(copy)
        self.note("store rolled back")
        self.loss.state_lost(before)

    def live(self) -> list[str]:
        """Ids of unfinished tasks in the store."""
        hashes = self.redis.peek().hashes
        return [task_id for each in (INBOX, *self.distributors) for task_id in hashes.get(keys.tasks(each), ())]

    def record(self, task_id: str) -> dict[str, Any] | None:
        """Of an unfinished task in the store."""
        hashes = self.redis.peek().hashes
        for each in (INBOX, *self.distributors):
            raw = hashes.get(keys.tasks(each), {}).get(task_id)
            if raw is not None:
                found: dict[str, Any] = orjson.loads(raw)
                return found
        return None

    # ------------------------------------------------------------ running

    async def start(self) -> None:
        for agent in self.agents.values():
            agent.start()
        self.user.connect()
        await self.until(self.ready, 10.0, "the fleet is ready")

    def ready(self) -> bool:
        """One coordinator leads, and one process of each other agent works."""
        able = [agent.name for agent in self.agents.values() if is_ready(agent)]
        agents = {agent.name for agent in self.agents.values()}
        return len(set(able) & set(self.coordinators)) == 1 and set(able) | set(self.coordinators) == agents

    def leader(self) -> Agent | None:
        """The coordinator that may act now."""
        able = [each for name in self.coordinators if is_ready(each := self.agents[name])]
        return able[0] if able else None

    def acting(self, name: str) -> Agent | None:
        """The process of this distributor that may act now."""
        able = [each for each in self.agents.values() if each.name == name and is_ready(each)]
        return able[0] if able else None

    async def until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> bool:
        deadline = self.loop.time() + timeout_s
        while not condition():
            if self.loop.time() > deadline:
                self.violate(f"not within {timeout_s:g} s: {what}")
                return False
            await asyncio.sleep(0.02)
        return True

    async def stop(self) -> None:
        self.over = True
        await self.user.close()
        for agent in self.agents.values():
            if agent.task is not None:
                agent.task.cancel()
        tasks = {agent.task: agent.place for agent in self.agents.values() if agent.task is not None}
        if not tasks:
            return
        ended, hanging = await asyncio.wait(tasks, timeout=STOP_S)
        await asyncio.gather(*ended, return_exceptions=True)
        for task in hanging:
            self.violations.append(f"{tasks[task]} does not end, though it was cancelled {STOP_S:.0f} s ago")


def is_ready(agent: Agent) -> bool:
    return agent.core is not None and agent.core.ready()[0]
