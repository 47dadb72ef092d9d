"""The processes of the fleet, each with a log of its own: what is started here is ended here."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NGINX_CONF = ROOT / "deploy" / "nginx.conf"
PATIENCE = 300.0
"""Seconds after which the fleet gives up on what it waits for."""


class Trouble(Exception):
    """The fleet cannot be started."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str, *places: str) -> str:
    """Return the path of a program that is not written in Python."""
    found = shutil.which(name) or next((path for place in places for path in map(str, Path("/").glob(f"{place}/{name}"))), None)
    if found is None:
        raise Trouble(f"{name} is missing. Install it, as `make demo-fleet` does where apt-get is to be had.")
    return found


def until(done: Callable[[], Any], what: str) -> Any:
    """Return what `done` returns once that is true."""
    end = time.monotonic() + PATIENCE
    while not (result := done()):
        if time.monotonic() > end:
            raise Trouble(f"gave up after waiting {PATIENCE:.0f} s for {what}")
        time.sleep(0.05)
    return result


class Started:
    """A process whose output is in a file."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None, **how: Any) -> None:
        self.name = name
        self.log = folder / f"{name.replace(' ', '-')}.log"
        self._errors = folder / f"{name.replace(' ', '-')}.err"
        with self.log.open("ab") as out, self._errors.open("ab") as errors:
            output: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": errors}
            self.process = subprocess.Popen(command, env={**os.environ, **(env or {})}, **output, **{"cwd": ROOT, **how})

    @property
    def pid(self) -> int:
        return self.process.pid

    def records(self) -> list[dict[str, Any]]:
        """Return the JSON objects that it has written, one a line."""
        return [json.loads(line) for line in self.log.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]

    def first(self) -> dict[str, Any]:
        """Return the first of them, which says that it is ready."""

        def ready() -> list[dict[str, Any]]:
            self.check()
            return self.records()

        record: dict[str, Any] = until(ready, f"{self.name} to start")[0]
        return record

    def check(self) -> None:
        """Raise if it has ended in an error."""
        if self.process.poll():
            raise Trouble(f"{self.name} ended with code {self.process.returncode}: {self.errors()}")

    def errors(self) -> str:
        """Return the end of what it wrote to standard error."""
        return self._errors.read_text("utf-8", "replace")[-2_000:]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


def python(name: str, module: str, *arguments: str, folder: Path, env: Mapping[str, str]) -> Started:
    return Started(name, [sys.executable, "-m", module, *arguments], folder, env)


class Postgres:
    """A PostgreSQL server with an empty database, on a port of the loopback; it does not run as root."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder = folder
        self._logs = logs
        self._port = free_port()
        self._data = folder / "data"
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            self._user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(folder, user.pw_uid, user.pw_gid)
        self._server: Started | None = None
        programs = "usr/lib/postgresql/*/bin"
        self._program = program("postgres", programs)
        initdb = [program("initdb", programs), "-D", str(self._data), "-A", "trust", "-U", "postgres", "--locale=C", "-E", "UTF8"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **self._user)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        options = [
            f"port={self._port}",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self._folder}",
            "max_connections=100",
        ]
        command = [self._program, "-D", str(self._data), *(part for option in options for part in ("-c", option))]
        name = "postgres" if self._server is None else "postgres again"
        self._server = Started(name, command, self._logs, cwd=self._folder, **self._user)
        until(lambda: "ready to accept connections" in self._running().errors(), "PostgreSQL")

    def kill(self) -> None:
        """Kill its processes, all at once."""
        server = self._running()
        found = subprocess.run(["pgrep", "-P", str(server.pid)], capture_output=True, text=True, check=False).stdout.split()
        for pid in (server.pid, *map(int, found)):
            with suppress(ProcessLookupError):  # it has ended with the first one
                os.kill(pid, signal.SIGKILL)
        server.process.wait()

    def end(self) -> None:
        if self._server is not None and self._server.process.poll() is None:
            self._server.process.send_signal(signal.SIGINT)
            self._server.process.wait()

    def _running(self) -> Started:
        assert self._server is not None
        if self._server.process.poll() is not None:
            raise Trouble(f"PostgreSQL ended: {self._server.errors()}")
        return self._server


def nginx(port: int, listeners: Sequence[int], folder: Path) -> Started:
    """Start nginx with the configuration of `deploy/`, on a port of the loopback."""
    config = NGINX_CONF.read_text("utf-8").replace("listen 8080", f"listen 127.0.0.1:{port}")
    for number, listener in enumerate(listeners, 1):
        config = config.replace(f"listener-{number}:8480", f"127.0.0.1:{listener}")
    own = folder / "nginx"
    own.mkdir()
    (own / "nginx.conf").write_text(config, "utf-8")
    started = Started(
        "nginx", [program("nginx", "usr/sbin"), "-e", "stderr", "-p", str(own), "-c", str(own / "nginx.conf")], folder
    )
    until(lambda: answers(port), f"nginx: {started.errors()}")
    return started


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
