"""Who may say what to whom: the authorisation table of ``docs/messages.md``. What is not in it is refused.

Whether a client's task is its own, or an attempt is the current one, is for the role cores to judge: they know the
tasks.
"""

from __future__ import annotations

from a2a_zmq.protocol.message import MessageType, Role

Rule = tuple[MessageType, str]

# Hub's role → roles that may join it.
MAY_JOIN: dict[Role, frozenset[Role]] = {
    Role.COORDINATOR: frozenset({Role.CLIENT, Role.OPERATOR, Role.DISTRIBUTOR}),
    Role.DISTRIBUTOR: frozenset({Role.WORKER}),
}

_CLIENT_REQUESTS = (
    "submit_tasks",
    "watch_tasks",
    "get_task",
    "explain",
    "list_tasks",
    "cancel_tasks",
    "resume_task",
    "stream_task",
    "fleet_status",
    "history",
)  # fmt: skip

# (sender's role, recipient's role) → request actions. An answer may go back where the request came from.
REQUESTS: dict[tuple[Role, Role], tuple[str, ...]] = {
    (Role.CLIENT, Role.COORDINATOR): _CLIENT_REQUESTS,
    (Role.OPERATOR, Role.COORDINATOR): (*_CLIENT_REQUESTS, "retry_tasks", "drain_agent", "failover", "audit"),
    (Role.COORDINATOR, Role.DISTRIBUTOR): (
        "assign_tasks",
        "assign_task",
        "cancel_tasks",
        "resume_tasks",
        "end_waiting",
        "resync",
        "drain",
        "explain",
        "load",
        "audit",
    ),
    (Role.DISTRIBUTOR, Role.WORKER): ("assign_tasks", "cancel_tasks", "drain"),
}

EVENTS: dict[tuple[Role, Role], tuple[str, ...]] = {
    (Role.CLIENT, Role.COORDINATOR): ("stream_credit",),
    (Role.OPERATOR, Role.COORDINATOR): ("stream_credit",),
    (Role.COORDINATOR, Role.CLIENT): ("task_results", "task_waiting", "task_events"),
    (Role.COORDINATOR, Role.OPERATOR): ("task_results", "task_waiting", "task_events"),
    (Role.DISTRIBUTOR, Role.COORDINATOR): (
        "task_results",
        "task_waiting",
        "task_unknown",
        "task_events",
        "workers_changed",
    ),
    (Role.WORKER, Role.DISTRIBUTOR): ("task_results", "task_started", "task_handback", "task_events"),
}

# What every pair of peers says to keep its session. ``ready`` opens a session and is not said within one.
_SESSION_RULES: frozenset[Rule] = frozenset(
    {(MessageType.HEARTBEAT, "heartbeat"), (MessageType.ACK, "ack"), (MessageType.EVENT, "goodbye")}
)


def _table() -> dict[tuple[Role, Role], frozenset[Rule]]:
    table: dict[tuple[Role, Role], frozenset[Rule]] = {}
    for hub, spokes in MAY_JOIN.items():
        for spoke in spokes:
            for pair in ((spoke, hub), (hub, spoke)):
                rules = set(_SESSION_RULES)
                rules |= {(MessageType.REQUEST, action) for action in REQUESTS.get(pair, ())}
                rules |= {(MessageType.RESPONSE, action) for action in REQUESTS.get((pair[1], pair[0]), ())}
                rules |= {(MessageType.EVENT, action) for action in EVENTS.get(pair, ())}
                table[pair] = frozenset(rules)
    return table


ALLOWED: dict[tuple[Role, Role], frozenset[Rule]] = _table()
ACTIONS: frozenset[str] = frozenset(action for rules in ALLOWED.values() for _, action in rules)


def may_join(spoke: Role, hub: Role) -> bool:
    return spoke in MAY_JOIN.get(hub, frozenset())


def allowed(sender: Role, recipient: Role, type_: MessageType, action: str) -> bool:
    """Whether an agent of this role may send this to an agent of that role.

    An ERROR answers some request, whose action it repeats; it orders nothing, so that every joined pair may send it.
    """
    rules = ALLOWED.get((sender, recipient))
    if rules is None:
        return False
    return type_ is MessageType.ERROR or (type_, action) in rules
