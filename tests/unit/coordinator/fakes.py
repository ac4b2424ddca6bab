"""Shared state, meter, peers and tasks of the coordinator's tests, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from a2a_zmq.interfaces import INBOX, KeyFact, Loaded, Section, SectionWrite, Survey, Wanted
from a2a_zmq.protocol.message import MessageType, Role
from a2a_zmq.state import keys, yielding
from a2a_zmq.streams import Chunk
from a2a_zmq.tasks import attempt_of
from daemons.runtime.contract import Query

Json = dict[str, Any]
COORDINATOR = "coordinator-1"


class Store:
    """The shared state, as much of it as a coordinator can see. It outlives coordinators.

    Attributes:
        live, results, letters: distributor id ("" for the inbox) → task id → record.
        recorded: task id → how many writes recorded a result of it.
        held: distributors that hold their lease; ``fences``: of their sections.
        unreadable: tasks whose result records cannot be read.
    """

    def __init__(self) -> None:
        self.streams: dict[str, list[Chunk]] = {}
        self.live: dict[str, dict[str, Json]] = {INBOX: {}}
        self.results: dict[str, dict[str, Json]] = {INBOX: {}}
        self.letters: dict[str, dict[str, Json]] = {INBOX: {}}
        self.headers: dict[str, dict[str, str]] = {}
        self.history: list[list[Any]] = []
        self.registered: list[str] = []
        self.recorded: dict[str, int] = {}
        self.fence = 0
        self.held: set[str] = set()
        self.fences: dict[str, int] = {}
        self.writes: list[SectionWrite] = []
        self.unreadable: set[str] = set()

    def register(self, distributor_id: str) -> None:
        if distributor_id not in self.registered:
            self.registered.append(distributor_id)
            self.live.setdefault(distributor_id, {})
            self.results[distributor_id] = {}
            self.letters[distributor_id] = {}

    def apply(self, write: SectionWrite) -> None:
        assert write.section.writer == "coordinator", write.section
        assert write.fence == self.fence, "a write with another fence than the present one"
        assert not write.put_tasks.keys() & set(write.drop_tasks), "one write puts and drops the same task"
        name = write.section.distributor_id
        assert name == INBOX or name in self.registered, f"a write to {name!r}, which is not registered"
        self.writes.append(write)
        self.headers.setdefault(name, {}).update(write.header)
        puts = write.put_tasks
        if write.yields:
            puts = {each: orjson.dumps(self.live[name][each]) for each in puts.keys() & self.live[name].keys()}
            yielding.apply_in_memory(puts, write)
        self.live[name].update({task_id: orjson.loads(record) for task_id, record in puts.items()})
        for task_id in write.drop_tasks:
            self.live[name].pop(task_id, None)
        for task_id, record in write.results.items():
            self.record(name, task_id, orjson.loads(record))
        for task_id in write.drop_letters:
            self.letters[name].pop(task_id, None)
        self.history.extend(orjson.loads(event) for event in write.history)

    def record(self, name: str, task_id: str, result: Json) -> None:
        self.results[name].pop(task_id, None)  # the newest is the last one
        self.results[name][task_id] = result
        if result["status"] == "failed":
            self.letters[name][task_id] = result
        self.recorded[task_id] = self.recorded.get(task_id, 0) + 1

    def newest(self, names: list[str], wanted: Wanted, limit: int, *, dead: bool) -> list[Json]:
        kept = self.letters if dead else self.results
        found = [record for name in names for record in kept.get(name, {}).values() if wanted(record)]
        return sorted(found, key=lambda record: str(record["completed_at"]), reverse=True)[:limit]

    def explain(self, task_id: str, names: list[str]) -> Json:
        kinds = {"tasks": self.live, "results": self.results, "letters": self.letters}
        found: Json = {
            kind: {name: orjson.dumps(kept[name][task_id]) for name in names if task_id in kept.get(name, {})}
            for kind, kept in kinds.items()
        }
        events = [orjson.dumps(event) for event in reversed(self.history) if event[1] == task_id]
        ended = next(iter([*found["results"].values(), *found["letters"].values()]), None)
        leases = {INBOX: ("c|h|1|2|b", self.fence, 2_000)}
        unreadable = ["results of d1"] if task_id in self.unreadable else []
        return {**found, "ended": ended, "events": events, "leases": leases, "unreadable": unreadable}

    def take(self, name: str) -> None:
        """A process of this distributor takes its lease."""
        self.held.add(name)
        self.fences[name] = self.fences.get(name, 0) + 1

    def seize(self, name: str) -> int | None:
        if name in self.held:
            return None
        self.fences[name] = self.fences.get(name, 0) + 1
        return self.fences[name]

    def evict(self, name: str, fence: int, task_ids: list[str]) -> int | None:
        if self.fences.get(name) != fence or (left := self.seize(name)) is None:
            return None
        for task_id in task_ids:
            self.live[name].pop(task_id, None)
        return left

    def load(self, name: str) -> Loaded:
        tasks = {task_id: orjson.dumps(record) for task_id, record in self.live[name].items()}
        return Loaded(1, self.fence, "epoch", dict(self.headers.get(name, {})), tasks)

    def load_all(self) -> dict[Section, Loaded]:
        return {Section(name, "coordinator"): self.load(name) for name in (INBOX, *self.registered)}

    def survey(self, leader: str) -> Survey:
        """Sections with live tasks, and the leases: the leader's, and every distributor's that is registered."""
        facts = [KeyFact(keys.lease(Section(INBOX, "coordinator")), "string", 900, f"{leader}|h|1|1|b|{self.fence}")]
        for name in self.registered:
            facts.append(KeyFact(keys.lease(Section(name, "distributor")), "string", 900, f"{name}|h|1|1|b|1"))
        facts.extend(
            KeyFact(keys.tasks(name), "hash", -1, "", len(tasks)) for name, tasks in self.live.items() if tasks
        )
        return Survey(facts, whole=True)

    def where(self, task_id: str) -> list[str]:
        return [name or "inbox" for name, tasks in self.live.items() if task_id in tasks]

    def events(self, name: str) -> list[list[Any]]:
        return [event for event in self.history if event[2] == name]

    def read(self, query: Query) -> Any:
        """What the shell would answer."""
        args = query.args
        if query.op in ("results", "tasks"):
            kept = self.results if query.op == "results" else self.live
            found: dict[str, Json] = {}
            for name in args["distributor_ids"]:
                for task_id, record in ((t, kept[name][t]) for t in args["task_ids"] if t in kept.get(name, {})):
                    found[task_id] = max(found.get(task_id, record), record, key=age)
                for task_id in args["task_ids"] if args.get("letters") else ():
                    if task_id not in found and task_id in self.letters.get(name, {}):
                        found[task_id] = self.letters[name][task_id]
            return {task_id: orjson.dumps(record) for task_id, record in found.items()}
        if query.op == "explain":
            return self.explain(args["task_id"], args["distributor_ids"])
        if query.op == "count_letters":
            return sum(len(self.letters.get(name, {})) for name in args["distributor_ids"])
        if query.op == "ended":
            newest = self.newest(args["distributor_ids"], args["wanted"], args["limit"], dead=args["dead"])
            ids = [record["task_id"] for record in newest]
            now = self.read(Query("", "results", {"distributor_ids": args["distributor_ids"], "task_ids": ids}))
            return [orjson.dumps(record) for record in newest], now
        if query.op == "load":
            return self.load(args["section"].distributor_id)
        if query.op == "register":
            self.register(args["distributor_id"])
            return self.load(args["distributor_id"])
        if query.op == "lease":
            name = args["distributor_id"]
            return (f"{name}|h|1|1|b", self.fences.get(name, 0), 900) if name in self.held else None
        if query.op == "seize":
            return self.seize(args["distributor_id"]), self.load(args["distributor_id"]).tasks
        if query.op == "evict":
            return self.evict(args["distributor_id"], args["fence"], args["task_ids"])
        if query.op == "page":
            return "", self.load(args["distributor_id"]).tasks
        if query.op == "survey":
            return self.survey(COORDINATOR), list(self.registered)
        if query.op == "streams":
            told = [[chunk for chunk in self.streams.get(name, ()) if chunk.last > at] for name, at in args["wanted"]]
            return [(chunks[:8], len(chunks) <= 8) for chunks in told]
        assert query.op == "history", query.op
        wanted = args["task_id"]
        events = [event for event in reversed(self.history) if wanted in (None, event[1])]
        return [orjson.dumps(event) for event in events[: args["limit"]]]


@dataclass
class Told:
    """A message that a peer got."""

    type: MessageType
    payload: Json
    reply_to: str | None
    request_id: str = ""

    @property
    def action(self) -> str:
        return str(self.payload.get("action"))


@dataclass
class Peer:
    role: Role
    boot: int = 1
    up: bool = True
    told: list[Told] = field(default_factory=list)


def age(record: Any) -> tuple[int, str]:
    """Of two records of one task the store's reader gives the newer one."""
    return (attempt_of(record), str(record.get("completed_at") or "")) if isinstance(record, dict) else (-1, "")


def task(task_id: str, task_type: str = "noop", payload: Any = None, **metadata: Any) -> Json:
    """A task as a client submits it."""
    return {"task_id": task_id, "task_type": task_type, "payload": payload or {}, "metadata": metadata}
