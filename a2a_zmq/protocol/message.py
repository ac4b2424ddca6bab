"""The message: the specification's JSON object as a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class MessageType(StrEnum):
    """What a message is for."""

    REQUEST = "request"
    RESPONSE = "response"
    HEARTBEAT = "heartbeat"
    EVENT = "event"
    ACK = "ack"
    ERROR = "error"


class Role(StrEnum):
    """What an agent is; its identity token says so and the authorisation table goes by it."""

    CLIENT = "client"
    OPERATOR = "operator"
    COORDINATOR = "coordinator"
    DISTRIBUTOR = "distributor"
    WORKER = "worker"


@dataclass(slots=True)
class Metadata:
    """Causal metadata (specification) and what the protocol adds.

    Attributes:
        origin: agent that made the message (always the sender: nothing is forwarded unchanged).
        version: protocol version text, ``v1``.
        timestamp: ISO 8601 in UTC, when it was sealed.
        request_id: unique id of the message; the same on every resend.
        parent_request_id: request that this one answers or stems from.
        sequence_number: position in the session's direction, from 1, without gaps.
        session: session id (empty only in HELLO).
        ack: highest sequence number of the other direction that the sender has durably taken.
        deadline: ISO 8601; after it the sender no longer waits for an answer.
        traceparent: W3C trace context.
        extra: members this version does not know; kept and passed to nobody.
    """

    origin: str
    version: str = "v1"
    timestamp: str = ""
    request_id: str = ""
    parent_request_id: str | None = None
    sequence_number: int = 0
    session: str = ""
    ack: int = 0
    deadline: str | None = None
    traceparent: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "origin": self.origin,
            "version": self.version,
            "timestamp": self.timestamp,
            "request_id": self.request_id,
            "parent_request_id": self.parent_request_id,
            "sequence_number": self.sequence_number,
        }
        if self.session:
            out["session"] = self.session
        if self.ack:
            out["ack"] = self.ack
        if self.deadline is not None:
            out["deadline"] = self.deadline
        if self.traceparent is not None:
            out["traceparent"] = self.traceparent
        return out


@dataclass(slots=True)
class Message:
    """One message. ``payload["action"]`` names the handler; a payload may carry a batch."""

    type: MessageType
    sender: str
    recipient: str
    payload: dict[str, Any]
    metadata: Metadata
    signature: str = ""

    @property
    def action(self) -> str:
        action = self.payload.get("action")
        return action if isinstance(action, str) else ""

    def to_dict(self) -> dict[str, Any]:
        """The specification's form, members in its order."""
        return {
            "type": self.type.value,
            "sender": self.sender,
            "recipient": self.recipient,
            "payload": self.payload,
            "metadata": self.metadata.to_dict(),
            "signature": self.signature,
        }
