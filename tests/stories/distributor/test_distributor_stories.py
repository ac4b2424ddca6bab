"""Each text beside this file is a story; what it says has to be what happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stories.distributor.runner import STORIES, tell


@pytest.mark.parametrize("path", sorted(STORIES.glob("*.txt")), ids=lambda path: path.stem)
def test_story(path: Path) -> None:
    text = path.read_text()
    assert tell(text) == text
