"""The texts that people read, in one `texts.md` per package of tests; every other test asserts on types, codes and JSON."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

_HEAD = "# What people read\n\nWritten by `UPDATE_TEXTS=1 pytest -n 0 {folder}`; read each change.\n"


def said(name: str, text: object) -> None:
    """Compare a text with the one of that name in the `texts.md` beside the caller, or write it there if `UPDATE_TEXTS` is set.

    Args:
        name: What was done, such as `"run: a file with every mistake"`.
        text: All that a person read, such as the output of a command or an error; trailing white space does not count.
    """
    file = Path(sys._getframe(1).f_code.co_filename).with_name("texts.md")
    shown = "\n".join(line.rstrip() for line in str(text).strip("\n").splitlines())
    known = _load(file)
    if os.environ.get("UPDATE_TEXTS"):
        known[name] = shown
        head = _HEAD.format(folder=f"tests/{file.parent.name}")
        file.write_text(head + "".join(f"\n## {key}\n\n```text\n{value}\n```\n" for key, value in sorted(known.items())), "utf-8")
    assert name in known, f"{name!r} is not in {file.name}: run with UPDATE_TEXTS=1 and read what it wrote"
    assert shown == known[name]


def refusals(attempts: Mapping[str, Callable[[], object]], kinds: tuple[type[Exception], ...] = (TypeError, ValueError)) -> str:
    """Return the text of each error, one a line."""
    lines = []
    for name, attempt in attempts.items():
        with pytest.raises(kinds) as caught:
            attempt()
        lines.append(f"{name}: {caught.value}")
    return "\n".join(lines)


def in_latin(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Make standard output and standard error streams in ISO-8859-1; return what was written to both."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), "iso-8859-1", write_through=True) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    return lambda: "".join(stream.buffer.getvalue().decode("iso-8859-1") for stream in streams.values())


def _load(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    found = re.findall(r"^## ([^\n]+)\n\n```text\n(.*?)\n?```$", file.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return dict(found)
