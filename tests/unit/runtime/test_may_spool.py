"""Where an outage may be ridden out: not where another coordinator could take over meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from a2a_zmq.protocol.message import Role
from a2a_zmq.security.identity import open_identity
from a2a_zmq.security.keydir import KeyDirectory
from daemons.runtime.stores import spool_off
from daemons.settings import CoordinatorSettings, DistributorSettings, OwnerSettings


def why_off(settings: OwnerSettings, role: Role) -> str:
    return spool_off(open_identity(settings.a2a_config(), role, create=True), settings)


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
    allowed = not why_off(settings, Role.COORDINATOR)
    assert allowed is (spool == "on" or (spool == "auto" and not standby))


def test_the_standby_is_named_until_its_keys_are_revoked(tmp_path: Path) -> None:
    keys = KeyDirectory(tmp_path)
    for name in ("coordinator-1", "coordinator-2", "coordinator-3"):
        keys.ensure(name, Role.COORDINATOR)
    settings = CoordinatorSettings.model_validate({"key_dir": tmp_path})
    identity = open_identity(settings.a2a_config(), Role.COORDINATOR)
    assert spool_off(identity, settings) == "coordinator-2, coordinator-3 may take over (known by keys)"
    keys.revoke("coordinator-2")
    keys.revoke("coordinator-3")
    assert identity.reload_if_changed()
    assert spool_off(identity, settings) == "", "without a restart"


def test_a_distributor_does_and_a_shared_secret_knows_of_no_standby(tmp_path: Path) -> None:
    keys = KeyDirectory(tmp_path)
    for name in ("coordinator-1", "coordinator-2"):
        keys.ensure(name, Role.COORDINATOR)
    assert not why_off(DistributorSettings.model_validate({"key_dir": tmp_path}), Role.DISTRIBUTOR)
    secret = CoordinatorSettings.model_validate({"token_secret": "sixteen bytes and more"})
    assert not why_off(secret, Role.COORDINATOR)
