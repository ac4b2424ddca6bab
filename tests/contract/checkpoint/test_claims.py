"""One run has a thread at a time, and of a run only its newest attempt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from a2a_zmq.checkpoint import ThreadClaims, keys
from a2a_zmq.errors import StaleCheckpointWriter


async def test_a_later_attempt_takes_the_thread_and_shuts_the_earlier_one_out(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        claims = ThreadClaims(saver)
        first = await claims.claim("t", "run", 1, "g")
        second = await claims.claim("t", "run", 2, "g")
        assert (first.outcome, second.outcome) == ("ok", "ok")
        assert second.fence > first.fence
        # At once, before the later one has read or written anything.
        with pytest.raises(StaleCheckpointWriter):
            await thread(saver, "t", a2a_fence=first.fence).put(checkpoint_id="c1")
        await thread(saver, "t", a2a_fence=second.fence).put(checkpoint_id="c1")
        late = await claims.claim("t", "run", 1, "g")
        assert (late.outcome, late.holder) == ("replaced", "2")


async def test_a_claim_that_is_repeated_is_the_same_claim(open_saver: Any) -> None:
    async with open_saver() as saver:
        claims = ThreadClaims(saver)
        assert await claims.claim("t", "run", 1) == await claims.claim("t", "run", 1)


async def test_another_run_waits_until_the_thread_is_given_back(open_saver: Any) -> None:
    async with open_saver() as saver:
        claims = ThreadClaims(saver)
        mine = await claims.claim("t", "a", 1)
        busy = await claims.claim("t", "b", 1)
        assert (busy.outcome, busy.holder) == ("busy", "a")
        assert 0 < busy.free_in_s <= claims.hold_s
        assert await claims.release("t", mine.fence)
        theirs = await claims.claim("t", "b", 1)
        assert theirs.outcome == "ok"
        assert theirs.fence > mine.fence
        assert not await claims.renew("t", mine.fence)
        assert not await claims.release("t", mine.fence)


async def test_a_claim_runs_out_unless_it_is_renewed(open_saver: Any) -> None:
    async with open_saver() as saver:
        claims = ThreadClaims(saver, hold_s=0.2)
        mine = await claims.claim("t", "a", 1)
        for _ in range(4):
            await asyncio.sleep(0.08)
            assert await claims.renew("t", mine.fence)
        assert (await claims.claim("t", "b", 1)).outcome == "busy"
        await asyncio.sleep(0.25)
        assert (await claims.claim("t", "b", 1)).outcome == "ok"


async def test_a_run_that_another_one_has_overtaken_cannot_go_on(open_saver: Any) -> None:
    async with open_saver() as saver:
        claims = ThreadClaims(saver)
        mine = await claims.claim("t", "a", 1)
        await claims.release("t", mine.fence)
        theirs = await claims.claim("t", "b", 1)
        await claims.release("t", theirs.fence)
        again = await claims.claim("t", "a", 2)
        assert (again.outcome, again.holder) == ("overtaken", "b")


async def test_a_run_does_not_go_on_with_another_graph(open_saver: Any) -> None:
    async with open_saver() as saver:
        claims = ThreadClaims(saver)
        await claims.claim("t", "a", 1, "old")
        changed = await claims.claim("t", "a", 2, "new")
        assert (changed.outcome, changed.holder) == ("changed", "old")
        assert (await claims.claim("t", "a", 3, "old")).outcome == "ok"


async def test_a_claim_goes_with_its_thread_in_time_and_fences_stay_above(open_saver: Any) -> None:
    async with open_saver(ttl_s=60.0) as saver:
        claims = ThreadClaims(saver)
        first = await claims.claim("t", "a", 1)
        await saver.adelete_thread("t")
        second = await claims.claim("t", "a", 2)
        assert second.fence > first.fence
        name = keys.of_kind(saver._store.prefix, keys.encode("t"), "claims")
        assert 0 < await saver._client.pttl(name) <= 60_000


async def test_of_many_runs_only_the_last_ones_are_remembered(open_saver: Any) -> None:
    async with open_saver() as saver:
        claims = ThreadClaims(saver)
        for number in range(401):
            mine = await claims.claim("t", f"run-{number}", 1)
            await claims.release("t", mine.fence)
        name = keys.of_kind(saver._store.prefix, keys.encode("t"), "claims")
        assert 200 <= await saver._client.hlen(name) <= 410
        assert (await claims.claim("t", "run-390", 1)).outcome == "overtaken"


async def test_a_claim_brings_the_newest_checkpoint_and_the_next_read_is_a_real_one(
    open_saver: Any, thread: Any
) -> None:
    async with open_saver() as saver:
        await thread(saver, "t").put(checkpoint_id="c1")
        claims = ThreadClaims(saver)
        claim = await claims.claim("t", "run", 1)
        asked: list[object] = []
        call = saver._call

        async def counted(each: Any) -> Any:
            asked.append(each)
            return await call(each)

        saver._call = counted
        config = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "a2a_fence": claim.fence}}
        first = await saver.aget_tuple(config)
        assert first is not None
        assert (first.checkpoint["id"], asked) == ("c1", [])
        assert await saver.aget_tuple(config) == first
        assert len(asked) == 1


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [({"thread_id": "u"}, None), ({"checkpoint_ns": "sub"}, None), ({"checkpoint_id": "c1"}, "c1"), ({}, "c3")],
)
async def test_what_a_claim_has_read_is_no_answer_to_another_question(
    open_saver: Any, thread: Any, asked: dict[str, str], wanted: str | None
) -> None:
    """Another thread, a subgraph, an older checkpoint; and the newest after something was written."""
    async with open_saver() as saver:
        for name in ("c1", "c2"):
            await thread(saver, "t").put(checkpoint_id=name)
        claim = await ThreadClaims(saver).claim("t", "run", 1)
        if not asked:
            await thread(saver, "t", a2a_fence=claim.fence).put(checkpoint_id="c3")
        config = {"thread_id": "t", "checkpoint_ns": "", "a2a_fence": claim.fence, **asked}
        found = await saver.aget_tuple({"configurable": config})
        assert (found and found.checkpoint["id"]) == wanted


async def test_a_thread_that_waits_is_kept_for_longer_until_its_next_write(open_saver: Any, thread: Any) -> None:
    """A run that asked something had lost its checkpoints when the answer came after their time to live."""
    async with open_saver(ttl_s=60.0) as saver:
        claims = ThreadClaims(saver)
        claim = await claims.claim("t", "run", 1, "g")
        t = thread(saver, "t", a2a_fence=claim.fence)
        await t.put(checkpoint_id="c1")
        await t.write("c1", "task", 1)

        async def lifetimes() -> list[int]:
            return [await saver._client.pttl(name) for name in keys.of_thread(saver._store.prefix, "t")]

        assert await claims.keep("t", claim.fence, 30.0), "the saver keeps it for longer anyway"
        assert max(await lifetimes()) <= 60_000
        assert await claims.keep("t", claim.fence, 3600.0)
        assert await claims.release("t", claim.fence)
        assert min(await lifetimes()) > 3_500_000
        assert (await claims.claim("t", "another", 1, "g")).outcome == "ok"
        assert not await claims.keep("t", claim.fence, 7200.0), "it is another's now"
        await thread(saver, "t", a2a_fence=claim.fence + 1).put(checkpoint_id="c2")
        assert max((await lifetimes())[:5]) <= 60_000
