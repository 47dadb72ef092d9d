"""Every command in the documents runs as a reader would run it, all code in them is code that runs, links lead somewhere."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import define, field

from tests.postgres_server import postgres_server
from tests.webhooks.postgres_kit import run_sql
from tests.webhooks.queue_kit import AWS, a_queue, moto
from webhooks.store.sqlite import SQLiteStore

ROOT = Path(__file__).resolve().parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in (*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")))}
TEXTS = {name: path.read_text("utf-8") for name, path in PAGES.items()}
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"console", "text", "{api}", "{figure}", "{include}", "{toctree}"}
RUN_ELSEWHERE = {
    "make test": "this very run",
    "make demo-fleet": "test_fleet runs it with fewer rows",
    "make check": "a part of make test",
    "make docs": "test_site builds them",
    "make mutants": "takes the whole suite apart; run by hand and before a release",
    "make slow": "the rest of this very run",
    "make soak": "the long versions",
    "make bench": "measures; see test_benchmarks_run",
}
QUICKSTART = "docs/tutorials/first-reward.md"
READY = 300.0
"""Seconds in which a command in the background says that it is ready, and in which it ends once it is told to."""

PORTS = re.compile(r"\b(8080|9400|8480|8481|8482)\b")
QUEUES = re.compile(r"sqs://(\w+)\?region=eu-west-1")
DATABASES = re.compile(r"postgresql://rewards@(\w+)\.example\.com/rewards")
LISTENER = "http://127.0.0.1:8480/webhooks/original"
DEFAULTS = {
    "WEBHOOK_LISTENER_PORT": "8480",
    "WEBHOOK_LISTENER_ADMIN_PORT": "8481",
    "WEBHOOK_LISTENER_CONSOLE_PORT": "8482",
    "WEBHOOK_LISTENER_ADMIN": "http://127.0.0.1:8481",
    "WEBHOOK_LISTENER_TRIGGER_TO": LISTENER,
    "PORT": "8080",
}
"""Ports that the commands use by themselves; they may be taken where this test runs."""


def fences(page: str) -> Iterator[tuple[str, list[str], str]]:
    """Yield the language, the further words and the body of each block of a page."""
    for fence in FENCE.finditer(TEXTS[page]):
        language, *words = fence["info"].split() or [""]
        yield language, words, fence["body"]


def with_commands() -> list[str]:
    return [page for page in PAGES if any(language == "console" for language, _, _ in fences(page))]


@define
class Reader:
    """A reader who types what a page shows, from top to bottom, in one shell."""

    place: Path
    environment: dict[str, str]
    databases: dict[str, str] = field(factory=dict)
    ports: dict[str, str] = field(factory=lambda: defaultdict(free_port))
    background: list[subprocess.Popen[str]] = field(factory=list)

    def type_all(self, body: str) -> None:
        lines = re.sub(r"\\\n\s*", "", body).splitlines()
        commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        assert commands, "a console block without a line that begins with '$ '"
        for command in commands:
            if command in RUN_ELSEWHERE:
                assert f"\n{command.split()[1]}:" in (ROOT / "Makefile").read_text("utf-8")
            elif command.startswith(". "):
                for line in (self.place / command[2:]).read_text("utf-8").splitlines():
                    self.type(line)
            else:
                self.type(command)

    def type(self, shown: str) -> None:
        command = self.moved(shown)
        if command.startswith("#"):
            return
        if command.startswith("export "):
            for setting in shlex.split(command)[1:]:
                name, _, value = setting.partition("=")
                self.environment[name] = value
        elif command.startswith("kill -9 %"):
            killed = self.background.pop(int(command.removeprefix("kill -9 %")) - 1)
            killed.kill()
            killed.communicate(timeout=READY)
            assert killed.returncode == -signal.SIGKILL, f"{command}: it had ended before"
        elif command.startswith("kill -HUP %"):
            self.background[int(command.removeprefix("kill -HUP %")) - 1].send_signal(signal.SIGHUP)
        elif command.startswith("kill %"):
            self.end(self.background.pop(int(command.removeprefix("kill %")) - 1), command)
        elif command.endswith("&"):
            self.start(command[:-1].strip())
        else:
            place = ROOT if command.startswith("make ") else self.place
            shell = ["bash", "-c", command]
            done = subprocess.run(shell, cwd=place, env=self.environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"

    def moved(self, text: str) -> str:
        """Return a text with free ports and databases of a test in place of those it shows."""
        text = PORTS.sub(lambda port: self.ports[port[0]], text)
        return DATABASES.sub(lambda found: self.databases[found[1]], text)

    def start(self, command: str) -> None:
        """Start what runs in the background and wait for its first line, which says that it is ready."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.place,
            env={**self.environment, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.background.append(process)
        assert process.stdout is not None
        started = time.monotonic()
        line = process.stdout.readline()
        assert process.poll() is None, f"{command} ended at once: {line}{process.stdout.read()}"
        assert time.monotonic() - started < READY

    def end(self, process: subprocess.Popen[str], command: str) -> None:
        process.terminate()
        output, _ = process.communicate(timeout=READY)
        wanted = -signal.SIGTERM if "uvicorn" in str(process.args) else 0  # uvicorn shuts down, then ends by the signal
        assert process.returncode == wanted, f"{command}: exit code {process.returncode}\n{output}"

    def leave(self) -> None:
        """Expect of what still runs that it ends by itself, as `--count 2` makes it."""
        for process in self.background:
            output, _ = process.communicate(timeout=READY)
            assert process.returncode == 0, f"{process.args!r}: exit code {process.returncode}\n{output}"

    def clean_up(self) -> None:
        for process in self.background:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


@pytest.mark.parametrize(
    "page", [page if page == QUICKSTART else pytest.param(page, marks=pytest.mark.slow) for page in with_commands()]
)
def test_commands_of_a_page_run(page: str, tmp_path: Path) -> None:
    venv = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{venv}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "VENV": str(venv.parent),
        "MAKEFLAGS": f"-o {venv.parent}/.installed",  # what is installed is what runs this test
        "NO_COLOR": "1",
        "COLUMNS": "80",
    }
    for name in ("examples", "Makefile", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    typed = "".join(body for language, _, body in fences(page) if language == "console")
    if "--from sqlite:///inbox.db" in typed:
        asyncio.run(make_store(tmp_path / "inbox.db"))
    with databases(DATABASES.findall(typed)) as made, queues(QUEUES.findall(typed)) as amazon:
        read(page, Reader(tmp_path, {**environment, **amazon}, made))


def read(page: str, reader: Reader) -> None:
    """Type the commands of a page."""
    reader.environment.update({name: reader.moved(value) for name, value in DEFAULTS.items()})
    try:
        for language, words, body in fences(page):
            if language == "toml":
                (reader.place / words[0]).write_text(body, "utf-8")
            if language == "console":
                reader.type_all(body)
        reader.leave()
    finally:
        reader.clean_up()


async def make_store(file: Path) -> None:
    """Make the store that a page moves."""
    store = SQLiteStore(file)
    await store.ping()
    await store.aclose()


@contextmanager
def databases(hosts: list[str]) -> Iterator[dict[str, str]]:
    """Make a database for each host that a page names, on one server, and lend their URLs."""
    if not hosts:
        yield {}
        return
    with postgres_server(durable=True) as server:
        run_sql(server, "CREATE ROLE rewards LOGIN", *(f"CREATE DATABASE {host} OWNER rewards" for host in sorted(set(hosts))))
        yield {host: f"postgresql://rewards@/{host}?host={server.folder}" for host in hosts}


@contextmanager
def queues(names: list[str]) -> Iterator[dict[str, str]]:
    """Make the queues that a page names, and lend the environment in which the AWS SDK finds them."""
    if not names:
        yield {}
        return
    with moto() as url:
        for name in sorted(set(names)):
            asyncio.run(make_queue(url, name))
        yield {**AWS, "AWS_ENDPOINT_URL": url}


async def make_queue(url: str, name: str) -> None:
    async with a_queue(url, name):
        pass


def free_port() -> str:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_one_that_is_tested(page: str) -> None:
    for language, words, body in fences(page):
        if language == "python":
            (name,) = words
            assert body.strip("\n") in (ROOT / name).read_text("utf-8"), f"{page}: {name} is not like this"
        elif language == "toml":
            assert words, f"{page}: name the file that a toml block is saved as"
            assert f"--config {words[0]}" in TEXTS[page], f"{page}: no command reads {words[0]}"
        else:
            assert language in LANGUAGES, f"{page}: {language or 'nothing'} is no language that a test reads"


def test_every_test_the_documents_name_exists() -> None:
    named = {each for text in TEXTS.values() for each in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)}
    assert len(named) > 40
    for path, name in named:
        source = (ROOT / path).read_text("utf-8")
        assert f"def {name}" in source or f"class {name}" in source, f"{path}::{name}"


@pytest.mark.slow
def test_every_guarantee_has_a_test_that_was_seen_to_fail() -> None:
    mutants = [tomllib.loads(part.read_text("utf-8"))["mutant"] for part in (ROOT / "tests" / "mutants").glob("*.toml")]
    seen = [test.partition("[")[0].split("::") for part in mutants for mutant in part for test in mutant["tests"]]
    files, names = {each[0] for each in seen}, {each[-1] for each in seen}
    rows = re.findall(r"^\| .* \| (`tests/.*) \|$", TEXTS["docs/reference/guarantees.md"], re.MULTILINE)
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
        assert any(name in names if name else path in files for path, name in named), f"no fault is planted for {row}"


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", FENCE.sub("", TEXTS[page])):
        path, _, anchor = link.partition("#")
        target = (PAGES[page].parent / path).resolve() if path else PAGES[page]
        assert target.is_relative_to(ROOT), f"{page}: {link} leads out of the repository"
        assert target.exists(), f"{page}: {link} is not there"
        if anchor:
            assert anchor in anchors(target.read_text("utf-8")), f"{page}: {link} has no such heading"
