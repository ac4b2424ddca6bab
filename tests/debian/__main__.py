"""``python -m tests.debian`` (``make test-deb``): the Debian package on a machine with a real systemd.

Builds it and a previous release, and does what docs/installing.md says, command by command: install, first result,
upgrade under load, remove, purge. Wants root, and a Debian host or one with debootstrap and lintian.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.debian.machine import CommandFailed, Machine, bootstrap, install_tools
from tests.debian.scenario import Scenario

REPOSITORY: Final = Path(__file__).resolve().parent.parent.parent
BUILD: Final = REPOSITORY / "packaging" / "deb" / "build.py"
PREVIOUS: Final = "0.0.9"
CACHE: Final = Path(os.environ.get("DEB_CACHE") or Path.home() / ".cache" / "a2a-zmq-debian")


def build(output: Path, *options: str) -> Path:
    """Build a package; returns its path."""
    command = [sys.executable, str(BUILD), "--output", str(output), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.splitlines()[-1])


def build_previous(directory: Path, *options: str) -> Path:
    """The package of a release before this one, in which a file of settings was another."""
    source = directory / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "dist", "__pycache__", ".*_cache")
    shutil.copytree(REPOSITORY, source, ignore=ignored)
    project = source / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    version = next(line for line in text.splitlines() if line.startswith("version = "))
    project.write_text(text.replace(version, f'version = "{PREVIOUS}"', 1), encoding="utf-8")
    with (source / "config" / "worker.toml").open("a", encoding="utf-8") as file:
        file.write("\n# A line of the previous release.\n")
    return build(directory, "--source", str(source), *options)


def lint(package: Path) -> None:
    """
    Raises:
        CommandFailed: lintian found errors.
    """
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error", "--tag-display-limit", "0", str(package)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    errors = [line for line in done.stdout.splitlines() if line.startswith("E:")]
    warnings = sum(line.startswith("W:") for line in done.stdout.splitlines())
    print(f"lintian: {len(errors)} errors, {warnings} warnings")
    if errors or done.returncode != 0:
        raise CommandFailed("\n".join(["lintian:", *(errors or [done.stdout])]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.debian", description="Tests the Debian package.")
    parser.add_argument("--suite", default="bookworm", help="release of Debian (%(default)s)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where its files are kept (DEB_CACHE, %(default)s)")
    parser.add_argument("--package", type=Path, help="test this package instead of building one")
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("test-deb: needs root, for namespaces and mounts", file=sys.stderr)
        return 1
    began = time.monotonic()
    install_tools()
    base = bootstrap(given.suite, given.cache)
    with tempfile.TemporaryDirectory(prefix="a2a-zmq-deb-") as directory:
        package = given.package or build(Path(directory))
        previous = build_previous(Path(directory) / "previous", "--compression", "gzip")
        print(f"{package.name}: {package.stat().st_size / 1e6:.1f} MB")
        try:
            lint(package)
            with Machine(base) as machine:
                print(f"booted {machine.run('. /etc/os-release; echo $PRETTY_NAME').strip()} with systemd")
                Scenario(machine, package, previous, PREVIOUS).play()
        except CommandFailed as error:
            print(f"test-deb: FAILED: {error}", file=sys.stderr)
            return 1
    print(f"test-deb passed in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
