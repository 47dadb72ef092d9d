"""Every command the README shows is run as a reader would run it, and every piece of code in it is a file that runs."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

from tests.unmeasured import unmeasured

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_ELSEWHERE = {
    "make test": "this very run",
    "make mutants": "takes the whole suite apart; run by hand and before a release",
    "make soak": "the long versions",
    "make bench": "measures; see test_benchmarks_run",
}


PORTS = re.compile(r"\b(8080|9400|9500|9090)\b")


@frozen
class Block:
    """The commands of one console block, run one after the other in one place."""

    number: int
    commands: tuple[str, ...]


def blocks() -> Iterator[Block]:
    for number, fence in enumerate(FENCE.finditer(README)):
        if fence["info"].strip() == "console":
            lines = re.sub(r"\\\n\s*", "", fence["body"]).splitlines()
            commands = tuple(line[2:] for line in lines if line.startswith("$ "))
            yield Block(number, commands)


BLOCKS = list(blocks())


@pytest.mark.parametrize(
    "block", BLOCKS, ids=lambda block: f"{block.number}: {block.commands[0] if block.commands else 'nothing'}"[:60]
)
@pytest.mark.timeout(240)
def test_commands_of_the_readme_run(block: Block, tmp_path: Path) -> None:
    assert block.commands, "a console block without a line that begins with '$ '"
    venv = Path(sys.executable).parent
    environment = {
        **unmeasured(),
        "PATH": f"{venv}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "VENV": str(venv.parent),
        "MAKEFLAGS": f"-o {venv.parent}/.installed",  # what is installed is what runs this test
        "NO_COLOR": "1",
        "COLUMNS": "120",
    }
    for name in ("examples", "Makefile", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    ports = {port: str(free_port()) for port in PORTS.findall("\n".join(block.commands))}
    if "8080" in ports:
        environment["PORT"] = ports["8080"]
    background: list[subprocess.Popen[str]] = []
    try:
        for shown in block.commands:
            if shown in RUN_ELSEWHERE:
                assert f"\n{shown.split()[1]}:" in (ROOT / "Makefile").read_text("utf-8")
                continue
            command = PORTS.sub(lambda port: ports[port[0]], shown)
            if command.startswith("export "):
                for setting in shlex.split(command)[1:]:
                    name, _, value = setting.partition("=")
                    environment[name] = value
                continue
            if command.endswith("&"):
                background.append(start(command[:-1].strip(), tmp_path, environment))
                continue
            place = ROOT if command.startswith("make ") else tmp_path
            done = subprocess.run(
                ["bash", "-c", command], cwd=place, env=environment, capture_output=True, text=True, timeout=200, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    finally:
        for process in background:
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=30)


def free_port() -> int:
    """Return a port that is free now; the README's own may be taken where this test runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(command: str, place: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start what runs in the background and wait for its first line, which says that it is ready."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        cwd=place,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    started = time.monotonic()
    line = process.stdout.readline()
    assert process.poll() is None, f"{command} ended at once: {line}{process.stdout.read()}"
    assert time.monotonic() - started < 60
    return process


def test_python_in_the_readme_is_a_file_that_runs() -> None:
    shown = [fence for fence in FENCE.finditer(README) if fence["info"].startswith("python")]
    assert shown
    for fence in shown:
        name = shlex.split(fence["info"])[1]
        source = (ROOT / name).read_text("utf-8")
        assert fence["body"].strip() in source, f"{name} and the README differ"


def test_every_test_the_readme_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", README)
    assert named, "the README names no test"
    for path, name in named:
        source = ROOT / path
        assert source.exists(), path
        assert f"def {name}" in source.read_text("utf-8") or f"class {name}" in source.read_text("utf-8"), f"{path}::{name}"


def test_no_document_speaks_of_things_that_are_not_there() -> None:
    for document in (ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
