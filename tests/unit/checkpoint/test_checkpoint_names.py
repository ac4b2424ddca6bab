"""Names, addresses and the layout of stored values: what is pure of the checkpoint saver."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2a_zmq.checkpoint import keys, layout
from a2a_zmq.checkpoint.address import address_of, ancestors, fence_of, fence_text, parse_fence
from a2a_zmq.checkpoint.outstanding import Outstanding
from a2a_zmq.errors import StaleCheckpointWriter, StoreUnavailable


@given(st.text())
def test_every_thread_id_has_names_of_its_own_in_one_slot(thread_id: str) -> None:
    encoded = keys.encode(thread_id)
    assert keys.decode(encoded) == thread_id
    found = keys.of_thread("prefix", encoded)
    assert len(set(found)) == len(keys.KEY_CLASSES)
    tags = {name[name.index("{") : name.index("}") + 1] for name in found}
    assert tags == {keys.tag("prefix", keys.bucket_of(encoded))}
    assert all(name.count("{") == name.count("}") == 1 for name in found)


def test_threads_spread_over_all_buckets() -> None:
    assert {keys.bucket_of(keys.encode(f"thread-{number}")) for number in range(2000)} == set(range(keys.BUCKETS))


def test_names_and_buckets_stay_as_they_are() -> None:
    """What is stored must be found by later releases."""
    assert keys.of_thread("checkpoint", keys.encode("user:1")) == (
        "{checkpoint:56}:user%3A1:facts",
        "{checkpoint:56}:user%3A1:checkpoints",
        "{checkpoint:56}:user%3A1:blobs",
        "{checkpoint:56}:user%3A1:writes",
        "{checkpoint:56}:user%3A1:index",
        "{checkpoint:56}:user%3A1:fence",
        "{checkpoint:56}:user%3A1:claims",
        "{checkpoint:56}:threads",
        "{checkpoint:56}:sizes",
    )


@given(st.lists(st.binary()))
def test_what_was_packed_is_unpacked(parts: list[bytes]) -> None:
    assert layout.unpack(layout.pack(*parts)) == parts


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_value_that_is_cut_short_is_noticed(cut: int) -> None:
    with pytest.raises(ValueError, match="cut short"):
        layout.unpack(layout.pack(b"12345678")[:-cut])


@given(st.lists(st.integers(0, 2**53), min_size=1).map(tuple))
def test_a_fence_goes_through_redis_as_it_is(fence: tuple[int, ...]) -> None:
    assert parse_fence(fence_text(fence_of(fence))) == fence


def test_an_address_is_read_from_langgraphs_config() -> None:
    config: dict[str, Any] = {"configurable": {"thread_id": 7, "a2a_fence": 3}}
    address = address_of(config)
    assert (address.thread_id, address.namespace, address.checkpoint_id, address.fence) == ("7", "", "", (3,))
    with pytest.raises(KeyError):
        address_of({"configurable": {}})


def test_the_graphs_around_a_namespace() -> None:
    assert ancestors("a:1|b|c:2") == ["a:1|b|c:2", "a:1|b", "a:1", ""]
    assert ancestors("") == [""]


def test_a_refusal_says_whose_thread_it_is() -> None:
    assert str(StaleCheckpointWriter("t", (1, 2), (2, 1))) == "thread 't': fence (1, 2) is behind (2, 1)"
    assert str(StaleCheckpointWriter("t", (), (2,))) == "thread 't': no fence was given, the owner's is (2,)"


def test_who_waits_for_writes_waits_for_those_that_had_begun_only() -> None:
    outstanding = Outstanding()
    begun, end = threading.Event(), threading.Event()

    def write() -> None:
        with outstanding.write("t"):
            begun.set()
            end.wait(10)

    first = threading.Thread(target=write)
    first.start()
    assert begun.wait(10)
    outstanding.wait("other")
    waiting = threading.Thread(target=outstanding.wait, args=("t",))
    waiting.start()
    assert waiting.is_alive()
    end.set()
    waiting.join(10)
    assert not waiting.is_alive()
    first.join(10)
    assert outstanding._running == {}


def test_a_failed_write_is_told_once() -> None:
    outstanding = Outstanding()
    with pytest.raises(StoreUnavailable), outstanding.write("t"):
        raise StoreUnavailable("oom")
    with pytest.raises(StoreUnavailable):
        outstanding.wait("t")
    outstanding.wait("t")
