"""What is wrong with settings on this host: files, ports that collide, and who stops a program before it has drained.

Beside what the settings themselves say (:mod:`daemons.settings_check`).
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from a2a_zmq.config import split_address
from a2a_zmq.errors import ConfigError
from daemons.cli.config_targets import Target
from daemons.host_files import exists, is_file
from daemons.settings import (
    COORDINATOR_PORT,
    COORDINATOR_PORTS,
    CoordinatorSettings,
    DaemonSettings,
    OwnerSettings,
    RedisServerSettings,
    Settings,
    WorkerSettings,
)
from daemons.settings_check import ERROR, WARNING, Checked, Finding, check, similar
from daemons.settings_forms import env_name, number_of
from daemons.settings_redis import RedisConnection

# A daemon that drains leaves this much later at most: what had to be said and written is out by then.
STOP_MARGIN_S: Final = 2.0
_SECRETS: Final = ("redis_password", "token_secret")
_EVERYWHERE: Final = frozenset({"*", "0.0.0.0", "::"})  # noqa: S104 - compared, not bound


class Report(NamedTuple):
    """What was looked at, and what was found, the same thing once."""

    programs: list[str]
    files: list[str]
    findings: list[Finding]

    @property
    def errors(self) -> int:
        return sum(finding.level == ERROR for finding in self.findings)

    def json(self) -> dict[str, Any]:
        return {
            "ok": not self.errors,
            "programs": self.programs,
            "files": self.files,
            "findings": [{name: value for name, value in each._asdict().items() if value} for each in self.findings],
        }


def look(targets: Sequence[Target], *, imports: bool = False) -> Report:
    """Check all of these programs, each by itself and together.

    Args:
        imports: also import what workers are to run, in processes of its own.
    """
    findings: list[Finding] = []
    files: list[str] = []
    good: list[tuple[Target, Checked]] = []
    for target in targets:
        for flag in target.unknown:
            known = ["--" + name.replace("_", "-") for name in target.sources.model.model_fields]
            problem = f"{target.name} has an unknown flag"
            findings.append(Finding(ERROR, "command line", None, flag, problem, suggestion=similar(flag, known)))
        checked = check(target.sources, target.environ, target.host_files, target.unit_variables)
        files += [*([str(target.read_from.absolute())] if target.read_from else []), *checked.files]
        findings += checked.findings
        findings += open_files(checked)
        if checked.settings is not None:
            findings += [*missing_files(checked), *stopped_early(target, checked), *full_disk(checked)]
            findings += no_port_of_its_own(checked)
            good.append((target, checked))
    findings += [*same_names(good), *collisions(good)]
    if imports:
        from daemons.cli.import_checks import import_checks

        findings += import_checks(good)
    unique = dict.fromkeys(findings)
    order = {ERROR: 0, WARNING: 1}
    ranked = sorted(unique, key=lambda each: (order[each.level], each.source, each.line or 0))
    return Report([target.name for target in targets], list(dict.fromkeys(files)), ranked)


def open_files(checked: Checked) -> Iterator[Finding]:
    """Secrets in files that everybody can read."""
    for name in _SECRETS:
        given = checked.given.get(name)
        if given is None or not Path(given.source).is_file():
            continue
        mode = stat.S_IMODE(Path(given.source).stat().st_mode)
        if mode & stat.S_IROTH and _reached_by_everybody(Path(given.source)):
            suggestion = f"chmod {mode & ~0o007:04o} {given.source}"
            yield checked.finding(WARNING, name, f"everybody on this host can read this file ({mode:04o})", suggestion)


def _reached_by_everybody(file: Path) -> bool:
    """Whether all directories above it may be entered by everybody."""
    return all(each.stat().st_mode & stat.S_IXOTH for each in file.resolve().parents)


def missing_files(checked: Checked) -> Iterator[Finding]:
    """Files that the program will need."""
    settings = checked.settings
    assert settings is not None
    if isinstance(settings, RedisConnection) and settings.redis_use_tls:
        try:
            settings.redis_config().tls_context()
        except ConfigError as error:
            whose = "redis_ca_path" if str(error).startswith("CA") else "redis_cert_path"
            yield checked.finding(ERROR, whose, str(error))
        key = settings.redis_key_path
        if key is not None and is_file(key) and key.stat().st_mode & stat.S_IROTH and _reached_by_everybody(key):
            yield checked.finding(
                WARNING, "redis_key_path", f"everybody on this host can read {key}", f"chmod o= {key}"
            )
    for name in ("cert_path", "key_path"):
        path = getattr(settings, name)
        if path is not None and not exists(path):
            yield checked.finding(ERROR, name, f"{path}: there is no such file")
    if isinstance(settings, WorkerSettings):
        yield from _of_worker(settings, checked)


def _of_worker(settings: WorkerSettings, checked: Checked) -> Iterator[Finding]:
    for project in settings.worker_graphs:
        if not exists(Path(project).expanduser()):
            yield checked.finding(ERROR, "worker_graphs", f"{project}: there is no such file")
    for name, provider in settings.llm_providers.items():
        try:
            provider.api_key(name)
        except ConfigError as error:
            # The worker's environment may be another one than ours.
            level = WARNING if provider.api_key_env else ERROR
            yield checked.finding(level, "llm_providers", str(error).removeprefix("llm_providers."))


def full_disk(checked: Checked) -> Iterator[Finding]:
    """A spool that its disk cannot hold."""
    settings = checked.settings
    if not isinstance(settings, OwnerSettings) or settings.spool == "off":
        return
    existing = settings.state_dir
    while not exists(existing):
        existing = existing.parent
    free_mb = shutil.disk_usage(existing).free // 1_000_000
    if free_mb < settings.spool_max_mb:
        problem = f"{free_mb} MB are free on {existing}, less than spool_max_mb ({settings.spool_max_mb})"
        yield checked.finding(WARNING, "spool_max_mb", problem)
    if not os.access(existing, os.X_OK):
        yield checked.finding(WARNING, "state_dir", f"{existing} cannot be entered by this user")


def no_port_of_its_own(checked: Checked) -> Iterator[Finding]:
    """A coordinator whose number stands for no port: whoever computes it from the number looks elsewhere."""
    settings = checked.settings
    if not isinstance(settings, CoordinatorSettings) or settings.bind:
        return
    if number_of(settings.coordinator_id) > COORDINATOR_PORTS:
        problem = (
            f"{settings.coordinator_id} listens on port {COORDINATOR_PORT}: only coordinator-1 to "
            f"coordinator-{COORDINATOR_PORTS} have default ports of their own"
        )
        yield checked.finding(WARNING, "coordinator_id", problem, f"a smaller number, or {env_name('bind')}")


def stopped_early(target: Target, checked: Checked) -> Iterator[Finding]:
    """Whoever stops it must leave it the time to drain."""
    settings = checked.settings
    if not isinstance(settings, DaemonSettings) or target.stop_s is None:
        return
    needed_s = settings.drain_timeout_s + STOP_MARGIN_S
    if target.stop_s < needed_s:
        yield checked.finding(
            WARNING,
            "drain_timeout_s",
            f"{target.name} may drain for {settings.drain_timeout_s:g} s, and is killed after {target.stop_s:g} s "
            f"({target.stopper})",
            f"allow {needed_s:g} s there, or drain_timeout_s = {max(1.0, target.stop_s - STOP_MARGIN_S):g}",
        )


# ---------------------------------------------------------------- ports


class Place(NamedTuple):
    """Where a program listens, and by which setting."""

    program: str
    setting: str
    host: str
    port: int
    checked: Checked


def same_names(good: Sequence[tuple[Target, Checked]]) -> Iterator[Finding]:
    """Two programs of this host with one id: the later one would stand by for the other, or is not let in."""
    seen: dict[str, str] = {}
    for target, checked in good:
        settings = checked.settings
        if not isinstance(settings, DaemonSettings):
            continue
        first = seen.setdefault(settings.agent_id, target.name)
        if first != target.name:
            problem = f"{target.name} has the id {settings.agent_id!r}, which {first} has too"
            level = ERROR if isinstance(settings, WorkerSettings) else WARNING
            yield checked.finding(level, f"{settings.role}_id", problem, "ids are unique in a fleet, but for standbys")


def collisions(good: Iterable[tuple[Target, Checked]]) -> Iterator[Finding]:
    """Two programs of this host that want the same port."""
    places = [place for target, checked in good for place in _places(target, checked)]
    for index, place in enumerate(places):
        for other in places[:index]:
            if place.port == other.port and _same_host(place.host, other.host):
                here = f"{other.setting} of {other.program}" if other.program != place.program else other.setting
                yield place.checked.finding(
                    ERROR,
                    place.setting,
                    f"{place.program} would listen on port {place.port}, which is {here}",
                    f"another number at the end of an id, or {env_name(place.setting)} for one of them",
                )


def _places(target: Target, checked: Checked) -> Iterator[Place]:
    settings = checked.settings
    assert isinstance(settings, Settings)
    hub = settings.hub_address()
    if hub is not None and hub.startswith("tcp://"):
        host, _, port = split_address(hub)[1].removeprefix("tcp://").rpartition(":")
        if port.isdigit() and int(port):
            yield Place(target.name, "bind", host.strip("[]"), int(port), checked)
    if isinstance(settings, DaemonSettings):
        host, number = settings.metrics_address
        if number:
            yield Place(target.name, "metrics_port", host, number, checked)
    if isinstance(settings, RedisServerSettings):
        yield Place(target.name, "redis_port", settings.redis_host, settings.redis_port, checked)


def _same_host(one: str, other: str) -> bool:
    names = {"127.0.0.1" if host == "localhost" else host for host in (one, other)}
    return len(names) == 1 or bool(names & _EVERYWHERE)
