"""The annotated TOML file of each role, written from the settings themselves.

``python -m daemons.settings_files config`` writes these and their schemas below ``config/``; a test compares them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from daemons.settings import MODELS, Settings, live_settings
from daemons.settings_forms import default_text
from daemons.settings_schema import schema, with_unit

# In this order; each file has those of its role.
GROUPS: Final[dict[str, str]] = {
    "Who it is and whom it talks to": "coordinator_id distributor_id worker_id client_id bind coordinator_address"
    " distributor_address",
    "Redis or Valkey": "redis_host redis_port redis_db redis_username redis_password redis_use_tls redis_ca_path"
    " redis_cert_path redis_key_path redis_wait_s redis_appendfsync redis_maxmemory_mb",
    "Tasks": "max_payload_bytes max_live_tasks max_live_mb distributor_failover_s placement_policy max_attempts"
    " retry_budget_percent retry_budget_per_s retry_policy policy_timeout_ms result_ttl_s spool spool_max_mb"
    " worker_slots worker_spare_children worker_thread_slots worker_async_slots worker_max_held worker_handlers"
    " worker_graphs checkpoint_keep checkpoint_ttl_s question_ttl_s stream_max_kb stream_ttl_s llm_providers"
    " worker_labels drain_timeout_s",
    "Time: silence, leases, supervision": "heartbeat_interval_ms suspect_after_ms dead_after_ms reconnect_grace_ms"
    " lease_ttl_ms adoption_grace_ms supervision_interval_ms supervision_nodes",
    "Keys and authentication": "use_mtls key_dir cert_path key_path token_secret",
    "Files, health, logs, traces": "state_dir metrics_host metrics_port metrics_advertise live_after_ms log_level"
    " log_format otlp_endpoint trace_sample_ratio",
}
# Every program takes all settings that several have, so that one file may serve them; these do nothing in this one.
UNUSED: Final[dict[str, frozenset[str]]] = {
    "client": frozenset({"log_level", "log_format", "max_payload_bytes", "redis_wait_s"}),
    "redis": frozenset(
        {
            *("redis_db", "redis_username", "redis_use_tls", "redis_ca_path", "redis_cert_path", "redis_key_path"),
            *("redis_wait_s", "max_payload_bytes", "heartbeat_interval_ms", "suspect_after_ms", "dead_after_ms"),
            *("reconnect_grace_ms", "use_mtls", "key_dir", "cert_path", "key_path", "token_secret", "log_format"),
        }
    ),
}
NO_EFFECT: Final = "For other programs, without effect here"
# What has no place above is a setting that somebody forgot to put there: it goes to the end, and a test says so.
OTHER: Final = "Others"

# What stands in a file for a setting without a default of its own. ROLE and PORT are replaced.
EXAMPLES: Final[dict[str, str]] = {
    "bind": '"tcp://127.0.0.1:HUB"',
    "distributor_address": '"tcp://127.0.0.1:5560"',
    "redis_username": '"a2a"',
    "redis_password": '"change-me"',
    "redis_ca_path": '"/etc/a2a-zmq/redis-ca.pem"',
    "redis_cert_path": '"/etc/a2a-zmq/redis-client.pem"',
    "redis_key_path": '"/etc/a2a-zmq/redis-client.key"',
    "worker_slots": "2",
    "worker_handlers": '["my_package.tasks"]',
    "worker_graphs": '["/srv/agents/langgraph.json"]',
    "llm_providers": '"/etc/a2a-zmq/providers.toml"',
    "worker_labels": '{ site = "a", gpu = "no" }',
    "key_dir": '"/etc/a2a-zmq/keys"',
    "cert_path": '"/etc/a2a-zmq/keys/peers.json"',
    "key_path": '"/etc/a2a-zmq/keys/ROLE.key"',
    "token_secret": '"at least sixteen bytes"',
    "state_dir": '"/var/lib/a2a-zmq"',
    "metrics_port": "METRICS",
    "metrics_advertise": '"host-1.example:METRICS"',
    "otlp_endpoint": '"http://127.0.0.1:4318"',
}
_MORE: Final[dict[str, str]] = {
    "llm_providers": """\
# A table, at the end of this file (docs/models.md has all its keys):
# [llm_providers.fast]
# model = "openai:gpt-4.1-mini"
# api_key_env = "OPENAI_API_KEY"
# requests_per_minute = 500
"""
}
_NAMES: Final = {
    "coordinator": {"ROLE": "coordinator-1", "HUB": "5550", "METRICS": "9550"},
    "distributor": {"ROLE": "distributor-1", "HUB": "5560", "METRICS": "9560"},
    "worker": {"ROLE": "worker-1", "METRICS": "9570"},
    "client": {"ROLE": "client"},
    "redis": {"ROLE": "redis"},
}
_PROGRAMS: Final = {"client": "a2actl"}


def annotated(model: type[Settings]) -> str:
    """The TOML file of this role: every setting with what it means, its form, bounds and default, all commented out."""
    role = model.role
    program = _PROGRAMS.get(role, f"a2a-{role}")
    lines = [
        f"#:schema ./schema/{role}.json",
        f"# Settings of {program}: {program} --config {role}.toml",
        "#",
        "# Everything is optional. A line that is commented out shows the default, or an example where there is none.",
        "# Flags, the environment and .env go before this file. An unknown key is an error; `a2actl config check`",
        "# looks for that and other mistakes. docs/configuration.md explains the names.",
    ]
    if live_settings(model):
        lines.append(
            '# What is marked "Reload" is read again at SIGHUP (`systemctl reload`); the rest needs a restart.'
        )
    for title, names in groups(model):
        lines += ["", f"# ---- {title}"]
        for name in names:
            lines += ["", *_setting(model, name)]
    return "\n".join(lines) + "\n"


def groups(model: type[Settings]) -> Iterator[tuple[str, list[str]]]:
    """The settings of this role by group."""
    unused = UNUSED.get(model.role, frozenset())
    left = dict.fromkeys(name for name in model.model_fields if name not in unused)
    for title, text in GROUPS.items():
        names = sorted((name for name in text.split() if name in left), key=lambda name: name != f"{model.role}_id")
        for name in names:
            del left[name]
        if names:
            yield title, names
    if left:
        yield OTHER, list(left)
    if unused:
        yield NO_EFFECT, [name for name in model.model_fields if name in unused]


def _setting(model: type[Settings], name: str) -> Iterator[str]:
    facts, field = schema(model)["properties"][name], model.model_fields[name]
    description = field.description or ""
    yield f"# {description[:1].upper()}{description[1:]}."
    form = with_unit(facts)
    default = toml(field.default) if default_text(field) or field.default == "" else ""
    yield (
        "# "
        + ". ".join(
            part
            for part in (
                form[:1].upper() + form[1:],
                f"Default {default}" if default else "",
                f"Environment {facts['x-environment']}",
                "Reload" if facts.get("x-reload") else "",
            )
            if part
        )
        + "."
    )
    value = default or EXAMPLES[name]
    for word, text in _NAMES[model.role].items():
        value = value.replace(word, text)
    yield f"#{name} = {value}"
    yield from _MORE.get(name, "").splitlines()


def toml(value: Any) -> str:
    """A default as TOML has it."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def schema_text(model: type[Settings]) -> str:
    return json.dumps(schema(model), indent=2, ensure_ascii=False) + "\n"


def files() -> dict[str, str]:
    """All files by their names below ``config/``."""
    found = {f"{model.role}.toml": annotated(model) for model in MODELS}
    return found | {f"schema/{model.role}.json": schema_text(model) for model in MODELS}


def main(arguments: Sequence[str]) -> None:
    """Write them below the given directory."""
    directory = Path(arguments[0])
    (directory / "schema").mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
