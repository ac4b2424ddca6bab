"""``a2actl``, the operator's command: what there is, and how an error ends it.

Commands live in modules by group. They import what they need when they run, so that ``a2actl --help`` is quick.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]  # as its own option does

from daemons.cli import config_commands, fleet_commands, key_commands, lab_commands, task_commands, tool_commands
from daemons.cli.invocation import (
    EX_CONFIG,
    EX_FAILED,
    EX_INTERRUPTED,
    EX_TEMPFAIL,
    EX_UNAVAILABLE,
    EX_USAGE,
    CommandFailed,
    Invocation,
)

# Options of the program itself; they may stand anywhere on the line. The value says whether they take one.
GLOBAL_OPTIONS = {
    "--address": True,
    "--key-dir": True,
    "--client-id": True,
    "--timeout": True,
    "--config": True,
    "--json": False,
    "--version": False,
}

# Typer brings its own copy of click, or uses the installed one, by version: whichever it is, its errors have this base.
CLICK_ERROR = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    name="a2actl",
    help="Submit work to a fleet of a2a-zmq daemons, look at it, and operate it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Global options may stand anywhere on the line. Exit status: 0 success, 1 failed, 2 usage, 69 no "
    "coordinator in reach, 75 not yet (timeout, busy), 78 configuration, 130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
task_commands.register(app)
fleet_commands.register(app)
app.add_typer(key_commands.app, name="keys")
app.add_typer(config_commands.app, name="config")
lab_commands.register(app)
tool_commands.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from daemons.settings_sources import suite_version

        print(f"a2actl {suite_version()}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    *,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Coordinator, [NAME@]tcp://HOST:PORT, commas between several (A2A_COORDINATOR_ADDRESS).",
        ),
    ] = None,
    key_dir: Annotated[Path | None, typer.Option(metavar="DIRECTORY", help="Directory of keys (A2A_KEY_DIR).")] = None,
    client_id: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Identity to act as (A2A_CLIENT_ID); default operator where its keys are at hand."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0.01, metavar="SECONDS", help="Seconds to wait for the fleet and for results.")
    ] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="TOML file with settings.")] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    ctx.obj = Invocation(
        json=json, address=address, key_dir=key_dir, client_id=client_id, timeout_s=timeout, config=config
    )


def hoist(argv: Sequence[str]) -> list[str]:
    """Move global options, which may stand anywhere, before the command. What follows ``--`` stays."""
    front: list[str] = []
    rest: list[str] = []
    items = iter(argv)
    for item in items:
        if item == "--":
            return [*front, *rest, item, *items]
        name, equals, _ = item.partition("=")
        takes_value = GLOBAL_OPTIONS.get(name)
        if takes_value is None or (equals and not takes_value):
            rest.append(item)
            continue
        front.append(item)
        if takes_value and not equals:
            front.extend([value for value in [next(items, None)] if value is not None])
    return front + rest


def status_of(error: Exception) -> tuple[int, str]:
    """Exit status and line for an error; the line is "" if the command has said everything itself."""
    from a2a_zmq.errors import A2AError, ConfigError, FleetUnavailable, KeyRefused, RequestRefused, TaskTimeout

    if isinstance(error, CommandFailed):
        return error.status, str(error)
    if isinstance(error, CLICK_ERROR):
        text = str(cast(Any, error).format_message()).replace(": Value error, ", ": ")  # pydantic's, by way of typer
        if type(error).__name__ == "NoArgsIsHelpError":
            print(text, file=sys.stderr)
            return EX_USAGE, ""
        return EX_USAGE, text
    if isinstance(error, ConfigError):
        return EX_CONFIG, str(error).replace("--coordinator-address", "--address")
    if isinstance(error, KeyRefused):
        return EX_CONFIG, f"{error}; `a2actl keys list` here and on the coordinator's host shows who knows whom"
    if isinstance(error, FleetUnavailable):
        from daemons.cli.host_settings import unknown

        return EX_UNAVAILABLE, "; ".join(filter(None, (str(error), unknown())))
    if isinstance(error, TaskTimeout):
        return EX_TEMPFAIL, str(error)
    if isinstance(error, RequestRefused):
        return (EX_TEMPFAIL if error.code in ("BUSY", "UNAVAILABLE", "DRAINING", "NOT_LEADER") else EX_FAILED), str(
            error
        )
    if isinstance(error, A2AError | OSError):
        return EX_FAILED, str(error)
    raise error


def root() -> Any:
    """The whole command as click sees it."""
    completion_init()  # a shell that completes calls this program, with what it wants in a variable
    return typer.main.get_command(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status and lets no error through as a traceback."""
    command = root()
    given = hoist(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        # Texts come from everywhere: a letter that the terminal's encoding lacks must not end the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        outcome = command.main(args=given, prog_name="a2actl", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(EX_INTERRUPTED, "interrupted")
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Standard output must not be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EX_FAILED
    except Exception as error:
        return _fail(*status_of(error))
    if outcome == EX_INTERRUPTED:  # Typer's way to say so
        return _fail(EX_INTERRUPTED, "interrupted")
    return outcome if isinstance(outcome, int) else 0


def _fail(status: int, text: str) -> int:
    from daemons.cli.tables import printable_line

    # Many an error carries a text of others: of a handler, say.
    line = printable_line(text if len(text) < 2000 else text.splitlines()[0]).strip()
    if line:
        print(f"a2actl: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
