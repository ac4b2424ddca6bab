"""What a request uses: estimated before it is sent, as the model says afterwards, estimated where it says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from langchain_core.messages import BaseMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.outputs import ChatGenerationChunk, ChatResult

CHARS_PER_TOKEN: Final = 4
# Names by which integrations bound the length of an answer.
LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")


class Usage:
    """Tokens of one request.

    Attributes:
        reserved: what it is expected to use.
        counted: kind → number: ``input``, ``output``, and ``cached`` of the input; ``estimated`` if the model said
            nothing.
    """

    __slots__ = ("_chars", "_input", "counted", "reserved")

    def __init__(self, messages: list[BaseMessage], options: Mapping[str, Any], expected_output: int) -> None:
        """
        Args:
            options: of the request.
            expected_output: tokens of an answer whose length nobody bounds lower.
        """
        self._input = count_tokens_approximately(messages)
        tools = options.get("tools")
        if tools:
            self._input += len(str(tools)) // CHARS_PER_TOKEN
        bounds = [options[name] for name in LIMITS if isinstance(options.get(name), int)]
        self.reserved = self._input + min([expected_output, *bounds])
        self.counted: dict[str, int] = {}
        self._chars = 0

    def add(self, message: BaseMessage) -> None:
        """An answer, or a part of one."""
        said = getattr(message, "usage_metadata", None)
        if said:
            details = said.get("input_token_details") or {}
            found = {
                "input": said.get("input_tokens", 0),
                "output": said.get("output_tokens", 0),
                "cached": details.get("cache_read", 0),
            }
            for kind, number in found.items():
                if number:
                    self.counted[kind] = self.counted.get(kind, 0) + number
        self._chars += len(str(message.content))

    def complete(self) -> None:
        if not self.counted:
            self.counted["estimated"] = self._input + self._chars // CHARS_PER_TOKEN

    @property
    def total(self) -> int:
        return sum(number for kind, number in self.counted.items() if kind != "cached")


def of_result(usage: Usage, result: ChatResult) -> None:
    for generation in result.generations:
        usage.add(generation.message)


def of_chunk(usage: Usage, chunk: ChatGenerationChunk) -> None:
    usage.add(chunk.message)
