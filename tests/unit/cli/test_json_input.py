"""JSON that a user gives ``a2actl``: nothing becomes another value without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daemons.cli.json_input import JsonRefused, parse_json
from daemons.cli.main import main

BIG = "123456789012345678901234567890"


@pytest.mark.parametrize("text", [BIG, f"-{BIG}", f'{{"a": [{BIG}]}}', str(1 << 64), str(-(1 << 63) - 1), "1" * 300])
def test_integers_of_more_than_64_bits_are_refused(text: str) -> None:
    with pytest.raises(JsonRefused, match="exceeds the 64-bit range"):
        parse_json(text)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "[NaN]", "1e400", "{", "", "9" * 6000])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(JsonRefused, match=r"^is not JSON"):
        parse_json(text)


def test_depth_is_no_traceback() -> None:
    with pytest.raises(JsonRefused, match="nested"):
        parse_json("[" * 1020 + str((1 << 64) - 1) + "]" * 1020)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (str((1 << 64) - 1), (1 << 64) - 1),
        (str(-(1 << 63)), -(1 << 63)),
        (f"{BIG}.0", float(BIG)),
        (f"[{BIG}e2]", [float(BIG) * 100]),
        (f'{{"{BIG}": "-{BIG}"}}', {BIG: f"-{BIG}"}),
    ],
)
def test_what_can_be_carried_is_taken(text: str, value: Any) -> None:
    assert parse_json(text) == value
    assert parse_json(text.encode()) == value


def test_commands_refuse_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("A2A_STATE_DIR", str(tmp_path / "state"))
    assert main(["keys", "init"]) == 0
    file = tmp_path / "tasks.jsonl"
    file.write_text(f'{{"payload": {{}}}}\n{{"payload": {{"a": {BIG}}}}}\n')
    cases = [
        (["submit", "echo", "--payload", f'{{"a": {BIG}}}'], 2, "--payload has an integer"),
        (["submit", "graph:g", "--stream", "--payload", f'{{"input": {BIG}}}'], 2, "--payload has an integer"),
        (["resume", "t1", "--value", BIG], 2, "--value has an integer"),
        (["submit", "echo", "--file", str(file)], 1, f"{file}, line 2: has an integer"),
    ]
    for line, status, told in cases:
        capsys.readouterr()
        assert main([*line, "--address", "tcp://127.0.0.1:1", "--timeout", "0.2"]) == status
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
