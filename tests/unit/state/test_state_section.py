"""Decisions about writes to a section, without any store."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2a_zmq.errors import Fenced, StateLost
from a2a_zmq.interfaces import Section, SectionWrite
from a2a_zmq.state.section import Buckets, Known, Plan, RetentionPolicy, Snapshot, judge, plan_write

SECTION = Section("d1", "distributor")
EMPTY = Snapshot.parse([None] * 6)


def write(**members: Any) -> SectionWrite:
    return SectionWrite(**{"section": SECTION, "fence": 1, "mutation_id": "m", **members})


def plan(made: SectionWrite, found: Snapshot = EMPTY, *, floor: int = 0, wall: float = 1000.0, **policy: Any) -> Plan:
    return plan_write(made, found, floor=floor, wall=wall, policy=RetentionPolicy(**policy), new_epoch=lambda: "fresh")


def reread(made: Plan, found: Snapshot) -> Snapshot:
    """The header as it is read back after the plan was carried out."""
    header = {
        "version": str(found.version),
        "fence": str(found.fence),
        "epoch": found.epoch,
        "mutations": ",".join(found.mutations),
        "results": found.buckets.text(),
        "history": str(found.history_entry_size),
        **made.header,
    }
    names = ("version", "fence", "epoch", "mutations", "results", "history")
    return Snapshot.parse([header[name].encode() for name in names])


def test_what_a_plan_says_it_leaves_is_what_is_read_back() -> None:
    found = EMPTY
    for number in range(30):
        made = plan(write(mutation_id=f"m{number}", fence=number // 10, results={"t": b"x"}, history=[b"[]"]), found)
        assert reread(made, found) == made.after
        found = made.after
    assert (found.version, found.fence, found.epoch) == (30, 2, "fresh")


def test_recent_mutations_are_recognised_and_old_ones_forgotten() -> None:
    found = EMPTY
    for number in range(20):
        found = plan(write(mutation_id=f"m{number}"), found).after
    assert judge(write(mutation_id="m19"), found, None) == 20
    assert judge(write(mutation_id="m12"), found, None) == 13
    assert judge(write(mutation_id="m11"), found, None) is None
    assert judge(write(mutation_id="m1"), found, None) is None


def test_a_write_that_counted_is_recognised_before_its_fence_is_looked_at() -> None:
    found = plan(write(mutation_id="theirs", fence=9), plan(write()).after).after
    assert judge(write(), found, None) == 1
    with pytest.raises(Fenced):
        judge(write(mutation_id="new"), found, None)


@pytest.mark.parametrize(
    ("found", "lost"),
    [
        (Snapshot(7, 3, "e", (), Buckets(), 0), False),
        (Snapshot(8, 3, "e", (), Buckets(), 0), False),
        (Snapshot(6, 3, "e", (), Buckets(), 0), True),
        (Snapshot(7, 2, "e", (), Buckets(), 0), True),
        (Snapshot(9, 3, "other", (), Buckets(), 0), True),
        (EMPTY, True),
    ],
)
def test_a_section_older_than_what_is_known_is_lost(found: Snapshot, lost: bool) -> None:
    known = Known(7, 3, "e")
    if lost:
        with pytest.raises(StateLost):
            judge(write(fence=3), found, known)
    else:
        assert judge(write(fence=3), found, known) is None


def test_the_version_goes_on_above_the_floor_and_old_ids_are_dropped() -> None:
    before = plan(write(mutation_id="old")).after
    made = plan(write(mutation_id="new"), before, floor=40)
    assert made.version == 41
    assert made.after.version_of("new") == 41
    assert made.after.version_of("old") is None


def test_the_fence_and_epoch_are_written_only_when_they_change() -> None:
    first = plan(write())
    assert (first.header["fence"], first.header["epoch"]) == ("1", "fresh")
    second = plan(write(mutation_id="m2"), first.after)
    assert second.header.keys() == {"version", "mutations"}


@pytest.mark.parametrize(
    ("members", "wall", "head"),
    [
        ({"bucket_results": 3}, 1001.0, 1),  # two of three results: not full yet
        ({"bucket_results": 2}, 1001.0, 2),
        ({"bucket_bytes": 10}, 1001.0, 2),
        ({"bucket_age_s": 60.0, "result_ttl_s": 310.0}, 1059.9, 1),
        ({"bucket_age_s": 60.0, "result_ttl_s": 310.0}, 1061.0, 2),
        ({"bucket_age_s": 60.0, "result_ttl_s": 3100.0}, 1099.9, 1),
        ({"bucket_age_s": 60.0, "result_ttl_s": 3100.0}, 1101.0, 2),
        ({}, 400.0, 2),  # the clock went back
    ],
)
def test_when_a_bucket_is_closed(members: dict[str, Any], wall: float, head: int) -> None:
    first = plan(write(results={"a": b"12345", "b": b"12345"}), wall=1000.9)
    assert first.bucket == 1
    second = plan(write(mutation_id="m2", results={"c": b"1"}), first.after, wall=wall, **members)
    assert second.bucket == head


def test_a_bucket_lives_long_enough_for_its_last_result() -> None:
    made = plan(write(results={"a": b"1"}), result_ttl_s=100.0, bucket_age_s=20.0)
    assert made.bucket_ttl_s >= 120


@pytest.mark.parametrize("every_s", [1.0, 60.0, 3600.0])
def test_time_alone_pushes_no_result_out_before_its_time_is_over(every_s: float) -> None:
    """Of results that were more than two minutes apart only the last 32 were kept, whatever had been set."""
    ttl_s = 86_400.0
    found, wall = EMPTY, 1000.0
    ended: dict[int, float] = {}
    while wall < 1000.0 + 1.2 * ttl_s and len(ended) < 8000:
        made = plan(write(mutation_id=f"m{len(ended)}", results={"a": b"1"}), found, wall=wall, result_ttl_s=ttl_s)
        ended[made.bucket] = wall
        found = made.after
        assert all(wall - ended[number] >= ttl_s for number in made.drop_buckets)
        wall += every_s


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=60),
    bucket_results=st.integers(1, 10),
    buckets=st.integers(1, 6),
)
def test_never_more_buckets_than_allowed(sizes: list[int], bucket_results: int, buckets: int) -> None:
    """Replay the plans on a set of buckets: what is not dropped is what the header says, and is bounded."""
    found, kept = EMPTY, set()
    for number, size in enumerate(sizes):
        results = {f"{number}.{i}": b"x" for i in range(size)}
        made = plan(
            write(mutation_id=f"m{number}", results=results), found, bucket_results=bucket_results, buckets=buckets
        )
        kept.add(made.bucket)
        kept.difference_update(made.drop_buckets)
        found = made.after
        assert kept == set(found.buckets.newest_first())
        assert len(kept) <= buckets


def test_buckets_of_a_larger_setting_are_dropped_when_it_is_lowered() -> None:
    found = EMPTY
    for number in range(10):
        found = plan(write(mutation_id=f"m{number}", results={"t": b"x"}), found, bucket_results=1, buckets=8).after
    made = plan(write(mutation_id="last", results={"t": b"x"}), found, bucket_results=1, buckets=2)
    assert list(made.drop_buckets) == [3, 4, 5, 6, 7, 8, 9]
    assert list(made.after.buckets.newest_first()) == [11, 10]


def test_history_is_bounded_by_entries_while_they_are_small_and_by_bytes_when_they_are_large() -> None:
    small = plan(write(history=[b"[1]"]), history_entries=1000, history_bytes=100_000)
    assert small.history_maxlen == 1000
    found = small.after
    for number in range(100):
        made = plan(
            write(mutation_id=f"m{number}", history=[b"x" * 1000] * 10),
            found,
            history_entries=1000,
            history_bytes=100_000,
        )
        found = made.after
    assert 8 <= made.history_maxlen <= 12


def test_one_large_batch_does_not_throw_the_past_away() -> None:
    found = EMPTY
    for number in range(50):
        found = plan(write(mutation_id=f"m{number}", history=[b"x" * 100]), found).after
    made = plan(write(mutation_id="large", history=[b"x" * 20_000]), found)
    assert made.history_maxlen > 5000
