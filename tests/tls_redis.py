"""A Redis that speaks only TLS and knows ACL users, with certificates made for the occasion."""

from __future__ import annotations

import datetime as dt
import ipaddress
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from a2a_zmq.config import RedisConfig
from daemons.redis.embedded import free_port

READY_S = 10.0
PASSWORD = "the fleet's: #1 %@/secret"  # with what has a meaning in addresses
ADMIN_PASSWORD = "only-for-the-test"


class Authority:
    """Issues certificates below a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(self._name, self._key, authority=True)
        self.path = directory / f"{name}.pem"
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, hosts: tuple[str, ...] = (), password: bytes | None = None) -> tuple[Path, Path]:
        """A certificate and its key, as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(subject, key, hosts)
        paths = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden))
        paths[1].chmod(0o600)
        return paths

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        hosts: tuple[str, ...] = (),
        *,
        authority: bool = False,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if hosts:
            names: list[x509.GeneralName] = []
            for host in hosts:
                try:
                    names.append(x509.IPAddress(ipaddress.ip_address(host)))
                except ValueError:
                    names.append(x509.DNSName(host))
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


class TlsRedis:
    """``redis-server`` on a TLS port; every client needs a certificate of our authority and an ACL user.

    Attributes:
        ca: the authority's certificate.
        client: a client's certificate and key.
    """

    def __init__(self, directory: Path, *users: str) -> None:
        """
        Args:
            users: lines of its ACL file.
        """
        self.directory = directory
        authority = Authority(directory, "authority")
        self.ca = authority.path
        self.authority = authority
        self.client = authority.issue("client")
        self.port = free_port()
        certificate, key = authority.issue("server", ("127.0.0.1", "localhost"))
        acl = directory / "users.acl"
        acl.write_text("\n".join([f"user default on >{ADMIN_PASSWORD} ~* &* +@all", *users, ""]))
        config = directory / "redis.conf"
        config.write_text(
            f"port 0\ntls-port {self.port}\nbind 127.0.0.1\ntls-cert-file {certificate}\ntls-key-file {key}\n"
            f"tls-ca-cert-file {self.ca}\ntls-auth-clients yes\naclfile {acl}\ndir {directory}\nappendonly yes\n"
            f"maxmemory-policy noeviction\nlogfile {directory / 'redis.log'}\n"
        )
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._admin: redis.Redis | None = None

    @property
    def admin(self) -> redis.Redis:
        """A connection that may do everything."""
        if self._admin is None:
            self._admin = redis.Redis.from_url(self.config(password=ADMIN_PASSWORD).url(), **self._options())
        return self._admin

    def _options(self) -> dict[str, Any]:
        return {**self.config().tls_options(), "decode_responses": True}

    def config(self, **more: Any) -> RedisConfig:
        """How a client reaches it, as nobody in particular."""
        given = {"host": "127.0.0.1", "port": self.port, "use_tls": True, "ca_path": self.ca}
        return RedisConfig.model_validate({**given, "cert_path": self.client[0], "key_path": self.client[1], **more})

    def env(self, user: str = "a2a") -> dict[str, str]:
        """Settings of a fleet that uses it."""
        return {
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(self.port),
            "REDIS_PASSWORD": PASSWORD,
            "REDIS_USE_TLS": "true",
            "A2A_REDIS_USERNAME": user,
            "A2A_REDIS_CA_PATH": str(self.ca),
            "A2A_REDIS_CERT_PATH": str(self.client[0]),
            "A2A_REDIS_KEY_PATH": str(self.client[1]),
        }

    def denied(self, user: str = "a2a") -> list[str]:
        """What this user was refused when it was in, from the ACL log."""
        found = self.admin.execute_command("ACL", "LOG")  # type: ignore[no-untyped-call]
        return [str(entry) for entry in found if entry["username"] == user and entry["reason"] != "auth"]

    def __enter__(self) -> Self:
        program = shutil.which("redis-server")
        assert program is not None
        self._process = subprocess.Popen(
            [program, str(self._config)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + READY_S
        while True:
            try:
                self.admin.ping()
            except redis.ConnectionError:
                if self._process.poll() is not None or time.monotonic() > until:
                    log = self.directory / "redis.log"
                    raise AssertionError(log.read_text()[-2000:] if log.exists() else "no log") from None
                time.sleep(0.02)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._admin is not None:
            self._admin.close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def quoted(line: str) -> str:
    """An ACL line with the fleet's password in it; ACL files split at blanks, so its hash stands there."""
    import hashlib

    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    return line.replace(">PASSWORD", f"#{digest}")
