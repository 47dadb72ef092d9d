"""The texts that people read, in one `texts.md` per package of tests; every other test asserts on types, codes and JSON."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

_TESTS = Path(__file__).parent
_HEAD = "# What people read\n\nWritten by `UPDATE_TEXTS=1 pytest -n 0 {folder}`; read each change.\n"
_written: dict[tuple[Path, str], str] = {}
"""What this process wrote, so that no text replaces another one of its name."""
_entry = re.compile(r"^## ([^\n]+)\n\n```text\n(.*?)\n?```$", re.MULTILINE | re.DOTALL)


def said(name: str, text: object) -> None:
    """Compare a text with the one of that name in the `texts.md` of the caller's package, or write it if `UPDATE_TEXTS` is set.

    Args:
        name: What was done, such as `"run: a file with every mistake"`.
        text: All that a person read, such as the output of a command or an error; trailing white space does not count.
    """
    file = _folder_of_caller() / "texts.md"
    shown = "\n".join(line.rstrip() for line in str(text).strip("\n").splitlines())
    known = load(file)
    if os.environ.get("UPDATE_TEXTS"):
        assert _written.setdefault((file, name), shown) == shown, f"{name!r} is the name of two texts"
        known[name] = shown
        file.write_text(written(file, known), "utf-8")
    assert name in known, f"{name!r} is not in {file.name}: run with UPDATE_TEXTS=1 and read what it wrote"
    assert shown == known[name]


@contextlib.contextmanager
def raises(kind: type[BaseException], name: str) -> Iterator[None]:
    """Expect an error, and compare its text, without places, with the one of that name."""
    with pytest.raises(kind) as caught:
        yield
    said(name, without_places(caught.value))


def new_lines(text: str, before: str) -> str:
    """Return the lines of a text that an earlier one has not."""
    return "\n".join(line for line in text.splitlines() if line not in before.splitlines())


def without_places(text: object) -> str:
    """Return a text without folders, ports, databases and process ids, which differ from run to run."""
    shown = re.sub(r"postgresql://\S*?(?=[:.,;]?(\s|$))", "DATABASE", str(text))
    shown = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", shown)
    return re.sub(r"process (\d+|unknown)", "process N", re.sub(r"/\S*/", "", shown))


def refusals(attempts: Mapping[str, Callable[[], object]], kinds: tuple[type[Exception], ...] = (TypeError, ValueError)) -> str:
    """Return the text of each error, one a line."""
    lines = []
    for name, attempt in attempts.items():
        with pytest.raises(kinds) as caught:
            attempt()
        lines.append(f"{name}: {caught.value}")
    return "\n".join(lines)


def in_latin(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Make standard output and error streams in ISO-8859-1, as a command begins with; return what was written to both."""
    options: Any = {"encoding": "iso-8859-1", "errors": "backslashreplace", "write_through": True}
    streams = {name: io.TextIOWrapper(io.BytesIO(), **options) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    return lambda: "".join(stream.buffer.getvalue().decode("iso-8859-1") for stream in streams.values())


def load(file: Path) -> dict[str, str]:
    """Return the texts of a `texts.md` by their names."""
    if not file.exists():
        return {}
    return dict(_entry.findall(file.read_text("utf-8")))


def written(file: Path, known: Mapping[str, str]) -> str:
    """Return what a `texts.md` with these texts looks like."""
    head = _HEAD.format(folder=f"tests/{file.parent.name}")
    return head + "".join(f"\n## {key}\n\n```text\n{value}\n```\n" for key, value in sorted(known.items()))


def _folder_of_caller() -> Path:
    callers = (each.filename for each in inspect.stack(0) if each.filename not in {__file__, contextlib.__file__})
    folder, *below = Path(next(callers)).relative_to(_TESTS).parts
    return _TESTS / folder if below else _TESTS
