"""The reference lists every logger with the levels that it uses, and every span with its attributes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from webhooks.delivery_log import Verdict

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "reference" / "logs.md").read_text("utf-8")
PACKAGES = ("rewards_core", "original_async", "enkash_async", "webhooks", "payouts", "vendor_sandboxes")
SPANS = ("webhooks/spans.py", "webhooks/ingress/request_spans.py", "rewards_core/tracing.py")
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error", "critical": "critical"}
GIVEN_ON = {("webhooks.receiver", "warning"), ("webhooks.listener", "warning"), ("webhooks.console", "warning")}
"""What `Refusals` logs to the logger that it is given."""
WRITTEN = {("command", level) for level in ("info", "warning", "error")}
"""What `log_as_json` writes without a logger."""


def loggers(path: Path) -> Iterator[tuple[str, set[str]]]:
    """Yield the loggers that a module keeps, and the levels at which it calls them."""
    tree = ast.parse(path.read_text("utf-8"))
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func) == "logging.getLogger"
        ):
            (given,) = node.value.args
            own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            names[ast.unparse(node.targets[0])] = str(given.value) if isinstance(given, ast.Constant) else own
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    for variable, name in names.items():
        yield name, {LEVELS[call.attr] for call in calls if ast.unparse(call.value) == variable and call.attr in LEVELS}


def in_code() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for name, levels in loggers(path):
                found[name] |= levels
    for name, level in GIVEN_ON | WRITTEN:
        found[name].add(level)
    return found


def on_the_page() -> dict[str, set[str]]:
    rows = re.findall(r"^\| `([\w.]+)` \| ([a-z, ]+) \|", PAGE, re.MULTILINE)
    return {name: set(levels.split(", ")) for name, levels in rows if set(levels.split(", ")) <= set(LEVELS)}


@pytest.mark.slow
def test_the_page_lists_every_logger_and_its_levels() -> None:
    rows, covered = on_the_page(), defaultdict[str, set[str]](set)
    assert len(rows) > 15
    for name, levels in in_code().items():
        above = [row for row in rows if name == row or name.startswith(f"{row}.")]
        assert above, f"{name} is on no row"
        covered[max(above, key=len)] |= levels
    assert covered == rows


def test_the_page_lists_every_span_and_its_attributes() -> None:
    code = "".join((ROOT / path).read_text("utf-8") for path in SPANS)
    named = set(re.findall(r'start_span\(\s*"([^"]+)"', code))
    used = set(re.findall(r'"((?:error|http|messaging|rewards|server|url)\.[\w.]+)"', code)) - named
    rows = re.findall(r"^\| `([^`]+)` \| (?:server|internal|consumer|event) \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert named <= {name for name, _ in rows}
    assert len(used) > 20
    assert used - {"error.type"} == {each for _, attributes in rows for each in re.findall("`([^`]+)`", attributes)}
    assert set(re.findall(r"^\| `(rewards\.[\w.]+)`(?:, `([\w.]+)`)? \| [^|]+ \|$", PAGE, re.MULTILINE)) == {
        *((name, "") for name in used if name.startswith("rewards.") and not name.startswith("rewards.operation.")),
        ("rewards.operation.kind", "rewards.operation.uid"),
    }
    (verdicts,) = re.findall(r"^\| `rewards.delivery.verdict` \| (.*) \|$", PAGE, re.MULTILINE)
    assert tuple(re.findall("`([^`]+)`", verdicts)) == get_args(Verdict)


@pytest.mark.slow
def test_every_logger_lies_below_its_package() -> None:
    assert {name.partition(".")[0] for name in in_code()} - {"fault", "command"} <= set(PACKAGES)


def test_no_logger_has_a_handler_and_warnings_reach_standard_error() -> None:
    program = (
        "import logging, webhooks.receiver, original_async.client, enkash_async.client\n"
        "known = logging.Logger.manager.loggerDict\n"
        "print([name for name in known if logging.getLogger(name).handlers and name != 'backoff'])\n"
        "original_async.client.OriginalClient('key', 'a-weak-secret', environment='development')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert "HS256" in done.stderr
