"""``a2actl top``: the fleet at work, in place on a terminal, once (or so many times) anywhere else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from a2a_zmq.client.sync import FleetClient
from a2a_zmq.errors import A2AError
from daemons.cli import output
from daemons.cli.fleet_view import SORTS, View, top_lines
from daemons.cli.invocation import Invocation, print_json
from daemons.cli.progress import Busy
from daemons.cli.rates import Json, Sample, picture

KEY_WAIT_S = 0.1


class Sampler(threading.Thread):
    """Asks the fleet again and again, so that keys are heard while it does not answer.

    Attributes:
        samples: the last two; ``error`` is why there is no newer one, "" if there is.
        patience_s: older ones want an explanation.
    """

    def __init__(self, ask: Callable[[], Sample], first: Sample, interval_s: float) -> None:
        super().__init__(name="a2actl-top", daemon=True)
        self._ask = ask
        self._interval_s = interval_s
        self._over = threading.Event()
        self.samples: tuple[Sample | None, Sample] = (None, first)
        self.error = ""
        self.patience_s = 2 * interval_s + 1.0

    def run(self) -> None:
        while not self._over.wait(self._interval_s):
            try:
                sample = self._ask()
            except A2AError as error:
                self.error = str(error)
                continue
            self.samples, self.error = (self.samples[1], sample), ""

    def end(self) -> None:
        """No more questions; one that is under way ends with its client."""
        self._over.set()


def top(run: Invocation, *, interval_s: float, count: int | None, sort: str) -> None:
    """Show it until somebody has seen enough."""
    live = sys.stdout.isatty() and not output.is_dumb() and not run.json and count is None
    with Busy("asking the fleet", enabled=not run.json):
        client = run.client()
    with client:
        with Busy("asking the fleet", enabled=not run.json):
            first = _sample(client)
        if live:
            _watch(client, first, View(sort=sort), interval_s)
        else:
            _report(run, client, first, View(sort=sort), count=count or 1, interval_s=interval_s)


def _sample(client: FleetClient) -> Sample:
    status = client.status(load=True)
    return Sample(status, time.monotonic())


def _report(run: Invocation, client: FleetClient, before: Sample, view: View, *, count: int, interval_s: float) -> None:
    """So many pictures, one below the other."""
    for number in range(count):
        with Busy(f"counting for {interval_s:g} s", enabled=not run.json):
            time.sleep(interval_s)
            after = _sample(client)
        found = picture(before, after)
        before = after
        if run.json:
            print_json(found)
            continue
        if number:
            print()
        output.print_lines(top_lines(found, view, output.width(), None))


def _watch(client: FleetClient, first: Sample, view: View, interval_s: float) -> None:
    """In place, until q or Ctrl-C."""
    from daemons.cli.screen import Screen

    sampler = Sampler(lambda: _sample(client), first, interval_s)
    sampler.start()
    shown: Any = None
    found: Json = picture(None, first)
    try:
        with Screen() as screen:
            while True:
                if not view.paused and shown != sampler.samples:
                    shown = sampler.samples
                    found = picture(*sampler.samples)
                view.note = _note(sampler)
                columns, lines = output.size()
                screen.show(top_lines(found, view, columns - 1, lines))
                until = time.monotonic() + 1.0
                before = sampler.samples, sampler.error
                while time.monotonic() < until and (sampler.samples, sampler.error) == before:
                    pressed = list(screen.keys(KEY_WAIT_S))
                    if any(not _obey(key, view, lines) for key in pressed):
                        return
                    if pressed or output.size() != (columns, lines):
                        break
    except KeyboardInterrupt:
        return  # the usual way to leave it
    finally:
        sampler.end()


def _note(sampler: Sampler) -> str:
    silent_s = time.monotonic() - sampler.samples[1].at
    if sampler.error:
        return f"no news for {output.duration(silent_s)}: {sampler.error}"
    return f"no answer for {output.duration(silent_s)}" if silent_s > sampler.patience_s else ""


def _obey(key: str, view: View, lines: int) -> bool:
    """What a key does; False: leave."""
    names = list(SORTS)
    if key in ("q", "Q"):
        return False
    if key == "s":
        view.sort = names[(names.index(view.sort) + 1) % len(names)]
    elif key == "r":
        view.reverse = not view.reverse
    elif key in ("p", " "):
        view.paused = not view.paused
    elif key in ("up", "k"):
        view.first -= 1
    elif key in ("down", "j"):
        view.first += 1
    elif key in ("page up", "page down"):
        view.first += (lines // 2) * (1 if key == "page down" else -1)
    return True
