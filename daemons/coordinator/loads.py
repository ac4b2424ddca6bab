"""The fleet at a glance: the request ``fleet_status``; with ``load`` each distributor is asked what its workers do.

Nothing of that is in heartbeats: it costs something only while somebody looks.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from a2a_zmq.clock import Now
from a2a_zmq.protocol.message import Message, MessageType
from daemons.coordinator.clients import Client
from daemons.coordinator.desk import Desk
from daemons.coordinator.supervision import Supervision
from daemons.runtime.contract import QueryAnswer, Send

Json = dict[str, Any]


class Survey:
    """One ``fleet_status`` on its way to its answer: who has answered what, and how many have not."""

    __slots__ = ("message", "open", "told")

    def __init__(self, message: Message, count: int) -> None:
        self.message = message
        self.open = count
        self.told: dict[str, Json] = {}


class Loads:
    """See the module's text."""

    def __init__(self, desk: Desk, supervision: Supervision) -> None:
        self._desk = desk
        self._supervision = supervision

    def fleet_status(self, client: Client, message: Message, now: Now) -> None:
        """The answer comes at once, or when those have answered who can."""
        desk = self._desk
        asked: list[str] = []
        if message.payload.get("load") is True and desk.leading and desk.questions.room():
            asked = [home.agent_id for home in desk.ledger.distributors.values() if home.up and not home.suspect]
        survey = Survey(message, len(asked))
        if not asked:
            self._answer(survey, now)
        for agent_id in asked:
            tag = desk.questions.expect(partial(self._told, survey, agent_id), now)
            desk.out.append(Send(agent_id, MessageType.REQUEST, {"action": "load", "tag": tag}, reliable=False))

    def _told(self, survey: Survey, agent_id: str, answer: QueryAnswer, now: Now) -> None:
        if answer.error is None and isinstance(answer.value, dict):
            survey.told[agent_id] = answer.value
        survey.open -= 1
        if not survey.open:
            self._answer(survey, now)

    def _answer(self, survey: Survey, now: Now) -> None:
        status = self._supervision.fleet_status(now)
        for one in status["distributors"]:
            told = survey.told.get(one["id"])
            if told is not None:
                one["late"] = told.get("late")
                one["workers"] = _with_loads(one["workers"], told.get("workers"))
        self._desk.out.append(self._desk.reply(survey.message, status))


def _with_loads(workers: list[Json], told: Any) -> list[Json]:
    """The workers as they were reported, each with its ``load``; one that came since has only that."""
    loads = {str(each.get("id")): each for each in told if isinstance(each, dict)} if isinstance(told, list) else {}
    found = [
        {**each, "load": loads.pop(str(each.get("id")), None)} if each.get("up", True) else each for each in workers
    ]
    return found + [{"id": agent_id, "up": True, "load": load} for agent_id, load in loads.items()]
