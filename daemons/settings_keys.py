"""Settings of who an agent is, and how others are recognised."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, Field

from daemons.settings_forms import Complaint, FilePath, Secret


class KeySettings(BaseModel):
    """Keys of an agent, where they are not below the state directory."""

    use_mtls: bool = Field(
        True,
        description="CURVE between agents: mutual authentication and encryption; false needs local addresses",
    )
    cert_path: FilePath | None = Field(
        None,
        description="the fleet's `peers.json`: everybody's roles and public keys, with `issuer.pub` beside it; "
        "goes with key_path, instead of key_dir",
    )
    key_path: FilePath | None = Field(
        None,
        description="our own `NAME.key`: the secret key, with `NAME.jwt` (or `issuer.key`) beside it; "
        "goes with cert_path",
    )
    token_secret: Secret | None = Field(
        None, description="shared secret of a single-host fleet, at least 16 bytes, instead of key files"
    )

    def complaints(self) -> Iterator[Complaint]:
        """What does not fit together."""
        if (self.cert_path is None) != (self.key_path is None):
            yield Complaint(("cert_path", "key_path"), "cert_path and key_path go together")
