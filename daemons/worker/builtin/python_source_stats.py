"""``python_source_stats``: size and complexity of one Python source file.

Payload ``{"path": FILE}`` or ``{"source": TEXT}``. The result of :func:`analyse_source`, plus the path.

*Cyclomatic complexity* of a function is 1 plus one for each: ``if``/``elif``, conditional expression, ``for``,
``while``, ``except``, ``assert``, ``case`` that does not match everything, ``for`` and ``if`` of a comprehension, and
each operand of ``and``/``or`` after the first. A nested function counts for itself, not for the one around it;
lambdas count for the function they are in.
"""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from typing import Any

from a2a_zmq.handlers import InvalidInput

# Files of this size are data, not source; the parser needs some hundred times their size in memory.
MAX_SOURCE_BYTES = 16 * 1024 * 1024

_ONE_EACH = frozenset(
    {ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.comprehension}
)
_FUNCTIONS = frozenset({ast.FunctionDef, ast.AsyncFunctionDef})


def python_source_stats(payload: dict[str, Any]) -> dict[str, Any]:
    """The handler.

    Raises:
        InvalidInput: no or two sources, or a file that cannot be read.
    """
    path, source = payload.get("path"), payload.get("source")
    if (path is None) == (source is None) or not isinstance(path or source or "", str):
        raise InvalidInput("give either path or source, as text")
    if source is not None:
        return analyse_source(source)
    assert path is not None
    return {"path": path, **analyse_file(path)}


def analyse_file(path: str) -> dict[str, Any]:
    """:func:`analyse_source` of a file, decoded as Python does (coding line, byte order mark).

    Raises:
        InvalidInput: the file cannot be read or is too large.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib is one more import for every child process
            data = file.read(MAX_SOURCE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_SOURCE_BYTES:
        raise InvalidInput(f"{path} has more than {MAX_SOURCE_BYTES} bytes")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = io.TextIOWrapper(io.BytesIO(data), encoding, newline=None).read()
    except (SyntaxError, UnicodeError, LookupError) as error:
        lines = data.decode("latin-1").splitlines()
        return {**_empty(lines), "parse_error": f"cannot be decoded: {error}"[:300]}
    return analyse_source(text)


def analyse_source(source: str) -> dict[str, Any]:
    """Count lines, functions and classes, and measure complexity; depends on nothing but the text.

    Returns:
        ``lines``, ``code_lines`` (neither blank nor only a comment; lines inside a string count), ``functions``
        (methods and nested ones too), ``classes``, ``complexity`` (sum over all functions), ``max_complexity``,
        ``most_complex`` (dotted name, the first in the file among equals, None without functions), ``parse_error``
        (None, or why it is not Python).
    """
    lines = source.splitlines()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and the like are the file's business
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
        text = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        return {**_empty(lines), "parse_error": f"{where}{text}"[:300]}
    return _measure(tree, lines)


def _empty(lines: list[str]) -> dict[str, Any]:
    return {
        "lines": len(lines),
        "code_lines": _code_lines(lines, set()),
        "functions": 0,
        "classes": 0,
        "complexity": 0,
        "max_complexity": 0,
        "most_complex": None,
        "parse_error": None,
    }


def _measure(tree: ast.AST, lines: list[str]) -> dict[str, Any]:
    """Walk the tree once, with a stack: source may be nested deeper than Python's own recursion goes."""
    complexity: list[int] = []  # of each function
    names: list[str] = []
    positions: list[tuple[int, int]] = []
    classes = 0
    in_strings: set[int] = set()
    # (node, index of the function it is in or -1, dotted prefix)
    stack: list[tuple[ast.AST, int, str]] = [(tree, -1, "")]
    while stack:
        node, function, prefix = stack.pop()
        kind = type(node)
        if kind in _FUNCTIONS:
            function = len(complexity)
            complexity.append(1)
            names.append(f"{prefix}{node.name}")  # type: ignore[attr-defined]  # by its kind
            positions.append((node.lineno, node.col_offset))  # type: ignore[attr-defined]
            prefix = f"{names[-1]}."
        elif kind is ast.ClassDef:
            classes += 1
            prefix = f"{prefix}{node.name}."  # type: ignore[attr-defined]
        elif kind is ast.Constant or kind is ast.JoinedStr:
            first, last = node.lineno, node.end_lineno  # type: ignore[attr-defined]
            if last > first:
                in_strings.update(range(first, last + 1))
        elif function >= 0:
            if kind in _ONE_EACH:
                complexity[function] += 1
                if kind is ast.comprehension:
                    complexity[function] += len(node.ifs)  # type: ignore[attr-defined]
            elif kind is ast.BoolOp:
                complexity[function] += len(node.values) - 1  # type: ignore[attr-defined]
            elif kind is ast.match_case:
                complexity[function] += not _matches_all(node)  # type: ignore[arg-type]
        for field in node._fields:
            value = getattr(node, field, None)
            if isinstance(value, list):
                stack.extend((item, function, prefix) for item in value if isinstance(item, ast.AST))
            elif isinstance(value, ast.AST) and value._fields:
                stack.append((value, function, prefix))
    best = min(range(len(complexity)), key=lambda at: (-complexity[at], positions[at]), default=-1)
    return {
        "lines": len(lines),
        "code_lines": _code_lines(lines, in_strings),
        "functions": len(complexity),
        "classes": classes,
        "complexity": sum(complexity),
        "max_complexity": complexity[best] if complexity else 0,
        "most_complex": names[best] if complexity else None,
        "parse_error": None,
    }


def _matches_all(case: ast.match_case) -> bool:
    return isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None and case.guard is None


def _code_lines(lines: list[str], in_strings: set[int]) -> int:
    count = 0
    for number, line in enumerate(lines, 1):
        text = line.lstrip()
        count += bool(text) and (text[0] != "#" or number in in_strings)
    return count
