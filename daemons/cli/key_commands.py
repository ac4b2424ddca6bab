"""``a2actl keys``: the key directory of the issuing host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemons.cli.commands import command
from daemons.cli.invocation import OPERATOR, CommandFailed, Invocation, invocation

if TYPE_CHECKING:
    from a2a_zmq.security.keyring import KeyDirectory

app = typer.Typer(
    help="Make, rotate, revoke and list keys; changes reach running daemons within a second.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

# The default fleet of config/supervisord.conf, and those who talk to it.
DEFAULT_AGENTS = {
    "coordinator-1": "coordinator",
    "distributor-1": "distributor",
    "worker-1": "worker",
    "worker-2": "worker",
    "client": "client",
    "operator": "operator",
}


def _offered(incomplete: str, *, revoked: bool) -> list[str]:
    """For a shell's TAB: those that have keys here, or that had some."""
    try:
        found = _directory(Invocation()).list()
    except Exception:  # no keys, no rights: nothing to offer
        return []
    return [one.name for one in found if one.revoked is revoked and one.name.startswith(incomplete)]


def _with_keys(incomplete: str) -> list[str]:
    return _offered(incomplete, revoked=False)


def _revoked(incomplete: str) -> list[str]:
    return _offered(incomplete, revoked=True)


Name = Annotated[str, typer.Argument(metavar="NAME", help="Agent id.", autocompletion=_with_keys)]
NewName = Annotated[str, typer.Argument(metavar="NAME", help="Agent id.", autocompletion=_revoked)]


def _directory(run: Invocation) -> KeyDirectory:
    from a2a_zmq.security.keyring import KeyDirectory

    return KeyDirectory(run.settings.keys)


def _known(directory: KeyDirectory, name: str) -> KeyDirectory:
    """
    Raises:
        typer.BadParameter: nobody of this name has keys there.
    """
    from daemons.settings_check import similar

    found = {one.name: one for one in directory.list()}
    if name not in found:
        close = similar(name, found)
        raise typer.BadParameter(f"no agent {name} in {directory.peers_json}" + (f" ({close})" if close else ""))
    if found[name].revoked:
        raise typer.BadParameter(f"{name} is revoked; `a2actl keys add {name}` admits it again")
    return directory


def _role_of(name: str) -> str:
    """The role that a name like worker-7 says."""
    role = name.partition("-")[0]
    roles = ("coordinator", "distributor", "worker", "client", "operator")
    if role not in roles:
        raise typer.BadParameter(f"{name!r} does not say its role; give it: keys add NAME {'|'.join(roles)}")
    return role


@command(app, "keys init")
def init(
    ctx: typer.Context,
    agents: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME[=ROLE]...]", help="Agents; default: the default fleet.")
    ] = None,
) -> None:
    """Make the issuer, if there is none, and keys for agents that have none; those that were revoked stay out."""
    run = invocation(ctx)
    wanted = dict(DEFAULT_AGENTS) if not agents else {}
    for text in agents or ():
        name, _, role = text.partition("=")
        wanted[name] = role or _role_of(name)
    directory = _directory(run)
    _checked_roles(wanted)
    added = directory.init(wanted)
    revoked = [one.name for one in directory.list() if one.revoked and one.name in wanted]
    words = (
        f"keys for {', '.join(added)}" if added else "nothing was made" if revoked else "nothing to do, all have keys"
    )
    if revoked:
        words += f"; revoked, which only `a2actl keys add NAME` changes: {', '.join(revoked)}"
    found = {"key_dir": str(directory.path), "added": added, "revoked": revoked}
    run.show(found, lambda: print(f"{directory.path}: {words}"))


def _checked_roles(wanted: dict[str, str]) -> None:
    from a2a_zmq.protocol.message import Role

    for name, role in wanted.items():
        if role not in list(Role):
            raise typer.BadParameter(f"{role!r} (of {name}) is no role; there are {', '.join(Role)}")


@command(app, "keys add")
def add(
    ctx: typer.Context,
    name: NewName,
    role: Annotated[str | None, typer.Argument(metavar="[ROLE]", help="Its role, if the name does not say it.")] = None,
) -> None:
    """Admit an agent, or one that was revoked."""
    run = invocation(ctx)
    wanted = {name: role or _role_of(name)}
    _checked_roles(wanted)
    _directory(run).add(name, wanted[name])
    run.show({"added": name, "role": wanted[name]}, lambda: print(f"{name}: keys made"))


@command(app, "keys rotate")
def rotate(ctx: typer.Context, name: Name) -> None:
    """Make a new key for an agent; its last one stays valid until the next rotation."""
    run = invocation(ctx)
    key_id = _known(_directory(run), name).rotate(name)
    run.show({"agent": name, "key_id": key_id}, lambda: print(f"{name}: key {key_id} is the newest"))


@command(app, "keys revoke")
def revoke(
    ctx: typer.Context,
    name: Name,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also the identity that a2actl itself acts as, or the only coordinator.")
    ] = False,
) -> None:
    """Shut an agent out within a second, also on live connections; `keys add` admits it again."""
    run = invocation(ctx)
    if name in (OPERATOR, run.settings.client_id) and not force:
        raise CommandFailed(
            f"{name} is who a2actl acts as: it would reach the fleet no more, until `a2actl keys add {name}`; "
            f"`a2actl keys revoke {name} --force` does it nevertheless"
        )
    directory = _known(_directory(run), name)
    if not force:
        _see_that_one_can_lead(directory, name)
    directory.revoke(name)
    run.show({"revoked": name}, lambda: print(f"{name}: revoked"))


def _see_that_one_can_lead(directory: KeyDirectory, name: str) -> None:
    """
    Raises:
        CommandFailed: no coordinator would be left that has keys.
    """
    from a2a_zmq.protocol.message import Role

    able = [one.name for one in directory.list() if one.role is Role.COORDINATOR and not one.revoked]
    if able == [name]:
        from a2a_zmq.client.links import admission

        raise CommandFailed(
            f"{name} is the only coordinator with keys: nobody would lead the fleet, until "
            f"`{admission(name)}`; `a2actl keys revoke {name} --force` does it nevertheless"
        )


@command(app, "keys export")
def export(
    ctx: typer.Context,
    name: Name,
    target: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where to write it; carry it to the host.")],
) -> None:
    """Write the key directory for a host that runs only this agent: nobody else's secrets are in it."""
    run = invocation(ctx)
    _known(_directory(run), name).export(name, target)
    run.show({"agent": name, "directory": str(target)}, lambda: print(f"{target}: keys of {name}"))


@command(app, "keys list")
def list_keys(ctx: typer.Context) -> None:
    """Who is in the fleet."""
    from daemons.cli.output import print_table, styled
    from daemons.cli.tables import Column

    run = invocation(ctx)
    directory = _directory(run)
    found = directory.list()
    shown = [
        {
            "agent": one.name,
            "role": one.role.value,
            "key_ids": one.key_ids,
            "secret_here": one.secret_here,
            "revoked": one.revoked,
        }
        for one in found
    ]

    def table() -> None:
        rows = [
            (
                one.name,
                one.role.value,
                styled("revoked") if one.revoked else ", ".join(one.key_ids),
                "yes" if one.secret_here else "",
            )
            for one in found
        ]
        columns = (Column("agent", key=True), Column("role"), Column("keys"), Column("secret here", spare=1))
        print_table(columns, rows, title=str(directory.path))

    run.show({"key_dir": str(directory.path), "agents": shown}, table)
