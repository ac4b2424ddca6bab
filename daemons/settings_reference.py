"""The reference of all settings.

``python -m daemons.settings_reference`` prints the table of ``docs/configuration.md``.
"""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo

from daemons.settings import MODELS
from daemons.settings_forms import default_text, env_name
from daemons.settings_schema import schema, with_unit


def reference() -> str:
    """The reference table as Markdown (``docs/configuration.md`` holds it)."""
    users: dict[str, list[str]] = {}
    fields: dict[str, FieldInfo] = {}
    facts: dict[str, dict[str, Any]] = {}
    for model in MODELS:
        for name, field in model.model_fields.items():
            users.setdefault(name, []).append(model.role)
            fields.setdefault(name, field)
            facts[name] = facts.get(name, {}) | schema(model)["properties"][name]
    lines = ["| TOML key | environment | default | allowed | reload | read by | meaning |", "| --- |" + " --- |" * 6]
    for name, field in fields.items():
        default = f"`{default_text(field)}`" if default_text(field) else ""
        readers = "all" if len(users[name]) == len(MODELS) else ", ".join(users[name])
        form = with_unit(facts[name]).replace("|", "\\|")
        reload = "yes" if facts[name].get("x-reload") else ""
        cells = (f"`{name}`", f"`{env_name(name)}`", default, form, reload, readers, field.description)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
