"""JSON schemas of the settings, one for each role's TOML file, and what they say of a setting in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from daemons.settings import Settings, live_settings
from daemons.settings_forms import env_name, unit_of

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_WORDS: Final = {
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "array": "list",
    "object": "table",
}


@lru_cache
def schema(model: type[Settings]) -> dict[str, Any]:
    """The schema of this role's TOML file. Members that begin with ``x-`` say more than an editor needs: environment
    variable, unit, and whether SIGHUP is enough."""
    made = model.model_json_schema(mode="validation")
    live = live_settings(model)
    properties = {}
    for name, found in made["properties"].items():
        facts: dict[str, Any] = {"x-environment": env_name(name)}
        if unit := unit_of(name):
            facts["x-unit"] = unit
        if name in live:
            facts["x-reload"] = True
        properties[name] = {**_plain(found), **facts}
    return {
        "$schema": DRAFT,
        "title": f"Settings of a2a-{model.role}" if model.role != "client" else "Settings of a2actl",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        **({"$defs": _plain(made["$defs"])} if "$defs" in made else {}),
    }


def _plain(value: Any) -> Any:
    """Without what TOML does not know (null) and nobody reads (titles that repeat the name)."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    out = {name: _plain(each) for name, each in value.items() if not _left_out(name, each)}
    if isinstance(choices := out.get("anyOf"), list):
        choices = [each for each in choices if each != {"type": "null"}]
        out.pop("anyOf")
        out = {**choices[0], **out} if len(choices) == 1 else {**out, "anyOf": choices}
    # Docstrings of models are for those who read the code.
    if out.get("type") == "object" and "properties" in out:
        out.pop("description", None)
    return out


def _left_out(name: str, value: Any) -> bool:
    return (name == "title" and isinstance(value, str)) or (name == "default" and (value is None or value in ({}, [])))


def allowed(facts: Mapping[str, Any]) -> str:
    """What a setting may be, in words: ``integer from 1 to 65535``."""
    if "enum" in facts:
        return "one of " + ", ".join(f'"{each}"' for each in facts["enum"])
    if "anyOf" in facts:
        return " or ".join(dict.fromkeys(allowed(each) for each in facts["anyOf"]))
    if facts.get("format") == "path":
        return "path"
    if "items" in facts:
        return f"list of {_plural(facts['items'])}"
    if isinstance(more := facts.get("additionalProperties"), Mapping):
        return "table of texts" if more.get("type") == "string" else "table of tables"
    return _WORDS.get(str(facts.get("type")), "value") + _range(facts)


def _plural(items: Mapping[str, Any]) -> str:
    return re.sub(r"text\Z", "texts", allowed(items))


def _range(facts: Mapping[str, Any]) -> str:
    least, most, above = facts.get("minimum"), facts.get("maximum"), facts.get("exclusiveMinimum")
    if least is not None and most is not None:
        return f" from {least} to {most}"
    if least is not None:
        return f" from {least}"
    if above is not None:
        return f" above {above:g}"
    return f" up to {most}" if most is not None else ""


def with_unit(facts: Mapping[str, Any]) -> str:
    """The same with the unit: ``integer from 20 to 60000 milliseconds``."""
    form, unit = allowed(facts), facts.get("x-unit")
    if not unit:
        return form
    return f"{form}, {unit}" if unit == "a second" else f"{form} {unit}"
