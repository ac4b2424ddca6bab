"""The manual: what every command and daemon takes, from their own definitions.

``python -m daemons.cli.manual DIRECTORY`` writes the man pages (``man1/a2actl.1``, ``man8/a2a-….8``) and the shells'
scripts (``completions/``);
``python -m daemons.cli.manual --markdown`` prints what docs/cli.md has of it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from daemons.cli import roff
from daemons.cli.examples import EXAMPLES, Example
from daemons.cli.main import root
from daemons.cli.tool_commands import completion_script
from daemons.redis.main import MORE_HELP
from daemons.settings import MODELS, ClientSettings, Settings
from daemons.settings_sources import parser_of, suite_version

PROGRAM: Final = "a2actl"
ABOUT: Final = "operate a fleet of a2a-zmq daemons"
EXIT_STATUS: Final = (
    ("0", "success"),
    ("1", "the fleet says no: a task failed, a task or agent is unknown, a check found something"),
    ("2", "the command line was not understood, or names a file that is not there, or an agent without keys"),
    ("69", "no coordinator in reach within --timeout, or no keys of a fleet"),
    ("75", "not yet: no result in time, or the fleet is busy"),
    ("78", "a setting or a key file is wrong, or the fleet refuses our key"),
    ("130", "interrupted"),
)
DAEMON_STATUS: Final = (
    ("0", "drained, or stopped by a signal in good order"),
    ("2", "the command line was not understood"),
    ("70", "internal error; the log has the trace"),
    ("74", "the disk of the local spool fails"),
    ("75", "not now: Redis is away, another process took over, or a key pair was replaced; start it again"),
    ("78", "a setting or a key file is wrong, the fleet refuses our key, or an address cannot be listened on"),
)
# Named as the shells want them.
COMPLETIONS: Final = {"bash": "a2actl", "zsh": "_a2actl", "fish": "a2actl.fish"}
ROLES: Final = {
    "coordinator": "takes tasks of clients, makes them durable, and places them on distributors",
    "distributor": "dispatches tasks to its workers, repeats what failed, and records results",
    "worker": "runs tasks: handlers and LangGraph graphs",
    "redis": "runs the embedded Redis or Valkey server in the foreground",
}
SERVER_STATUS: Final = (
    ("75", "its port or directory is in use"),
    ("78", "a setting is wrong"),
    ("other", "the server's own"),
)
FILES: Final = (
    ("/etc/a2a-zmq", "where it is, /var/lib/a2a-zmq is STATE_DIR, else ~/.local/state/a2a-zmq"),
    ("STATE_DIR/keys", "keys of the fleet"),
    ("STATE_DIR/spool", "what an agent keeps while Redis is away"),
    ("STATE_DIR/redis", "files of the embedded server"),
)
SUPERVISED: Final = (
    "It runs in the foreground, logs to standard error, and is started by a supervisor (supervisord, systemd). Flags "
    "win over environment variables, these over .env of the working directory, that over the TOML file of --config, "
    "that over /etc/a2a-zmq/environment, which units take variables from, and that over defaults."
)
SIGNALS: Final = (
    ("SIGTERM, SIGINT", "drain: finish what runs, hand back the rest, leave; the second one ends it at once"),
    ("SIGHUP", "read changed key files now, and not within a second"),
)
ENVIRONMENT: Final = (
    ("NO_COLOR", "if it is set, there are no colours; TERM=dumb has none either, and nothing that moves"),
    ("COLUMNS, LINES", "size of the terminal, where it does not tell"),
)


@dataclass
class Entry:
    """A command: its path, how it is called, what it does, what it takes."""

    path: str
    usage: str
    paragraphs: list[str]
    options: list[tuple[str, str]] = field(default_factory=list)
    examples: Sequence[Example] = ()


def commands() -> Iterator[Entry]:
    """All commands, groups opened, in the order of ``--help``."""
    top = root()
    yield from _entries(top, _context(top, PROGRAM, None), "")


def global_options() -> list[tuple[str, str]]:
    """What may stand anywhere on the line."""
    return _options(root())


def _context(command: Any, name: str, parent: Any) -> Any:
    return command.context_class(command, info_name=name, parent=parent)


def _entries(group: Any, context: Any, prefix: str) -> Iterator[Entry]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = _context(command, name, context)
        path = f"{prefix}{name}"
        if hasattr(command, "list_commands"):
            yield from _entries(command, inner, f"{path} ")
            continue
        arguments = [_metavar(param) for param in command.params if param.param_type_name == "argument"]
        usage = " ".join([PROGRAM, path, *(["[OPTIONS]"] if len(command.params) > len(arguments) else []), *arguments])
        yield Entry(path, usage, _paragraphs(command.help), _options(command), EXAMPLES.get(path, ()))


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(text or "").split("\n\n") if part.strip()]


def _options(command: Any) -> list[tuple[str, str]]:
    """From the parameters themselves: how libraries print them changes with their versions."""
    found = []
    for param in command.params:
        takes = "" if getattr(param, "is_flag", False) else _metavar(param)
        names = takes if param.param_type_name == "argument" else f"{', '.join(param.opts)} {takes}".strip()
        default = param.default
        known = isinstance(default, int | float | str) and not isinstance(default, bool) and bool(default)
        shown = f" Default: {getattr(default, 'value', default)}." if known else ""
        found.append((names, f"{param.help}{shown}"))
    return found


def _metavar(param: Any) -> str:
    """What stands for its value; of an optional argument in brackets."""
    return str(param.metavar or (param.name or "").upper())


def flags(model: type[Settings]) -> list[tuple[str, str]]:
    """What a daemon takes on its command line."""
    found = []
    for action in parser_of(model)._actions:
        takes = f" {action.metavar}" if action.metavar else ""
        found.append((", ".join(action.option_strings) + takes, (action.help or "").replace("%%", "%")))
    return found


# ---------------------------------------------------------------- man pages


def pages() -> dict[str, str]:
    """Man pages by their place below a directory of such."""
    found = {f"man1/{PROGRAM}.1": control_page()}
    for model in MODELS:
        if model is not ClientSettings:
            found[f"man8/a2a-{model.role}.8"] = daemon_page(model)
    return found


def _page(name: str, section: int) -> roff.Page:
    return roff.Page(name, section, f"a2a-zmq {suite_version()}", "a2a-zmq")


def control_page() -> str:
    page = _page(PROGRAM, 1)
    page.section("name", f"{PROGRAM} - {ABOUT}")
    page.section("synopsis")
    page.usage(f"{PROGRAM} [GLOBAL OPTIONS] COMMAND [ARGUMENTS]")
    page.section(
        "description",
        "Submits work to a fleet, looks at it, and operates it. Answers are tables on a terminal, lines of any length "
        "in a pipe, and one JSON object on a line with --json, which a2actl schema COMMAND describes. What fails is "
        "one line on standard error.",
    )
    page.section("global options", "They may stand anywhere on the line.")
    page.items(global_options())
    page.section("commands")
    for entry in commands():
        page.subsection(entry.path)
        page.usage(entry.usage)
        for paragraph in entry.paragraphs:
            page.paragraph(paragraph)
        page.items(entry.options)
        page.paragraph("Examples:")
        page.examples([(example.line, example.purpose) for example in entry.examples])
    page.section("environment", "Every setting has a variable; a flag wins over it, and it over .env and --config.")
    page.items(ENVIRONMENT)
    page.section("exit status")
    page.items(EXIT_STATUS)
    page.section("see also", ", ".join(f"a2a-{role}(8)" for role in ROLES))
    return page.text()


def daemon_page(model: type[Settings]) -> str:
    name, role = f"a2a-{model.role}", model.role
    page = _page(name, 8)
    page.section("name", f"{name} - {ROLES[role]}")
    page.section("synopsis")
    page.usage(f"{name} [OPTION VALUE]...")
    page.section("description", f"The a2a-zmq {role}: {ROLES[role]}. {SUPERVISED}")
    page.section("options", "Each has the environment variable that stands in brackets; secrets have nothing else.")
    page.items(flags(model))
    if model.role == "redis":
        page.section("short names")
        page.block(MORE_HELP.strip().splitlines()[1:-2])
    else:
        page.section("signals")
        page.items(SIGNALS)
    page.section("exit status")
    page.items(SERVER_STATUS if role == "redis" else DAEMON_STATUS)
    page.section("files")
    page.items(FILES)
    others = [f"a2a-{each}(8)" for each in ROLES if each != role]
    page.section("see also", ", ".join(["a2actl(1)", *others]))
    return page.text()


# ---------------------------------------------------------------- docs/cli.md


def markdown() -> str:
    """What docs/cli.md has of options, exit statuses and commands."""
    head = "## Options of every command\n\nThey may stand anywhere on the line.\n"
    parts = [head, _table("option", global_options()), "## Exit status\n", _table("status", EXIT_STATUS)]
    for entry in commands():
        parts += [f"## {entry.path}\n", "```text", entry.usage, "```\n", *(f"{each}\n" for each in entry.paragraphs)]
        if entry.options:
            parts.append(_table("option", entry.options))
        width = max((len(example.line) for example in entry.examples), default=0)
        parts += ["```text", *(f"{each.line:<{width}}    # {each.purpose}" for each in entry.examples), "```\n"]
    return "\n".join(parts)


def _table(head: str, rows: Sequence[tuple[str, str]]) -> str:
    lines = [f"| {head} | |", "| --- | --- |"]
    lines += [f"| `{_cell(name)}` | {_cell(text)} |" for name, text in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "‹").replace(">", "›")


def main(argv: Sequence[str]) -> int:
    if list(argv) == ["--markdown"]:
        print(markdown(), end="")
        return 0
    if len(argv) != 1 or argv[0].startswith("-"):
        print("usage: python -m daemons.cli.manual DIRECTORY | --markdown", file=sys.stderr)
        return 2
    scripts = {f"completions/{name}": completion_script(shell) + "\n" for shell, name in COMPLETIONS.items()}
    for place, text in (pages() | scripts).items():
        path = Path(argv[0]) / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
