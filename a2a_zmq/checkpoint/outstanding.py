"""Which pending writes of a thread are under way, for the saver that blocks.

LangGraph's pool of threads runs ``put_writes`` and ``put`` side by side. A checkpoint waits for the writes of its
thread that have begun, and fails if one of them failed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_FAILED_MAX: Final = 1000


class Outstanding:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: dict[str, set[object]] = {}
        self._failed: dict[str, Exception] = {}

    @contextmanager
    def write(self, thread_id: str) -> Iterator[None]:
        """One ``put_writes``."""
        token = object()
        with self._changed:
            self._running.setdefault(thread_id, set()).add(token)
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
            raise
        finally:
            with self._changed:
                running = self._running[thread_id]
                running.discard(token)
                if not running:
                    del self._running[thread_id]
                if failure is not None:
                    self._note(thread_id, failure)
                self._changed.notify_all()

    def wait(self, thread_id: str) -> None:
        """Until all that are under way now have ended.

        Raises:
            StateError: one that ended since the last call could not be stored.
        """
        failure = self.settle(thread_id)
        if failure is not None:
            raise failure

    def settle(self, thread_id: str) -> Exception | None:
        """The same for who starts from what is stored: failures are past."""
        with self._changed:
            begun = set(self._running.get(thread_id, ()))
            self._changed.wait_for(lambda: not begun & self._running.get(thread_id, set()))
            return self._failed.pop(thread_id, None)

    def _note(self, thread_id: str, failure: Exception) -> None:
        self._failed[thread_id] = failure
        if len(self._failed) > _FAILED_MAX:
            del self._failed[next(iter(self._failed))]
