"""Everything that is wrong with the settings of a program, not only the first thing: what ``a2actl config check`` says.

A daemon ends with the first mistake that it finds (:mod:`daemons.settings_sources`). Here each is looked for, with the
line where it stands.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from a2a_zmq.errors import ConfigError
from daemons.env_files import env_file_in, read_env_file
from daemons.host_files import Assignment, assignments, is_file, unreadable
from daemons.settings import OwnerSettings, Settings
from daemons.settings_forms import NO_RELATIONS, Complaint, env_name, is_secret
from daemons.settings_lines import line_of
from daemons.settings_redis import RedisConnection
from daemons.settings_schema import schema, with_unit
from daemons.settings_sources import KNOWN_VARIABLES, Sources

ERROR: Final = "error"  # the program ends with status 78
WARNING: Final = "warning"  # it runs, and probably not as it is meant
ENVIRONMENT: Final = "environment"
SHOWN_CHARS: Final = 60


class Finding(NamedTuple):
    """One mistake.

    Attributes:
        source: a file, ``environment``, or ``command line``.
        setting: as it is written there; "" where a whole file is meant.
        allowed: what the setting may be.
        suggestion: what was probably meant, or what to do.
    """

    level: str
    source: str
    line: int | None
    setting: str
    problem: str
    allowed: str = ""
    suggestion: str = ""

    def text(self) -> str:
        """On one line."""
        where = self.source + (f":{self.line}" if self.line else "")
        parts = [self.level, where, self.setting, self.problem]
        more = f"; allowed: {self.allowed}" if self.allowed else ""
        return ": ".join(filter(None, parts)) + more + (f" ({self.suggestion})" if self.suggestion else "")


class Given(NamedTuple):
    """A value, and where it stands."""

    value: Any
    source: str
    line: int | None
    spelled: str


class Checked(NamedTuple):
    """What came of it.

    Attributes:
        settings: None where values are of the wrong form.
        given: what was set anywhere, by setting.
        files: those that were read.
    """

    settings: Settings | None
    given: Mapping[str, Given]
    findings: list[Finding]
    files: list[str]

    def finding(self, level: str, setting: str, problem: str, suggestion: str = "") -> Finding:
        """About a setting, at its place if it was given."""
        given = self.given.get(setting)
        if given is None:
            return Finding(level, "", None, setting, problem, suggestion=suggestion)
        return Finding(level, given.source, given.line, given.spelled, problem, suggestion=suggestion)


def check(
    sources: Sources[Any],
    environ: Mapping[str, str],
    host_files: Sequence[Path] = (),
    unit_variables: Iterable[tuple[Path, list[Assignment]]] = (),
) -> Checked:
    """Look at all of a program's settings, as they would be read.

    Args:
        host_files: variables that systemd gives to it.
        unit_variables: those that stand in its unit itself; files go before.
    """
    model: type[Settings] = sources.model
    reader = _Reader(model)
    if sources.config is not None:
        reader.toml(sources.config)
    env_file = env_file_in(sources.directory)
    if env_file is not None:
        reader.env_file(env_file)
    for path, found in unit_variables:
        reader.assigned(path, found)
    for path in filter(is_file, host_files):
        reader.host_file(path)
    reader.variables(environ, ENVIRONMENT, {})
    for name, value in sources.flags.items():
        if value is not None:
            flag = (sources.spelled or {}).get(name, "--" + name.replace("_", "-"))
            reader.given[name] = Given(value, "command line", None, flag)
    findings = reader.findings
    values = {name: given.value for name, given in reader.given.items()}
    try:
        settings = model.model_validate(values, context=NO_RELATIONS)
    except ValidationError as error:
        findings += [_of_form(model, each, reader) for each in error.errors(include_url=False, include_input=False)]
        return Checked(None, reader.given, findings, reader.files)
    checked = Checked(settings, reader.given, findings, reader.files)
    findings += [_of_relation(checked, complaint) for complaint in _complaints(settings)]
    findings += relations(checked)
    return checked


def _complaints(settings: Settings) -> Iterator[Complaint]:
    yield from settings.complaints()
    if isinstance(settings, RedisConnection):
        yield from settings.redis_complaints()


def relations(checked: Checked) -> Iterator[Finding]:
    """What may be, and is hardly meant."""
    settings = checked.settings
    if isinstance(settings, OwnerSettings):
        if settings.dead_after_ms >= settings.lease_ttl_ms:
            yield checked.finding(
                WARNING,
                "dead_after_ms",
                f"dead_after_ms ({settings.dead_after_ms}) should be less than lease_ttl_ms ({settings.lease_ttl_ms}): "
                "who is cut off would lose its lease before anybody takes it for dead",
            )
        if settings.spool_max_mb * 750_000 < 10 * settings.max_payload_bytes and settings.spool != "off":
            yield checked.finding(
                WARNING,
                "spool_max_mb",
                f"three quarters of {settings.spool_max_mb} MB hold less than ten payloads of max_payload_bytes "
                f"({settings.max_payload_bytes}): no work would be taken while Redis is away",
            )
    if isinstance(settings, RedisConnection):
        local = settings.redis_host in ("localhost", "::1") or settings.redis_host.startswith("127.")
        if settings.redis_password is not None and not settings.redis_use_tls and not local:
            yield checked.finding(
                WARNING, "redis_password", "it goes to another host unencrypted", "redis_use_tls = true"
            )


class _Reader:
    """Reads one source after the other; later ones go before."""

    def __init__(self, model: type[Settings]) -> None:
        self.model = model
        self.given: dict[str, Given] = {}
        self.findings: list[Finding] = []
        self.text = ""  # of the TOML file
        self.files: list[str] = []

    def toml(self, path: Path) -> None:
        self.files.append(str(path))
        try:
            self.text = path.read_text(encoding="utf-8")
            values = tomllib.loads(self.text)
        except OSError as error:
            self.findings.append(Finding(ERROR, str(path), None, "", f"cannot be read: {error.strerror}"))
            return
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            found = re.search(r" \(at line (\d+), column \d+\)", str(error))
            problem = f"not valid TOML: {str(error).replace(found[0], '') if found else error}"
            self.findings.append(Finding(ERROR, str(path), int(found[1]) if found else None, "", problem))
            return
        for name, value in values.items():
            line = line_of(self.text, (name,))
            if name in self.model.model_fields:
                self.given[name] = Given(value, str(path), line, name)
            else:
                suggestion = similar(name, self.model.model_fields)
                self.findings.append(Finding(ERROR, str(path), line, name, "unknown setting", suggestion=suggestion))

    def env_file(self, path: Path) -> None:
        self.files.append(str(path))
        try:
            values = read_env_file(path)
            text = path.read_text(encoding="utf-8")
        except ConfigError as error:
            problem = str(error).removeprefix(str(path)).lstrip(":, ")
            found = re.match(r"line (\d+): ", problem)
            line = int(found[1]) if found else None
            self.findings.append(Finding(ERROR, str(path), line, "", problem[len(found[0]) :] if found else problem))
            return
        lines = {}
        for number, raw in enumerate(text.splitlines(), 1):
            lines[raw.strip().removeprefix("export ").partition("=")[0].strip()] = number
        self.variables(values, str(path), lines)

    def host_file(self, path: Path) -> None:
        if problem := unreadable(path):  # systemd reads it before it gives up root's rights, so that is no mistake
            text = f"cannot be read by this user, so its variables are not known here: {problem}"
            self.findings.append(Finding(WARNING, str(path), None, "", text))
            return
        try:
            self.assigned(path, assignments(path))
        except ConfigError as error:
            self.files.append(str(path))
            self.findings.append(Finding(ERROR, str(path), None, "", str(error).removeprefix(f"{path}: ")))

    def assigned(self, path: Path, found: Sequence[Assignment]) -> None:
        self.files.append(str(path))
        for each in found:
            if not each.name.isidentifier():
                text = "systemd passes this line over: it is no NAME=value"
                suggestion = "without export" if each.name.startswith("export ") else ""
                self.findings.append(Finding(WARNING, str(path), each.line, each.name, text, suggestion=suggestion))
        lines = {each.name: each.line for each in found}
        self.variables({each.name: each.value for each in found}, str(path), lines)

    def variables(self, values: Mapping[str, str], source: str, lines: Mapping[str, int]) -> None:
        for variable in values:
            if variable.startswith("A2A_") and variable not in KNOWN_VARIABLES:
                suggestion = similar(variable, KNOWN_VARIABLES)
                line = lines.get(variable)
                self.findings.append(Finding(ERROR, source, line, variable, "unknown variable", suggestion=suggestion))
        for name in self.model.model_fields:
            variable = env_name(name)
            if values.get(variable, "").strip():
                self.given[name] = Given(values[variable], source, lines.get(variable), variable)


def _of_form(model: type[Settings], error: Any, reader: _Reader) -> Finding:
    """A value of the wrong form."""
    place = [part for part in error["loc"] if part != "[key]"]
    name = str(place[0])
    given = reader.given[name]
    facts: Any = schema(model)["properties"][name]
    message = error["msg"].removeprefix("Value error, ")
    line, spelled, suggestion, shown = given.line, given.spelled, "", ""
    if name == "llm_providers":
        spelled = ".".join(map(str, [given.spelled, *place[1:]]))
        line = line_of(reader.text, tuple(map(str, place))) or line if given.source.endswith(".toml") else line
        known = schema(model)["$defs"]["Provider"]["properties"]
        facts = known.get(str(place[2])) if len(place) > 2 else None
        if error["type"] == "extra_forbidden":
            message, suggestion = "unknown key", similar(str(place[-1]), known)
    elif not is_secret(model.model_fields[name]):
        shown = _shown(given.value, message)
        if "enum" in facts:
            suggestion = similar(str(given.value), facts["enum"])
    form = with_unit(facts) if facts else ""
    problem = f"{shown}{message[:1].lower()}{message[1:]}"
    return Finding(ERROR, given.source, line, spelled, problem, form, suggestion)


def _shown(value: Any, message: str) -> str:
    text = repr(value)
    if text in message:
        return ""
    return f"{text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + '…'}: "


def _of_relation(checked: Checked, complaint: Complaint) -> Finding:
    """Two settings that do not fit together, at the first of them that was given."""
    name = next((name for name in complaint.settings if name in checked.given), complaint.settings[0])
    return checked.finding(ERROR, name, complaint.text)


def similar(name: str, known: Any) -> str:
    """``did you mean …?``, or "" if nothing is like it."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else ""
