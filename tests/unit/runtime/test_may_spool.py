"""Where an outage may be ridden out: not where another coordinator could take over meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from a2a_zmq.protocol.message import Role
from a2a_zmq.security.identity import open_identity
from a2a_zmq.security.keydir import KeyDirectory
from daemons.runtime.stores import may_spool
from daemons.settings import CoordinatorSettings, DistributorSettings, OwnerSettings


def allowed(settings: OwnerSettings, role: Role) -> bool:
    return may_spool(open_identity(settings.a2a_config(), role, create=True), settings)


@pytest.mark.parametrize("spool", ["auto", "on", "off"])
@pytest.mark.parametrize("standby", [False, True])
def test_a_coordinator_with_a_standby_does_not_unless_it_is_told_to(
    tmp_path: Path, spool: str, *, standby: bool
) -> None:
    keys = KeyDirectory(tmp_path)
    keys.ensure("coordinator-1", Role.COORDINATOR)
    if standby:
        keys.ensure("coordinator-2", Role.COORDINATOR)
    settings = CoordinatorSettings.model_validate({"key_dir": tmp_path, "spool": spool})
    assert allowed(settings, Role.COORDINATOR) is (spool == "on" or (spool == "auto" and not standby))


def test_a_distributor_does_and_a_shared_secret_knows_of_no_standby(tmp_path: Path) -> None:
    keys = KeyDirectory(tmp_path)
    for name in ("coordinator-1", "coordinator-2"):
        keys.ensure(name, Role.COORDINATOR)
    assert allowed(DistributorSettings.model_validate({"key_dir": tmp_path}), Role.DISTRIBUTOR)
    secret = CoordinatorSettings.model_validate({"token_secret": "sixteen bytes and more"})
    assert allowed(secret, Role.COORDINATOR)
