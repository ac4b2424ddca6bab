"""The life of the package on one machine: installed, used, upgraded under load, removed, purged."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.debian.machine import CommandFailed, Machine

REPOSITORY: Final = Path(__file__).resolve().parent.parent.parent
GUIDE: Final = REPOSITORY / "docs" / "installing.md"
FIRST_RESULT_S: Final = 60.0
MAX_COMMANDS: Final = 5
MAX_EXPOSURE: Final = 2.0
AGENTS: Final = ("a2a-coordinator@coordinator-1", "a2a-distributor@distributor-1", "a2a-worker@worker-1")
EDITED: Final = "# edited by an administrator"


def commands(section: str) -> list[str]:
    """The commands of the first block of shell in a section of the guide."""
    text = GUIDE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    match = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert match is not None, section
    lines = [line.partition("  #")[0].strip() for line in match[1].splitlines()]
    return [line for line in lines if line]


def require(fact: object, what: str) -> None:
    """
    Raises:
        CommandFailed: it is not so.
    """
    if not fact:
        raise CommandFailed(what)


def wait_until(predicate: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not predicate():
        require(time.monotonic() < end, f"after {timeout_s:g} s still not: {what}")
        time.sleep(0.3)


class Load:
    """A client on this host's side that submits tasks to the machine's fleet until it is stopped."""

    def __init__(self, machine: Machine) -> None:
        self._process = subprocess.Popen(
            [*machine.enter_network(), sys.executable, "-m", "tests.debian.load",
             str(machine.root / "var" / "lib" / "a2a-zmq" / "keys")],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def wait_for(self, count: int) -> None:
        """Until so many more tasks were submitted."""
        assert self._process.stdout is not None
        for _ in range(count):
            line = self._process.stdout.readline()
            require(line.startswith("submitted"), f"the load ended: {line!r}")

    def stop(self) -> dict[str, Any]:
        """No further tasks; what became of those that were submitted."""
        said, _ = self._process.communicate(timeout=300)
        require(self._process.returncode == 0, "the load failed")
        report: dict[str, Any] = json.loads(said.splitlines()[-1])
        return report

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


class Scenario:
    """Plays on a machine that has just booted."""

    def __init__(self, machine: Machine, package: Path, previous: Path, previous_version: str) -> None:
        self._machine = machine
        self._packages = {"current": package, "previous": previous}
        self._previous_version = previous_version
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        self._version: str = project["version"]

    def play(self) -> None:
        fresh = self._machine.files()
        users = self._users()
        self._install_and_use()
        self._judge_units()
        self._check_settings()
        self._hang()
        self._purge(fresh, users)
        self._upgrade_under_load()
        self._remove_and_install_again()
        self._purge(fresh, users)

    # ------------------------------------------------------------ steps

    def _install_and_use(self) -> None:
        """From nothing to the first result, by the commands of the guide."""
        steps = commands("Debian package")
        require(len(steps) <= MAX_COMMANDS, f"{len(steps)} commands are too many")
        self._bring("current")
        began = time.monotonic()
        for step in steps:
            said = self._machine.run(step.replace("apt-get install ", "apt-get install -y "))
            print(f"  {time.monotonic() - began:5.1f} s  {step}")
        took = time.monotonic() - began
        require('"result":6' in said.replace(" ", ""), f"no result of the first task: {said}")
        print(f"first result after {took:.1f} s with {len(steps)} commands")
        require(took < FIRST_RESULT_S, f"the first result took {took:.1f} s")
        for unit in (*AGENTS, "a2a-redis", "a2a.target"):
            self._machine.run(f"systemctl is-active {unit}")
        require("ready" in self._property(AGENTS[2], "StatusText"), "systemctl status says that the worker is ready")
        self._machine.run("a2actl status && a2actl doctor || true")

    def _judge_units(self) -> None:
        """What systemd itself says of the units."""
        directory = "/usr/lib/systemd/system"
        units = self._machine.run(f"cd {directory} && ls -d a2a*.service").split()
        names = [unit.replace("@.", "@example-1.") for unit in units]
        said = self._machine.run(f"systemd-analyze verify {' '.join(names)} a2a.target")
        require("a2a" not in said, f"systemd-analyze verify: {said}")
        for unit in (*AGENTS, "a2a-redis"):
            told = self._machine.run(f"systemd-analyze security {unit}.service").splitlines()[-1]
            found = re.search(r"([\d.]+) ", told.partition(": ")[2])
            require(found is not None and float(found[1]) <= MAX_EXPOSURE, f"{unit}: {told}")
            print(f"  {told.lstrip('→ ')}")

    def _check_settings(self) -> None:
        """Of a unit's variables `config check` sees what systemd gives to it."""
        unit = AGENTS[2]
        self._machine.run("a2actl config check")
        drop_in = f"/etc/systemd/system/{unit}.service.d"
        lines = '[Service]\\nEnvironment="A2A_LOG_LEVEL=debug" \\\\\\n  A2A_WORKER_SLOTZ=1\\n'
        self._machine.run(f"mkdir {drop_in} && printf '{lines}' > {drop_in}/mine.conf && systemctl daemon-reload")
        given = self._property(unit, "Environment")
        require(given.endswith("A2A_LOG_LEVEL=debug A2A_WORKER_SLOTZ=1"), f"systemd gives it {given}")
        said = self._machine.run("a2actl config check || test $? = 78")
        require(f"{drop_in}/mine.conf:2: A2A_WORKER_SLOTZ: unknown variable" in said, f"config check: {said}")
        self._machine.run(f"rm -r {drop_in} && systemctl daemon-reload")

    def _hang(self) -> None:
        """A loop that hangs is noticed and started anew."""
        unit = AGENTS[2]
        drop_in = f"/etc/systemd/system/{unit}.service.d"
        self._machine.run(f"mkdir {drop_in} && printf '[Service]\\nWatchdogSec=3\\n' > {drop_in}/watchdog.conf")
        self._machine.run(f"systemctl daemon-reload && systemctl restart {unit}")
        hung = self._main(unit)
        self._machine.run(f"kill -STOP {hung}")
        wait_until(lambda: self._main(unit) not in (hung, "0"), "the hung worker was replaced")
        wait_until(lambda: self._property(unit, "StatusText") == "ready", "its successor is ready")
        self._submit()
        print("a worker that hung was replaced by the watchdog")

    def _upgrade_under_load(self) -> None:
        self._bring("previous")
        self._machine.run("apt-get install -y ./a2a-zmq_*.deb")
        self._machine.run(commands("Debian package")[1] + " a2a-worker@worker-2")
        self._submit()
        require(self._running_versions() == {self._previous_version}, "the previous release runs")
        self._machine.run(f"echo '{EDITED}' >> /etc/a2a-zmq/coordinator.toml")
        self._machine.run(f"echo '{EDITED}' >> /etc/a2a-zmq/worker.toml")
        before = {unit: self._main(unit) for unit in AGENTS}
        self._bring("current")
        load = Load(self._machine)
        try:
            load.wait_for(100)
            began = time.monotonic()
            for step in commands("Upgrading"):
                self._machine.run(
                    step.replace("apt-get install ", "apt-get install -y -o Dpkg::Options::=--force-confold ")
                )
            took = time.monotonic() - began
            load.wait_for(100)
            report = load.stop()
        finally:
            load.end()
        print(f"upgraded in {took:.1f} s under load: {report}")
        require(report["completed"] == report["submitted"], f"tasks were lost: {report}")
        require(self._running_versions() == {self._version}, f"what runs: {self._running_versions()}")
        for unit, pid in before.items():
            require(self._main(unit) not in (pid, "0"), f"{unit} was started again")
        for name in ("coordinator", "worker"):
            require(EDITED in self._machine.run(f"cat /etc/a2a-zmq/{name}.toml"), f"{name}.toml was kept as edited")
        modes = self._machine.run("stat -c '%a %U:%G' /etc/a2a-zmq/*.toml /etc/a2a-zmq/environment").splitlines()
        require(set(modes) == {"640 root:a2a-zmq"}, f"settings are for us alone: {modes}")

    def _remove_and_install_again(self) -> None:
        """A removed package leaves keys, state and settings; installed again it goes on."""
        self._machine.run("apt-get remove -y a2a-zmq")
        require(not self._processes(), "nothing runs after the removal")
        keys = self._machine.run("ls /var/lib/a2a-zmq/keys")
        self._machine.run(
            "apt-get install -y ./a2a-zmq_*.deb && systemctl start $(ls /etc/systemd/system/a2a.target.wants)"
        )
        self._submit()
        require(self._machine.run("ls /var/lib/a2a-zmq/keys") == keys, "the keys are those of before")

    def _purge(self, fresh: set[str], users: str) -> None:
        for step in commands("Removing"):
            self._machine.run(step.replace("apt-get ", "apt-get -y "))
        left = sorted(self._machine.files() - fresh)
        require(not left, f"left after the purge: {left[:20]}")
        require(not self._processes(), "processes are left after the purge")
        require(self._users() == users, "users or groups are left after the purge")
        units = self._machine.run(
            "systemctl list-unit-files --no-legend 'a2a*'; systemctl --all --no-legend list-units 'a2a*'"
        )
        require(not units.strip(), f"units are left after the purge: {units}")
        print("purged: no file, user, unit or process is left")

    # ------------------------------------------------------------ looking

    def _bring(self, which: str) -> None:
        """Put this package, and no other, into the directory of root."""
        for old in (self._machine.root / "root").glob("*.deb"):
            old.unlink()
        shutil.copy(self._packages[which], self._machine.root / "root")

    def _submit(self) -> None:
        said = self._machine.run("a2actl --timeout 60 submit noop --payload '{\"n\": 7}' --wait")
        require("7" in said, f"no result: {said}")

    def _property(self, unit: str, name: str) -> str:
        return self._machine.run(f"systemctl show --property={name} --value {unit}").strip()

    def _main(self, unit: str) -> str:
        return self._property(unit, "MainPID")

    def _processes(self) -> list[str]:
        """Command lines of our daemons on the machine."""
        said = self._machine.run(
            "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$file; echo; done 2>/dev/null; true"
        )
        return [line for line in said.splitlines() if re.search(r"a2a-(redis|coordinator|distributor|worker)", line)]

    def _running_versions(self) -> set[str]:
        """What the agents say of themselves."""
        versions = set()
        for port in (9550, 9560, 9570, 9571):
            page = self._machine.run(
                f"python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:{port}/metrics\").read().decode())'"
            )
            versions |= set(re.findall(r'^a2a_build_info\{.*version="([^"]+)"', page, re.MULTILINE))
        return versions

    def _users(self) -> str:
        return self._machine.run("getent passwd | cut -d: -f1 | sort; getent group | cut -d: -f1 | sort")
