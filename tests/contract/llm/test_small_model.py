"""The same with a real model: SmolLM2 with 135 million parameters, served by llama.cpp."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from a2a_zmq.llm.calls import Call
from a2a_zmq.llm.models import Models

PATIENCE_S = 150.0


@pytest.mark.timeout(PATIENCE_S)
def test_a_real_model_answers_and_says_what_it_used(
    small_model: Path, repository: Path, one_url: str, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMALL_MODEL_KEY", "none is needed")
    command = [sys.executable, str(repository / "examples" / "graphs" / "small_model.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ
    ) as served:
        assert served.stdout is not None
        url = served.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        table: dict[str, Any] = {
            "model": "smollm2",
            "model_provider": "openai",
            "base_url": url,
            "api_key_env": "SMALL_MODEL_KEY",
            "options": {"temperature": 0, "max_tokens": 12},
            "tokens_per_minute": 5000,
            "concurrency": 1,
        }
        calls: list[Call] = []
        models = Models({provider: table}, one_url, None, calls.append)
        model = models.get(provider, {})
        whole = model.invoke("Say hello.")
        assert str(whole.content).strip()
        assert "".join(str(chunk.content) for chunk in model.stream("Say hello.")) == whole.content

        async def both() -> Any:
            return await asyncio.gather(model.ainvoke("Say hello."), model.ainvoke("What is the moon?"))

        assert all(str(answer.content).strip() for answer in asyncio.run(both()))
        models.close()
        served.communicate()
    assert [call.outcome for call in calls] == ["ok"] * 4
    for call in calls:
        assert call.tokens["input"] > 10
        assert 1 <= call.tokens["output"] <= 12
    assert calls[0].tokens["output"] == calls[1].tokens["output"], "a stream counts as much"
