"""Where settings are read from, and how a wrong one is reported: one line that names the setting and its source."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Generic, NoReturn, TypeVar

from pydantic import ValidationError

from a2a_zmq.errors import ConfigError
from a2a_zmq.llm.providers import complaint
from daemons.env_files import env_file_in, read_env_file
from daemons.host_files import host_variables
from daemons.settings import MODELS, Settings
from daemons.settings_forms import default_text, env_name, is_secret
from daemons.settings_lines import placed

EX_USAGE: Final = 2  # as argparse and a2actl have it
EX_CONFIG: Final = 78  # sysexits.h: something in the configuration is wrong; supervisors need not try again

# Where the parser keeps how flags were spelled; no setting has this name.
_SPELLED: Final = "flags as spelled"

S = TypeVar("S", bound=Settings)
Sourced = dict[str, tuple[Any, str]]  # setting → (value, where it was read, as the user knows it)

# Every variable any process of the suite reads: one environment may serve them all, so another role's is no error.
KNOWN_VARIABLES: Final = frozenset(env_name(name) for model in MODELS for name in model.model_fields)


def suite_version() -> str:
    """Version of the installed distribution."""
    try:
        return version("a2a-zmq")
    except PackageNotFoundError:
        return "unknown (not installed)"


def load(
    model: type[S],
    flags: Mapping[str, Any] | None = None,
    *,
    spelled: Mapping[str, str] | None = None,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    host: Path | None = None,
) -> S:
    """Read the settings of a process.

    Args:
        flags: settings given on the command line (None values are not given).
        spelled: the flags as they were typed, where one has another name than its setting.
        config: TOML file.
        environ: environment, the process's own by default.
        directory: where a ``.env`` is looked for, the working directory by default.
        host: variables of the host's agents, for a program that systemd does not give them to. All else goes before,
            and names that nobody reads are no error here: they are one of an agent, not of this program.

    Raises:
        ConfigError: names the setting and where it was read.
    """
    sourced: Sourced = {}
    if host is not None:
        known = {name: value for name, value in host_variables(host).items() if name in KNOWN_VARIABLES}
        sourced |= _from_environment(model, known, f" in {host}")
    if config is not None:
        sourced |= _from_toml(model, config)
    env_file = env_file_in(directory or Path.cwd())
    if env_file is not None:
        sourced |= _from_environment(model, read_env_file(env_file), f" in {env_file}")
    sourced |= _from_environment(model, os.environ if environ is None else environ, " in the environment")
    for name, value in (flags or {}).items():
        if value is not None:
            sourced[name] = (value, (spelled or {}).get(name, "--" + name.replace("_", "-")))
    try:
        return model.model_validate({name: value for name, (value, _) in sourced.items()})
    except ValidationError as error:
        raise ConfigError(_explain(error, sourced, config)) from None


@dataclass(frozen=True)
class Sources(Generic[S]):
    """Where the settings of a process come from; they can be read again while it runs.

    Attributes:
        flags, spelled, config: as of :func:`load`.
        directory: where ``.env`` is: the working directory at the start.
    """

    model: type[S]
    flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    spelled: Mapping[str, str] | None = None
    config: Path | None = None
    directory: Path = dataclasses.field(default_factory=Path.cwd)

    def load(self) -> S:
        """
        Raises:
            ConfigError: as of :func:`load`.
        """
        return load(self.model, self.flags, spelled=self.spelled, config=self.config, directory=self.directory)

    def load_or_exit(self) -> S:
        """A wrong setting ends the process: one line, status 78."""
        try:
            return self.load()
        except ConfigError as error:
            parser_of(self.model).fail(EX_CONFIG, str(error))


def command_line(model: type[S], argv: Sequence[str] | None = None) -> Sources[S]:
    """The sources that a program's command line names; one that is not understood ends the process: status 2."""
    return _sources(model, vars(parser_of(model).parse_args(argv)))


def parse_flags(model: type[S], argv: Sequence[str]) -> tuple[Sources[S], list[str]]:
    """The same of another program's command line, and flags that that one would not understand."""
    known, unknown = parser_of(model).parse_known_args(argv)
    return _sources(model, vars(known)), [each for each in unknown if each.startswith("-")]


def _sources(model: type[S], given: dict[str, Any]) -> Sources[S]:
    config = given.pop("config")
    spelled = given.pop(_SPELLED, None)
    return Sources(model, given, spelled, config.absolute() if config is not None else None)


def load_or_exit(model: type[S], argv: Sequence[str] | None = None) -> S:
    """Settings from the command line and all other sources, or the end of the process."""
    return command_line(model, argv).load_or_exit()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A command line that is not understood."""
        self.fail(EX_USAGE, message)

    def fail(self, status: int, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message}\n")
        raise SystemExit(status)


class _Setting(argparse.Action):
    """Keeps the value, and under which name it was given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        spelled = getattr(namespace, _SPELLED, None) or {}
        setattr(namespace, _SPELLED, {**spelled, self.dest: option_string})


def parser_of(model: type[Settings]) -> _Parser:
    """The parser of a daemon's command line."""
    parser = _Parser(
        prog=f"a2a-{model.role}",
        description=f"The a2a-zmq {model.role}. Precedence: flags, environment, .env, TOML file, default.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"a2a-{model.role} {suite_version()}")
    parser.add_argument("--config", metavar="FILE.toml", type=Path, help="TOML file with settings")
    own_id = f"{model.role}_id"
    for name, field in model.model_fields.items():
        if is_secret(field):
            continue
        names = ["--" + name.replace("_", "-")] + (["--id"] if name == own_id else [])
        default = f", default {default_text(field)}" if default_text(field) else ""
        text = f"{field.description} ({env_name(name)}{default})"
        parser.add_argument(*names, action=_Setting, dest=name, metavar="VALUE", help=text.replace("%", "%%"))
    return parser


def _from_toml(model: type[Settings], path: Path) -> Sourced:
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        found = re.search(r" \(at line (\d+), column \d+\)", str(error))
        where = f"{path}:{found[1]}" if found else str(path)
        raise ConfigError(f"{where}: not valid TOML: {str(error).replace(found[0], '') if found else error}") from None
    for name in values:
        if name not in model.model_fields:
            raise ConfigError(f"{placed(path, name)}: unknown key {name!r}{_similar(name, model.model_fields)}")
    return {name: (value, f"{name} in {path}") for name, value in values.items()}


def _from_environment(model: type[Settings], environ: Mapping[str, str], where: str) -> Sourced:
    for variable in environ:
        if variable.startswith("A2A_") and variable not in KNOWN_VARIABLES:
            raise ConfigError(f"unknown variable {variable}{where}{_similar(variable, KNOWN_VARIABLES)}")
    found: Sourced = {}
    for name in model.model_fields:
        value = environ.get(env_name(name), "")
        if value.strip():  # an empty variable, like `REDIS_PASSWORD=`, is one that is not set
            found[name] = (value, f"{env_name(name)}{where}")
    return found


def _explain(error: ValidationError, sourced: Sourced, config: Path | None) -> str:
    """The first complaint as one line (the others usually follow from it); secrets are never shown."""
    first = error.errors(include_url=False, include_input=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # a relation between settings
        return message
    name = str(first["loc"][0])
    value, where = sourced.get(name, (None, name))
    if config is not None and where == f"{name} in {config}":
        where = f"{name} in {placed(config, *map(str, first['loc']))}"
    if name == "llm_providers":  # a table, in which a key may stand in the wrong place
        return f"{where}: {complaint(error).removeprefix('.llm_providers').lstrip('.: ')}"
    told = name in ("redis_password", "token_secret") or repr(value) in message
    shown = "" if told else f" {value!r}:"
    return f"{where}:{shown} {message[:1].lower()}{message[1:]}"


def _similar(name: str, known: Any) -> str:
    from difflib import get_close_matches  # only where something is wrong already

    close = get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f" (did you mean {close[0]}?)" if close else ""
