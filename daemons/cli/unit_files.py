"""What systemd's units of this host say of an agent: the unit, and what an administrator dropped in beside it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from daemons.host_files import Assignment, is_file

# Where units and what changes them may be; later ones go before.
UNITS: Final = (
    Path("/lib/systemd/system"),
    Path("/usr/lib/systemd/system"),
    Path("/run/systemd/system"),
    Path("/etc/systemd/system"),
)
_SECONDS: Final = {"": 1.0, "s": 1.0, "sec": 1.0, "ms": 0.001, "m": 60.0, "min": 60.0, "h": 3600.0}


class Line(NamedTuple):
    """A setting of a unit, and where it stands."""

    file: Path
    line: int
    value: str


class UnitVariables(NamedTuple):
    """What one file sets by ``Environment=``."""

    file: Path
    found: list[Assignment]


def unit_files(role: str, name: str = "", units: Sequence[Path] = UNITS) -> list[Path]:
    """The files that make up an agent's unit, in the order in which they are read.

    Args:
        name: of the agent; "" for one that is not known by name, or of which a host has but one (``a2a-redis``).
    """
    templates = [f"a2a-{role}@.service", *([f"a2a-{role}@{name}.service"] if name else [])]
    names = [f"a2a-{role}.service"] if any(is_file(each / f"a2a-{role}.service") for each in units) else templates
    there = [path for name in names for directory in units if is_file(path := directory / name)]
    dropped: dict[str, Path] = {}
    for directory in units:  # a file hides those of its name in the directories before
        for each in ("service", "a2a-.service", *names):
            dropped |= {path.name: path for path in sorted((directory / f"{each}.d").glob("*.conf"))}
    return [*there[-1:], *(dropped[each] for each in sorted(dropped))]


def variables(files: Sequence[Path], name: str) -> list[UnitVariables]:
    """What ``Environment=`` sets, file by file; later ones go before."""
    found: list[UnitVariables] = []
    for each in _set(files, "Environment"):
        if not found or found[-1].file != each.file:
            found.append(UnitVariables(each.file, []))
        found[-1].found.extend(_assigned(each, name))
    return found


def environment_files(files: Sequence[Path], name: str) -> list[Path]:
    """What ``EnvironmentFile=`` names; later ones go before, and all of them before ``Environment=``."""
    return [Path(_specified(each.value.removeprefix("-"), name)) for each in _set(files, "EnvironmentFile")]


def stop_s(files: Sequence[Path]) -> tuple[float | None, str]:
    """``TimeoutStopSec`` in seconds, and where it stands; None where there is none, or no limit."""
    found = _set(files, "TimeoutStopSec")
    if not found:
        return None, ""
    seconds = _seconds(found[-1].value)
    return (seconds, f"TimeoutStopSec in {found[-1].file}") if seconds is not None else (None, "")


def _set(files: Sequence[Path], key: str) -> list[Line]:
    """All lines of a setting; an empty one takes back those before it."""
    found: list[Line] = []
    for file in files:
        for number, name, value in _settings(file):
            if name == key:
                found = [*found, Line(file, number, value)] if value else []
    return found


def _settings(file: Path) -> Iterator[tuple[int, str, str]]:
    """The settings of a file, with the number of the line where each begins."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    begun, held = 0, ""
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line or line[0] in "#;":  # also between lines that belong together
            continue
        begun = begun or number
        if raw.endswith("\\"):
            held += line[:-1] + " "
            continue
        name, equals, value = (held + line).partition("=")
        if equals:
            yield begun, name.strip(), value.strip()
        begun, held = 0, ""


def _assigned(line: Line, name: str) -> Iterator[Assignment]:
    try:
        words = shlex.split(line.value)
    except ValueError:  # a quote that does not end: systemd passes the line over
        words = []
    for word in words:
        variable, equals, value = _specified(word, name).partition("=")
        if equals:
            yield Assignment(line.line, variable, value)


def _specified(text: str, name: str) -> str:
    """With systemd's specifiers as far as they are needed here."""
    known = {"%i": name, "%I": name, "%%": "%"}
    return re.sub(r"%[iI%]", lambda found: known[found[0]], text)


def _seconds(text: str) -> float | None:
    """A time as systemd writes it: ``1min 30s``; None for ``infinity`` and what is none."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip())
    if not parts or any(unit not in _SECONDS for _, unit in parts):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
