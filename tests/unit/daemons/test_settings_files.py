"""The annotated TOML files and the schemas: complete, true, and as the settings make them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from daemons.settings import MODELS, Settings, WorkerSettings, live_settings
from daemons.settings_files import GROUPS, OTHER, UNUSED, annotated, files, groups
from daemons.settings_forms import NO_RELATIONS
from daemons.settings_schema import schema
from daemons.settings_sources import load


def uncommented(text: str) -> dict[str, Any]:
    """What the file would set if every line of a setting were in force."""
    lines = [line[1:] for line in text.splitlines() if re.match(r"#[a-z_]+ = ", line)]
    return tomllib.loads("\n".join(lines))


def test_files_are_as_the_settings_make_them(repository: Path) -> None:
    for name, text in files().items():
        found = (repository / "config" / name).read_text(encoding="utf-8")
        assert found == text, f"config/{name}: run `python -m daemons.settings_files config`"


def test_the_package_has_all_of_them(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = project["tool"]["setuptools"]["data-files"]
    listed = {name for directory in ("config", "config/schema") for name in shipped[f"share/a2a-zmq/{directory}"]}
    assert {f"config/{name}" for name in files()} <= listed


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_is_shown_once_with_its_default(model: type[Settings], tmp_path: Path) -> None:
    text = annotated(model)
    for name in model.model_fields:
        assert len(re.findall(rf"^#{name} = ", text, re.MULTILINE)) == 1, name
    values = uncommented(text)
    assert set(values) == set(model.model_fields)
    for name, field in model.model_fields.items():
        if field.default is not None and field.default_factory is None and field.default not in ((), {}):
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            assert values[name] == default, name
        description = field.description or ""
        assert f"# {description[:1].upper()}{description[1:]}.\n# " in text, name
    path = tmp_path / "some.toml"
    path.write_text(text, encoding="utf-8")
    assert load(model, config=path, environ={}, directory=tmp_path) == load(model, environ={}, directory=tmp_path)


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_has_a_place(model: type[Settings]) -> None:
    assert OTHER not in dict(groups(model)), "put it into daemons.settings_files.GROUPS"
    known = {name for text in GROUPS.values() for name in text.split()}
    assert known <= {name for each in MODELS for name in each.model_fields}
    assert UNUSED.get(model.role, frozenset()) <= set(model.model_fields)


@pytest.mark.parametrize("model", MODELS)
def test_the_schema_is_one_and_accepts_the_file(model: type[Settings]) -> None:
    made = schema(model)
    jsonschema.Draft202012Validator.check_schema(made)
    text = annotated(model)
    assert text.startswith(f"#:schema ./schema/{model.role}.json\n")
    jsonschema.validate(tomllib.loads(text), made)
    values = uncommented(text)
    jsonschema.validate(values, made)
    if "llm_providers" in values:  # a file that is not here
        values["llm_providers"] = {"fast": {"model": "openai:gpt-4.1-mini", "requests_per_minute": 500}}
    model.model_validate(values, context=NO_RELATIONS)


@pytest.mark.parametrize("model", MODELS)
def test_bounds_in_the_schema_are_those_of_the_settings(model: type[Settings]) -> None:
    for name, facts in schema(model)["properties"].items():
        for bound, step in (("minimum", -1), ("maximum", 1), ("exclusiveMinimum", 0)):
            if bound not in facts:
                continue
            wrong = facts[bound] + step
            with pytest.raises(ValidationError):
                model.model_validate({name: wrong}, context=NO_RELATIONS)
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({name: wrong}, schema(model))
            if step:
                model.model_validate({name: facts[bound]}, context=NO_RELATIONS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"worker_slot": 1},
        {"worker_slots": "two"},
        {"log_level": "loud"},
        {"worker_id": "no id"},
        {"worker_labels": ["a"]},
        {"llm_providers": {"fast": {"model": "m", "modle": "x"}}},
        {"llm_providers": {"fast": {"model": "m", "retries": 21}}},
    ],
)
def test_the_schema_refuses_what_the_settings_refuse(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WorkerSettings.model_validate(wrong)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema(WorkerSettings))


@pytest.mark.parametrize("model", MODELS)
def test_what_may_be_reloaded_is_marked_everywhere(model: type[Settings]) -> None:
    live = live_settings(model)
    assert live <= set(model.model_fields)
    marked = {name for name, facts in schema(model)["properties"].items() if facts.get("x-reload")}
    assert marked == live
    text = annotated(model)
    for name in model.model_fields:
        (line,) = re.findall(rf"^# (.+)\n#{name} = ", text, re.MULTILINE)
        assert line.endswith(" Reload.") is (name in live), name
