"""The texts that people read, in one file beside this one; every other test asserts on codes, JSON and types of errors."""

from __future__ import annotations

import os
import re
from pathlib import Path

FILE = Path(__file__).with_name("texts.md")
_HEAD = "# What the command line says\n\nWritten by `UPDATE_TEXTS=1 pytest -n 0 tests/payouts`; read each change.\n"


def said(name: str, text: str) -> None:
    """Compare a text with the one of that name in `texts.md`, or write it there if `UPDATE_TEXTS` is set.

    Args:
        name: What was done, such as `"run: a file with every mistake"`.
        text: All that a person read; trailing white space does not count.
    """
    text = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    known = _load()
    if os.environ.get("UPDATE_TEXTS"):
        known[name] = text
        FILE.write_text(
            _HEAD + "".join(f"\n## {key}\n\n```text\n{value}\n```\n" for key, value in sorted(known.items())), "utf-8"
        )
    assert name in known, f"{name!r} is not in {FILE.name}: run with UPDATE_TEXTS=1 and read what it wrote"
    assert text == known[name]


def _load() -> dict[str, str]:
    if not FILE.exists():
        return {}
    found = re.findall(r"^## ([^\n]+)\n\n```text\n(.*?)\n?```$", FILE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return dict(found)
