"""Every story of this folder happens as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stories.coordinator.runner import Story, stories


@pytest.mark.parametrize("path", stories(), ids=lambda path: path.stem)
def test_the_story_happens_as_written(path: Path) -> None:
    text = path.read_text()
    assert Story().run(text) == text
