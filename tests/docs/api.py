"""The reference of the library's public names: ``python -m tests.docs.api`` prints the tables of ``docs/api.md``."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

import a2a_zmq
from a2a_zmq.client.base import TaskOptions

# What client and handles say to each other, or only a2actl asks: their docstrings explain it to who works on them.
INTERNAL = frozenset(
    {
        "wait_for",
        "resume_asked",
        "accepted",
        "asked",
        "finished",
        "no_longer",
        "waiter",
        "stands",
        "refused",
        "stop",
        "departed",
    }
)
CLASSES = ("FleetClient", "TaskHandle", "StreamEvent", "TaskContext")


def first_line(thing: Any) -> str:
    """The first sentence or line of a docstring, as Markdown."""
    return as_markdown((inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " "))


def as_markdown(text: str) -> str:
    text = re.sub(r":(?:class|meth|data|func|attr|mod):`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`").replace("|", "\\|").partition("::")[0].strip()


def kind_of(thing: Any) -> str:
    if not inspect.isclass(thing):
        return "decorator" if thing is a2a_zmq.task else "function"
    if issubclass(thing, BaseException):
        return f"error, a `{thing.__bases__[0].__name__}`"
    if issubclass(thing, enum.Enum):
        return "enumeration"
    return "model" if issubclass(thing, BaseModel) else "class"


def names() -> Iterator[str]:
    yield "| name | | what it is |"
    yield "| --- | --- | --- |"
    for name in sorted(a2a_zmq.__all__, key=str.lower):
        thing = getattr(a2a_zmq, name)
        said = first_line(thing)
        if kind_of(thing) == "enumeration":
            said = f"{said} {', '.join(f'`{member.value}`' for member in thing)}".strip()
        yield f"| `{name}` | {kind_of(thing)} | {said} |"


def signature_of(name: str, method: Any) -> str:
    """How it is called: names and defaults, without types."""
    shown = []
    star = False
    for parameter in list(inspect.signature(method).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_POSITIONAL:
            shown.append(f"*{parameter.name}")
            star = True
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            shown.append(f"**{parameter.name}")
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        plain = isinstance(parameter.default, str | int | float | tuple | None)
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}" if plain else "=…"
        shown.append(parameter.name + default)
    return f"{name}({', '.join(shown)})"


def attributes_of(kind: type) -> dict[str, str]:
    """What the class's docstring says of its attributes."""
    section = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name.strip(): as_markdown(re.sub(r"\s+", " ", text)) for names, text in found for name in names.split(",")}


def members(kind: type) -> Iterator[str]:
    yield f"| `{kind.__name__}` | |"
    yield "| --- | --- |"
    attributes = attributes_of(kind)
    for name in sorted(vars_of(kind)):
        member = inspect.getattr_static(kind, name)
        if inspect.isfunction(member):
            yield f"| `{signature_of(name, member)}` | {first_line(member)} |"
        else:
            yield f"| `{name}` | {attributes.get(name) or first_line(member)} |"


def vars_of(kind: type) -> list[str]:
    return [
        name
        for name in dir(kind)
        if not name.startswith("_") and name not in INTERNAL and (name not in dir(tuple) or not issubclass(kind, tuple))
    ]


def reference() -> str:
    parts = ["\n".join(names())]
    parts += ["\n".join(members(getattr(a2a_zmq, name))) for name in CLASSES]
    options = ", ".join(f"`{name}`" for name in TaskOptions.__annotations__)
    parts.append(f"`**options` of submissions: {options}.")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
