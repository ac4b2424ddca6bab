"""Commands about ``a2actl`` itself: completion and schema."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from daemons.cli.commands import command
from daemons.cli.invocation import invocation

COMPLETE_VARIABLE = "_A2ACTL_COMPLETE"


class Shell(StrEnum):
    """Shells that can complete our commands."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: typer.Typer) -> None:
    command(app, "completion")(completion)
    command(app, "schema")(schema)


def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print the script by which a shell completes a2actl's commands and options; put it where the shell looks."""
    print(completion_script(shell.value))


def completion_script(shell: str) -> str:
    """The script for a shell."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # behind its --show-completion

    script = get_completion_script(prog_name="a2actl", complete_var=COMPLETE_VARIABLE, shell=shell)
    # zsh loads a file of its directories at the first TAB: that one wants an answer, too.
    define = "compdef _a2actl_completion a2actl"
    now = f'if [[ "${{funcstack[1]}}" = _a2actl ]]; then\n  _a2actl_completion "$@"\nelse\n  {define}\nfi'
    return script.replace(define, now) if shell == "zsh" else script


def _schemas(incomplete: str) -> list[str]:
    from daemons.cli.schemas import OUTPUTS

    return [path for path in OUTPUTS if path.startswith(incomplete)]


def schema(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND]", help="For example status, or keys list.", autocompletion=_schemas),
    ] = None,
) -> None:
    """Print the JSON schema of what a command prints with --json; without a command, which have one."""
    import orjson

    from daemons.cli.schema_reference import json_schema
    from daemons.cli.schemas import OUTPUTS

    if not names:
        invocation(ctx).show({"commands": list(OUTPUTS)}, lambda: print("\n".join(OUTPUTS)))
        return
    path = " ".join(names)
    if path not in OUTPUTS:
        raise typer.BadParameter(f"{path!r} prints no JSON that is described; there are {', '.join(OUTPUTS)}")
    print(orjson.dumps(json_schema(OUTPUTS[path]), option=orjson.OPT_INDENT_2).decode())
