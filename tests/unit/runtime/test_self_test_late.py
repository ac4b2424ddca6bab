"""A start that a machine which stood still made fail is tried again by whoever supervises the daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EX_TEMPFAIL = 75

LATE = """
import sys
from a2a_zmq.transport.router import SelfTestLate
from daemons.worker import main
async def open_worker(settings):
    raise SelfTestLate("tcp://127.0.0.1:5560: self-test: no answer within 5 s")
main.open_worker = open_worker
sys.exit(main.main())
"""


def test_a_self_test_without_an_answer_is_status_75_and_one_line(tmp_path: Path) -> None:
    env = {**os.environ, "A2A_STATE_DIR": str(tmp_path), "A2A_METRICS_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", LATE], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == EX_TEMPFAIL
    assert done.stderr == "a2a-worker: tcp://127.0.0.1:5560: self-test: no answer within 5 s\n"
