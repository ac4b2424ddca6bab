"""Where a task goes: the policy alone, on values, so that it can be read and replaced whole.

*Eligible* is a distributor that is registered, up, not draining, and has a live worker for the task's type (and
labels: one worker must have both). A suspect one (its connection broke a moment ago) counts only where there is no
other: what is placed on it is durable, and waits for its return. A pinned task goes to its distributor even when that
is away: no other one may take it.

*Among the eligible* a group of equal tasks is spread so that unfinished tasks per slot become as equal as possible.
Trade-offs:

* Groups, not tasks, are placed: cost is O(tasks + groups x distributors). A group is a run of equal tasks of one
  wake-up, so single tasks are still placed one by one, on the least loaded.
* The load is our own count (placed and unfinished), not the distributor's heartbeat, which is up to an interval old:
  with it, everything that arrives within one interval would go to the same distributor. It does not know how long
  tasks run: a distributor whose tasks take longer ends up with a longer queue until the counts show it.
* Ties are broken by chance, so that single tasks on an idle fleet do not all meet at the first distributor.
* A task is bound as soon as anybody can run it; it is not kept back for a distributor that may be better later. That
  keeps the coordinator out of the way of a task's latency, at the price that a newcomer takes only new tasks.
* Priority does not choose a distributor; it chooses the order: within a wake-up, in the queue for a distributor's
  window, and in the distributor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar


class Wanted(Protocol):
    """What a task asks for."""

    task_type: str
    pinned: str
    labels: dict[str, str] | None


class Site(Protocol):
    """What placement has to know of a distributor."""

    registered: bool
    up: bool
    suspect: bool
    draining: bool
    task_types: frozenset[str]
    offers: list[tuple[frozenset[str], dict[str, str]]]
    slots: int

    @property
    def load(self) -> int:
        """Unfinished tasks, but for those that wait for an answer."""


SiteT = TypeVar("SiteT", bound=Site)


def capable(need: Wanted, site: Site) -> bool:
    """True if a live worker of the site handles this type and has the labels.

    A site tells the labels a moment after its types; until then it gets no task that asks for some, because once placed
    a task stays.
    """
    if need.task_type not in site.task_types or not need.labels:
        return need.task_type in site.task_types
    wanted = need.labels.items()
    return any(need.task_type in types and wanted <= labels.items() for types, labels in site.offers)


def eligible(need: Wanted, sites: Mapping[str, SiteT]) -> list[SiteT]:
    """The distributors that a task with this need may be placed on now; none: it stays in the inbox."""
    if need.pinned:
        site = sites.get(need.pinned)
        return [site] if site is not None and site.registered and not site.draining else []
    found = [
        site for site in sites.values() if site.registered and site.up and not site.draining and capable(need, site)
    ]
    return _steady(found)


def _steady(found: list[SiteT]) -> list[SiteT]:
    return [site for site in found if not site.suspect] or found


class Choices(Generic[SiteT]):
    """:func:`eligible` for many needs at one moment. What depends on the sites is worked out once, so a need costs what
    its own labels cost, however many distributors and workers there are that do not have them.

    Attributes:
        work: what was looked at for the needs so far: these, sites, and workers' labels.
    """

    def __init__(self, sites: Mapping[str, SiteT]) -> None:
        self._sites = sites
        self._open = [site for site in sites.values() if site.registered and site.up and not site.draining]
        self._by_type: dict[str, list[SiteT]] = {}
        self._by_label: dict[tuple[str, str], list[tuple[SiteT, frozenset[str], dict[str, str]]]] | None = None
        self.work = 0

    def of(self, need: Wanted) -> list[SiteT]:
        """The same as :func:`eligible`; not to be changed."""
        self.work += 1
        if need.pinned:
            return eligible(need, self._sites)
        if need.labels:
            return _steady(self._labelled(need, need.labels))
        found = self._by_type.get(need.task_type)
        if found is None:
            self.work += len(self._open)
            found = _steady([site for site in self._open if need.task_type in site.task_types])
            self._by_type[need.task_type] = found
        return found

    def _labelled(self, need: Wanted, labels: dict[str, str]) -> list[SiteT]:
        by_label = self._labels()
        # Most often it is one label that nobody has; else only who has the rarest one is looked at.
        having = min(
            (by_label.get(label, ()) if isinstance(label[1], str) else () for label in labels.items()), key=len
        )
        self.work += len(having)
        found: list[SiteT] = []
        for site, types, has in having:
            fits = need.task_type in types and need.task_type in site.task_types and labels.items() <= has.items()
            if fits and not (found and found[-1] is site):  # workers of one site stand together
                found.append(site)
        return found

    def _labels(self) -> dict[tuple[str, str], list[tuple[SiteT, frozenset[str], dict[str, str]]]]:
        if self._by_label is None:
            self._by_label = {}
            for site in self._open:
                for types, labels in site.offers:
                    for name, value in labels.items():
                        if isinstance(value, str):  # it is a peer's message; nobody can ask for anything else
                            self._by_label.setdefault((name, value), []).append((site, types, labels))
        return self._by_label


def spread(count: int, sites: Sequence[SiteT], rng: Callable[[], float]) -> Iterable[tuple[SiteT, int]]:
    """Share ``count`` equal tasks out so that unfinished tasks per slot are levelled, like water into joined vessels.

    Args:
        sites: at least one.
        rng: uniform in [0, 1); breaks ties.
    """
    if len(sites) == 1:
        return ((sites[0], count),)
    ranked = sorted(sites, key=lambda site: (site.load / site.slots, rng()))
    total = 0
    slots = 0
    filled = 0
    for site in ranked:
        # The next vessel takes part only if the level of those before it reaches its own.
        if filled and (total + count) * site.slots <= site.load * slots:
            break
        total += site.load
        slots += site.slots
        filled += 1
    level = (total + count) / slots
    shares = [max(0, int(level * site.slots) - site.load) for site in ranked[:filled]]
    rest = count - sum(shares)
    index = 0
    while rest:  # rounding leaves at most one task a site; a rounded-up float may ask for one back
        step = 1 if rest > 0 else -1
        if shares[index] + step >= 0:
            shares[index] += step
            rest -= step
        index = (index + 1) % filled
    return ((site, share) for site, share in zip(ranked, shares, strict=False) if share)
