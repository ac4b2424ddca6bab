"""The key directory on the issuing host: who is in the fleet, made, rotated and revoked here.

::

    issuer.key    Ed25519, signs identity tokens; only on this host            0600
    issuer.pub    its public half                                              0644
    peers.json    everybody's role and CURVE public keys, and the revocations  0644, replaced in one step
    NAME.key      one agent's own key pairs                                    0600
    NAME.jwt      its identity token, for a host without the issuer's key      0600

Another host gets what :meth:`KeyDirectory.export` writes: the public files and one agent's own. After a rotation
bring ``peers.json`` everywhere first and the new ``NAME.key`` to its owner last.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from a2a_zmq.errors import ConfigError
from a2a_zmq.ids import identity_of, valid_agent_id
from a2a_zmq.protocol.message import Role
from a2a_zmq.security import tokens
from a2a_zmq.security.curve import new_pair
from a2a_zmq.security.files import check_directory, locked, read_private, read_public, write_atomic
from a2a_zmq.security.records import (
    MAX_LIVE_KEYS,
    RESERVED_NAMES,
    AgentKeys,
    KeyEntry,
    PeerEntry,
    PeersFile,
    PublicKey,
    dump,
    parse,
)

# A token lives for at most a day and a dropped CURVE key is refused because no agent lists it, so a list of
# revocations need not remember for ever.
MAX_REVOCATIONS = 10_000


class KeyStatus(NamedTuple):
    """One line of ``a2actl keys list``."""

    name: str
    role: Role
    key_ids: list[str]
    secret_here: bool
    revoked: bool


class KeyDirectory:
    """All changes of a key directory; each is one locked step, safe against other processes doing the same.

    Every method raises ConfigError for files that are missing, damaged, not ours or open to others.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.issuer_key = self.path / "issuer.key"
        self.issuer_pub = self.path / "issuer.pub"
        self.peers_json = self.path / "peers.json"

    def key_file(self, name: str) -> Path:
        return self.path / f"{name}.key"

    def token_file(self, name: str) -> Path:
        return self.path / f"{name}.jwt"

    # ------------------------------------------------------------ what operators do

    def init(self, names_with_roles: Mapping[str, Role | str]) -> list[str]:
        """Make the issuer, if there is none, and keys for every name that has none; the revoked stay so.

        Returns:
            the names that were added.
        """
        self.create()
        with locked(self.path):
            peers = self._issuing()
            added = []
            for name, role in names_with_roles.items():
                entry = peers.agents.get(name)
                if entry is None:
                    self._new_key(peers, name, Role(role))
                    added.append(name)
                elif entry.keys and entry.role is not Role(role):
                    raise ConfigError(f"{self.peers_json}: {name} is a {entry.role}, not a {Role(role)}")
            self._write(peers)
        return added

    def add(self, name: str, role: Role | str) -> None:
        """Make keys for a new (or revoked) agent."""
        with self._changing() as peers:
            entry = peers.agents.get(name)
            if entry is not None and entry.keys:
                raise ConfigError(f"{self.peers_json}: {name} has keys already; rotate makes new ones")
            self._new_key(peers, name, Role(role))

    def rotate(self, name: str) -> str:
        """Make a new key; the one before stays valid, older ones do not.

        Returns:
            the new key's id.
        """
        with self._changing() as peers:
            entry = self._entry(peers, name)
            return self._new_key(peers, name, entry.role)

    def revoke(self, name: str) -> None:
        """Shut an agent out within a second, also on live connections, until it is added again."""
        with self._changing() as peers:
            entry = self._entry(peers, name)
            revoked = peers.revoked.curve + [key.curve for key in entry.keys]
            peers.revoked.curve = revoked[-MAX_REVOCATIONS:]
            entry.keys = []
        for path in (self.key_file(name), self.token_file(name)):
            path.unlink(missing_ok=True)

    def revoke_token(self, token_id: str) -> None:
        """Refuse one token (``jti``), and end the session that was opened with it."""
        with self._changing() as peers:
            if token_id not in peers.revoked.jti:
                peers.revoked.jti = [*peers.revoked.jti, token_id][-MAX_REVOCATIONS:]

    def list(self) -> list[KeyStatus]:
        check_directory(self.path)
        return [
            KeyStatus(
                name,
                entry.role,
                [key.key_id for key in entry.keys],
                self.key_file(name).exists(),
                revoked=not entry.keys,
            )
            for name, entry in sorted(self.peers().agents.items())
        ]

    def issue_token(self, name: str, *, wall: float | None = None, life_s: int = tokens.MAX_LIFE_S) -> str:
        """Write ``NAME.jwt`` for a host that has no issuer key; to be repeated before it expires.

        Args:
            wall: now, seconds since the Unix epoch; the clock by default.
        """
        check_directory(self.path)
        with locked(self.path):
            key = self._entry(self.peers(), name).keys[0]
            token = tokens.mint(
                self._issuer(),
                subject=name,
                role=self.peers().agents[name].role,
                curve=key.curve,
                key_id=key.key_id,
                token_id=secrets.token_hex(12),
                wall=time.time() if wall is None else wall,
                life_s=life_s,
            )
            write_atomic(self.token_file(name), token.encode())
        return token

    def export(self, name: str, target: Path | str) -> None:
        """Write the key directory of a host that runs only this agent: no issuer key, nobody else's secrets."""
        other = KeyDirectory(target)
        self.issue_token(name)
        other.create()
        with locked(other.path):
            if other.issuer_key.exists():
                raise ConfigError(f"key directory {other.path}: has an issuer of its own")
            write_atomic(other.issuer_pub, read_public(self.issuer_pub), mode=0o644)
            write_atomic(other.peers_json, read_public(self.peers_json), mode=0o644)
            write_atomic(other.token_file(name), read_private(self.token_file(name)))
            write_atomic(other.key_file(name), read_private(self.key_file(name)))

    # ------------------------------------------------------------ what a starting agent does

    def knows(self, name: str) -> bool:
        """Whether this agent has, or had, keys here; False where there is no fleet yet.

        Raises:
            ConfigError: the directory, or what it says of the fleet, may not be read.
        """
        try:
            there = self.peers_json.exists()
        except OSError as error:  # a directory that may not be entered
            raise ConfigError(f"key directory {self.path}: {error.strerror}") from None
        return there and identity_of(name) in self.peers().agents

    def create(self) -> None:
        """Make the directory, if it is missing; it holds nothing yet."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"key directory {self.path}: cannot be made: {error.strerror}") from None
        check_directory(self.path)

    def ensure(self, name: str, role: Role | str) -> bool:
        """See to it that this agent can start here: directory, issuer and keys are made if they are missing.

        On a host without the issuer's key nothing is made: what was exported for it must be there.

        Returns:
            True if keys were made.

        Raises:
            ConfigError: also for a revoked agent (it must be added again by hand), for one whose key file is lost, and
                for another role.
        """
        identity, role = identity_of(name), Role(role)
        self.create()
        with locked(self.path):
            foreign = not self.issuer_key.exists() and (self.peers_json.exists() or self.issuer_pub.exists())
            peers = self.peers() if foreign else self._issuing()
            entry = peers.agents.get(identity)
            if entry is not None and entry.role is not role:
                raise ConfigError(f"{self.peers_json}: {identity} is a {entry.role}, not a {role}")
            if entry is not None and not entry.keys:
                raise ConfigError(
                    f"{self.peers_json}: {identity} is revoked; `a2actl keys add {identity}` admits it again"
                )
            if entry is not None and self.key_file(identity).exists():
                return False
            if foreign:
                raise ConfigError(
                    f"key directory {self.path}: no keys of {identity}, and no issuer.key to make some; "
                    f"`a2actl keys export {identity}` on the issuing host writes them"
                )
            if entry is not None:
                # A new one, made in silence, would hide that a secret is gone: who has it may be this agent elsewhere.
                raise ConfigError(
                    f"key file {self.key_file(identity)}: missing, although {identity} has keys; bring it back, or "
                    f"`a2actl keys rotate {identity}` makes a new one"
                )
            self._new_key(peers, identity, role)
            self._write(peers)
        return True

    # ------------------------------------------------------------ steps

    def peers(self) -> PeersFile:
        return parse(PeersFile, read_public(self.peers_json), self.peers_json)

    def _issuing(self) -> PeersFile:
        """The peers, on the issuing host; makes whatever a first start (or one that was interrupted) lacks."""
        if self.issuer_key.exists():
            issuer = self._issuer()
        elif self.peers_json.exists() or self.issuer_pub.exists():
            raise ConfigError(f"key directory {self.path}: issuer.key is not here, so this host cannot make keys")
        else:
            issuer = Ed25519PrivateKey.generate()
            write_atomic(self.issuer_key, tokens.private_pem(issuer))
        if not self.issuer_pub.exists():
            write_atomic(self.issuer_pub, tokens.public_pem(issuer.public_key()), mode=0o644)
        return self.peers() if self.peers_json.exists() else PeersFile()

    def _issuer(self) -> Ed25519PrivateKey:
        try:
            return tokens.load_private(read_private(self.issuer_key))
        except ValueError as error:
            raise ConfigError(f"key file {self.issuer_key}: {error}") from None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[PeersFile]:
        check_directory(self.path)
        with locked(self.path):
            if not self.issuer_key.exists():
                raise ConfigError(f"key directory {self.path}: issuer.key is not here, so this host cannot change keys")
            peers = self._issuing()
            yield peers
            self._write(peers)

    def _entry(self, peers: PeersFile, name: str) -> PeerEntry:
        entry = peers.agents.get(name)
        if entry is None or not entry.keys:
            raise ConfigError(f"{self.peers_json}: {'no agent' if entry is None else 'revoked:'} {name}")
        return entry

    def _write(self, peers: PeersFile) -> None:
        write_atomic(self.peers_json, dump(peers), mode=0o644)

    def _new_key(self, peers: PeersFile, name: str, role: Role) -> str:
        """Add a key pair, first to ``NAME.key`` and to ``peers`` in memory (the caller writes that after it).

        In this order an interrupted change leaves a key that nobody lists, which nobody uses either.
        """
        if not valid_agent_id(name) or "~" in name or name in RESERVED_NAMES:
            raise ConfigError(f"{name!r} is no agent name: letters, digits, '.', '_', '-'; not 'issuer'")
        known = peers.agents.get(name)
        listed = {key.curve for key in known.keys} if known is not None else set()
        path, own = self.key_file(name), []
        if path.exists():
            own = [key for key in parse(AgentKeys, read_private(path), path).keys if key.public in listed]
        used = [int(key.key_id) for key in known.keys] if known is not None else []
        pair = new_pair()
        key_id = str(max(used, default=0) + 1)
        newest = KeyEntry(key_id=key_id, public=pair.public.decode(), secret=pair.secret.decode())
        record = AgentKeys(agent_id=name, role=role, keys=[newest, *own][:MAX_LIVE_KEYS])
        write_atomic(path, dump(record))
        self.token_file(name).unlink(missing_ok=True)  # names a key that is no longer the newest
        public = PublicKey(key_id=key_id, curve=newest.public)
        before = known.keys if known is not None else []
        peers.agents[name] = PeerEntry(role=role, keys=[public, *before][:MAX_LIVE_KEYS])
        return key_id
