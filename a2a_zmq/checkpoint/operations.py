"""What a saver does, as operations (see :mod:`a2a_zmq.checkpoint.calls`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from a2a_zmq.checkpoint import keys, upkeep
from a2a_zmq.checkpoint.address import FENCE_KEY, Address, address_of, ancestors, fence_text, parse_fence, plain
from a2a_zmq.checkpoint.calls import Call, Operation, Store, Word, Write
from a2a_zmq.checkpoint.layout import dump, load, pack, text, unpack
from a2a_zmq.checkpoint.scripts import ANCESTORS, READ
from a2a_zmq.errors import StaleCheckpointWriter

PAGE: Final = 16
_ANCESTORS_AT_ONCE: Final = 64
STRATEGIES: Final = ("keep_latest", "delete")

Named = tuple[str, str]  # namespace and id of a checkpoint


@dataclass(frozen=True, slots=True)
class Operations:
    store: Store
    serde: SerializerProtocol

    # ------------------------------------------------------------ writing

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Operation[RunnableConfig]:
        address = address_of(config)
        values = checkpoint["channel_values"]
        blobs = {
            _joined(address.namespace, channel, str(version)): channel
            for channel, version in checkpoint["channel_versions"].items()
            if channel in values
        }
        head = self._head(address, config, checkpoint, metadata)
        new = [name for name, channel in blobs.items() if channel in new_versions]
        reply = yield self._put(address, head, blobs, values, new)
        if outcome(address, reply) == "missing":  # trimmed or deleted meanwhile, or from another saver: send all
            reply = yield self._put(address, head, blobs, values, list(blobs))
            outcome(address, reply)
        return config_of(address, checkpoint)

    def _head(
        self, address: Address, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> list[Word]:
        bare = {name: value for name, value in checkpoint.items() if name != "channel_values"}
        kept: dict[str, Any] = {**get_serializable_checkpoint_metadata(config, metadata)}
        kept.pop(FENCE_KEY, None)
        parents: Mapping[str, str] = kept.get("parents") or {}
        around = [plain(name) for pair in parents.items() for name in pair]
        depths = [steps for _, steps in (kept.get("counters_since_delta_snapshot") or {}).values()]
        record = pack(address.checkpoint_id.encode(), dump(self.serde, bare), dump(self.serde, kept))
        run = plain(str(kept.get("run_id") or ""))
        fence = fence_text(address.fence)
        head: list[Word] = ["p", fence, address.namespace, plain(checkpoint["id"]), record, address.checkpoint_id]
        return [*head, parents.get("", ""), run, max(depths, default=0), len(around) // 2, *around]

    def _put(
        self, address: Address, head: list[Word], blobs: Mapping[str, str], values: Mapping[str, Any], new: list[str]
    ) -> Write:
        words: list[Word] = [*head, len(blobs), *blobs, len(new)]
        for name in new:
            words += (name, dump(self.serde, values[blobs[name]]))
        return Write(address.thread_id, words)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> tuple[Address, Write]:
        """Encoded at once: the caller's values may change as soon as it goes on."""
        address = address_of(config)
        words: list[Word] = ["w", fence_text(address.fence), address.namespace, address.checkpoint_id, len(writes)]
        for position, (channel, value) in enumerate(writes):
            number = WRITES_IDX_MAP.get(channel, position)
            kind, data = self.serde.dumps_typed(value)
            packed = pack(channel.encode(), task_path.encode(), kind.encode(), data)
            words += (int(number < 0), _joined(task_id, str(number)), packed)
        return address, Write(address.thread_id, words)

    # ------------------------------------------------------------ reading

    def get(self, config: RunnableConfig) -> Operation[CheckpointTuple | None]:
        address = address_of(config)
        found = yield from self._read(address, [(address.namespace, address.checkpoint_id)], with_values=True)
        return self.whole(address.thread_id, found[0]) if found else None

    def whole(self, thread_id: str, found: Sequence[Any]) -> CheckpointTuple:
        """A checkpoint as it was read with its values."""
        return self._tuple(thread_id, found, found[4])

    def _read(self, address: Address, wanted: Iterable[Named], *, with_values: bool) -> Operation[list[list[Any]]]:
        words: list[Word] = [fence_text(address.fence), self.store.retention.arguments[0], int(with_values)]
        for named in wanted:
            words += named
        reply = yield self.store.on_thread(address.thread_id, READ, *words)
        outcome(address, reply)
        return list(reply[1:])

    def _tuple(self, thread_id: str, found: Sequence[Any], blobs: Iterable[bytes | None]) -> CheckpointTuple:
        namespace, checkpoint_id, record, names, _, writes = found
        parent, bare, metadata = unpack(record)
        values = {
            text(name).split("\x00")[1]: load(self.serde, blob)
            for name, blob in zip(names, blobs, strict=True)
            if blob is not None
        }
        checkpoint: dict[str, Any] = {**load(self.serde, bare), "channel_values": values}
        return CheckpointTuple(
            config=_config(thread_id, text(namespace), text(checkpoint_id)),
            checkpoint=cast(Checkpoint, checkpoint),
            metadata=load(self.serde, metadata),
            parent_config=_config(thread_id, text(namespace), text(parent)) if parent else None,
            pending_writes=self._writes(writes),
        )

    def _writes(self, stored: Sequence[bytes]) -> list[tuple[str, str, Any]]:
        """In the order in which a super-step applies them."""
        found = []
        for name, value in zip(stored[::2], stored[1::2], strict=True):
            _, _, task_id, number = text(name).split("\x00")
            channel, path, kind, data = unpack(value)
            order = (text(path), task_id, int(number))
            found.append((order, (task_id, text(channel), self.serde.loads_typed((text(kind), data)))))
        return [write for _, write in sorted(found, key=lambda each: each[0])]

    def history(self, config: RunnableConfig, channels: Sequence[str]) -> Operation[dict[str, Any]]:
        """For each channel its writes since it was last stored as a whole, oldest first, and what was stored then."""
        address = address_of(config)
        written: dict[str, list[tuple[str, str, Any]]] = {channel: [] for channel in channels}
        stored: dict[str, bytes] = {}
        nearest, seen = address.checkpoint_id, {address.checkpoint_id}
        while len(stored) < len(written):
            names = yield self.store.on_thread(
                address.thread_id, ANCESTORS, address.namespace, nearest, _ANCESTORS_AT_ONCE
            )
            chain = [name for name in map(text, names) if name not in seen]
            if not chain:
                break
            nearest = chain[-1]
            seen.update(chain)
            unfenced = Address(address.thread_id, address.namespace, "")
            found = yield from self._read(unfenced, [(address.namespace, name) for name in chain], with_values=False)
            for each in found:
                for write in reversed(self._writes(each[5])):
                    if write[1] in written and write[1] not in stored:
                        written[write[1]].append(write)
                whole = {text(name).split("\x00")[1]: name for name in each[3]}
                stored |= {channel: whole[channel] for channel in written if channel in whole and channel not in stored}
        blobs: Sequence[bytes | None] = ()
        if stored:
            blobs = yield self.store.on_key(address.thread_id, "blobs", "HMGET", *stored.values())
        seeds = {channel: blob for channel, blob in zip(stored, blobs, strict=True) if blob is not None}
        return {
            channel: {
                "writes": written[channel][::-1],
                **({"seed": load(self.serde, seeds[channel])} if channel in seeds else {}),
            }
            for channel in written
        }

    # ------------------------------------------------------------ listing

    def order(self, thread_id: str, namespace: str | None) -> Operation[list[tuple[str, Named]]]:
        """Checkpoints of a namespace, or of all, newest first, each with its place in the order of the thread."""
        prefix = b"c\x00" if namespace is None else f"c\x00{namespace}\x00".encode()
        members = yield self.store.on_key(
            thread_id, "index", "ZRANGE", b"(" + prefix + b"\xff", b"[" + prefix, "BYLEX", "REV"
        )
        found = []
        for member in members:
            _, space, place, checkpoint_id = text(member).split("\x00")
            found.append((place, (space, checkpoint_id)))
        return sorted(found, key=lambda each: each[0], reverse=True)

    def pending(self, thread_id: str) -> Operation[list[tuple[str, str, Any]]]:
        """Pending writes of the newest checkpoint of each namespace."""
        order = yield from self.order(thread_id, None)
        newest: dict[str, str] = {}
        for _, (namespace, checkpoint_id) in order:
            newest.setdefault(namespace, checkpoint_id)
        found = yield from self._read(Address(thread_id, "", ""), newest.items(), with_values=False)
        return [write for each in found for write in self._writes(each[5])]

    def matching(self, config: RunnableConfig, before: RunnableConfig | None) -> Operation[list[Named]]:
        """Names of the checkpoints that a listing of one thread is about, newest first."""
        address = address_of(config)
        namespace = None if config["configurable"].get("checkpoint_ns") is None else address.namespace
        order = yield from self.order(address.thread_id, namespace)
        if before is not None and (earlier := before["configurable"].get("checkpoint_id")):
            limit = yield from self._place(address, namespace, earlier, order)
            order = [each for each in order if each[0] < limit]
        return [named for _, named in order if address.checkpoint_id in ("", named[1])]

    def _place(
        self, address: Address, namespace: str | None, checkpoint_id: str, order: list[tuple[str, Named]]
    ) -> Operation[str]:
        """Where a checkpoint stands; "", before all others, if it is not there.

        It may be one of a graph around the namespace: a replay looks for a subgraph's state before that one.
        """
        places = {named: place for place, named in order}
        if namespace is not None and (namespace, checkpoint_id) not in places and namespace:
            whole = yield from self.order(address.thread_id, None)
            places = {named: place for place, named in whole}
        spaces = ancestors(namespace) if namespace is not None else sorted({space for space, _ in places})
        return next((places[space, checkpoint_id] for space in spaces if (space, checkpoint_id) in places), "")

    def page(
        self, thread_id: str, wanted: Sequence[Named], filters: Mapping[str, Any] | None
    ) -> Operation[list[CheckpointTuple]]:
        """Those of them that are still there and match; a blob that several use is fetched once."""
        found = yield from self._read(Address(thread_id, "", ""), wanted, with_values=False)
        if filters:
            found = [each for each in found if self._matches(each[2], filters)]
        names = list(dict.fromkeys(name for each in found for name in each[3]))
        blobs: dict[bytes, bytes | None] = {}
        if names:
            values = yield self.store.on_key(thread_id, "blobs", "HMGET", *names)
            blobs = dict(zip(names, values, strict=True))
        whole = [each for each in found if all(blobs[name] is not None for name in each[3])]  # else removed meanwhile
        return [self._tuple(thread_id, each, [blobs[name] for name in each[3]]) for each in whole]

    def _matches(self, record: bytes, filters: Mapping[str, Any]) -> bool:
        metadata = load(self.serde, unpack(record)[2])
        return all(metadata.get(name) == value for name, value in filters.items())

    def threads(self) -> Operation[list[str]]:
        """Ids of all threads, those written last first within a bucket."""
        found: list[str] = []
        for bucket in range(keys.BUCKETS):
            register, _ = keys.of_bucket(self.store.prefix, bucket)
            names = yield Call(None, (), ("ZRANGE", register, 0, -1, "REV"))
            found += [keys.decode(text(name)) for name in names]
        return found

    def everywhere(self) -> Operation[list[RunnableConfig]]:
        threads = yield from self.threads()
        return [{"configurable": {"thread_id": thread_id}} for thread_id in threads]

    # ------------------------------------------------------------ removing, copying, counting

    def delete_thread(self, thread_id: str) -> Operation[None]:
        yield self.store.on_thread(thread_id, upkeep.DELETE_THREAD, keys.encode(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> Operation[None]:
        if not run_ids:
            return
        threads = yield from self.threads()
        for thread_id in threads:
            yield self.store.on_thread(thread_id, upkeep.DELETE_RUNS, keys.encode(thread_id), *map(str, run_ids))

    def prune(self, thread_ids: Sequence[str], strategy: str) -> Operation[None]:
        if isinstance(thread_ids, str):
            raise TypeError("thread_ids must be a sequence of thread ids, not a string")
        if strategy not in STRATEGIES:
            raise ValueError(f"unknown prune strategy {strategy!r}: {' or '.join(STRATEGIES)}")
        script = upkeep.PRUNE if strategy == "keep_latest" else upkeep.DELETE_THREAD
        for thread_id in map(str, thread_ids):
            yield self.store.on_thread(thread_id, script, keys.encode(thread_id))

    def copy_thread(self, source: str, target: str, token: str) -> Operation[None]:
        packed = yield self.store.on_thread(source, upkeep.EXPORT)
        if not packed:
            return
        words = (self.store.retention.arguments[0], keys.encode(target), token, *packed)
        reply = yield self.store.on_thread(target, upkeep.IMPORT, *words)
        if text(reply) != "ok":
            raise ValueError(f"thread {target!r} has checkpoints already")

    def size(self, thread_id: str | None) -> Operation[int]:
        if thread_id is not None:
            found = yield self.store.on_key(thread_id, "facts", "HGET", "bytes")
            return int(found or 0)
        total = 0
        for bucket in range(keys.BUCKETS):
            count, _ = yield Call(upkeep.TALLY, keys.of_bucket(self.store.prefix, bucket), ())
            total += int(count)
        return total


def _joined(*names: str) -> str:
    return "\x00".join(map(plain, names))


def _config(thread_id: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id},
    }


def config_of(address: Address, checkpoint: Checkpoint) -> RunnableConfig:
    """Names a checkpoint that is stored."""
    return _config(address.thread_id, address.namespace, checkpoint["id"])


def outcome(address: Address, reply: Sequence[Any]) -> str:
    """
    Raises:
        StaleCheckpointWriter: the script refused.
    """
    word = text(reply[0])
    if word == "fenced":
        raise StaleCheckpointWriter(address.thread_id, address.fence, parse_fence(text(reply[1])))
    return word
