"""Settings of a connection to Redis or Valkey."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from pydantic import BaseModel, Field, SecretStr, ValidationInfo, model_validator

from a2a_zmq.config import RedisConfig
from daemons.settings_forms import Complaint, FilePath, require


class RedisConnection(BaseModel):
    """Where Redis is, and how it is spoken to."""

    redis_host: str = Field("127.0.0.1", min_length=1, description="host name or address of Redis or Valkey")
    redis_port: int = Field(6379, ge=1, le=65535, description="its TCP port")
    redis_db: int = Field(0, ge=0, description="database number")
    redis_username: str | None = Field(None, description="ACL user, if Redis asks for one; goes with redis_password")
    redis_password: SecretStr | None = Field(None, description="password, if Redis asks for one")
    redis_use_tls: bool = Field(False, description="speak TLS to Redis")
    redis_ca_path: FilePath | None = Field(
        None,
        description="CA certificates that Redis' certificate is checked against; without it the system's authorities",
    )
    redis_cert_path: FilePath | None = Field(
        None, description="our own certificate, if Redis asks for one; goes with redis_key_path"
    )
    redis_key_path: FilePath | None = Field(None, description="its key, not encrypted; goes with redis_cert_path")
    redis_wait_s: float = Field(30.0, gt=0, description="seconds to wait for Redis at start before exit status 75")

    @model_validator(mode="after")
    def _redis_relations(self, info: ValidationInfo) -> Self:
        return require(self, self.redis_complaints(), info)

    def redis_complaints(self) -> Iterator[Complaint]:
        """What does not fit together."""
        if (self.redis_cert_path is None) != (self.redis_key_path is None):
            yield Complaint(("redis_cert_path", "redis_key_path"), "redis_cert_path and redis_key_path go together")
        files = ("redis_ca_path", "redis_cert_path", "redis_key_path")
        given = [name for name in files if getattr(self, name) is not None]
        if given and not self.redis_use_tls:
            yield Complaint(
                (given[0], "redis_use_tls"), f"{given[0]} is for TLS, and redis_use_tls is false: nothing is encrypted"
            )
        if self.redis_username and self.redis_password is None:
            yield Complaint(("redis_username", "redis_password"), "redis_username needs redis_password")

    def redis_config(self) -> RedisConfig:
        """The same as the library takes it."""
        return RedisConfig(
            host=self.redis_host,
            port=self.redis_port,
            db=self.redis_db,
            username=self.redis_username,
            password=self.redis_password,
            use_tls=self.redis_use_tls,
            ca_path=self.redis_ca_path,
            cert_path=self.redis_cert_path,
            key_path=self.redis_key_path,
        )
