"""This host, as ``a2actl doctor`` sees it: installation, state directory, limits, and the daemons that run here."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from daemons.cli.findings import Check

# What PROTOCOL asks of unit files: silent connections must not be able to fill the table.
WANTED_FILES: Final = 65_536
# Three descriptors a peer, and a reserve: enough for the largest fleet that one host runs.
ENOUGH_FILES: Final = 4_096
FILES_PER_PEER: Final = 3
# Of its descriptors a process should not use more than this part.
FULL_PART: Final = 0.8
# A worker has a process for each slot, and each of them some threads.
ENOUGH_PROCESSES: Final = 512
MIN_FREE_BYTES: Final = 256 * 1024 * 1024
PROC: Final = Path("/proc")
ROLES: Final = ("coordinator", "distributor", "worker")


@dataclass(frozen=True, slots=True)
class Running:
    """A daemon of the suite on this host.

    Attributes:
        files: descriptors that are open, None if we may not look; ``most`` is its limit.
    """

    role: str
    pid: int
    files: int | None
    most: int


def installation() -> Check:
    """Python, and what is imported only when a daemon needs it."""
    found = ".".join(map(str, sys.version_info[:3]))
    names = ("zmq", "redis", "orjson", "langgraph", "cryptography", "prometheus_client")
    if missing := [name for name in names if find_spec(name) is None]:
        return Check("installation", False, f"not installed: {', '.join(missing)}", "pip install a2a-zmq")
    from daemons.settings_sources import suite_version

    return Check("installation", True, f"a2a-zmq {suite_version()}, Python {found}")


def open_files() -> Check:
    """The limit that processes have which are started from here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= WANTED_FILES:
        return Check("open files", True, f"limit {soft}, may be raised to {hard}")
    if hard >= ENOUGH_FILES:
        return Check("open files", True, f"limit {hard}, {WANTED_FILES} is recommended where other hosts can connect")
    fix = f"LimitNOFILE={WANTED_FILES} in the unit, or `ulimit -Hn {WANTED_FILES}` before starting"
    return Check("open files", False, f"at most {hard} descriptors a process", fix)


def processes() -> Check:
    """How many processes and threads there may be: of this user, and of the control group that we are in."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = {"of this user": None if soft == resource.RLIM_INFINITY else soft, "of this control group": _group_limit()}
    told = {name: most for name, most in limits.items() if most is not None}
    text = ", ".join(f"at most {most} {name}" for name, most in told.items()) or "no limit"
    if all(most >= ENOUGH_PROCESSES for most in told.values()):
        return Check("processes", True, text)
    return Check("processes", True, text, "raise `ulimit -u`, or TasksMax= of the unit: workers run tasks in processes")


def _group_limit() -> int | None:
    """``pids.max`` of our control group (version 2), None if there is none."""
    try:
        path = next(line[3:] for line in (PROC / "self/cgroup").read_text().splitlines() if line.startswith("0::"))
        return int((Path("/sys/fs/cgroup") / path.lstrip("/") / "pids.max").read_text())
    except (OSError, StopIteration, ValueError):  # "max" is no number
        return None


def state_directory(settings: Any) -> Check:
    """It can be written, and has room."""
    directory = settings.state_dir
    existing = directory
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK):
        return Check(
            "state directory", False, f"{directory} cannot be written", "set A2A_STATE_DIR, or run as its owner"
        )
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        return Check("state directory", False, f"{free >> 20} MB free on {existing}", "make room on that file system")
    return Check("state directory", True, f"{directory}, {free >> 20} MB free")


# ---------------------------------------------------------------- daemons that run here


def daemons_here(proc: Path = PROC) -> list[Check]:
    """Their limits; none if none runs here."""
    found = list(running(proc))
    return [files_of(found)] if found else []


def running(proc: Path = PROC) -> Iterator[Running]:
    """The daemons of this host, as far as it shows them to us."""
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            role = role_of((entry / "cmdline").read_bytes().split(b"\0"))
            most = _soft_files((entry / "limits").read_text()) if role else 0
        except OSError:  # it has ended
            continue
        if role:
            yield Running(role, int(entry.name), _count(entry / "fd"), most)


def role_of(arguments: list[bytes]) -> str:
    """The role that a command line starts (as a script, or with ``-m``), "" if it starts none."""
    texts = [each.decode(errors="replace") for each in arguments[:6]]
    for role in ROLES:
        script = any(text.rpartition("/")[2] == f"a2a-{role}" for text in texts[:2])
        if script or ("-m", f"daemons.{role}.main") in pairwise(texts):
            return role
    return ""


def _soft_files(limits: str) -> int:
    for line in limits.splitlines():
        if line.startswith("Max open files"):
            soft = line.split()[3]
            return sys.maxsize if soft == "unlimited" else int(soft)
    return sys.maxsize


def _count(directory: Path) -> int | None:
    try:
        return sum(1 for _ in directory.iterdir())
    except OSError:
        return None


def files_of(found: list[Running]) -> Check:
    """Descriptors of the daemons here: hubs need some for each peer, and may use what their soft limit says."""
    name = "daemons' open files"
    fix = f"start it with `ulimit -n {WANTED_FILES}`, LimitNOFILE={WANTED_FILES} in the unit, or minfds of supervisord"
    full = [each for each in found if each.files is not None and each.files > FULL_PART * each.most]
    if full:
        worst = full[0]
        return Check(name, False, f"{worst.role} (process {worst.pid}) has {worst.files} of {worst.most} open", fix)
    hubs = [each for each in found if each.role != "worker"] or found
    least = min(hubs, key=lambda each: each.most)
    text = f"{len(found)} run here; the lowest limit is {least.most} ({least.role}, process {least.pid})"
    if least.most >= ENOUGH_FILES or least.role == "worker":
        return Check(name, True, text)
    return Check(name, True, f"{text}: enough for some {least.most // FILES_PER_PEER} peers", fix)
