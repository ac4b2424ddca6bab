"""What a new leader reads, and a state that is lost meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from a2a_zmq.clock import Now
from a2a_zmq.errors import StateLost
from a2a_zmq.interfaces import INBOX, Loaded, Section
from a2a_zmq.state.memory import MemoryLeases, MemoryRedis, MemoryStore
from daemons.runtime.stores import load_all

LEADER = Section(INBOX, "coordinator")


class Losing(MemoryStore):
    """Everything is lost before the read with this number."""

    def __init__(self, redis: MemoryRedis, loss: int) -> None:
        super().__init__(redis)
        self._redis = redis
        self._left = loss

    async def load(self, section: Section) -> Loaded:
        if self._left == 0:
            self._redis.wipe()
        self._left -= 1
        return await super().load(section)


@pytest.mark.parametrize("loss", range(4))
def test_a_state_that_is_lost_while_a_new_leader_reads_is_noticed(loss: int) -> None:
    """Found by simulation: the inbox was read before the loss and the rest after it, and what was read was believed."""

    async def story() -> None:
        redis = MemoryRedis(lambda: Now(0.0, 1.7e9))
        store = Losing(redis, loss)
        await store.register_distributor("d1")
        held = await MemoryLeases(redis).acquire(LEADER, "leader", 5_000)
        assert held is not None
        try:
            loaded = await load_all(store, ["d1"], held.fence, lambda: "id-1")
            noticed = loaded[LEADER].fence < held.fence
        except StateLost:
            noticed = True
        assert noticed is (loss < 3)  # there are three reads

    asyncio.run(story())
