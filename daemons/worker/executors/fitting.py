"""Which child may run what.

Imported modules and environment variables are those of a whole process, and two projects may each have a package
``utils`` and a variable ``API_KEY`` of their own. So a child runs the graphs of one project, or handlers, and nothing
else; it belongs to whatever it imported first. What comes with a worker is the same everywhere, and binds nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

from daemons.worker.executors.child import GRAPH

if TYPE_CHECKING:
    from daemons.worker.executors.process_child import ChildProcess, Job

OUR_OWN: Final = "daemons.worker.builtin"
HANDLERS: Final = ""


def project_of(reference: str) -> str | None:
    """The ``langgraph.json`` of a graph, HANDLERS for a handler; None for what fits everywhere."""
    if reference.startswith(GRAPH):
        return reference.rpartition("#")[0]
    return None if reference.startswith(OUR_OWN) else HANDLERS


def fits(child: ChildProcess, reference: str) -> bool:
    """Whether this child may run it."""
    return child.project is None or project_of(reference) in (None, child.project)


def first_fit(pending: Iterable[Job], free: Collection[ChildProcess]) -> tuple[Job, ChildProcess] | None:
    """The first job for which one of these children may be used, and the best one for it."""
    for job in pending:
        fitting = [child for child in free if fits(child, job.reference)]
        if fitting:
            # One that has imported the handler; of several the one used last, whose memory is in the caches.
            return job, max(fitting, key=lambda each: (job.reference in each.knows, each.idle_since))
    return None


def in_the_way(children: Collection[ChildProcess], count: int) -> list[ChildProcess]:
    """So many free children at most, which are to leave because others are needed: those that were not used longest."""
    leaving = sum(child.retired_at is not None for child in children)
    idle = sorted((child for child in children if child.free), key=lambda child: child.idle_since)
    return idle[: max(0, count - leaving)]


def to_import(children: Collection[ChildProcess], wanted: Iterable[str]) -> tuple[ChildProcess, str] | None:
    """A free child, and which of these handlers it is to import; one at a time, so that other free ones stay free."""
    if any(child.loading for child in children):
        return None
    spares = [child.project for child in children if child.spare]

    def have(reference: str) -> int:
        project = project_of(reference)
        return -1 if project is None else spares.count(project)

    references = list(wanted)
    for child in children:
        lacking = [name for name in references if name not in child.knows and fits(child, name)]
        if child.free and lacking:
            # A child that belongs to nobody yet goes to the project that has the fewest.
            return child, min(lacking, key=have)
    return None
