"""Forms of values in settings: what a text from the environment or a flag may look like."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, TypeVar

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo
from pydantic.fields import FieldInfo

from a2a_zmq.config import MIN_SECRET_BYTES, check_address, split_address
from a2a_zmq.ids import valid_agent_id

# Environment names that the specification gives without the A2A_ prefix.
UNPREFIXED: Final = frozenset(
    {
        "redis_host",
        "redis_port",
        "redis_db",
        "redis_password",
        "redis_use_tls",
        "coordinator_id",
        "distributor_id",
        "worker_id",
    }
)

# Listening there means: at every address of the host.
EVERYWHERE: Final = frozenset({"", "0.0.0.0"})  # noqa: S104 - compared, not bound
_HAS_PORT: Final = re.compile(r":\d+\Z")


def env_name(field_name: str) -> str:
    """The environment variable of a setting."""
    return field_name.upper() if field_name in UNPREFIXED else f"A2A_{field_name.upper()}"


def number_of(agent_id: str) -> int:
    """The number at the end of an agent id, at least 1 (``worker-2`` → 2, ``gpu`` → 1)."""
    found = re.search(r"(\d{1,4})\Z", agent_id)
    return max(1, int(found.group(1))) if found else 1


def default_state_dir() -> Path:
    """``/var/lib/a2a-zmq`` on a host set up for the fleet (with ``/etc/a2a-zmq``), else the user's state directory."""
    if Path("/etc/a2a-zmq").is_dir():
        return Path("/var/lib/a2a-zmq")
    base = os.environ.get("XDG_STATE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    return root / "a2a-zmq"


def scrape_target(listens: str, port: int, advertise: str, hostname: str) -> str:
    """``host:port`` by which Prometheus reaches what listens at this address and port."""
    if advertise:
        return advertise if _HAS_PORT.search(advertise) else f"{advertise}:{port}"
    return f"{hostname if listens in EVERYWHERE else listens}:{port}"


def _split(value: Any) -> Any:
    """``"a, b"`` → ``("a", "b")``; lists pass."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _pairs(value: Any) -> Any:
    """``"site=a, gpu=yes"`` → ``{"site": "a", "gpu": "yes"}``; tables pass."""
    if not isinstance(value, str):
        return value
    pairs = {}
    for part in _split(value):
        name, equals, text = part.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"expected name=value, got {part!r}")
        pairs[name.strip()] = text.strip()
    return pairs


def _agent_id(value: Any) -> Any:
    if isinstance(value, str) and not valid_agent_id(value):
        raise ValueError("an agent id has 1 to 63 letters, digits, '.', '_' or '-' and starts with a letter or digit")
    return value


def _address(value: Any) -> Any:
    return check_address(value) if isinstance(value, str) else value


def _named_address(value: Any) -> Any:
    if isinstance(value, str):
        split_address(value)
    return value


def _scrape_target(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"(([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?)?", value):
        raise ValueError("expected HOST or HOST:PORT, an IPv6 address in brackets")
    return value


def _secret(value: Any) -> Any:
    if isinstance(value, str) and len(value.encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"must have at least {MIN_SECRET_BYTES} bytes; `openssl rand -hex 32` makes a good one")
    return value


def _home(value: Any) -> Any:
    if not isinstance(value, (str, Path)):
        return value
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:  # "~nobody-of-this-name"
        raise ValueError(f"no such home directory: {value}") from error


class Complaint(NamedTuple):
    """A relation between settings that does not hold."""

    settings: tuple[str, ...]
    text: str


T = TypeVar("T")


# Context of a validation that leaves relations alone: who checks a file wants to hear of all of them.
NO_RELATIONS: Final = "no relations"


def require(settings: T, complaints: Iterable[Complaint], info: ValidationInfo) -> T:
    """The settings themselves.

    Raises:
        ValueError: the first complaint.
    """
    if info.context != NO_RELATIONS:
        for complaint in complaints:
            raise ValueError(complaint.text)
    return settings


# In a TOML file lists may also be one text with commas; what follows is how schemas say that.
_ID_SCHEMA: Final = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,62}(~[A-Za-z0-9]{1,16})?$")]
_LIST_SCHEMA: Final = str | list[str]

AgentIdText = Annotated[str, BeforeValidator(_agent_id, json_schema_input_type=_ID_SCHEMA)]
Address = Annotated[str, BeforeValidator(_address)]
NamedAddress = Annotated[str, BeforeValidator(_named_address)]
NamedAddresses = Annotated[
    tuple[NamedAddress, ...], BeforeValidator(_split, json_schema_input_type=_LIST_SCHEMA), Field(min_length=1)
]
Texts = Annotated[tuple[str, ...], BeforeValidator(_split, json_schema_input_type=_LIST_SCHEMA)]
Labels = Annotated[dict[str, str], BeforeValidator(_pairs, json_schema_input_type=str | dict[str, str])]
FilePath = Annotated[Path, BeforeValidator(_home)]
Secret = Annotated[SecretStr, BeforeValidator(_secret)]
ScrapeTarget = Annotated[str, BeforeValidator(_scrape_target)]
Port = Annotated[int, Field(ge=0, le=65535)]


# The unit that the end of a name says.
_UNITS: Final = {
    "_per_s": "a second",
    "_percent": "percent",
    "_bytes": "bytes",
    "_ms": "milliseconds",
    "_mb": "MB",
    "_kb": "KiB",
    "_s": "seconds",
}


def unit_of(name: str) -> str:
    """The unit of a setting, "" if it has none."""
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")


def is_secret(field: FieldInfo) -> bool:
    """Secrets are never flags: command lines are readable by every user of a host."""
    return "SecretStr" in str(field.annotation)


def default_text(field: FieldInfo) -> str:
    """The default as one would write it, "" where there is none or the host decides."""
    if field.default_factory is not None or field.default is None:
        return ""
    if isinstance(field.default, tuple):
        return ",".join(field.default)
    if isinstance(field.default, dict):
        return ",".join(f"{name}={value}" for name, value in field.default.items())
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
