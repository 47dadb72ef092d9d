"""The reference of the sandboxes lists every option with its default, every fault and every member of the books."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import fields

from vendor_sandboxes import EnkashSandbox, OriginalSandbox
from vendor_sandboxes.__main__ import build
from vendor_sandboxes.enkash import CLIENT_ID, PASSWORD, USERNAME
from vendor_sandboxes.faults import AFTER_COMMIT, BEFORE_COMMIT, NO_FAULT
from vendor_sandboxes.options import EnkashOptions, OriginalOptions, SandboxOptions
from vendor_sandboxes.original import API_KEY, APP_UID
from vendor_sandboxes.server import BOOKS_PATH

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "sandboxes.md").read_text("utf-8")
OPTIONS: dict[str, type[SandboxOptions]] = {"original": OriginalOptions, "enkash": EnkashOptions}
SECTIONS = {"original": "Options of Original", "enkash": "Options of EnKash"}
OF_ITS_OWN = {
    "--host": "127.0.0.1",
    "--seed": "0",
    "--api-key": API_KEY,
    "--app-uid": APP_UID,
    "--webhook-attempts": "8",
    "--webhook-backoff": "0.1",
    "--client-id": CLIENT_ID,
    "--username": USERNAME,
    "--password": PASSWORD,
}
"""Defaults of the options that are arguments of the sandboxes themselves."""


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ")[0]


def told(vendor: str) -> dict[str, tuple[str, str, str]]:
    """Return option to the value it takes, its default and its meaning, as the page has them."""
    text = section("Options of both") + section(SECTIONS[vendor])
    rows = re.findall(r"^\| `(--[\w-]+)(?: ([^`]+))?` \| ([^|]+) \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) == len({row[0] for row in rows})
    return {name: (value, default, meaning) for name, value, default, meaning in rows}


def help_of(vendor: str) -> str:
    command = [sys.executable, "-m", "vendor_sandboxes", vendor, "--help"]
    environment = {**os.environ, "COLUMNS": "1000", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def as_shown(default: Any) -> str:
    if default is None or default == "":
        return "none"
    if default is False:
        return "off"
    if isinstance(default, tuple):
        return f"`{':'.join(f'{end:g}' for end in default)}`"
    return f"`{default:g}`" if isinstance(default, float | int) else f"`{default}`"


@pytest.mark.slow
@pytest.mark.parametrize("vendor", OPTIONS)
def test_the_page_lists_every_option_with_its_default_and_its_words(vendor: str) -> None:
    shown = told(vendor)
    known = re.findall(r"^  (--[\w-]+)", help_of(vendor).split("options:", 1)[1], re.MULTILINE)
    assert len(known) > 20
    assert sorted(shown) == sorted(known)
    for each in fields(OPTIONS[vendor]):
        value, default, meaning = shown[f"--{each.name.replace('_', '-')}"]
        argument = each.metadata["argument"]
        assert default == as_shown(each.default), each.name
        assert set(re.findall(r"`(\w+)`", meaning)) >= set(argument.get("choices", ())), each.name
        kind = (
            f"[{argument['metavar']}]"
            if "nargs" in argument
            else argument.get("metavar", "WORD" if "choices" in argument else "")
        )
        assert value == kind, each.name
    for name in shown.keys() & OF_ITS_OWN.keys():
        assert shown[name][1] == f"`{OF_ITS_OWN[name]}`"


@pytest.mark.slow
def test_the_ports_are_those_that_the_page_names() -> None:
    for vendor, port in zip(OPTIONS, re.findall(r"\d+", told("original")["--port"][1]), strict=True):
        assert re.search(r"--port PORT +port", help_of(vendor))
        assert build([vendor])._port == int(port)


@pytest.mark.parametrize("words", ["webhook_body", "webhook_shape", "asset_webhook_shape"])
def test_the_page_names_every_word_of_a_mixture(words: str) -> None:
    listed = re.findall(r"one of ([\w, ]+), or several", getattr(fields(OriginalOptions), words).metadata["argument"]["help"])
    meaning = told("original")[f"--{words.replace('_', '-')}"][2]
    assert set(listed[0].split(", ")) == set(re.findall(r"`(\w+)`", meaning)) - {"data"}


def test_the_page_lists_the_faults_of_single_requests() -> None:
    names = re.findall(r"^\| `(\w+)` \|", section("Faults for single requests"), re.MULTILINE)
    assert names == [*BEFORE_COMMIT, *AFTER_COMMIT, NO_FAULT]


async def test_the_page_lists_the_members_of_the_books() -> None:
    text = section("The books")
    assert f"`GET {BOOKS_PATH}`" in text
    for name, sandbox in (("Original", OriginalSandbox()), ("EnKash", EnkashSandbox())):
        rows = re.findall(rf"^\| {name} \| ([^|]+) \|", text, re.MULTILINE)
        members = [member for row in rows for member in re.findall(r"`(\w+)`", row)]
        assert sorted(members) == sorted(sandbox.books())
