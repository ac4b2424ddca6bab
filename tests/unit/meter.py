"""A meter for cores in tests."""

from __future__ import annotations

from daemons.runtime.exemplars import Exemplar


class CountingMeter:
    """Keeps what was counted, by name and labels."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}
        self.observed: dict[str, list[float]] = {}
        self.gauges: dict[str, float] = {}
        self.exemplars: dict[str, Exemplar] = {}

    @staticmethod
    def _key(name: str, labels: dict[str, str]) -> str:
        return name + "".join(f"/{labels[label]}" for label in sorted(labels))

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        key = self._key(name, labels)
        self.counts[key] = self.counts.get(key, 0) + amount

    def observe(self, name: str, value: float, exemplar: Exemplar | None = None, **labels: str) -> None:
        key = self._key(name, labels)
        self.observed.setdefault(key, []).append(value)
        if exemplar is not None:
            self.exemplars[key] = exemplar

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.gauges[self._key(name, labels)] = value

    def forget(self, name: str, **labels: str) -> None:
        self.gauges.pop(self._key(name, labels), None)
