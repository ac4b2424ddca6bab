"""The library's two configuration values: where Redis is, and how an agent talks to others.

Plain models: nothing here reads an environment or a file. The daemons' settings fill them in.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, Self
from urllib.parse import quote, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from a2a_zmq.errors import ConfigError
from a2a_zmq.ids import valid_agent_id

# One frame on the wire. Larger values go by reference or in chunks.
MAX_MESSAGE_BYTES: Final = 1 << 20
# Below this a shared secret can be guessed from a recorded message.
MIN_SECRET_BYTES: Final = 16

MAX_PORT: Final = 65_535
ADDRESS: Final = re.compile(r"tcp://(\[[0-9A-Fa-f:.%a-z]+\]|[^\s:/\[\]]+|\*):(\d{1,5}|\*)\Z|ipc://\S+\Z|inproc://\S+\Z")


# redis-py's names for our files; and what it has to be told, so that it checks certificates as we do.
_TLS_FILES: Final = {"ssl_ca_certs": "ca_path", "ssl_certfile": "cert_path", "ssl_keyfile": "key_path"}
_TLS_CHECKED: Final = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}


class RedisConfig(BaseModel):
    """How to reach Redis or Valkey.

    Attributes:
        host: name or address; an IPv6 address without brackets.
        db: database number.
        password, username: credentials (ACL user); an empty password means none.
        use_tls: speak TLS; the server's certificate is checked against ``ca_path`` or the system's authorities.
        ca_path: file with CA certificates in PEM form.
        cert_path, key_path: our own certificate and its key in PEM form, where the server asks for one.
        socket_timeout_s: longest wait for one answer, besides what a large one needs to arrive; short, because a
            doubtful write is resolved by re-reading.
        connect_timeout_s: longest wait for a connection.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("localhost", min_length=1)
    port: int = Field(6379, ge=1, le=65535)
    db: int = Field(0, ge=0)
    password: SecretStr | None = None
    use_tls: bool = False
    username: str | None = None
    ca_path: Path | None = None
    cert_path: Path | None = None
    key_path: Path | None = None
    socket_timeout_s: float = Field(0.5, gt=0)
    connect_timeout_s: float = Field(1.0, gt=0)

    @field_validator("password")
    @classmethod
    def _no_empty_password(cls, value: SecretStr | None) -> SecretStr | None:
        # `REDIS_PASSWORD=` in a file means "no password", and Redis refuses AUTH with an empty one.
        return value if value is not None and value.get_secret_value() else None

    @field_validator("username")
    @classmethod
    def _no_empty_username(cls, value: str | None) -> str | None:
        return value or None

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert_path is None) != (self.key_path is None):
            raise ValueError("cert_path and key_path go together")
        return self

    def tls_context(self) -> ssl.SSLContext | None:
        """For a new connection; None where TLS is not wanted. Files are read anew, so renewed ones are used.

        Raises:
            ConfigError: a file cannot be used; the text names it.
        """
        if not self.use_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=str(self.ca_path) if self.ca_path is not None else None)
        except OSError as error:
            raise ConfigError(f"CA certificates for Redis, {self.ca_path}: {_why(error)}") from None
        if self.cert_path is not None and self.key_path is not None:
            try:
                # Without a password given OpenSSL would ask for one at the terminal.
                context.load_cert_chain(self.cert_path, self.key_path, password=_no_password)
            except (OSError, ValueError) as error:
                where = f"certificate {self.cert_path} with key {self.key_path}"
                raise ConfigError(f"our {where} for Redis: {_why(error)}") from None
        return context

    def tls_options(self) -> dict[str, Any]:
        """What redis-py's ``from_url`` takes besides :meth:`url`; JSON-able."""
        if not self.use_tls:
            return {}
        files = {option: getattr(self, name) for option, name in _TLS_FILES.items()}
        given = {option: str(path) for option, path in files.items() if path is not None}
        return {**_TLS_CHECKED, **given}

    def url(self, *, mask: bool = False) -> str:
        """The address as redis-py takes it, ``redis[s]://[user][:password]@host:port/db``.

        Args:
            mask: leave the password out (``***``), for logs and error texts.
        """
        scheme = "rediss" if self.use_tls else "redis"
        host = f"[{self.host}]" if ":" in self.host else self.host
        login = quote(self.username, safe="") if self.username else ""
        if self.password is not None:
            login += ":" + ("***" if mask else quote(self.password.get_secret_value(), safe=""))
        return f"{scheme}://{login}{'@' if login else ''}{host}:{self.port}/{self.db}"

    @classmethod
    def from_url(cls, url: str, tls_options: Mapping[str, Any] | None = None) -> RedisConfig:
        """The configuration that a ``redis://`` or ``rediss://`` address stands for.

        Args:
            tls_options: as :meth:`tls_options` gives them.

        Raises:
            ConfigError: another scheme, or not an address (the text does not repeat a password); another option.
        """
        options = dict(tls_options or {})
        files = {name: options.pop(option) for option, name in _TLS_FILES.items() if option in options}
        if other := sorted(name for name, value in options.items() if _TLS_CHECKED.get(name) != value):
            raise ConfigError(f"Redis connection: {', '.join(other)}: expected only {', '.join(_TLS_FILES)}")
        try:
            parts = urlsplit(url)
            if parts.scheme not in {"redis", "rediss"} or parts.query or parts.fragment:
                raise ValueError("expected redis://[user:password@]host[:port][/db]")
            db = parts.path.strip("/")
            return cls(
                host=parts.hostname or "localhost",
                port=parts.port or 6379,
                db=int(db) if db else 0,
                username=unquote(parts.username) if parts.username else None,
                password=SecretStr(unquote(parts.password)) if parts.password else None,
                use_tls=parts.scheme == "rediss",
                **files,
            )
        except ValueError:
            raise ConfigError("Redis URL: expected redis[s]://[user:password@]host[:port][/db]") from None


def _no_password() -> NoReturn:
    raise ValueError("the key is encrypted, and there is nobody to type its password")


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return str(getattr(error, "strerror", "") or error)


class A2AConfig(BaseModel):
    """How an agent talks to others.

    Keys come from one place, the first of these that is set: ``key_path`` with ``cert_path``, ``token_secret``,
    ``key_dir`` (:func:`a2a_zmq.security.identity.open_identity`).

    Attributes:
        agent_id: who we are.
        use_mtls: mutual authentication and encryption of every connection (CURVE); without it only addresses that
            no other host can reach are accepted.
        cert_path: file with everybody's public keys, the key directory's ``peers.json``; ``issuer.pub`` is beside it.
        key_path: our own secret key file, the key directory's ``<name>.key``.
        token_secret: shared secret of a single-host fleet, at least 16 bytes; no key files then.
        key_dir: key directory as ``a2actl keys`` keeps it.
        bind_address: where a hub listens, ``tcp://HOST:PORT`` (port ``*`` or 0: any free one) or ``ipc://PATH``.
        connect_addresses: hubs that a spoke tries in order; ``NAME@tcp://HOST:PORT`` says which agent is there.
        heartbeat_interval_ms, suspect_after_ms, dead_after_ms: application heartbeats and the silences they end.
        reconnect_grace_ms: time to come back after a broken connection before a peer is taken for dead.
        max_message_bytes: largest frame that is sent or taken.
        high_water_mark: frames that the transport queues for a peer before it reports it full.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    agent_id: str
    use_mtls: bool = True
    cert_path: Path | None = None
    key_path: Path | None = None
    token_secret: SecretStr | None = None
    key_dir: Path | None = None
    bind_address: str | None = None
    connect_addresses: tuple[str, ...] = ()
    heartbeat_interval_ms: int = Field(200, ge=20, le=60_000)
    suspect_after_ms: int = Field(500, ge=40)
    dead_after_ms: int = Field(800, ge=60)
    reconnect_grace_ms: int = Field(150, ge=0, le=60_000)
    max_message_bytes: int = Field(MAX_MESSAGE_BYTES, ge=4096, le=MAX_MESSAGE_BYTES)
    high_water_mark: int = Field(256, ge=1, le=65536)

    @field_validator("agent_id")
    @classmethod
    def _agent_id(cls, value: str) -> str:
        if not valid_agent_id(value):
            raise ValueError(
                "an agent id has 1 to 63 letters, digits, '.', '_' or '-' and starts with a letter or digit"
            )
        return value

    @field_validator("token_secret")
    @classmethod
    def _token_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None  # `A2A_TOKEN_SECRET=` means "none"
        if len(value.get_secret_value().encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"must have at least {MIN_SECRET_BYTES} bytes; `openssl rand -hex 32` makes a good one")
        return value

    @field_validator("bind_address")
    @classmethod
    def _bind_address(cls, value: str | None) -> str | None:
        return None if value is None else check_address(value)

    @field_validator("connect_addresses")
    @classmethod
    def _connect_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            split_address(text)
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.cert_path is None) != (self.key_path is None):
            raise ValueError("cert_path and key_path go together")
        if not self.heartbeat_interval_ms * 2 <= self.suspect_after_ms < self.dead_after_ms:
            raise ValueError(
                "need 2 x heartbeat_interval_ms <= suspect_after_ms < dead_after_ms, "
                f"got {self.heartbeat_interval_ms}, {self.suspect_after_ms}, {self.dead_after_ms}"
            )
        return self


def check_address(address: str) -> str:
    """The address itself.

    Raises:
        ValueError: it is none of ``tcp://HOST:PORT``, ``ipc://PATH``, ``inproc://NAME``.
    """
    found = ADDRESS.match(address)
    if found is None:
        raise ValueError(f"{address!r} is no address: expected tcp://HOST:PORT or ipc://PATH")
    port = found.group(2)
    if port not in {None, "*"} and int(port) > MAX_PORT:
        raise ValueError(f"{address!r}: port {port} is too high, {MAX_PORT} is the last one")
    return address


def split_address(text: str) -> tuple[str | None, str]:
    """``coordinator-2@tcp://10.0.0.2:5550`` → (``coordinator-2``, ``tcp://10.0.0.2:5550``); the name may be missing.

    Raises:
        ValueError: as :func:`check_address`, or the name is no agent id.
    """
    name, at, address = text.partition("@")
    if not at or "://" in name:
        return None, check_address(text)
    if not valid_agent_id(name):
        raise ValueError(f"{name!r} in {text!r} is no agent id")
    return name, check_address(address)


def checked_receiver(url: str) -> str:
    """The URL of an OTLP receiver, or "" for none.

    Raises:
        ValueError: it is no such URL.
    """
    try:
        parts = urlsplit(url)
        good = not url or (parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0)
    except ValueError:
        good = False
    if not good:
        raise ValueError("expected the URL of an OTLP receiver (protobuf over HTTP), as http://127.0.0.1:4318")
    return url


def is_local(address: str) -> bool:
    """True if nothing but this host can reach the address."""
    return re.match(r"ipc://|inproc://|tcp://(127\.\d|localhost:|\[::1\]:)", address) is not None
