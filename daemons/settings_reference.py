"""The reference of all settings.

``python -m daemons.settings_reference`` prints the table of ``docs/configuration.md``.
"""

from __future__ import annotations

from pydantic.fields import FieldInfo

from daemons.settings import MODELS
from daemons.settings_forms import default_text, env_name


def reference() -> str:
    """The reference table as Markdown (``docs/configuration.md`` holds it)."""
    users: dict[str, list[str]] = {}
    fields: dict[str, FieldInfo] = {}
    for model in MODELS:
        for name, field in model.model_fields.items():
            users.setdefault(name, []).append(model.role)
            fields.setdefault(name, field)
    lines = ["| TOML key | environment | default | read by | meaning |", "| --- | --- | --- | --- | --- |"]
    for name, field in fields.items():
        default = f"`{default_text(field)}`" if default_text(field) else ""
        readers = "all" if len(users[name]) == len(MODELS) else ", ".join(users[name])
        lines.append(f"| `{name}` | `{env_name(name)}` | {default} | {readers} | {field.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
