"""Taking a section over from whoever wrote it before."""

from __future__ import annotations

from a2a_zmq.errors import Fenced
from a2a_zmq.interfaces import Loaded, Section, SectionWrite, StateStore


async def take_section(store: StateStore, section: Section, fence: int, mutation_id: str) -> Loaded:
    """Shut the previous owner out of a section, then read it.

    Taking a lease raises the fence in one header only: the inbox's for a new leader. In its sections of the
    distributors the old leader could still write, and unseen after they were read, until the new one has written
    there itself. So raise the fence by an empty write first; what is loaded afterwards can only be changed by us.

    Args:
        fence: of the lease that covers the section.
        mutation_id: fresh.

    Raises:
        Fenced: somebody with a higher fence owns it by now.
        StoreUnavailable, VersionConflict: as :meth:`StateStore.apply`.
    """
    store.rebase(section)
    loaded = await store.load(section)
    if loaded.fence > fence:
        raise Fenced(fence, loaded.fence)
    if loaded.fence < fence:
        await store.apply(SectionWrite(section, fence, mutation_id))
        loaded = await store.load(section)
    return loaded
