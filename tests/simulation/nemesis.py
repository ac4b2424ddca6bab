"""Makes a plan's events happen to a fleet."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from a2a_zmq.protocol.message import Role
from tests.simulation.disk import LIMIT_BYTES
from tests.simulation.fleet import Fleet
from tests.simulation.network import Faults
from tests.simulation.plan import Event


async def perform(fleet: Fleet, events: Iterable[Event]) -> None:
    """Let everything happen at its time, and end what lasts; returns when all is over."""
    nemesis, began, running = Nemesis(fleet), fleet.loop.time(), []
    for event in events:
        await asyncio.sleep(max(0.0, began + event.at_s - fleet.loop.time()))
        if not event.kind.startswith("submit"):
            fleet.note("**", event.kind, *event.args)
        running.append(asyncio.ensure_future(nemesis.kinds[event.kind](*event.args)))
    await asyncio.gather(*running)
    fleet.network.faults = Faults()
    fleet.note("calm")


class Nemesis:
    """A method for each kind of event; each ends what it began."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.kinds: dict[str, Callable[..., Awaitable[None]]] = {
            "submit": self.submit,
            "submit hanging": self.submit_hanging,
            "bad network": self.bad_network,
            "crash": self.crash,
            "several": self.crash,
            "drain": self.drain,
            "gone": self.gone,
            "frozen away": self.freeze,
            "cut off": self.cut_off,
            "given up": self.given_up,
            "acting": self.acting,
            "outage": self.outage,
            "outage with crashes": self.outage_with_crashes,
            "outage with loss": self.outage_with_loss,
            "disk": self.disk,
            "store cut": self.store_cut,
            "replies lost": self.replies_lost,
            "late writes": self.late_writes,
            "partition": self.partition,
            "isolation": self.isolation,
            "freeze": self.freeze,
            "zombie": self.zombie,
            "wipe": self.wipe,
            "rollback": self.rollback,
            "clock": self.clock,
            "cancel": self.cancel,
            "again": self.again,
            "retry": self.retry,
        }

    # ------------------------------------------------------------ users

    async def submit(self, task_id: str, seconds: float, fail_times: int, *pauses: str) -> None:
        stops: dict[str, Any] = {"pauses": pauses} if pauses else {}
        self._fleet.user.submit(task_id, seconds=seconds, fail_times=fail_times, **stops)

    async def submit_hanging(self, task_id: str, attempts: int, timeout_s: float, priority: int) -> None:
        metadata = {"max_attempts": attempts, "timeout_s": timeout_s, "priority": priority}
        self._fleet.user.submit(task_id, metadata=metadata, hang=True)

    async def cancel(self, *ids: str) -> None:
        self._fleet.user.cancel(list(ids))

    async def again(self, choice: int) -> None:
        known = sorted(self._fleet.user.accepted_ids)
        for task_id in random.Random(choice).sample(known, min(3, len(known))):
            self._fleet.user.submit_again(task_id)

    async def retry(self) -> None:
        ended = [(task_id, outcomes[0]) for task_id, outcomes in sorted(self._fleet.user.outcomes.items())]
        ids = [task_id for task_id, end in ended if isinstance(end, dict) and end["status"] != "completed"][:5]
        if ids:
            self._fleet.user.retry(ids)

    async def clock(self, seconds: float) -> None:
        self._fleet.wall_offset += seconds

    # ------------------------------------------------------------ processes

    async def crash(self, *places: str) -> None:
        for place in places:
            self._fleet.agents[place].crash()

    async def drain(self, place: str) -> None:
        self._fleet.agents[place].drain()

    async def freeze(self, place: str, seconds: float) -> None:
        agent = self._fleet.agents[place]
        agent.freeze()
        await asyncio.sleep(seconds)
        self._fleet.note("thaw", place)
        agent.thaw()

    async def gone(self, place: str, seconds: float) -> None:
        """Killed, and started again after so long only."""
        agent = self._fleet.agents[place]
        agent.stay_away(seconds)
        agent.crash()

    async def cut_off(self, place: str, store_s: float, others_s: float) -> None:
        """From the store, and from everybody else but its workers."""
        fleet = self._fleet
        others = [each for each, agent in fleet.agents.items() if each != place and agent.role is not Role.WORKER]
        pairs = [pair for each in (*others, "client") for pair in ((place, each), (each, place))]
        await asyncio.gather(self.store_cut(place, store_s), self._cut(pairs, others_s))

    async def given_up(self, name: str) -> None:
        """An operator says that this distributor is not coming back."""
        self._fleet.user.fail_over(name)

    async def acting(self, name: str, how: str, seconds: float) -> None:
        """Whoever acts under this name at that moment ("": the leader) is killed, drained, frozen, or cut off from the
        store."""
        fleet = self._fleet
        agent = fleet.acting(name) if name else fleet.leader()
        if agent is None:
            return
        if how == "killed":
            agent.crash()
        elif how == "drained":
            agent.drain()
        elif how == "frozen":
            await self._freeze_at_a_write(agent.place, seconds)
        else:
            await self.store_cut(agent.place, seconds)

    async def zombie(self, place: str, how: str, seconds: float, both_s: float, flips: int) -> None:
        """A second process of an agent takes its place while the first is frozen, or cut off from the store, or from
        everything but the store. Then the first is back: both live for a while, and connections lead to the one or
        the other. In the end the second leaves."""
        fleet = self._fleet
        agent = fleet.agents[place]
        trouble = {"frozen": self._freeze_at_a_write, "no store": self.store_cut, "alone": self.isolation}[how]
        lasts = asyncio.ensure_future(trouble(place, seconds))
        await asyncio.sleep(0.1)
        twin = fleet.add_twin(place)
        if how == "no store":  # some meet the new owner, and then the former one before it knows
            await asyncio.sleep(seconds - 1.5)
            fleet.network.point(agent.address, twin.place)
            await asyncio.sleep(0.6)
            fleet.network.point(agent.address, place)
        await lasts
        for flip in range(flips):
            fleet.network.point(agent.address, (place, twin.place)[flip % 2])
            await asyncio.sleep(both_s / flips)
        if flips % 2:
            agent.crash()
            await asyncio.sleep(both_s)
        fleet.remove(twin)

    async def _freeze_at_a_write(self, place: str, seconds: float) -> None:
        """Between the decision to write and the writing: the pause that a fence is for."""
        agent = self._fleet.agents[place]
        agent.freezes_at_write += 1
        await asyncio.sleep(0.1)
        if agent.freezes_at_write:  # it had nothing to write
            agent.freezes_at_write -= 1
            agent.freeze()
        await asyncio.sleep(seconds)
        self._fleet.note("thaw", place)
        agent.thaw()

    # ------------------------------------------------------------ the network

    async def bad_network(self, *faults: tuple[str, float]) -> None:
        self._fleet.network.faults = Faults(**dict(faults))

    async def partition(self, one: str, other: str, seconds: float, one_way: bool) -> None:
        await self._cut([(one, other)] if one_way else [(one, other), (other, one)], seconds)

    async def isolation(self, place: str, seconds: float) -> None:
        """From everything but the store."""
        others = [each for each in (*self._fleet.agents, "client") if each != place]
        await self._cut([pair for each in others for pair in ((place, each), (each, place))], seconds)

    async def _cut(self, pairs: list[tuple[str, str]], seconds: float) -> None:
        network = self._fleet.network
        for pair in pairs:
            network.cut(*pair)
        await asyncio.sleep(seconds)
        for pair in pairs:
            network.mend(*pair)

    # ------------------------------------------------------------ the store

    async def outage(self, seconds: float) -> None:
        await self.store_cut("", seconds)

    async def outage_with_crashes(
        self, seconds: float, last: str, last_after_s: float, *crashes: tuple[float, str]
    ) -> None:
        """Owners are killed meanwhile, and one when the store is back."""
        self._fleet.take_away()
        for after_s, place in crashes:
            await asyncio.sleep(after_s)
            self._fleet.agents[place].crash()
        await asyncio.sleep(seconds)
        self._fleet.give_back()
        if last:
            await asyncio.sleep(last_after_s)
            self._fleet.agents[last].crash()

    async def outage_with_loss(
        self, age_s: float, seconds: float, wiped: bool, last: str, last_after_s: float, *crashes: tuple[float, str]
    ) -> None:
        """The store comes back empty, or as it was so long before the outage."""
        fleet = self._fleet
        copy, losses = fleet.redis.copy(), fleet.losses
        await asyncio.sleep(age_s)
        fleet.take_away()
        for after_s, place in crashes:
            await asyncio.sleep(after_s)
            fleet.agents[place].crash()
        await asyncio.sleep(seconds)
        if wiped:
            fleet.wipe()
        elif losses == fleet.losses:
            fleet.restore(copy)
        fleet.give_back()
        if last:
            await asyncio.sleep(last_after_s)
            fleet.agents[last].crash()

    async def disk(self, place: str, limit: int, seconds: float) -> None:
        """Its disk has room for so many bytes only (0: it is full)."""
        disk = self._fleet.agents[place].disk
        disk.limit, disk.full = limit or disk.limit, not limit
        await asyncio.sleep(seconds)
        disk.limit, disk.full = LIMIT_BYTES, False

    async def store_cut(self, place: str, seconds: float) -> None:
        self._fleet.take_away(place)
        await asyncio.sleep(seconds)
        self._fleet.give_back(place)

    async def replies_lost(self, place: str, count: int, applied: bool) -> None:
        self._fleet.redis.lose_replies(place, count, applied=applied)

    async def late_writes(self, place: str, seconds: float) -> None:
        """For a moment, what it sends to the store arrives so much later."""
        agent = self._fleet.agents[place]
        agent.late_s = seconds
        await asyncio.sleep(0.2)
        agent.late_s = 0.0

    async def wipe(self) -> None:
        self._fleet.wipe()

    async def rollback(self, seconds: float) -> None:
        """A replica that fell behind takes over. (One that follows a state which is lost itself begins anew.)"""
        fleet = self._fleet
        copy, losses = fleet.redis.copy(), fleet.losses
        await asyncio.sleep(seconds)
        if losses == fleet.losses:
            fleet.restore(copy)
