"""One agent's view of the key directory while it runs: own keys, everybody's public keys, live revocation."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from a2a_zmq.errors import ConfigError, Refused
from a2a_zmq.ids import identity_of
from a2a_zmq.protocol.message import Role
from a2a_zmq.security import tokens
from a2a_zmq.security.curve import CurvePair, agree, raw_key
from a2a_zmq.security.files import Stamp, check_directory, read_private, read_public, stamp_of
from a2a_zmq.security.keydir import KeyDirectory, KeyStatus
from a2a_zmq.security.records import AgentKeys, PeerEntry, PeersFile, parse

__all__ = ["KeyDirectory", "KeyStatus", "Keyring"]

# Sessions whose token is remembered, so that revoking one token or key ends them: far more than a hub has.
MAX_SESSIONS = 65_536


class _OwnKey(NamedTuple):
    key_id: str
    pair: CurvePair
    secret: bytes


class _Minted(NamedTuple):
    token: str
    curve: bytes  # our public key that it names
    renew_at: float  # a new one is made from then on
    expires_at: float


class Keyring:
    """Source of an agent's keys, tokens and verdicts; reads files only in :meth:`reload_if_changed` and :meth:`token`.

    Attributes:
        agent_id: as given, with the instance of a client process; keys are those of its identity.
        role: as the key file says.
    """

    role: Role

    def __init__(self, agent_id: str, *, own: Path, peers: Path, issuer_pub: Path, issuer_key: Path, jwt: Path) -> None:
        self.agent_id = agent_id
        self._name = identity_of(agent_id)
        self._own_path, self._peers_path, self._issuer_pub_path = own, peers, issuer_pub
        self._issuer_key_path, self._jwt_path = issuer_key, jwt
        self._minted: _Minted | None = None
        self._no_token = self._untold = ""  # why none could be minted; until that is told
        self._pairs: dict[str, list[tuple[str, bytes]]] = {}
        self._sessions: dict[str, tuple[str, str]] = {}  # agent id → (jti, CURVE key) of its last verified token
        self._cut: set[str] = set()  # agents whose token or key was revoked although they have others
        self._stamps: tuple[Stamp | None, ...] = ()
        self._unread = False  # the last attempt to read the files failed
        self._told: set[str] = set()  # why, since the files changed
        self._own: list[_OwnKey] = []
        self._load()
        if not self._own:
            raise ConfigError(
                f"key file {peers}: has no key that is in {own}: {self._name} is revoked, or is another fleet's"
            )
        self._check_token_source()

    @classmethod
    def load(cls, path: Path | str, agent_id: str) -> Keyring:
        """From a key directory.

        Raises:
            ConfigError: a file is missing, damaged, not ours or open to others, or this agent has no valid key.
        """
        directory = KeyDirectory(path)
        check_directory(directory.path)
        name = identity_of(agent_id)
        return cls(
            agent_id,
            own=directory.key_file(name),
            peers=directory.peers_json,
            issuer_pub=directory.issuer_pub,
            issuer_key=directory.issuer_key,
            jwt=directory.token_file(name),
        )

    @classmethod
    def from_files(cls, key_path: Path, cert_path: Path, agent_id: str) -> Keyring:
        """From ``A2A_KEY_PATH`` (our ``NAME.key``) and ``A2A_CERT_PATH`` (``peers.json``).

        ``issuer.pub`` is beside ``peers.json``, ``NAME.jwt`` (or ``issuer.key``) beside the key file.
        """
        return cls(
            agent_id,
            own=key_path,
            peers=cert_path,
            issuer_pub=cert_path.parent / "issuer.pub",
            issuer_key=key_path.parent / "issuer.key",
            jwt=key_path.parent / f"{identity_of(agent_id)}.jwt",
        )

    # ------------------------------------------------------------ sessions

    def pair_keys(self, peer: str) -> list[tuple[str, bytes]]:
        """(key id, 32-byte key) shared with the peer, for every pair of live keys, newest first; empty for a stranger.

        A key id is the key ids of both agents in the order of their names, so both name it alike.
        """
        name = identity_of(peer)
        known = self._pairs.get(name)
        if known is None:
            known = [
                self._pair_key(name, own, key_id, public)
                for own in self._own
                for key_id, public in self._public.get(name, ())
            ]
            if known:  # names of strangers are the stranger's choice: not remembered
                self._pairs[name] = known
        return known

    def _pair_key(self, peer: str, own: _OwnKey, key_id: str, public: bytes) -> tuple[str, bytes]:
        (low, low_id), (high, high_id) = sorted([(self._name, own.key_id), (peer, key_id)])
        label = f"{low_id}-{high_id}"
        info = b"\x00".join([b"a2a-zmq pair", low.encode(), high.encode(), label.encode()])
        return label, agree(own.secret, raw_key(public), info)

    def token(self, wall: float) -> str | None:
        """Our identity token; None if the one we were given has expired, or while none can be made.

        Where the issuer's key cannot be used for the moment the token before serves as long as it is valid, and
        :meth:`reload_if_changed` tells why: we are asked in the middle of a greeting, which is tried again.
        """
        if self._minted is not None and wall < self._minted.renew_at:
            return self._minted.token
        if not os.access(self._issuer_key_path, os.R_OK):
            return self._given_token(wall) or self._last_token(wall)
        newest = self._own[0] if self._own else None
        if newest is None:
            return None  # revoked
        try:
            issuer = self._issuer_secret()
        except ConfigError as error:
            if str(error) != self._no_token:
                self._no_token = self._untold = str(error)
            return self._last_token(wall)
        self._no_token = self._untold = ""
        token = tokens.mint(
            issuer,
            subject=self._name,
            role=self.role,
            curve=newest.pair.public.decode(),
            key_id=newest.key_id,
            token_id=secrets.token_hex(12),
            wall=wall,
        )
        self._minted = _Minted(token, newest.pair.public, wall + tokens.LIFE_S / 2, wall + tokens.LIFE_S)
        return token

    def _last_token(self, wall: float) -> str | None:
        """The token that we minted last, as long as it is good."""
        last = self._minted
        good = last is not None and wall < last.expires_at and any(key.pair.public == last.curve for key in self._own)
        return last.token if last is not None and good else None

    def _issuer_secret(self) -> Ed25519PrivateKey:
        """Read for one signature and not kept: an agent's memory holds its own keys only."""
        try:
            return tokens.load_private(read_private(self._issuer_key_path))
        except ValueError as error:
            raise ConfigError(f"key file {self._issuer_key_path}: {error}") from None

    def _given_token(self, wall: float) -> str | None:
        try:
            token = read_private(self._jwt_path).decode("ascii").strip()
            tokens.verify(token, self._issuer, wall)
        except (ConfigError, Refused, UnicodeDecodeError):
            return None
        return token

    def verify_peer(self, agent_id: str, role: Role, token: str | None, user_id: str, wall: float) -> None:
        """Is the peer who it says it is?

        Args:
            user_id: the name that the ZAP handler gave to the connection; "" where CURVE has no say (the other
                side of the connection is the server, or there is no CURVE).

        Raises:
            Refused: ``token``, ``identity`` or ``revoked``.
        """
        name = identity_of(agent_id)
        if user_id and user_id != name:
            raise Refused("identity", f"the connection belongs to {user_id}, not to {name}")
        entry = self._peers.agents.get(name)
        if entry is None:
            raise Refused("identity", f"unknown agent {name}")
        if not entry.keys:
            raise Refused("revoked", f"{name} is revoked")
        if token is None:
            raise Refused("token", "missing")
        claims = tokens.verify(token, self._issuer, wall)
        if claims.token_id in self._revoked_tokens or claims.curve in self._revoked_curves:
            raise Refused("revoked", f"token or key of {name} is revoked")
        if claims.subject != name:
            raise Refused("identity", f"the token is {claims.subject}'s, not {name}'s")
        if claims.role is not role or entry.role is not role:
            raise Refused("identity", f"{name} is a {entry.role}, not a {role}")
        if all(key.curve != claims.curve for key in entry.keys):
            raise Refused("identity", f"the token's key is no longer {name}'s")
        self._sessions.pop(agent_id, None)
        self._sessions[agent_id] = (claims.token_id, claims.curve)
        self._cut.discard(agent_id)
        if len(self._sessions) > MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]

    def revoked(self, agent_id: str, user_id: str) -> bool:
        """True if frames of this agent on this connection must not be taken any more; asked for every frame."""
        if agent_id in self._cut:
            return True
        name = user_id or identity_of(agent_id)
        return bool(name) and name not in self._active

    # ------------------------------------------------------------ CURVE

    def curve_pair(self) -> CurvePair:
        """Our newest key pair, for new sockets and connections."""
        return self._newest

    def owns(self, curve_public_key: bytes) -> bool:
        """False if this key was ours and others have taken its place; an agent without any keeps what it had."""
        return not self._own or any(key.pair.public == curve_public_key for key in self._own)

    def server_keys(self, peer: str) -> list[bytes]:
        """The peer's CURVE public keys, newest first.

        A hub uses the key that was its newest when it started: try them in turn.
        """
        return [public for _, public in self._public.get(identity_of(peer), ())]

    def agents_of(self, role: Role) -> list[str]:
        """Names of all agents in this role that are not revoked."""
        return sorted(name for name in self._active if self._peers.agents[name].role is role)

    def is_revoked(self, name: str) -> bool:
        """Whether it was in the fleet and has no key any more; False for strangers."""
        return name in self._peers.agents and name not in self._active

    def allow(self, domain: str, curve_public_key: bytes) -> str | None:
        """For the ZAP handler: whose key is this? None for strangers and the revoked."""
        return self._owners.get(curve_public_key)

    # ------------------------------------------------------------ files

    def reload_if_changed(self, *, always: bool = False) -> bool:
        """Read changed files again; cheap if there are none. Files that could not be read are tried at every call:
        what was in the way need not show in them (no descriptors are left, a disk that fails).

        Args:
            always: read them even if nothing shows that they changed, and tell what is wrong even if it was told.

        Returns:
            True if something was read.

        Raises:
            ConfigError: the files are not acceptable; the old content stays in force (if only our own key file is
                bad, our own keys do: others' keys and revocations are taken up), and the same error is not raised
                again until the files change. Or no token could be made, which is told here, once, as well.
        """
        if self._files() != self._stamps:
            self._told.clear()
        elif not (self._unread or always):
            return self._nothing_new()
        try:
            self._load()
        except ConfigError as error:
            self._unread = True
            if str(error) in self._told and not always:
                return self._nothing_new()
            self._told.add(str(error))
            raise
        self._unread = False
        self._told.clear()
        return True

    def _nothing_new(self) -> bool:
        why, self._untold = self._untold, ""
        if why:
            raise ConfigError(why)
        return False

    def _files(self) -> tuple[Stamp | None, ...]:
        return tuple(map(stamp_of, (self._peers_path, self._own_path, self._issuer_pub_path)))

    def _load(self) -> None:
        # Taken before reading: a file that is replaced meanwhile is read again the next time.
        self._stamps = self._files()
        issuer = self._load_issuer(self._issuer_pub_path)
        peers = parse(PeersFile, read_public(self._peers_path), self._peers_path)
        self._issuer = issuer
        entry = peers.agents.get(self._name)
        listed = {key.curve for key in entry.keys} if entry is not None else set()
        running = hasattr(self, "role")
        if running and not listed:  # revoked: our key file may be gone
            self._take(peers, [])
            return
        try:
            own = self._read_own(entry, listed)
        except ConfigError:
            if running:
                self._take(peers, [key for key in self._own if key.pair.public.decode() in listed])
            raise
        self._take(peers, own)

    def _read_own(self, entry: PeerEntry | None, listed: set[str]) -> list[_OwnKey]:
        keys = parse(AgentKeys, read_private(self._own_path), self._own_path)
        if keys.agent_id != self._name:
            raise ConfigError(f"key file {self._own_path}: is {keys.agent_id}'s, not {self._name}'s")
        if entry is not None and entry.role is not keys.role:
            raise ConfigError(f"key file {self._own_path}: says {keys.role}, {self._peers_path} says {entry.role}")
        self.role = keys.role
        # A key that the peers do not know yet is no use to us yet.
        return [_own_key(key.key_id, key.public, key.secret) for key in keys.keys if key.public in listed]

    def _take(self, peers: PeersFile, own: list[_OwnKey]) -> None:
        self._peers, self._own = peers, own
        if own:
            self._newest = own[0].pair
        self._revoked_curves = frozenset(peers.revoked.curve)
        self._revoked_tokens = frozenset(peers.revoked.jti)
        self._public = {
            name: [(key.key_id, key.curve.encode()) for key in entry.keys if key.curve not in self._revoked_curves]
            for name, entry in peers.agents.items()
        }
        self._active = frozenset(name for name, keys in self._public.items() if keys)
        self._owners = {public: name for name, keys in self._public.items() for _, public in keys}
        self._pairs.clear()
        if self._minted is not None:  # others may be in our place, or the token revoked: a new one is made
            self._minted = self._minted._replace(renew_at=float("-inf"))
        self._cut = {
            agent_id
            for agent_id, (token_id, curve) in self._sessions.items()
            if token_id in self._revoked_tokens or curve in self._revoked_curves
        }

    def _load_issuer(self, path: Path) -> Ed25519PublicKey:
        try:
            return tokens.load_public(read_public(path))
        except ValueError as error:
            raise ConfigError(f"key file {path}: {error}") from None

    def _check_token_source(self) -> None:
        if os.access(self._issuer_key_path, os.R_OK):
            if self._issuer_secret().public_key() != self._issuer:
                raise ConfigError(f"key file {self._issuer_key_path}: does not belong to the issuer.pub in use")
        elif not self._jwt_path.exists():
            raise ConfigError(
                f"key file {self._jwt_path}: missing; `a2actl keys export {self._name}` on the issuing host writes it"
            )


def _own_key(key_id: str, public: str, secret: str) -> _OwnKey:
    return _OwnKey(key_id, CurvePair(public.encode(), secret.encode()), raw_key(secret))
