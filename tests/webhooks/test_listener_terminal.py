"""The listener as a person uses it, in a terminal; and piped, as a program does."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.webhooks.listener_process import environment

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not on this machine"),
]

PATIENCE = 30.0


class Terminal:
    """A terminal of its own, 150 columns wide, in which somebody types."""

    def __init__(self, folder: Path) -> None:
        self._socket = f"listener-{uuid.uuid4().hex[:12]}"
        self._folder = folder
        env = {name: value for name, value in environment().items() if name != "COLUMNS"}
        self._tmux("new-session", "-d", "-x", "150", "-y", "50", "-c", str(folder), "env", "PS1=$ ", "sh", env=env)

    def type(self, line: str) -> None:
        self._tmux("send-keys", "-l", line)
        self._tmux("send-keys", "Enter")

    def press(self, key: str) -> None:
        self._tmux("send-keys", key)

    def shows(self, words: str) -> str:
        """Return the screen once it shows these words."""
        end = time.monotonic() + PATIENCE
        while words not in (screen := self._tmux("capture-pane", "-p", "-J")):
            assert time.monotonic() < end, f"expected {words!r} on the screen, got:\n{screen}"
            time.sleep(0.05)
        return screen

    def close(self) -> None:
        self._tmux("kill-server")

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


def verb(*arguments: str) -> str:
    return shlex.join([sys.executable, "-m", "webhooks", *arguments])


def piped(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    return done.stdout


def test_a_person_serves_triggers_looks_and_stops(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type(verb("serve", "--port", "0", "--admin-port", "-1"))
    screen = terminal.shows("listening on http://127.0.0.1:")
    url = screen.partition("listening on ")[2].split()[0]
    terminal.press("C-z")
    terminal.type("bg")
    terminal.type(verb("trigger", "--to", f"{url}/webhooks/original", "--uid", "324167489835"))
    terminal.shows("reward.allocated, attempt 1: 200")
    terminal.type("clear; " + verb("trigger", "--to", f"{url}/webhooks/original", "--bad-signature") + "; echo code $?")
    assert "attempt 1: 401" in terminal.shows("code 6")
    terminal.type("clear; " + verb("events", "list"))
    table = terminal.shows("324167489835")
    assert "┏" in table
    assert "reward.allocated" in table
    terminal.type("clear; " + verb("wait", "324167489835") + "; echo code $?")
    assert "default/allocation/324167489835: done" in terminal.shows("code 0")
    terminal.type("clear; " + verb("tail"))
    terminal.shows("324167489835")
    terminal.press("C-c")
    terminal.type("clear; fg; echo code $?")
    terminal.shows("serve --port 0")
    terminal.press("C-c")
    terminal.shows("code 0")
    assert not (tmp_path / "inbox.db.sock").exists()


def test_a_listener_whose_terminal_is_closed_ends_well(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    terminal.type(verb("serve", "--port", "0", "--admin-port", "-1"))
    terminal.shows("listening on http://127.0.0.1:")
    assert (tmp_path / "inbox.db.sock").exists()
    terminal.close()
    end = time.monotonic() + PATIENCE
    while (tmp_path / "inbox.db.sock").exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_person_who_types_nothing_useful_is_told_what_there_is(terminal: Terminal) -> None:
    terminal.type(verb() + "; echo code $?")
    screen = terminal.shows("code 2")
    for name in ("serve", "trigger", "tail", "events", "dead-letters", "wait", "doctor"):
        assert name in screen
    terminal.type("clear; " + verb("events", "list") + "; echo code $?")
    assert "start the listener first" in terminal.shows("code 7")
    terminal.type("clear; " + verb("doctor", "--port", "18480") + "; echo code $?")
    assert "what a listener needs" in terminal.shows("code 0")


def test_a_pipe_gets_json_lines_and_may_close_early(terminal: Terminal, tmp_path: Path) -> None:
    lines = piped(sys.executable, "-m", "webhooks", "doctor", "--port", "18480", folder=tmp_path).splitlines()
    assert {"keys", "store"} <= {json.loads(line)["check"] for line in lines}
    terminal.type(verb("doctor", "--port", "18480") + " | head -c 1; echo; echo code $?")
    assert "Traceback" not in terminal.shows("code 0")


def test_both_ways_to_start_it_are_one(tmp_path: Path) -> None:
    module = piped(sys.executable, "-m", "webhooks", "--help", folder=tmp_path)
    script = Path(sys.executable).with_name("webhook-listener")
    assert "Usage: webhook-listener" in module
    assert piped(str(script), "--help", folder=tmp_path) == module
