"""The listener as a person uses it, in a terminal; and piped, as a program does."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.webhooks.command_kit import fill
from tests.webhooks.listener_process import KEYS, environment
from tests.webhooks.store_contract import event

pytestmark = [
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not on this machine"),
]


ROOT = Path(__file__).resolve().parents[2]


class Terminal:
    """A terminal of its own, 80 columns wide, in which somebody types."""

    def __init__(self, folder: Path) -> None:
        self._socket = f"listener-{uuid.uuid4().hex[:12]}"
        self._folder = folder
        env = {name: value for name, value in environment().items() if name != "COLUMNS"}
        self._tmux("new-session", "-d", "-x", "80", "-y", "50", "-c", str(folder), "env", "PS1=$ ", "sh", env=env)
        written = folder / self._socket
        os.mkfifo(written)
        self._tmux("pipe-pane", f"exec cat > {shlex.quote(str(written))}")
        self._written = written.open("rb", buffering=0)
        self._since_typed = b""

    def type(self, line: str) -> None:
        self._since_typed = b""
        self._tmux("send-keys", "-l", line)
        self._tmux("send-keys", "Enter")

    def press(self, key: str) -> None:
        self._tmux("send-keys", key)

    def shows(self, words: str) -> str:
        """Return the screen once these words were written to it since something was typed."""
        while words.encode() not in self._since_typed:
            more = self._written.read(65_536)
            assert more, f"expected {words!r} on the screen, but the terminal ended after {self._since_typed!r}"
            self._since_typed += more
        return self._tmux("capture-pane", "-p", "-J")

    def close(self) -> None:
        self._tmux("kill-server")
        self._written.close()

    def _tmux(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._socket, "-f", "/dev/null", *arguments],
            cwd=self._folder,
            env=env or environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


@pytest.fixture
def other_terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


def verb(*arguments: str) -> str:
    return shlex.join([sys.executable, "-m", "webhooks", *arguments])


def piped(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.slow
def test_a_person_serves_triggers_looks_and_stops(terminal: Terminal, other_terminal: Terminal, tmp_path: Path) -> None:
    terminal.type(verb("serve", "--port", "0", "--admin-port", "-1") + "; echo code $?")
    screen = terminal.shows("events go to sqlite:///inbox.db")
    url = screen.partition("listening on ")[2].split()[0]
    other_terminal.type(verb("trigger", "--to", f"{url}/webhooks/original", "--uid", "324167489835"))
    other_terminal.shows("reward.allocated, attempt 1: 200")
    other_terminal.type("clear; " + verb("trigger", "--to", f"{url}/webhooks/original", "--bad-signature") + "; echo code $?")
    assert "attempt 1: 401" in other_terminal.shows("code 6")
    other_terminal.type("clear; " + verb("events", "list"))
    heading, row = [line for line in other_terminal.shows("324167489835").splitlines() if "  " in line]
    assert heading.split() == ["id", "received", "(UTC)", "handlers", "operation", "event", "uid"]
    assert row.split()[3:] == ["done", "done", "reward.allocated", "324167489835"]
    other_terminal.type("clear; " + verb("wait", "324167489835") + "; echo code $?")
    assert "default/allocation/324167489835: done" in other_terminal.shows("code 0")
    other_terminal.type("clear; " + verb("tail") + "; echo code $?")
    other_terminal.shows("324167489835")
    other_terminal.press("C-c")
    other_terminal.shows("code 0")
    terminal.press("C-c")
    terminal.shows("code 0")


def test_a_listener_whose_terminal_is_closed_ends_well(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    terminal = Terminal(tmp_path)
    terminal.type(verb("serve", "--unix", "in.sock", "--admin-port", "-1") + " 3> alive")
    with alive.open("rb") as held:  # by the listener alone, until it ends
        terminal.shows("listening on in.sock")
        assert (tmp_path / "in.sock").exists()
        terminal.close()
        assert held.read() == b""
    assert not (tmp_path / "in.sock").exists()


def test_a_listener_told_to_ignore_hang_ups_outlives_its_terminal(tmp_path: Path) -> None:
    alive, keys, log = (tmp_path / name for name in ("alive", "keys", "log"))
    os.mkfifo(alive)
    keys.write_text(KEYS)
    keys.chmod(0o600)
    listen = verb("serve", "--unix", "in.sock", "--admin-port", "-1", "--keys-file", "keys", "--log-level", "info")
    terminal = Terminal(tmp_path)
    ignoring = f"trap '' HUP; echo $$ > pid; exec {listen} 2> log 3> alive"
    terminal.type(f"sh -c {shlex.quote(ignoring)}")
    with alive.open("rb") as held:
        terminal.shows("listening on in.sock")
        terminal.close()
        while not {"reloaded", "draining;"}.intersection(log.read_text().split()):
            time.sleep(0.05)
        assert "draining" not in log.read_text()  # it was asked for fresh keys
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
        assert held.read() == b""


@pytest.mark.slow
def test_a_person_decides_whether_a_user_is_forgotten(terminal: Terminal, tmp_path: Path) -> None:
    fill(tmp_path, lambda store: store.accept(event("1", said="754566475542")))
    forget = verb("events", "forget", "--user", "754566475542")
    question = "This cannot be undone. [y/N]"
    for press, told in ((("n", "Enter"), "code 6"), (("Enter",), "code 6"), (("C-d",), "code 6"), (("C-c",), "code 130")):
        terminal.type(f"clear; {forget}; echo code $?")
        terminal.shows(question)
        for key in press:
            terminal.press(key)
        assert " changed." in terminal.shows(told)
    terminal.type(f"clear; {forget}; echo code $?")
    terminal.shows(question)
    terminal.type("y")
    assert "1 record of user 754566475542 erased." in terminal.shows("code 0")


INTERRUPTED_AT_THE_QUESTION = """
import typer
from webhooks.__main__ import main
ask = typer.echo
def echo(text, **options):
    ask(text, **options)
    if text.endswith("[y/N] "):
        raise KeyboardInterrupt
typer.echo = echo
main()
"""


@pytest.mark.slow
def test_an_interrupt_before_an_answer_can_be_read_changes_nothing_and_says_so(terminal: Terminal, tmp_path: Path) -> None:
    fill(tmp_path, lambda store: store.accept(event("1", said="754566475542")))
    (tmp_path / "interrupted.py").write_text(INTERRUPTED_AT_THE_QUESTION)
    forget = [sys.executable, "interrupted.py", "events", "forget", "--user", "754566475542"]
    terminal.type(f"clear; PYTHONPATH={shlex.quote(str(ROOT))} {shlex.join(forget)}; echo code $?")
    assert " changed." in terminal.shows("code 130")


@pytest.mark.slow
def test_a_person_breaks_off_a_wait(terminal: Terminal, tmp_path: Path) -> None:
    fill(tmp_path, lambda store: store.ping())
    terminal.type(verb("wait", "324167489835") + "; echo code $?")
    pending = verb("pending", "list", "--json")
    while (
        b"324167489835" not in subprocess.run(["sh", "-c", pending], cwd=tmp_path, env=environment(), capture_output=True).stdout
    ):
        pass  # looking takes a while
    terminal.press("C-c")
    assert "Interrupted." in terminal.shows("code 130")


@pytest.mark.slow
def test_a_person_who_types_nothing_useful_is_told_what_there_is(terminal: Terminal) -> None:
    terminal.type(verb() + "; echo code $?")
    screen = terminal.shows("code 2")
    for name in ("serve", "trigger", "tail", "events", "dead-letters", "wait", "doctor", "handlers", "pending", "backup"):
        assert name in screen
    terminal.type("clear; " + verb("events", "list") + "; echo code $?")
    assert "inbox.db" in terminal.shows("code 7")
    terminal.type("clear; " + verb("doctor", "--port", "18480") + "; echo code $?")
    assert "reachability  yes" in terminal.shows("code 0")


@pytest.mark.slow
def test_a_pipe_gets_json_lines_and_may_close_early(terminal: Terminal, tmp_path: Path) -> None:
    lines = piped(sys.executable, "-m", "webhooks", "doctor", "--port", "18480", folder=tmp_path).splitlines()
    assert {"keys", "store"} <= {json.loads(line)["check"] for line in lines}
    terminal.type(verb("doctor", "--port", "18480") + " | head -c 1; echo; echo code $?")
    assert "Traceback" not in terminal.shows("code 0")


@pytest.mark.slow
def test_both_ways_to_start_it_are_one(tmp_path: Path) -> None:
    module = piped(sys.executable, "-m", "webhooks", "--help", folder=tmp_path)
    script = Path(sys.executable).with_name("webhook-listener")
    assert "Usage: webhook-listener" in module
    assert piped(str(script), "--help", folder=tmp_path) == module
