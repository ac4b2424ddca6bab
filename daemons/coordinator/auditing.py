"""What is wrong with the state, judged from what the store, the coordinator and the distributors say of it.

Nothing here reads or changes anything: :mod:`daemons.coordinator.reconciler` gathers the facts, and
:mod:`daemons.coordinator.repairs` does what a finding's ``repair`` names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from a2a_zmq import tasks
from a2a_zmq.clock import parse_iso
from a2a_zmq.errors import StateError
from a2a_zmq.interfaces import INBOX, KeyFact
from a2a_zmq.state import keys
from a2a_zmq.state.lease_rules import parse_lease_value
from a2a_zmq.tasks import TERMINAL
from daemons.coordinator.rules import sound

# What mends a finding. "" : more than one answer is possible, or none of ours: it is reported only.
DROP: Final = "drop"  # take the live record out of the section
FINISH: Final = "finish"  # end the task by the result that is recorded, and take out its live record
PUT_BACK: Final = "put_back"  # write the coordinator's copy of the record, and assign the task again
ADOPT: Final = "adopt"  # take the task into the coordinator's ledger, and assign it
REGISTER: Final = "register"  # enter the distributor in the registry, and take in its tasks
END: Final = "end"  # have its distributor record the result that we still have
LISTEN: Final = "listen"  # believe the record about whether the task waits for an answer
RECOUNT: Final = "recount"  # count again from the tasks themselves

INBOX_NAME: Final = "inbox"
# What a distributor has stored it has told by then, if the message is not lost.
TOLD_WITHIN_S: Final = 5.0


class Finding(NamedTuple):
    """Something that is not as it should be.

    Attributes:
        section: distributor id, ``inbox``, or "" if it is about none.
        repair: what mends it, "" if it is only reported.
    """

    kind: str
    task_id: str
    section: str
    what: str
    repair: str = ""


@dataclass(slots=True)
class Facts:
    """What is known of one task that looked wrong, all of it gathered after the first look.

    Attributes:
        home: where the coordinator has it ("" for the inbox); None if it does not know the task.
        assigned: its distributor was told of it.
        places: where it is live in the store, with its record there.
        before: its result, read before ``places`` was; ``after``: read after it. None where there is none, or only one
            of an earlier life.
        waits: the attempt that asked what it waits for, as far as the coordinator knows; None if it does not wait.
        wall: our clock's time.
        local: no client submitted it: a distributor took it in by itself.
        held: distributors that have it in their memory; ``answered``: those that said whether they do.
        free: distributors whose lease nobody holds: no process of theirs may write.
    """

    task_id: str
    home: str | None
    assigned: bool
    places: dict[str, bytes]
    before: bytes | None
    after: bytes | None
    waits: int | None = None
    wall: float = 0.0
    local: bool = False
    held: AbstractSet[str] = frozenset()
    answered: AbstractSet[str] = frozenset()
    free: AbstractSet[str] = frozenset()

    def unused(self, place: str) -> bool:
        """Certain that no distributor works on the copy there."""
        return place == INBOX or (place not in self.held and (place in self.answered or place in self.free))


def section_of(place: str) -> str:
    return place or INBOX_NAME


def parsed(task_id: str, record: bytes) -> dict[str, Any] | None:
    """The live record, if it is one of this task."""
    found = tasks.read_record(record)
    if found is None or found.get("task_id") != task_id or not sound(found):
        return None
    return found if found.get("status") not in TERMINAL else None


def ends(result: bytes | None, record: Mapping[str, Any] | None) -> bool:
    """Is there a result, and is it the end of the life that the live record is of?"""
    return result is not None and tasks.ends(orjson.loads(result), record or {})


def asked_in(record: Mapping[str, Any] | None) -> int | None:
    """The attempt that asked what the task waits for, by its record; None if it does not wait."""
    if record is None or record.get("status") != tasks.WAITING:
        return None
    metadata = record.get("metadata") or {}
    asked = metadata.get("asked", metadata.get("attempt"))
    return asked if isinstance(asked, int) else None


def _wait_finding(facts: Facts, record: Mapping[str, Any]) -> str:
    """What is wrong with what the coordinator knows of its waiting, "" for nothing (or a message may be on its way)."""
    asked = asked_in(record)
    try:
        age_s = facts.wall - parse_iso(str(record.get("updated_at")))
    except ValueError:
        return ""
    if asked == facts.waits or age_s < TOLD_WITHIN_S:
        return ""
    return (
        "it waits for an answer, the coordinator was not told" if asked else "it does not wait for an answer any more"
    )


def judge(facts: Facts) -> list[Finding]:
    """What is wrong with a task; nothing, if it only was on its way when it was looked at first."""
    records = {place: parsed(facts.task_id, raw) for place, raw in facts.places.items()}
    if facts.home is None:
        return list(_unknown(facts, records))
    found = list(_copies(facts, records, facts.home))
    found.extend(_known(facts, facts.home, records.get(facts.home)))
    return found


def _known(facts: Facts, home: str, record: dict[str, Any] | None) -> Iterator[Finding]:
    """A task of the ledger, where it should be."""
    place = section_of(home)

    def finding(kind: str, what: str, repair: str) -> Finding:
        return Finding(kind, facts.task_id, place, what, repair)

    if record is not None and facts.before is not None:
        if facts.unused(home):
            yield finding("ended_and_live", "its result is recorded, and it is still live", FINISH)
        elif home in facts.held:
            yield finding("ended_and_live", "its result is recorded, but its distributor works on it again", "")
        else:
            yield finding("ended_and_live", "its result is recorded, its distributor does not answer", "")
    elif record is not None:
        if facts.assigned and home in facts.answered and home not in facts.held:
            yield finding("assigned_unknown", "it is assigned, but its distributor does not know it", PUT_BACK)
        elif what := _wait_finding(facts, record):
            yield finding("wait_unheard", what, LISTEN)
    elif facts.after is not None:
        if facts.unused(home):  # else it ended while we looked, and its message is on the way
            yield finding("ended_unheard", "its result is recorded, but the coordinator was not told", FINISH)
    elif home in facts.places:
        yield finding("unreadable_record", "its live record cannot be read", PUT_BACK)
    else:
        yield finding("lost_record", "it is neither live nor ended in the store", PUT_BACK)


def _copies(facts: Facts, records: Mapping[str, object], home: str) -> Iterator[Finding]:
    """A task of the ledger, where it should not be."""
    for place in records:
        if place == home:
            continue
        what = f"it belongs to {section_of(home)}"
        yield Finding(
            "two_places" if home in records else "wrong_place",
            facts.task_id,
            section_of(place),
            what if facts.unused(place) else f"{what}, but may be running here",
            DROP if facts.unused(place) else "",
        )


def _unknown(facts: Facts, records: Mapping[str, dict[str, Any] | None]) -> Iterator[Finding]:
    """A task that the coordinator does not know."""
    readable = [place for place, record in records.items() if record is not None]
    # Where somebody works on it is where it is.
    chosen = next((place for place in readable if place in facts.held), readable[0] if readable else None)
    for place, record in records.items():
        section = section_of(place)
        if record is None:
            yield Finding("unreadable_record", facts.task_id, section, "its live record cannot be read")
        elif facts.before is not None and asked_in(record) is not None and place in facts.held:
            # Nobody works on it, and nobody will answer what has ended.
            yield Finding("ended_and_live", facts.task_id, section, "it has ended, and still waits for an answer", END)
        elif facts.before is not None:
            what = "its result is recorded, and it is still live"
            what = what if facts.unused(place) else f"{what}; its distributor may work on it"
            yield Finding("ended_and_live", facts.task_id, section, what, DROP if facts.unused(place) else "")
        elif place != chosen:
            what = f"it is in {section_of(chosen or '')} too"
            yield Finding("two_places", facts.task_id, section, what, DROP if facts.unused(place) else "")
        elif not (facts.local and place in facts.held):
            yield Finding("unknown_task", facts.task_id, section, "the coordinator does not know it", ADOPT)


# ---------------------------------------------------------------- keys


@dataclass(slots=True)
class Fleet:
    """What the coordinator says that the keys can be compared with.

    Attributes:
        registered: ids that it takes for registered; ``up``: those with a session.
        entered: ids in the store's registry.
    """

    agent_id: str
    fence: int
    registered: AbstractSet[str]
    up: AbstractSet[str]
    entered: AbstractSet[str]
    tasks: dict[str, int] = field(default_factory=dict)
    leases: dict[str, tuple[str, int]] = field(default_factory=dict)
    sections: set[str] = field(default_factory=set)


def judge_keys(found: list[KeyFact], fleet: Fleet) -> list[Finding]:
    """What is wrong with keys, leases and the registry. A lease that was just taken, or a distributor that just came,
    may show: what is the same a moment later is real."""
    findings = [finding for fact in found if (finding := _key(fact)) is not None]
    for fact in found:
        _note(fact, fleet)
    findings.extend(_registry(fleet))
    findings.extend(_leases(fleet))
    return findings


def _key(fact: KeyFact) -> Finding | None:
    kind = keys.classify(fact.key)
    if kind is None:
        return Finding("foreign_key", "", "", f"{fact.key} is no key of the shared state")
    if kind.redis_type != fact.type:
        return Finding("foreign_key", "", "", f"{fact.key} is a {fact.type}, not a {kind.redis_type}")
    if kind.retention is keys.Retention.TTL and fact.ttl_ms < 0:
        return Finding("endless_key", "", "", f"{fact.key} has no time to live")
    if kind.retention is not keys.Retention.TTL and fact.ttl_ms >= 0:
        return Finding("ending_key", "", "", f"{fact.key} will vanish in {fact.ttl_ms / 1000:.0f} s")
    return None


def _note(fact: KeyFact, fleet: Fleet) -> None:
    owner = keys.distributor_of(fact.key)
    kind = keys.classify(fact.key)
    if owner is None or kind is None or kind.redis_type != fact.type:
        return
    fleet.sections.add(owner)
    if kind.name == "tasks":
        fleet.tasks[owner] = fact.size
    elif kind.name == "lease":
        try:
            text, fence = parse_lease_value(fact.lease, fact.key)
        except StateError as error:
            fleet.leases[owner] = (str(error), -1)
        else:
            fleet.leases[owner] = (text.partition("|")[0], fence)


def _registry(fleet: Fleet) -> Iterator[Finding]:
    for each in sorted(fleet.registered - fleet.entered):
        yield Finding("unregistered", "", each, "the coordinator knows it, the registry does not", REGISTER)
    for each in sorted(fleet.sections - fleet.entered - fleet.registered - {INBOX}):
        tasks = fleet.tasks.get(each, 0)
        if tasks:
            yield Finding("unregistered", "", each, f"a section with {tasks} tasks is not registered", REGISTER)
        elif each not in fleet.leases:
            yield Finding("unregistered", "", each, "an empty section is not registered, and nobody owns it")


def _leases(fleet: Fleet) -> Iterator[Finding]:
    for place, (agent, fence) in sorted(fleet.leases.items()):
        wanted = place or fleet.agent_id
        if fence < 0:
            yield Finding("foreign_lease", "", section_of(place), agent)
        elif agent != wanted:
            yield Finding("foreign_lease", "", section_of(place), f"its lease is {agent}'s, not {wanted}'s")
        elif place == INBOX and fence != fleet.fence:
            yield Finding("foreign_lease", "", section_of(place), f"its lease has fence {fence}, not {fleet.fence}")
    for place in sorted({INBOX, *fleet.up} - fleet.leases.keys()):
        yield Finding("no_lease", "", section_of(place), "its owner is here, its lease is not")
