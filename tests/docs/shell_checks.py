"""Checks commands without running them: the program is there, and knows these subcommands and flags."""

from __future__ import annotations

import argparse
import configparser
import importlib.util
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer

from daemons.cli.main import app
from daemons.redis.main import _PRINT as PRINT_CONFIG
from daemons.settings import MODELS
from daemons.settings_forms import env_name
from daemons.settings_sources import parser_of

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DAEMONS = {f"a2a-{model.role}": model for model in MODELS}


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What an operator's host has, and a machine that only runs the tests need not.
ELSEWHERE = words("""
    apt apt-get curl docker dpkg dpkg-reconfigure git gpg grafana-server ip journalctl jq lintian loginctl nc
    nfpm nft openssl otelcol pip podman prometheus promtool py-spy python redis-cli rsync scp ssh sudo supervisorctl
    supervisord sysctl systemctl systemd-analyze systemd-run timedatectl ufw uvicorn valkey-cli
""")
WORDS = words("""
    ! case do done elif else esac fi for if in then time until while { }
""")
BUILTINS = words("""
    . [ [[ alias cd echo eval exec exit export false kill printf pwd read set source test trap true type
    ulimit umask unset wait
""")
# Flags that are no settings.
OWN_FLAGS = {"a2a-redis": (PRINT_CONFIG,)}
SEPARATORS = frozenset({";", "&&", "||", "|", "&", "\n", "(", ")", ";;", "|&"})
SUPERVISOR = words("""
    add avail clear fg pid reload remove reread restart shutdown signal start status stop tail update version
""")
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)\+?=")
HEREDOC = re.compile(r"<<-?\s*'?\"?(\w+)'?\"?[^\n]*\n.*?^\s*\1$", re.DOTALL | re.MULTILINE)


def complaints_of(text: str) -> list[str]:
    """What is wrong with some lines of shell, one text each."""
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        return [done.stderr.strip()]
    return [complaint for command in commands_of(text) for complaint in check(command)]


def commands_of(text: str) -> Iterator[list[str]]:
    """Simple commands, in substitutions too, as lists of words; redirections and keywords are left out."""
    text = HEREDOC.sub("\n", text).replace("\\\n", " ")
    inner: list[str] = []

    def keep(match: re.Match[str]) -> str:
        inner.append(match[1])
        return "SUBSTITUTED"

    text = re.sub(r"\$\(((?:[^()]|\([^()]*\))*)\)", keep, text)
    for part in inner:
        yield from commands_of(part)
    pending = ""
    for line in text.splitlines():
        lexer = shlex.shlex(pending + line, posix=True, punctuation_chars=";&|()<>")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        try:
            found = [*lexer]
        except ValueError:  # a quotation goes on in the next line
            pending += line + "\n"
            continue
        pending = ""
        command: list[str] = []
        tokens = iter([*found, "\n"])
        for word in tokens:
            if word in SEPARATORS:
                if command:
                    yield command
                command = []
            elif set(word) <= set("<>&"):
                next(tokens)  # the file
            elif not (word in WORDS and not command):
                command.append(word)


def check(command: list[str]) -> Iterator[str]:
    """Complaints about one simple command."""
    rest = list(command)
    while rest and (found := ASSIGNMENT.match(rest[0])):
        yield from check_variable(found[1])
        rest.pop(0)
    if not rest:
        return
    program, arguments = rest[0], rest[1:]
    if program == "export":
        for word in arguments:
            if found := ASSIGNMENT.match(word):
                yield from check_variable(found[1])
    elif program == "sudo":
        yield from check([word for word in arguments if not word.startswith("-")] or ["true"])
    elif program == "a2actl":
        yield from check_a2actl(arguments)
    elif program in DAEMONS:
        known = daemon_flags(program)
        yield from (f"{program} has no {flag}" for flag in flags_of(arguments) if flag not in known)
    elif program == "make":
        targets = set(
            re.findall(r"^([a-z][a-z-]*):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        )
        yield from (f"make has no target {word}" for word in arguments if "=" not in word and word not in targets)
    elif program == "supervisorctl":
        yield from check_supervisorctl(arguments)
    elif program == "python" and arguments[:1] == ["-m"]:
        yield from check_module(arguments[1], arguments[2:])
    elif program == "python" and arguments and arguments[0].startswith(("examples/", "benchmarks/")):
        if not (REPOSITORY / arguments[0]).is_file():
            yield f"there is no {arguments[0]}"
    elif program not in BUILTINS | ELSEWHERE and shutil.which(program) is None and "/" not in program:
        yield f"there is no program {program}"


def flags_of(arguments: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in arguments if re.match(r"--?[a-zA-Z]", word)]


@cache
def variables() -> frozenset[str]:
    return frozenset(env_name(name) for model in MODELS for name in model.model_fields)


def check_variable(name: str) -> Iterator[str]:
    if name.startswith(("A2A_", "REDIS_")) and name not in variables():
        yield f"there is no setting {name}"


@cache
def daemon_flags(program: str) -> frozenset[str]:
    parser: argparse.ArgumentParser = parser_of(DAEMONS[program])
    return frozenset({*parser._option_string_actions, *OWN_FLAGS.get(program, ())})


def check_a2actl(arguments: list[str]) -> Iterator[str]:
    """Walks down the commands as the program itself does."""
    group: Any = typer.main.get_command(app)
    everywhere = dict(options_of(group))
    known = dict(everywhere)
    words = iter(arguments)
    for word in words:
        name, equals, _ = word.partition("=")
        if word == "--":
            return
        if re.match(r"--?[a-zA-Z]", word):
            if name not in known:
                yield f"a2actl {getattr(group, 'name', '')} has no {name}"
            elif known[name] and not equals:
                next(words, None)
        elif hasattr(group, "commands"):
            if word not in group.commands:
                yield f"a2actl has no command {word}"
                return
            group = group.commands[word]
            known = everywhere | dict(options_of(group))


def options_of(command: Any) -> Iterator[tuple[str, bool]]:
    """(flag, whether it takes a value) of a command."""
    yield from (("--help", False), ("-h", False))
    for param in command.params:
        for flag in (*param.opts, *param.secondary_opts):
            if flag.startswith("-"):
                yield flag, not param.is_flag and not param.count


def check_supervisorctl(arguments: list[str]) -> Iterator[str]:
    words = list(arguments)
    if words[:1] == ["-c"]:
        words = words[2:]
    words = [word for word in words if not word.startswith("-")]
    if words and words[0] not in SUPERVISOR:
        yield f"supervisorctl has no command {words[0]}"
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read(REPOSITORY / "config" / "supervisord.conf")
    for name in words[1:]:
        if re.fullmatch(r"(redis|coordinator|(distributor|worker)-[12])", name) and not parser.has_section(
            f"program:{name}"
        ):
            yield f"config/supervisord.conf has no program {name}"


def check_module(module: str, arguments: list[str]) -> Iterator[str]:
    """``python -m``: the module is there, and one of ours names its flags."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        yield f"there is no module {module}"
        return
    source = Path(spec.origin)
    if REPOSITORY in source.parents and ".venv" not in source.parts:
        files = source.parent.glob("*.py") if spec.submodule_search_locations else [source]
        text = "".join(file.read_text(encoding="utf-8") for file in files)
        yield from (f"{module} does not know {flag}" for flag in flags_of(arguments) if f'"{flag}"' not in text)
