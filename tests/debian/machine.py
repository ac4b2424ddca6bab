"""A Debian machine without a hypervisor: a root directory in namespaces of its own, with a real systemd as process 1.

Nothing of it is left when it stops: its processes end with process 1, its mounts with its mount namespace.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

PACKAGES: Final = ("systemd", "systemd-sysv", "dbus", "init", "ca-certificates", "adduser", "python3")
ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "TERM": "dumb",
}
BOOT_S: Final = 60.0

# Runs in the new namespaces, with the root directory as its argument. Settings, clock, and modules of the kernel are
# this host's, too: nothing on the machine may change them.
BOOT: Final = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
    touch "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/pts dev/shm .host
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
pivot_root . .host
exec chroot . /bin/sh -c '
    umount -l /.host && rmdir /.host && exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-syslog /sbin/init'
"""


class CommandFailed(Exception):
    """A command on the machine ended with another status than 0; the text has what it said."""


def install_tools() -> None:
    """What this host needs besides; installed by apt-get where it is missing."""
    wanted = {"debootstrap": "debootstrap", "lintian": "lintian", "strip": "binutils"}
    missing = [package for program, package in wanted.items() if shutil.which(program) is None]
    if missing:
        print(f"installing {' '.join(missing)}", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], check=False, env=environment, stdout=subprocess.DEVNULL)
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
        subprocess.run(install, check=True, env=environment, stdout=subprocess.DEVNULL)


def bootstrap(suite: str, cache: Path) -> Path:
    """A fresh root directory of this release of Debian, made once and kept in the cache."""
    root = cache / suite
    done = cache / f"{suite}.complete"
    if not done.exists():
        print(f"fetching Debian {suite} into {root}", flush=True)
        shutil.rmtree(root, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        include = f"--include={','.join(PACKAGES)}"
        with (cache / f"{suite}.log").open("wb") as log:
            subprocess.run(
                ["debootstrap", "--variant=minbase", include, suite, str(root)], check=True, stdout=log, stderr=log
            )
        done.touch()
    return root


class Machine:
    """Use it as a context manager: it boots, and is gone afterwards."""

    def __init__(self, base: Path) -> None:
        """
        Args:
            base: root directory that is copied.
        """
        self._base = base
        self._directory = Path(tempfile.mkdtemp(prefix="a2a-zmq-machine-"))
        self.root = self._directory / "root"
        self._unshare: subprocess.Popen[bytes] | None = None
        self._cgroup = _cgroup_mount() / f"a2a-zmq-machine-{os.getpid()}"
        self.init = 0

    def __enter__(self) -> Self:
        try:
            self._boot()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _boot(self) -> None:
        subprocess.run(["cp", "-a", "--reflink=auto", str(self._base), str(self.root)], check=True)
        (self.root / "etc" / "hostname").write_text("a2a-zmq-test\n")
        (self.root / "etc" / "machine-id").write_text("")
        self._cgroup.mkdir()
        join = f"echo 0 > {self._cgroup}/cgroup.procs"
        spaces = "--mount --pid --fork --uts --ipc --net --cgroup --kill-child"
        self._unshare = subprocess.Popen(
            ["sh", "-c", f'{join} && exec unshare {spaces} sh -c "$1" boot "$2"', "boot", BOOT, str(self.root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + BOOT_S
        while not self._is_up():
            if time.monotonic() > end or self._unshare.poll() is not None:
                raise CommandFailed(f"the machine did not boot (unshare ended with {self._unshare.poll()})")
            time.sleep(0.2)

    def _is_up(self) -> bool:
        assert self._unshare is not None
        children = [pid for pid in _processes() if _parent_of(pid) == self._unshare.pid]
        if len(children) != 1 or Path(f"/proc/{children[0]}/comm").read_text().strip() != "systemd":
            return False
        self.init = children[0]
        state = self.run("systemctl is-system-running", check=False).strip()
        return state in ("running", "degraded")

    def run(self, command: str, *, check: bool = True, timeout_s: float = 300.0) -> str:
        """Run a shell command as root on the machine, in ``/root``; returns what it said.

        Raises:
            CommandFailed: it ended with another status than 0.
        """
        done = subprocess.run(
            [*self.enter(), "--wdns=/root", "sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            timeout=timeout_s,
            check=False,
        )
        said = done.stdout.decode(errors="replace")
        if check and done.returncode != 0:
            raise CommandFailed(f"{command}: status {done.returncode}\n{said}")
        return said

    def enter(self) -> list[str]:
        """The command that enters all namespaces of the machine."""
        return ["nsenter", f"--target={self.init}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]

    def enter_network(self) -> list[str]:
        """The command that enters its network, and sees this host's files."""
        return ["nsenter", f"--target={self.init}", "--net"]

    def files(self) -> set[str]:
        """All files and directories, but for what systems write at any time."""
        skipped = r"-path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/tmp"
        kept = r"-o -path /var/log -o -path /var/cache -o -path /var/lib/systemd -o -path /var/lib/apt -o -path /root"
        return set(self.run(rf"find / \( {skipped} {kept} \) -prune -o -print").splitlines())

    def stop(self) -> None:
        if self.init:
            os.kill(self.init, signal.SIGKILL)  # everything in its process namespace ends with it
        if self._unshare is not None:
            if not self.init:
                self._unshare.kill()
            self._unshare.wait()
        _remove_cgroup(self._cgroup)
        shutil.rmtree(self._directory)


def _cgroup_mount() -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise CommandFailed("no cgroup2 hierarchy is mounted on this host: mount -t cgroup2 none DIRECTORY")


def _remove_cgroup(top: Path) -> None:
    """Groups whose last process has just ended are busy for a moment."""
    end = time.monotonic() + 10
    while top.exists():
        for directory in [*sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True), top]:
            with contextlib.suppress(OSError):
                directory.rmdir()
        if time.monotonic() > end:
            raise CommandFailed(f"{top} cannot be removed: it has processes yet")
        time.sleep(0.05)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
