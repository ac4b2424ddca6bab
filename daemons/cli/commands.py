"""How commands are made known: each with its examples, and with the program's own options at a shell's TAB."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from daemons.cli.examples import epilog

F = TypeVar("F", bound=Callable[..., None])


class Command(TyperCommand):
    """A command behind which global options may stand, too."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        found = super().shell_complete(ctx, incomplete)
        if not incomplete.startswith("-"):
            return found
        root = ctx.find_root()
        known = {item.value for item in found}
        return found + [item for item in root.command.shell_complete(root, incomplete) if item.value not in known]


def command(app: typer.Typer, path: str) -> Callable[[F], F]:
    """Registers a function as the command with this path, for example ``keys add``."""
    return app.command(name=path.rpartition(" ")[2], cls=Command, epilog=epilog(path))
