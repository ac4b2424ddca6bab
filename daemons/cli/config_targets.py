"""Which programs ``a2actl config check`` looks at: a file's, those of a ``supervisord.conf``, or all of a directory."""

from __future__ import annotations

import configparser
import contextlib
import dataclasses
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import typer

from a2a_zmq.errors import ConfigError
from daemons.cli.invocation import CommandFailed
from daemons.cli.unit_files import UNITS, UnitVariables, environment_files, stop_s, unit_files, variables
from daemons.host_files import FOR_ALL, STATE, SYSTEM, is_file
from daemons.redis.main import long_form
from daemons.settings import MODELS, Settings
from daemons.settings_check import similar
from daemons.settings_sources import Sources, parse_flags

ROLES: Final[dict[str, type[Settings]]] = {model.role: model for model in MODELS}
OF_FLEET: Final = ("coordinator", "distributor", "worker")
SUPERVISOR: Final = "supervisord.conf"
# What systemd gives to a unit that says nothing.
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_STOP_S: Final = 10.0  # supervisor's stopwaitsecs


class Target(NamedTuple):
    """A program, and how it is started.

    Attributes:
        stop_s: how long whoever stops it waits before SIGKILL; None if nobody is known to.
        stopper: where that stands.
        unknown: flags that it does not know.
        is_unit: systemd starts it.
        unit_variables: what its unit sets.
        host_files: where systemd takes further variables for it from; later ones go before.
        read_from: the ``supervisord.conf`` that starts it.
    """

    name: str
    role: str
    sources: Sources[Settings]
    environ: Mapping[str, str]
    stop_s: float | None = None
    stopper: str = ""
    unknown: tuple[str, ...] = ()
    is_unit: bool = False
    unit_variables: tuple[UnitVariables, ...] = ()
    host_files: tuple[Path, ...] = ()
    read_from: Path | None = None


def targets(file: Path | None, role: str | None, units: Sequence[Path] = UNITS) -> list[Target]:
    """
    Raises:
        typer.BadParameter: it is not said which program a file is for.
        ConfigError: a ``supervisord.conf`` cannot be read.
    """
    if role is not None and role not in ROLES:
        raise typer.BadParameter(f"{role!r} is no role; there are {', '.join(ROLES)}")
    if file is None:
        found = _usual_directory()
        if found is None:
            return [_plain(each, None, units) for each in ([role] if role else ROLES)]
        file = found if role is None else found / f"{role}.toml"
        if role is not None and found != SYSTEM and not is_file(file):
            return [_plain(role, None, units)]
    if file.absolute() == SYSTEM or file.absolute().parent == SYSTEM:
        return list(_of_host(file.absolute(), role, units))
    if file.is_dir():
        return _of_directory(file, role, units)
    if file.suffix == ".conf":
        return [each for each in supervised(file) if role in (None, each.role)]
    return [_plain(role or _role_of(file), file, units)]


def _usual_directory() -> Path | None:
    """Where settings are looked for if it is not said: the host's, ``config`` here, or this directory itself."""
    if SYSTEM.is_dir():
        return SYSTEM
    config = Path("config")
    with contextlib.suppress(OSError):  # this directory may not be entered
        if config.is_dir():
            return config
    here = Path()
    return here if any(is_file(here / f"{role}.toml") for role in OF_FLEET) else None


def _of_directory(directory: Path, role: str | None, units: Sequence[Path]) -> list[Target]:
    """The programs of its ``supervisord.conf``, and those of files for roles that have none there."""
    found = list(supervised(directory / SUPERVISOR)) if is_file(directory / SUPERVISOR) else []
    there = {target.role for target in found}
    for name in ROLES:
        path = directory / f"{name}.toml"
        if is_file(path) and name not in there:
            found.append(_plain(name, path, units))
    return [each for each in found if role in (None, each.role)]


def _role_of(file: Path) -> str:
    for role in ROLES:
        if re.match(rf"(a2a-)?{role}\b", file.stem):
            return role
    if not file.exists():
        raise typer.BadParameter(f"{file}: there is no such file or directory")
    raise typer.BadParameter(f"{file}: which program is it for? --role {', '.join(ROLES)}")


def _plain(role: str, file: Path | None, units: Sequence[Path]) -> Target:
    sources = Sources(ROLES[role], config=file.absolute() if file is not None else None)
    return Target(role, role, sources, os.environ, *stop_s(unit_files(role, units=units)))


# ---------------------------------------------------------------- units and /etc/a2a-zmq


def _of_host(file: Path, role: str | None, units: Sequence[Path]) -> Iterator[Target]:
    """What systemd starts on this host, as its units do.

    Args:
        file: the directory, or what stands in it: one role's TOML file, or variables (``environment``, ``NAME.env``).

    Raises:
        typer.BadParameter: it is not said which program a file is for.
        CommandFailed: the directory may not be entered.
    """
    if not os.access(SYSTEM, os.R_OK | os.X_OK):
        raise CommandFailed(f"{SYSTEM} may not be read by this user: run this as root, or name another file")
    agents = _agents(units)
    if file.suffix == ".env":
        role = agents.get(file.stem) or role or _role_of(file)
        agents = {file.stem: role}
    elif file.suffix == ".toml":
        role = role or _role_of(file)
    for each in ROLES if role is None else (role,):
        usual = SYSTEM / f"{each}.toml"
        config = file if file.suffix == ".toml" else usual if is_file(usual) else None
        names = [name for name, whose in agents.items() if whose == each]
        if names or config is not None or role is not None:
            yield from (_unit(each, name, config, units) for name in names or [""])


def _unit(role: str, name: str, config: Path | None, units: Sequence[Path]) -> Target:
    """The unit of an agent, or of one that is not known by name: ``""``. A client is none, and has the variables."""
    own = role in OF_FLEET and bool(name)
    flags = {f"{role}_id": name} if own else {}
    sources: Sources[Settings] = Sources(ROLES[role], flags, {f"{role}_id": "--id"}, config)
    if role == "client":
        return Target(role, role, sources, os.environ, host_files=(SYSTEM / FOR_ALL,))
    sources = dataclasses.replace(sources, directory=STATE)
    files = unit_files(role, name if own else "", units)
    usual = [SYSTEM / FOR_ALL, *([SYSTEM / f"{name}.env"] if own else [])]
    return Target(
        name or role,
        role,
        sources,
        {"PATH": SEARCH_PATH},  # not the variables of whoever asks
        *stop_s(files),
        is_unit=True,
        unit_variables=tuple(variables(files, name)),
        host_files=tuple(environment_files(files, name) or usual),
    )


def _agents(units: Sequence[Path]) -> dict[str, str]:
    """The agents of this host and their roles: those that are enabled, and those with a ``NAME.env``."""
    found: dict[str, str] = {}
    for directory in units:
        for link in sorted(directory.glob("a2a.target.wants/a2a-*.service")):
            role, _, name = link.stem.removeprefix("a2a-").partition("@")
            if role in ROLES:
                found[name or role] = role
    with contextlib.suppress(OSError):  # it may not be entered
        for file in sorted(SYSTEM.glob("*.env")):
            role = file.stem.partition("-")[0]
            if role in OF_FLEET:
                found.setdefault(file.stem, role)
    return found


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
        if not section.startswith("program:"):
            continue
        if role not in ROLES:
            if meant := similar(role, ROLES):
                raise ConfigError(f"{path}: [{section}]: there is no program {program!r} ({meant})")
            continue
        environ = dict(os.environ)
        for text in (everybody, parser.get(section, "environment", fallback="")):
            environ |= dict_of_key_value_pairs(_expanded(text, path, name))
        flags = words[words.index(program) + 1 :]
        sources, unknown = parse_flags(ROLES[role], [long_form(each) if role == "redis" else each for each in flags])
        stop_s = parser.getfloat(section, "stopwaitsecs", fallback=DEFAULT_STOP_S)
        stopper = f"stopwaitsecs of [{section}] in {path}"
        yield Target(name, role, sources, environ, stop_s, stopper, tuple(unknown), read_from=path)


def _expanded(text: str, path: Path, name: str) -> str:
    """With supervisor's expressions as far as they are needed here."""
    known = {"here": str(path.parent.absolute()), "program_name": name, "process_num": "0"}

    def value(found: re.Match[str]) -> str:
        word = found[1]
        return os.environ.get(word.removeprefix("ENV_"), "") if word.startswith("ENV_") else known.get(word, found[0])

    return re.sub(r"%\(([A-Za-z_0-9]+)\)[sd]", value, text)
