"""What ``--json`` prints, described: as JSON schema, and as the tables of docs/cli-json.md.

``python -m daemons.cli.schema_reference`` prints the tables.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from daemons.cli.schemas import OUTPUTS, Json, Output, Status


def json_schema(model: type[Output]) -> dict[str, Any]:
    """For readers: members that a later release adds are no error."""
    found = model.model_json_schema()
    for part in (found, *found.get("$defs", {}).values()):
        part.pop("additionalProperties", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def reference() -> str:
    """The tables of docs/cli-json.md."""
    parts: list[str] = []
    shared: dict[str, type[Output]] = {}
    for path, model in OUTPUTS.items():
        parts.append(f"## {path}\n\n{_document(model)}\n{_table(model)}")
        _collect(model, shared)
    parts.append("## Parts of these\n")
    parts += [f"### {name}\n\n{_document(model)}\n{_table(model)}" for name, model in shared.items()]
    return "\n".join(parts)


def _document(model: type[Output]) -> str:
    return " ".join((model.__doc__ or "").replace("``", "`").split()) + "\n"


def _collect(model: type[Output], into: dict[str, type[Output]]) -> None:
    for field in model.model_fields.values():
        for inner in _models(field.annotation):
            if inner.__name__ not in into:
                into[inner.__name__] = inner
                _collect(inner, into)


def _models(annotation: Any) -> list[type[Output]]:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, Output) else []
    return [found for part in get_args(annotation) for found in _models(part)]


def _table(model: type[Output]) -> str:
    lines = ["| member | type | meaning |", "| --- | --- | --- |"]
    for name, field in model.model_fields.items():
        optional = "" if field.is_required() else "?"
        lines.append(f"| `{name}{optional}` | {_type(field.annotation)} | {field.description} |")
    return "\n".join(lines) + "\n"


def _type(annotation: Any) -> str:
    """A member's type in words."""
    if annotation is Status:
        return "status"
    if annotation == Json:
        return "object"
    names = {str: "text", int: "number", float: "number", bool: "true or false", Any: "anything", type(None): "null"}
    if annotation in names:
        return names[annotation]
    arguments, origin = get_args(annotation), get_origin(annotation)
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"object: {_type(arguments[0])} → {_type(arguments[1])}"
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in arguments)
    if arguments:
        return " or ".join(_type(each) for each in arguments)
    return f"[{annotation.__name__}](#{annotation.__name__.lower()})"


if __name__ == "__main__":
    print(reference(), end="")
