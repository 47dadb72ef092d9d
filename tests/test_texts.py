"""Each `texts.md` is as `said` writes it, and holds no text that no test reads."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.texts import load, written

FILES = sorted(Path(__file__).parent.glob("*/texts.md"))


def names_in(source: ast.AST) -> Iterator[str]:
    """Yield a pattern for each text in a module; what an f-string fills in may be any text."""
    filled = {id(part) for node in ast.walk(source) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(source):
        if isinstance(node, ast.JoinedStr):
            yield "".join(re.escape(str(each.value)) if isinstance(each, ast.Constant) else ".*" for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in filled:
            yield re.escape(node.value)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_a_snapshot_is_as_it_would_be_written(file: Path) -> None:
    text, known = file.read_text("utf-8"), load(file)
    assert text == written(file, known)
    assert text.count("\n```text\n") == len(known)  # otherwise a text is not closed, and holds the next one


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_each_text_of_a_snapshot_is_read_by_a_test(file: Path) -> None:
    modules = (each.read_text("utf-8") for each in file.parent.rglob("*.py"))
    patterns = {pattern for module in modules for pattern in names_in(ast.parse(module)) if re.search(r"\w", pattern)}
    exact = {re.sub(r"\\(.)", r"\1", each) for each in patterns}
    loose = [re.compile(each) for each in patterns if ".*" in each]
    assert [name for name in load(file) if name not in exact and not any(each.fullmatch(name) for each in loose)] == []
