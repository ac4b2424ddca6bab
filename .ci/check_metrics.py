"""What Prometheus says of our metrics, configuration and rules: promtool reads them, and the page of every daemon of a
running fleet; each alert goes through its failure and through a healthy fleet.

Its findings are printed; problems make the exit status 1. Without promtool there is nothing to do.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from a2a_zmq import FleetClient
from daemons.cli.fleet import REDIS
from daemons.cli.interrupts import private_fleet

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = REPOSITORY / "config" / "prometheus.yml"


def promtool(program: str, *arguments: str, text: str = "") -> bool:
    done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False)
    print((done.stdout + done.stderr).strip() or f"{' '.join(arguments)}: no problems")
    return done.returncode == 0


def main() -> int:
    program = shutil.which("promtool")
    if program is None:
        print("promtool is not installed; nothing is checked")
        return 0
    good = promtool(program, "check", "config", str(CONFIG))  # and the rules that it names
    alerts = [sys.executable, "-m", "tests.monitoring.promtool"]
    good = subprocess.run(alerts, cwd=REPOSITORY, timeout=240, check=False).returncode == 0 and good
    with private_fleet(workers=1) as fleet, FleetClient(**fleet.client_arguments()) as client:
        assert sum(1 for _ in client.map("noop", ({} for _ in range(100)))) == 100
        for name in fleet.daemons:
            if name != REDIS:
                status, page = fleet.get(name, "/metrics")
                print(f"{name}: {page.count(chr(10))} lines")
                good = status == 200 and promtool(program, "check", "metrics", text=page) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
