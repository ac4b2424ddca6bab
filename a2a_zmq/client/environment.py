"""What a client takes from the environment when its caller gives no argument.

This is the only module of the library that reads the environment, and only clients use it: a program that submits tasks
should find the fleet and its keys the way the daemons and ``a2actl`` do. Arguments always win.

* ``A2A_COORDINATOR_ADDRESS``: where coordinators listen, commas between several; else ``tcp://127.0.0.1:5550``;
* ``A2A_KEY_DIR``: directory of keys; else ``keys`` in the state directory;
* ``A2A_STATE_DIR``: the fleet's files on this host; else ``/var/lib/a2a-zmq`` if ``/etc/a2a-zmq`` is there, else
  ``$XDG_STATE_HOME/a2a-zmq``, else ``~/.local/state/a2a-zmq``;
* ``A2A_TOKEN_SECRET``: shared secret of a single-host fleet, used instead of keys;
* ``A2A_CERT_PATH`` with ``A2A_KEY_PATH``: ``peers.json`` and our own ``NAME.key``, used before both;
* ``A2A_USE_MTLS``: ``false`` for a fleet whose connections are not encrypted;
* ``A2A_CLIENT_ID``: name of the identity whose keys are used; else ``client``;
* ``COORDINATOR_ID``: the coordinator's agent id; else ``coordinator-1``;
* ``A2A_OTLP_ENDPOINT``: OTLP receiver of traces; else none are begun here;
* ``A2A_TRACE_SAMPLE_RATIO``: share of the traces begun here that is reported; else 1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from a2a_zmq.client.submission import address_list
from a2a_zmq.config import checked_receiver
from a2a_zmq.errors import ConfigError
from a2a_zmq.ids import AGENT_ID

DEFAULT_ADDRESS = "tcp://127.0.0.1:5550"
DEFAULT_CLIENT_ID = "client"
DEFAULT_COORDINATOR_ID = "coordinator-1"
SYSTEM_CONFIG_DIR = Path("/etc/a2a-zmq")
SYSTEM_STATE_DIR = Path("/var/lib/a2a-zmq")


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Everything that a client needs to reach a fleet.

    Attributes:
        addresses: coordinators, tried in turn.
        client_id: identity whose keys are used; the agent id adds ``~`` and a random suffix.
        coordinator_id: who is expected to answer.
        key_dir: directory of keys, where no secret is given.
        token_secret: shared secret of a single-host fleet, or "".
        otlp_endpoint: OTLP receiver of the traces that are begun here, "" for none.
        trace_sample_ratio: share of them that is reported.
        use_mtls: connections are encrypted.
        cert_path, key_path: key files that are used instead of the others.
    """

    addresses: tuple[str, ...]
    client_id: str
    coordinator_id: str
    key_dir: Path
    token_secret: str = ""
    otlp_endpoint: str = ""
    trace_sample_ratio: float = 1.0
    use_mtls: bool = True
    cert_path: Path | None = None
    key_path: Path | None = None


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """Where the fleet keeps its files on this host."""
    given = environ.get("A2A_STATE_DIR")
    if given:
        return _home(given)
    if SYSTEM_CONFIG_DIR.is_dir():
        return SYSTEM_STATE_DIR
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "a2a-zmq"


def _home(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"no such home directory: {path}") from error


def client_settings(
    addresses: str | Sequence[str] | None = None,
    *,
    key_dir: str | Path | None = None,
    client_id: str | None = None,
    token_secret: str | None = None,
    coordinator_id: str | None = None,
    otlp_endpoint: str | None = None,
    trace_sample_ratio: float | None = None,
    environ: Mapping[str, str] | None = None,
) -> ClientSettings:
    """Arguments completed from the environment.

    Args:
        environ: read this instead of the process's environment.

    Raises:
        ConfigError: a value is not of the right form.
    """
    env = os.environ if environ is None else environ
    _check_types(
        addresses, key_dir, client_id=client_id, token_secret=token_secret, coordinator_id=coordinator_id,
        otlp_endpoint=otlp_endpoint,
    )  # fmt: skip
    name = client_id or env.get("A2A_CLIENT_ID") or DEFAULT_CLIENT_ID
    if AGENT_ID.match(name) is None or "~" in name:
        raise ConfigError(f"client id {name!r} is not a name (letters, digits, dot, dash, underscore; at most 63)")
    where = addresses or env.get("A2A_COORDINATOR_ADDRESS") or DEFAULT_ADDRESS
    directory = key_dir or env.get("A2A_KEY_DIR")
    secret = token_secret
    if secret is None:
        # Keys that the caller names are not overruled by a secret that happens to be in the environment.
        secret = "" if key_dir else env.get("A2A_TOKEN_SECRET", "")
    files = (None, None) if key_dir or token_secret else (env.get("A2A_CERT_PATH"), env.get("A2A_KEY_PATH"))
    if bool(files[0]) != bool(files[1]):
        raise ConfigError("A2A_CERT_PATH and A2A_KEY_PATH go together")
    return ClientSettings(
        addresses=tuple(address_list(where if isinstance(where, str) else list(where))),
        client_id=name,
        coordinator_id=coordinator_id or env.get("COORDINATOR_ID") or DEFAULT_COORDINATOR_ID,
        key_dir=_home(directory) if directory else default_state_dir(env) / "keys",
        token_secret="" if files[1] else secret,
        use_mtls=_truth("A2A_USE_MTLS", env.get("A2A_USE_MTLS", "")),
        cert_path=_home(files[0]) if files[0] else None,
        key_path=_home(files[1]) if files[1] else None,
        otlp_endpoint=_endpoint(env.get("A2A_OTLP_ENDPOINT", "") if otlp_endpoint is None else otlp_endpoint),
        trace_sample_ratio=_ratio(
            env.get("A2A_TRACE_SAMPLE_RATIO") or 1.0 if trace_sample_ratio is None else trace_sample_ratio
        ),
    )


def _check_types(addresses: object, key_dir: object, **texts: object) -> None:
    """
    Raises:
        ConfigError: an argument is of another type than it has to be; not with its value, which may be a secret.
    """
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{name} must be a text, not {type(value).__name__}")
    if key_dir is not None and not isinstance(key_dir, str | os.PathLike):
        raise ConfigError(f"key_dir must be a path, not {type(key_dir).__name__}")
    if addresses is None or isinstance(addresses, str):
        return
    if not isinstance(addresses, Sequence) or not all(isinstance(each, str) for each in addresses):
        raise ConfigError(f"addresses must be a text or a list of texts, not {addresses!r:.60}")


def _endpoint(text: str) -> str:
    try:
        return checked_receiver(text)
    except ValueError as error:
        raise ConfigError(f"otlp_endpoint {text!r:.100}: {error}") from None


def _truth(name: str, text: str) -> bool:
    """What a variable says; true if it is empty."""
    word = text.strip().lower()
    if word in ("", "true", "1", "yes", "on", "t", "y"):
        return True
    if word in ("false", "0", "no", "off", "f", "n"):
        return False
    raise ConfigError(f"{name}: {text!r} is neither true nor false")


def _ratio(value: str | float) -> float:
    try:
        ratio = float(value)
    except (ValueError, TypeError):
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise ConfigError(f"trace_sample_ratio {value!r} is not a number from 0 to 1")
    return ratio
