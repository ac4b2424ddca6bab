"""What is told of a call to a model, for metrics. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

# The request was not sent: the budget would not have had room in time.
REFUSED = "budget"
OK = "ok"


class Call(NamedTuple):
    """One request, or the refusal to send one.

    Attributes:
        provider, model: names in the settings.
        outcome: ``ok``; the HTTP status of an error; ``timeout``, ``connection``, ``cancelled``, ``other``; ``budget``
            if it was not sent.
        seconds: from sending it to the end of the answer.
        tokens: kind → number.
        waited_s: for the budget.
        waited_for: what was missing last: ``requests``, ``tokens``, ``concurrency``, ``paused``; "" if nothing was.
        throttled: the provider asked for less.
    """

    provider: str
    model: str
    outcome: str
    seconds: float
    tokens: dict[str, int]
    waited_s: float
    waited_for: str
    throttled: bool

    @classmethod
    def parse(cls, values: list[Any]) -> Call:
        """From what a child process sent.

        Raises:
            ValueError, TypeError: it is no call.
        """
        provider, model, outcome, seconds, tokens, waited_s, waited_for, throttled = values
        if not isinstance(tokens, dict):
            raise TypeError("tokens: expected an object")
        counted = {str(kind): int(number) for kind, number in tokens.items()}
        texts = str(provider), str(model), str(outcome)
        return cls(*texts, float(seconds), counted, float(waited_s), str(waited_for), throttled is True)
