"""The same fixtures as for the integration tests: real daemons, and none left behind."""

from __future__ import annotations

from tests.integration.conftest import ledger, no_orphans

__all__ = ["ledger", "no_orphans"]
