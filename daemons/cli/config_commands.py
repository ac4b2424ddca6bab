"""``a2actl config``: looks at settings, and shows what there is to set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemons.cli.commands import command
from daemons.cli.invocation import EX_CONFIG, CommandFailed, invocation

if TYPE_CHECKING:
    from daemons.settings import Settings

app = typer.Typer(
    help="Check settings, and show what there is to set.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Role = Annotated[str, typer.Argument(metavar="ROLE", help="coordinator, distributor, worker, client or redis.")]


@command(app, "config check")
def check(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="A role's TOML file, a supervisord.conf, or a directory of them; by default /etc/a2a-zmq, else "
            "./config, else this directory.",
        ),
    ] = None,
    role: Annotated[
        str | None, typer.Option(help="Which program a TOML file is for, if its name does not say; or only this one.")
    ] = None,
) -> None:
    """Find every mistake in settings, before a daemon ends with one: unknown names, values, relations, files, ports,
    and handlers or graphs that cannot be imported.

    The environment and .env count as they would for a program started here; for the agents of /etc/a2a-zmq what
    systemd gives them counts instead: variables of their units, of drop-ins and of files named there. Status 78 if
    something is wrong; what is only a warning leaves it at 0.
    """
    from daemons.cli import config_checks
    from daemons.cli.config_targets import targets
    from daemons.cli.tables import printable_line

    run = invocation(ctx)
    report = config_checks.look(targets(file, role), imports=True)

    def lines() -> None:
        for finding in report.findings:
            print(printable_line(finding.text()))
        print(f"read: {', '.join(report.files) or 'no file, only the environment'}")
        warnings = len(report.findings) - report.errors
        print(f"{', '.join(report.programs)}: {_count(report.errors, 'error')}, {_count(warnings, 'warning')}")

    run.show(report.json(), lines)
    if report.errors:
        raise CommandFailed(status=EX_CONFIG)


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


@command(app, "config show-defaults")
def show_defaults(role: Role) -> None:
    """Print the annotated TOML file of a role: every setting with its meaning, form, bounds and default."""
    from daemons.settings_files import annotated

    print(annotated(_model(role)), end="")


@command(app, "config schema")
def schema(role: Role) -> None:
    """Print the JSON schema of a role's TOML file, with which editors complete and check it."""
    from daemons.settings_files import schema_text

    print(schema_text(_model(role)), end="")


@command(app, "config acl")
def acl(
    role: Annotated[
        str, typer.Argument(metavar="[ROLE]", help="coordinator, distributor, worker or client; all by default.")
    ] = "all",
    user: Annotated[str, typer.Option(help="Name of the Redis user.")] = "a2a",
) -> None:
    """Print the line for Redis' ACL file that allows what the fleet needs, and nothing else."""
    from daemons.runtime import permissions

    needs = {
        "all": permissions.ALL,
        "coordinator": permissions.STATE,
        "distributor": permissions.STATE,
        "worker": (*permissions.GRAPHS, *permissions.MODELS),
        "client": (*permissions.STATE, *permissions.DOCTOR),
    }
    if role not in needs:
        raise typer.BadParameter(f"{role!r} uses no Redis; there are {', '.join(needs)}")
    if not user or not user.isprintable() or any(letter.isspace() for letter in user):
        raise typer.BadParameter(f"--user: {user!r} cannot be a name of a Redis user: no spaces, not empty")
    print(permissions.acl_line(user, "PASSWORD", needs[role]))


def _model(role: str) -> type[Settings]:
    from daemons.cli.config_targets import ROLES

    if role not in ROLES:
        raise typer.BadParameter(f"{role!r} is no role; there are {', '.join(ROLES)}")
    return ROLES[role]
