"""``a2actl doctor``: what can be wrong, how it is seen, how it is mended."""

from __future__ import annotations

import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from a2a_zmq.clock import parse_iso
from a2a_zmq.config import split_address
from a2a_zmq.errors import A2AError, ConfigError
from daemons.cli import host_checks
from daemons.cli.findings import Check
from daemons.cli.host_settings import host_settings
from daemons.cli.invocation import Invocation
from daemons.cli.key_checks import key_checks
from daemons.cli.redis_checks import redis_checks
from daemons.cli.state_checks import not_checked, state_check
from daemons.host_files import SYSTEM

CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 3.0
# Times of different hosts' records are compared by people, so a second is enough.
MAX_CLOCK_OFF_S = 1.0


def run_checks(run: Invocation, *, repair: bool = False, say: Callable[[str], None] = lambda _: None) -> list[Check]:
    """All checks; later ones are left out where an earlier one explains them.

    Args:
        repair: let the coordinator mend what is wrong with the state.
        say: is told what is being looked at.
    """
    checks = [host_checks.installation(), host_checks.open_files(), host_checks.processes()]
    checks += [*host_checks.daemons_here(), *host_settings()]
    try:
        settings = run.settings
    except ConfigError as error:
        return [*checks, Check("settings", False, str(error), "correct or remove that setting")]
    checks.append(Check("settings", True, f"acting as {settings.client_id}, state in {settings.state_dir}"))
    checks.append(host_checks.state_directory(settings))
    keys = key_checks(run)
    ports = [_port(text) for text in settings.coordinator_address]
    checks += [*keys, *ports]
    if keys[0].ok and any(port.ok for port in ports):
        say("asking the coordinator, which compares the whole state")
        checks += _fleet(run, repair=repair)
    else:
        checks.append(not_checked("no coordinator is in reach"))
    say("looking at Redis")
    checks += redis_checks(run)
    checks += _spools(settings.state_dir / "spool")
    return checks


def _port(text: str) -> Check:
    _, address = split_address(text)
    name = f"port {address}"
    if not address.startswith("tcp://"):
        return Check(name, True, "not a TCP address, not probed")
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S):
            return Check(name, True, "something listens there")
    except OSError as error:
        start = "systemctl start a2a.target" if SYSTEM.is_dir() else "supervisord -c config/supervisord.conf"
        fix = f"start a2a-coordinator (`{start}`), or correct A2A_COORDINATOR_ADDRESS"
        return Check(name, False, f"nothing listens: {error.strerror or error}", fix)


def _fleet(run: Invocation, *, repair: bool) -> list[Check]:
    from a2a_zmq.client.links import LinkOpener
    from a2a_zmq.client.sync import FleetClient

    settings = run.settings
    timeout_s = run.timeout_s or ANSWER_TIMEOUT_S
    try:
        with FleetClient(
            list(settings.coordinator_address),
            client_id=settings.client_id,
            request_timeout_s=timeout_s,
            opener=LinkOpener(settings.a2a_config(), settings.coordinator_id),
        ) as client:
            asked, began = time.time(), time.monotonic()
            fleet = client.status()
            took_s = time.monotonic() - began
    except A2AError as error:
        fix = "`a2actl keys list` on both sides shows whether they know each other; see the coordinator's log"
        return [Check("coordinator", False, str(error), fix), not_checked("the coordinator does not answer")]
    found = [_coordinator(fleet), *_store_of(fleet), _workers(fleet), _versions(fleet)]
    return [*found, _clocks(fleet, asked + took_s / 2, took_s / 2), state_check(run, repair=repair)]


def _coordinator(fleet: dict[str, Any]) -> Check:
    one = fleet.get("coordinator") or {}
    if not one.get("leading", True):
        leader = f": {one['leader']} does" if one.get("leader") else ""
        fix = "see its log: it waits for the lease, or for Redis"
        return Check("coordinator", False, f"{one.get('id')} does not lead{leader}", fix)
    return Check("coordinator", True, f"{one.get('id')} leads, fence {one.get('fence')}")


# By the reason why the coordinator cannot write.
_STORE_FIXES: Final = {
    "loading": "wait: Redis reads its files",
    "readonly": "Redis takes no writes: it is a replica, or has too few of its own (min-replicas-to-write)",
    "oom": "Redis is full: raise its maxmemory, or look whose keys fill it",
    "misconf": "Redis cannot save: see its log, and the disk that it writes to",
    "noauth": "correct the password or the rules in Redis, or give the daemons the new password and restart them",
    "spool": "make room for the spool (its disk, or spool_max_mb), and bring Redis back",
}


def _store_of(fleet: dict[str, Any]) -> list[Check]:
    store = fleet.get("store") or {}
    off = store.get("spool_off")
    meanwhile = f"while it is away no new tasks are taken: {off}" if off else ""
    if store.get("available", True):
        return [Check("store", True, "; ".join(filter(None, ("the coordinator can write it", meanwhile))))]
    reason = str(store.get("reason"))
    text = f"away for the coordinator: {reason}"
    if store.get("spooling"):
        text += "; meanwhile it goes on with its local spool"
    elif meanwhile:
        text += f"; {meanwhile}"
    return [
        Check("store", False, text, _STORE_FIXES.get(reason.partition(":")[0], "start Redis, or correct REDIS_HOST"))
    ]


def _workers(fleet: dict[str, Any]) -> Check:
    distributors = [one for one in fleet.get("distributors") or () if one.get("up")]
    workers = [worker for one in distributors for worker in one.get("workers") or () if worker.get("up")]
    text = f"connected: distributors {len(distributors)}, workers {len(workers)}"
    names = {str(worker.get("id")) for worker in workers}
    seen = [str(worker.get("id")) for one in distributors for worker in one.get("workers") or ()]
    away = sorted(set(seen) - names)
    if workers and away:
        fix = "if they are not meant to be away: the last line of each one's log says why it is"
        return Check("workers", True, f"{text}; were here a while ago: {', '.join(away[:10])}", fix)
    if workers:
        return Check("workers", True, text)
    return Check("workers", False, text, "start a2a-distributor and a2a-worker; their logs say what keeps them")


def _versions(fleet: dict[str, Any]) -> Check:
    """All agents should run the same release; others are tolerated, not tested."""
    from daemons.settings_sources import suite_version

    ours = suite_version()
    others: dict[str, list[str]] = {}
    for one in fleet.get("distributors") or ():
        for agent, version in ((one, one.get("suite")), *((each, each.get("version")) for each in one["workers"])):
            if agent.get("up") and version and version != ours:
                others.setdefault(version, []).append(str(agent.get("id")))
    coordinator = fleet.get("coordinator") or {}
    if coordinator.get("version", ours) != ours:
        others.setdefault(coordinator["version"], []).insert(0, str(coordinator.get("id")))
    if not others:
        return Check("versions", True, f"all agents run {ours}, as does this command")
    text = "; ".join(f"{version}: {', '.join(agents[:10])}" for version, agents in sorted(others.items()))
    return Check("versions", False, f"here {ours}, elsewhere {text}", "install one release on all hosts")


def _clocks(fleet: dict[str, Any], here: float, error_s: float) -> Check:
    """Times in records come from the hosts' clocks.

    Args:
        here: our wall time when the coordinator answered, and ``error_s`` how far that may be wrong.
    """
    coordinator = fleet.get("coordinator") or {}
    offs: dict[str, float] = {}
    try:
        own = parse_iso(str(coordinator.get("time"))) - here
    except ValueError:
        return Check("clocks", True, "not checked: the coordinator does not tell its time")
    offs[str(coordinator.get("id"))] = own
    for one in fleet.get("distributors") or ():
        if one.get("up"):
            offs[str(one.get("id"))] = own + float(one.get("clock_off_s") or 0)
    far = {agent: off for agent, off in offs.items() if abs(off) > MAX_CLOCK_OFF_S + error_s}
    if far:
        text = ", ".join(
            f"{agent} is {abs(off):.1f} s {'ahead' if off > 0 else 'behind'}" for agent, off in far.items()
        )
        return Check("clocks", False, text, "run an NTP client (chrony, systemd-timesyncd) on these hosts and on this")
    widest = max(abs(off) for off in offs.values())
    return Check("clocks", True, f"coordinator and distributors within {max(widest, error_s):.2f} s of this host's")


def _spools(directory: Path) -> list[Check]:
    """What agents of this host keep for Redis. It is there during an outage, and afterwards for a second or so."""
    checks: list[Check] = []
    for path in sorted(directory.glob("*.db")):
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=CONNECT_TIMEOUT_S)) as connection:
                (rows,) = connection.execute("SELECT COUNT(*) FROM writes").fetchone()
        except sqlite3.Error as error:
            checks.append(Check("spool", False, f"{path}: {error}", "its agent sets it aside at its next start"))
            continue
        if rows:
            text = f"{path.stem} keeps {rows} writes that the shared state does not have yet"
            fix = f"start Redis and {path.stem}; it hands them in as soon as it owns its section again"
            checks.append(Check("spool", False, text, fix))
    for path in sorted(directory.glob("*.damaged-*[0-9]")):
        fix = "it holds what its agent took in an outage of Redis; keep it for whoever can read it, or remove it"
        checks.append(Check("spool", False, f"{path} could not be read, or not all of it, and was set aside", fix))
    return checks
