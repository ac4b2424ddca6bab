"""Examples of every command: what ``--help``, the man page and docs/cli.md show of it. A test reads each line."""

from __future__ import annotations

from typing import Final, NamedTuple


class Example(NamedTuple):
    """A command line, and what it is for."""

    line: str
    purpose: str


def _of(*pairs: tuple[str, str]) -> tuple[Example, ...]:
    return tuple(Example(*pair) for pair in pairs)


# By the command's path, without a2actl.
EXAMPLES: Final[dict[str, tuple[Example, ...]]] = {
    "submit": _of(
        ("a2actl submit noop", "one task; prints its id"),
        ("""a2actl submit compute --payload '{"operation":"sum","numbers":[1,2]}' --wait""", "and its result"),
        ("a2actl submit --file tasks.jsonl --wait --json", "many tasks, one JSON object a line"),
        ("""a2actl submit graph:research --payload '{"input": {}}' --stream""", "a graph, live"),
    ),
    "stream": _of(
        ("a2actl stream ID", "what the task's graph tells, from its first event that is kept"),
        ("a2actl stream ID --from 1-17", "what came after that event"),
    ),
    "result": _of(
        ("a2actl result ID", "waits up to 30 s"),
        ("a2actl --timeout 600 result ID --json", "waits up to ten minutes"),
    ),
    "resume": _of(
        ("a2actl resume ID --value true --wait", "answers the only question, and waits for what comes next"),
        ("a2actl resume ID --interrupt QUESTION --text 'as you like'", "answers one of several"),
    ),
    "task": _of(("a2actl task ID", "the whole record, with payload and result")),
    "tasks": _of(
        ("a2actl tasks", "what has not ended, the oldest first"),
        ("a2actl tasks --status in_progress --worker worker-2", "what a worker runs"),
        (
            "a2actl tasks --status failed --newer 1h --text timeout",
            "what failed of the last hour's tasks, by its error",
        ),
        ("a2actl tasks --older 10m --sort type --limit 200", "what has been there for long"),
        ("a2actl tasks --dead --owner reports", "a client's dead letters"),
    ),
    "explain": _of(("a2actl explain ID", "where it stands, why it waits, who holds it, what happened to it")),
    "cancel": _of(("a2actl cancel ID ID", "ends them; what runs is stopped")),
    "retry": _of(
        ("a2actl retry ID", "runs it anew"),
        ("a2actl retry --dead --type compute", "runs all dead letters of a type anew"),
    ),
    "history": _of(
        ("a2actl history --limit 20", "what happened last in the fleet"),
        ("a2actl history ID --json", "all that is kept of one task"),
    ),
    "status": _of(
        ("a2actl status", "the fleet at a glance"),
        ("a2actl --timeout 60 status --wait", "waits until the fleet can run tasks"),
        ("a2actl status --json | jq .tasks", "numbers for a script"),
    ),
    "top": _of(
        ("a2actl top", "live; q leaves, s sorts, r reverses, p pauses, arrows scroll"),
        ("a2actl top --sort latency --interval 1", "the slowest first, each second"),
        ("a2actl top --count 1 --json", "one measurement for a script"),
    ),
    "drain": _of(
        ("a2actl drain worker-2", "lets it finish, hand back and leave"),
        ("a2actl drain worker-2 --wait --timeout 120", "returns when it has left"),
    ),
    "failover": _of(("a2actl failover distributor-2", "its tasks go to others now")),
    "doctor": _of(
        ("a2actl doctor", "what is wrong, and how to mend it"),
        ("a2actl doctor --repair", "and mends the state where there is one right answer"),
    ),
    "keys init": _of(("a2actl keys init", "keys for the default fleet, on the issuing host")),
    "keys add": _of(
        ("a2actl keys add worker-7", "admits a worker"),
        ("a2actl keys add gpu-box worker", "where the name does not say the role"),
    ),
    "keys rotate": _of(("a2actl keys rotate worker-7", "a new key; the one before stays valid until the next time")),
    "keys revoke": _of(("a2actl keys revoke worker-7", "shuts it out within a second")),
    "keys export": _of(("a2actl keys export worker-7 ./worker-7", "what its host needs, and nobody else's secrets")),
    "config check": _of(
        ("a2actl config check", "what is in /etc/a2a-zmq, ./config, or here"),
        ("a2actl config check worker.toml --json", "one file, for a program"),
        ("a2actl config check /etc/a2a-zmq", "before a reload or a restart"),
    ),
    "config show-defaults": _of(("a2actl config show-defaults worker > worker.toml", "a file to begin with")),
    "config schema": _of(("a2actl config schema worker > worker.json", "for an editor")),
    "config acl": _of(("a2actl config acl --user fleet", "a line for Redis' ACL file")),
    "keys list": _of(("a2actl keys list", "who is in the fleet")),
    "demo": _of(("a2actl demo --kill-worker", "a fleet at work, one worker of which is killed")),
    "bench": _of(("a2actl bench --only latency,throughput --json", "two of the measurements")),
    "chaos": _of(
        ("a2actl chaos --once --seed 7", "each kind of fault once"),
        ("a2actl chaos --faults worker-kill=20,redis-kill=2", "these, so often"),
    ),
    "soak": _of(("a2actl soak --duration 600 --rate 500", "ten minutes at 500 tasks a second")),
    "completion": _of(
        ("a2actl completion bash > ~/.local/share/bash-completion/completions/a2actl", "for one user"),
        ("a2actl completion zsh > /usr/local/share/zsh/site-functions/_a2actl", "for all users"),
        ("a2actl completion fish > ~/.config/fish/completions/a2actl.fish", "for one user"),
    ),
    "schema": _of(
        ("a2actl schema", "which commands have one"),
        ("a2actl schema status", "JSON schema of what status --json prints"),
    ),
}


def epilog(path: str) -> str:
    """The examples as they stand below the options in ``--help``."""
    lines = ["\b", "Examples:"]
    for example in EXAMPLES[path]:
        lines += [f"  {example.line}", f"      {example.purpose}"]
    return "\n".join(lines)
