"""What comes out of Redis builds no type that was not named, and can be unreadable there."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from cryptography.exceptions import InvalidTag
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Send
from redis.asyncio import Redis

from a2a_zmq.checkpoint import keys as names
from a2a_zmq.checkpoint import strict_serializer
from a2a_zmq.checkpoint.layout import pack
from a2a_zmq.errors import TypeNotAllowed

KEY = b"0123456789abcdef0123456789abcdef"


@dataclass
class Mine:
    n: int


async def stored(saver: Any, t: Any, value: Any) -> Any:
    await t.put({"n": value}, checkpoint_id="c1")
    await t.write("c1", "task", value)
    found = await saver.aget_tuple(t.config())
    assert found.pending_writes == [("task", "n", found.checkpoint["channel_values"]["n"])]
    return found.checkpoint["channel_values"]["n"]


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
async def test_plain_data_and_langgraphs_own_types_come_back_as_they_were(
    open_saver: Any, thread: Any, key: bytes | None
) -> None:
    value = {
        "text": "ä\x00€",
        "bytes": b"\x00\xff",
        "when": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        "set": {1, 2},
        "nested": [None, True, 1.5, {"1": [Send("node", {"a": 1})]}],
        "message": HumanMessage("hello"),
    }
    async with open_saver(serde=strict_serializer(key=key)) as saver:
        assert await stored(saver, thread(saver, "t"), value) == value


@pytest.mark.parametrize("named", [Mine, (Mine.__module__, "Mine")])
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
async def test_a_type_that_is_named_is_built(open_saver: Any, thread: Any, named: Any, key: bytes | None) -> None:
    async with open_saver(serde=strict_serializer([named], key=key)) as saver:
        assert await stored(saver, thread(saver, "t"), Mine(1)) == Mine(1)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
async def test_a_type_that_is_not_named_is_not_stored(open_saver: Any, thread: Any, key: bytes | None) -> None:
    async with open_saver(serde=strict_serializer(key=key)) as saver:
        for value in (Mine(1), [{"mine": Mine(1)}]):
            with pytest.raises(TypeNotAllowed, match=r"test_serializers\.Mine"):
                await stored(saver, thread(saver, "t"), value)


async def test_a_type_that_is_not_named_any_more_is_not_read_as_plain_data(open_saver: Any, thread: Any) -> None:
    async with open_saver(serde=strict_serializer([Mine])) as saver:
        await stored(saver, thread(saver, "t"), Mine(1))
        saver.serde = strict_serializer()
        with pytest.raises(TypeNotAllowed, match=r"test_serializers\.Mine"):
            await saver.aget_tuple(thread(saver, "t").config())


async def test_langgraphs_list_of_allowed_types_is_added_to_the_named_ones(open_saver: Any, thread: Any) -> None:
    """Where ``LANGGRAPH_STRICT_MSGPACK`` is set LangGraph gives a saver the types that the graph's schemas annotate."""
    async with open_saver() as saver:
        allowing = saver.with_allowlist([(Mine.__module__, "Mine")])
        assert await stored(allowing, thread(allowing, "t"), Mine(1)) == Mine(1)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that is made when the module ``planted_module`` is imported."""
    marker = tmp_path / "imported"
    code = f"open({str(marker)!r}, 'w').close()\ndef run(x): return x\n"
    (tmp_path / "planted_module.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield marker
    sys.modules.pop("planted_module", None)


async def test_a_type_that_somebody_put_into_redis_is_neither_imported_nor_run(
    open_saver: Any, thread: Any, url: str, prefix: str, planted: Path
) -> None:
    value = ormsgpack.packb(ormsgpack.Ext(0, ormsgpack.packb(("planted_module", "run", "argument"))))
    async with open_saver() as saver, Redis.from_url(url) as redis:
        t = thread(saver, "t")
        await t.put({"n": 1}, checkpoint_id="c1")
        blobs = names.of_kind(prefix, "t", "blobs")
        (field,) = await redis.hkeys(blobs)
        await redis.hset(blobs, field, pack(b"msgpack", value))
        with pytest.raises(TypeNotAllowed, match=r"planted_module\.run"):
            await saver.aget_tuple(t.config())
        assert "planted_module" not in sys.modules
        assert not planted.exists()  # noqa: ASYNC240
    async with open_saver(serde=JsonPlusSerializer(allowed_msgpack_modules=True)) as saver:
        await saver.aget_tuple(t.config())  # LangGraph's default does import it
        assert planted.exists()  # noqa: ASYNC240


async def test_encrypted_values_cannot_be_read_or_changed_in_redis(
    open_saver: Any, thread: Any, url: str, prefix: str
) -> None:
    async with open_saver(serde=strict_serializer(key=KEY)) as saver, Redis.from_url(url) as redis:
        t = thread(saver, "t")
        await t.put({"n": "a secret"}, checkpoint_id="c1", metadata={"note": "a secret"})
        await t.write("c1", "task", "a secret")
        for kind in ("checkpoints", "blobs", "writes"):
            (value,) = (await redis.hgetall(names.of_kind(prefix, "t", kind))).values()
            assert b"secret" not in value
        blobs = names.of_kind(prefix, "t", "blobs")
        stored_blobs: dict[bytes, bytes] = await redis.hgetall(blobs)  # type: ignore[assignment]
        ((field, sealed),) = stored_blobs.items()
        await redis.hset(blobs, field, sealed[:-1] + bytes([sealed[-1] ^ 1]))
        with pytest.raises(InvalidTag):
            await saver.aget_tuple(t.config())
    async with open_saver(serde=strict_serializer(key=b"x" * 32)) as saver:
        with pytest.raises(InvalidTag):
            await saver.aget_tuple(t.config())


async def test_a_clone_of_the_saver_shares_its_order_of_writes(open_saver: Any, thread: Any) -> None:
    """LangGraph clones a saver to add types of the graph's state (``LANGGRAPH_STRICT_MSGPACK``)."""
    async with open_saver() as saver:
        clone = saver.with_allowlist([(Mine.__module__, "Mine")])
        assert clone is not saver
        assert await stored(clone, thread(clone, "t"), Mine(1)) == Mine(1)
        assert clone._lanes is saver._lanes


@pytest.mark.parametrize("text", ["\u05e9\u05dc\u05d5\u05dd \u0627\u0644", "\u01c9" * 40, "x" * 0xD5])
def test_plain_values_with_bytes_that_could_begin_a_type_are_plain_values(text: str) -> None:
    serializer = strict_serializer()
    value = {text: [text.encode(), -40, 0xC7, {"nested": (text, 1.5)}]}
    assert serializer.loads_typed(serializer.dumps_typed(value)) == {
        text: [text.encode(), -40, 0xC7, {"nested": [text, 1.5]}]
    }
