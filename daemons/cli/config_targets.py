"""Which programs ``a2actl config check`` looks at: a file's, those of a ``supervisord.conf``, or all of a directory."""

from __future__ import annotations

import configparser
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import typer

from a2a_zmq.errors import ConfigError
from daemons.redis.main import long_form
from daemons.settings import MODELS, Settings
from daemons.settings_sources import Sources, parse_flags

ROLES: Final[dict[str, type[Settings]]] = {model.role: model for model in MODELS}
SYSTEM: Final = Path("/etc/a2a-zmq")
SUPERVISOR: Final = "supervisord.conf"
# Where units and what changes them may be; later ones go before.
UNITS: Final = (Path("/lib/systemd/system"), Path("/usr/lib/systemd/system"), Path("/etc/systemd/system"))
DEFAULT_STOP_S: Final = 10.0  # supervisor's stopwaitsecs


class Target(NamedTuple):
    """A program, and how it is started.

    Attributes:
        stop_s: how long whoever stops it waits before SIGKILL; None if nobody is known to.
        stopper: where that stands.
        unknown: flags that it does not know.
    """

    name: str
    role: str
    sources: Sources[Settings]
    environ: Mapping[str, str]
    stop_s: float | None = None
    stopper: str = ""
    unknown: tuple[str, ...] = ()


def targets(file: Path | None, role: str | None, units: Sequence[Path] = UNITS) -> list[Target]:
    """
    Raises:
        typer.BadParameter: it is not said which program a file is for.
        ConfigError: a ``supervisord.conf`` cannot be read.
    """
    if role is not None and role not in ROLES:
        raise typer.BadParameter(f"{role!r} is no role; there are {', '.join(ROLES)}")
    if file is None:
        found = SYSTEM if SYSTEM.is_dir() else Path("config")
        if not found.is_dir():
            return [_plain(each, None, units) for each in ([role] if role else ROLES)]
        file = found if role is None else found / f"{role}.toml"
        if role is not None and not file.exists():
            return [_plain(role, None, units)]
    if file.is_dir():
        return _of_directory(file, role, units)
    if file.suffix == ".conf":
        return [each for each in supervised(file) if role in (None, each.role)]
    return [_plain(role or _role_of(file), file, units)]


def _of_directory(directory: Path, role: str | None, units: Sequence[Path]) -> list[Target]:
    """The programs of its ``supervisord.conf``, and those of files for roles that have none there."""
    found = list(supervised(directory / SUPERVISOR)) if (directory / SUPERVISOR).is_file() else []
    there = {target.role for target in found}
    for name in ROLES:
        path = directory / f"{name}.toml"
        if path.is_file() and name not in there:
            found.append(_plain(name, path, units))
    return [each for each in found if role in (None, each.role)]


def _role_of(file: Path) -> str:
    for role in ROLES:
        if re.match(rf"(a2a-)?{role}\b", file.stem):
            return role
    raise typer.BadParameter(f"{file}: which program is it for? --role {', '.join(ROLES)}")


def _plain(role: str, file: Path | None, units: Sequence[Path]) -> Target:
    stop_s, stopper = unit_stop_s(role, units)
    sources = Sources(ROLES[role], config=file.absolute() if file is not None else None)
    return Target(role, role, sources, os.environ, stop_s, stopper)


# ---------------------------------------------------------------- supervisor


def supervised(path: Path) -> Iterator[Target]:
    """The suite's programs of a ``supervisord.conf``."""
    from supervisor.datatypes import dict_of_key_value_pairs

    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", " #"), strict=False)
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    everybody = parser.get("supervisord", "environment", fallback="")
    for section in parser.sections():
        name = section.removeprefix("program:")
        words = shlex.split(_expanded(parser.get(section, "command", fallback=""), path, name))
        program = next((word for word in words if re.fullmatch(r"(.*/)?a2a-[a-z]+", word)), "")
        role = program.rpartition("a2a-")[2]
        if not section.startswith("program:") or role not in ROLES:
            continue
        environ = dict(os.environ)
        for text in (everybody, parser.get(section, "environment", fallback="")):
            environ |= dict_of_key_value_pairs(_expanded(text, path, name))
        flags = words[words.index(program) + 1 :]
        sources, unknown = parse_flags(ROLES[role], [long_form(each) if role == "redis" else each for each in flags])
        stop_s = parser.getfloat(section, "stopwaitsecs", fallback=DEFAULT_STOP_S)
        yield Target(name, role, sources, environ, stop_s, f"stopwaitsecs of [{section}] in {path}", tuple(unknown))


def _expanded(text: str, path: Path, name: str) -> str:
    """With supervisor's expressions as far as they are needed here."""
    known = {"here": str(path.parent.absolute()), "program_name": name, "process_num": "0"}

    def value(found: re.Match[str]) -> str:
        word = found[1]
        return os.environ.get(word.removeprefix("ENV_"), "") if word.startswith("ENV_") else known.get(word, found[0])

    return re.sub(r"%\(([A-Za-z_0-9]+)\)[sd]", value, text)


# ---------------------------------------------------------------- systemd

_SECONDS: Final = {"": 1.0, "s": 1.0, "sec": 1.0, "ms": 0.001, "m": 60.0, "min": 60.0, "h": 3600.0}


def unit_stop_s(role: str, units: Sequence[Path] = UNITS) -> tuple[float | None, str]:
    """``TimeoutStopSec`` of the role's unit with what is dropped in beside it, and the file that it stands in."""
    found: tuple[float | None, str] = (None, "")
    for name in (f"a2a-{role}.service", f"a2a-{role}@.service"):
        files = [directory / name for directory in units]
        files += [file for directory in units for file in sorted((directory / f"{name}.d").glob("*.conf"))]
        for file in files:
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            for value in re.findall(r"^TimeoutStopSec=(.+)$", text, re.MULTILINE):
                seconds = _seconds(value)
                found = (seconds, f"TimeoutStopSec in {file}") if seconds is not None else (None, "")
    return found


def _seconds(text: str) -> float | None:
    """A time as systemd writes it: ``1min 30s``; None for ``infinity`` and what is none."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip())
    if not parts or any(unit not in _SECONDS for _, unit in parts):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
