"""Help, man pages and references: made from the commands' definitions, and true."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daemons.cli import manual
from daemons.cli.examples import EXAMPLES
from daemons.cli.main import GLOBAL_OPTIONS, hoist, main, root
from daemons.cli.schema_reference import json_schema, reference
from daemons.cli.schemas import OUTPUTS

REPOSITORY = Path(__file__).resolve().parent.parent.parent.parent
PATHS = [entry.path for entry in manual.commands()]


def test_the_reference_of_commands_is_up_to_date() -> None:
    text = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    assert manual.markdown() in text, "run `python -m daemons.cli.manual --markdown` and put it into docs/cli.md"


def test_the_reference_of_json_is_up_to_date() -> None:
    text = (REPOSITORY / "docs" / "cli-json.md").read_text(encoding="utf-8")
    assert reference() in text, "run `python -m daemons.cli.schema_reference` and put its tables into docs/cli-json.md"


def test_every_command_has_examples() -> None:
    assert set(PATHS) == set(EXAMPLES)


@pytest.mark.parametrize("path", PATHS)
def test_examples_are_command_lines_that_are_understood(path: str) -> None:
    for example in EXAMPLES[path]:
        words = shlex.split(example.line.partition(" > ")[0].partition(" | ")[0])
        assert words[0] == "a2actl"
        command: Any = root()
        arguments = hoist(words[1:])
        while arguments[0] in GLOBAL_OPTIONS:
            arguments = arguments[2 if GLOBAL_OPTIONS[arguments[0]] else 1 :]
        for name in path.split():
            assert arguments.pop(0) == name
            command = command.commands[name]
        command.make_context(path, arguments)  # raises where something is wrong


@pytest.mark.parametrize("path", PATHS)
def test_help_has_examples_and_fits_eighty_columns(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*path.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    for example in EXAMPLES[path]:
        assert f"    {example.line}\n" in text, "it can be copied"
    assert not [line for line in text.splitlines() if len(line) > 80]


@pytest.mark.parametrize("place", list(manual.pages()))
def test_man_pages_are_clean(place: str, tmp_path: Path) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is not installed")
    page = tmp_path / "page"
    page.write_text(manual.pages()[place], encoding="ascii")
    done = subprocess.run(
        [groff, "-man", "-ww", "-Tutf8", str(page)], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stderr == ""
    assert "EXIT STATUS" in done.stdout.replace("\b", "").replace("EEXXIITT SSTTAATTUUSS", "EXIT STATUS")


def test_man_pages_and_completions_are_written_below_a_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert manual.main([str(tmp_path)]) == 0
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"man1/a2actl.1", "man8/a2a-coordinator.8", "man8/a2a-distributor.8", "man8/a2a-worker.8"} <= names
    assert {"man8/a2a-redis.8", "completions/a2actl", "completions/_a2actl", "completions/a2actl.fish"} <= names
    page = (tmp_path / "man1/a2actl.1").read_text()
    assert all(f'.SS "{path}"'.replace("-", "\\-") in page for path in PATHS)
    assert manual.main(["--odd"]) == 2
    assert "usage" in capsys.readouterr().err


def test_man_pages_name_every_setting_of_a_daemon_but_secrets() -> None:
    page = manual.pages()["man8/a2a-worker.8"]
    assert "\\-\\-worker\\-slots" in page
    assert "A2A_WORKER_SLOTS" in page
    assert "token" not in page.lower()


@pytest.mark.parametrize("path", OUTPUTS)
def test_schemas_allow_what_later_releases_add(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", *path.split()]) == 0
    assert '"$schema"' in capsys.readouterr().out
    assert "additionalProperties" not in json_schema(OUTPUTS[path])


def test_schemas_are_listed_and_others_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out.splitlines() == list(OUTPUTS)
    assert main(["schema", "bench"]) == 2
    assert "'bench' prints no JSON that is described" in capsys.readouterr().err


# ---------------------------------------------------------------- shells


def completed(line: str, shell: str = "fish", **more: str) -> list[str]:
    """What a shell is given at TAB behind this line."""
    words = line.split(" ")
    env = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)} if shell == "bash" else {}
    env |= {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args", **more}
    env |= {"_A2ACTL_COMPLETE": f"complete_{shell}", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", "daemons.cli.main"], env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr == ""
    return [text.partition("\t")[0] for text in done.stdout.splitlines() if text]


def test_commands_options_and_values_are_completed() -> None:
    assert {"status", "submit", "stream"} <= set(completed("a2actl s"))
    found = completed("a2actl tasks --")
    assert {"--worker", "--older", "--json", "--timeout"} <= set(found), "global options may stand here, too"
    assert completed("a2actl tasks --status in") == ["in_progress"]
    assert completed("a2actl top --sort l") == ["load", "latency"]


def test_names_of_keys_are_completed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "init", "--key-dir", str(tmp_path / "keys")]) == 0
    assert completed("a2actl keys rotate w", A2A_KEY_DIR=str(tmp_path / "keys")) == ["worker-1", "worker-2"]
    assert completed("a2actl keys rotate w", A2A_KEY_DIR=str(tmp_path / "none")) == []
    assert main(["keys", "revoke", "worker-2", "--key-dir", str(tmp_path / "keys")]) == 0
    assert completed("a2actl keys rotate w", A2A_KEY_DIR=str(tmp_path / "keys")) == ["worker-1"]
    assert completed("a2actl keys add w", A2A_KEY_DIR=str(tmp_path / "keys")) == ["worker-2"]


def test_bash_completes(tmp_path: Path) -> None:
    (tmp_path / "a2actl").write_text(f'#!/bin/sh\nexec {sys.executable} -m daemons.cli.main "$@"\n')
    (tmp_path / "a2actl").chmod(0o755)
    code = (
        'eval "$(a2actl completion bash)"; COMP_WORDS=(a2actl keys re); COMP_CWORD=2; _a2actl_completion a2actl;'
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        ["bash", "-c", code], env=env, capture_output=True, text=True, timeout=30, check=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["revoke"], done.stderr


def test_zsh_completes_at_the_first_tab_of_an_autoloaded_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef a2actl\n")
    assert '_a2actl_completion "$@"' in script
