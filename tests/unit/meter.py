"""A meter for cores in tests."""

from __future__ import annotations


class CountingMeter:
    """Keeps what was counted, by name and labels."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}
        self.observed: dict[str, list[float]] = {}
        self.gauges: dict[str, float] = {}

    @staticmethod
    def _key(name: str, labels: dict[str, str]) -> str:
        return name + "".join(f"/{labels[label]}" for label in sorted(labels))

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        key = self._key(name, labels)
        self.counts[key] = self.counts.get(key, 0) + amount

    def observe(self, name: str, value: float, **labels: str) -> None:
        self.observed.setdefault(self._key(name, labels), []).append(value)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.gauges[self._key(name, labels)] = value
