"""Where the code looks at the wall clock: nothing that waits may, because that clock can be set."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WALL_CLOCKS = {
    *(("time", name) for name in ("time", "time_ns", "localtime", "gmtime")),
    *(("datetime", name) for name in ("now", "utcnow", "today")),
    ("date", "today"),
}


def looks(source: str) -> Iterator[str]:
    """Return where a module looks at the wall clock, but for arguments that have it as their default."""
    tree = ast.parse(source)
    given = {node for arguments in ast.walk(tree) if isinstance(arguments, ast.arguments) for node in defaults(arguments)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node not in given and (ast.unparse(node.value), node.attr) in WALL_CLOCKS:
            yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.ImportFrom) and any((node.module, each.name) in WALL_CLOCKS for each in node.names):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def defaults(arguments: ast.arguments) -> list[ast.expr | None]:
    return [*arguments.defaults, *arguments.kw_defaults]


def test_a_look_at_the_wall_clock_is_found() -> None:
    assert list(looks("import time\ndef f(clock=time.time, *, other=time.time):\n    return clock() + time.monotonic()")) == []
    assert list(looks("due = time.time() + 5")) == ["line 1: time.time"]
    assert list(looks("due = datetime.now(UTC)")) == ["line 1: datetime.now"]
    assert list(looks("from time import time")) == ["line 1: from time import time"]


@pytest.mark.slow
@pytest.mark.parametrize("package", ["rewards_core", "original_async", "enkash_async"])
def test_a_wall_clock_is_only_what_a_caller_gave(package: str) -> None:
    found = {path.relative_to(ROOT): list(looks(path.read_text("utf-8"))) for path in (ROOT / package).rglob("*.py")}
    assert {path: lines for path, lines in found.items() if lines} == {}
