"""The forms of the key directory's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from a2a_zmq.errors import ConfigError
from a2a_zmq.ids import valid_agent_id
from a2a_zmq.protocol.message import Role
from a2a_zmq.security.curve import raw_key

# Keys N and N-1: whoever is told of N late is still understood.
MAX_LIVE_KEYS = 2
# `issuer.key` is the issuer's own file.
RESERVED_NAMES = frozenset({"issuer"})


def _identity(name: str) -> str:
    if not valid_agent_id(name) or "~" in name or name in RESERVED_NAMES:
        raise ValueError(f"{name!r} is no agent name")
    return name


def _curve_text(text: str) -> str:
    raw_key(text)
    return text


Identity = Annotated[str, AfterValidator(_identity)]
CurveText = Annotated[str, AfterValidator(_curve_text)]
KeyId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PublicKey(_Strict):
    key_id: KeyId
    curve: CurveText


class PeerEntry(_Strict):
    """An agent that the fleet knows; without keys it is revoked."""

    role: Role
    keys: list[PublicKey] = Field(default_factory=list, max_length=MAX_LIVE_KEYS)


class Revoked(_Strict):
    curve: list[CurveText] = Field(default_factory=list)
    jti: list[str] = Field(default_factory=list)


class PeersFile(_Strict):
    """``peers.json``: everybody's public keys, newest first, and what is revoked."""

    agents: dict[Identity, PeerEntry] = Field(default_factory=dict)
    revoked: Revoked = Field(default_factory=Revoked)


class KeyEntry(_Strict):
    key_id: KeyId
    public: CurveText
    secret: CurveText


class AgentKeys(_Strict):
    """``<name>.key``: one agent's own key pairs, newest first."""

    agent_id: Identity
    role: Role
    keys: list[KeyEntry] = Field(min_length=1, max_length=MAX_LIVE_KEYS)


_F = TypeVar("_F", bound=BaseModel)


def parse(model: type[_F], data: bytes, path: Path) -> _F:
    """The file's content.

    Raises:
        ConfigError: one line that names the file and the first thing that is wrong; no content of the file.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"key file {path}: {where + ': ' if where else ''}{first['msg']}") from None


def dump(record: BaseModel) -> bytes:
    return record.model_dump_json(indent=1).encode() + b"\n"
