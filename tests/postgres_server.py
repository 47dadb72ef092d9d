"""A PostgreSQL server of a test's own. It runs as the user `postgres` where the tests run as root, and ends with them."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_RUN = 'trap "" INT TERM; "$@" & server=$!; echo "process $server"; read _; kill -QUIT $server; wait $server'
_READY = "database system is ready to accept"
"""What it logs, followed by `connections` or, as a standby, `read-only connections`."""


def programs() -> Path:
    """Return the folder of the newest server programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    command = shutil.which("postgres")
    if not found and command is None:
        raise AssertionError("PostgreSQL is missing. Run tests/install_system_parts.sh, or install it.")
    return found[-1].parent if found else Path(str(command)).resolve().parent


def as_server_user() -> dict[str, Any]:
    """Return how to start a program as a user that PostgreSQL accepts."""
    if os.getuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


class Server:
    """A running server.

    Attributes:
        folder: Its folder, with its socket, and its data in `data`.
        port: Its TCP port on the loopback, 0 if it has none.
        pid: Its first process.
        spare_schemas: Schemas that a test has made and emptied.
    """

    def __init__(self, folder: Path, port: int, settings: dict[str, str]) -> None:
        self.folder = folder
        self.port = port
        self.pid = 0
        self.spare_schemas: list[str] = []
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._log: list[str] = []
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        """Its URL by its socket."""
        return f"postgresql://postgres@/postgres?host={self.folder}&port={self.port or 5432}"

    @property
    def tcp_url(self) -> str:
        """Its URL by TCP."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def log(self) -> str:
        """What it has logged."""
        return "".join(self._log)

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        settings = {
            "listen_addresses": "127.0.0.1" if self.port else "",
            "port": str(self.port or 5432),
            "unix_socket_directories": str(self.folder),
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = ["sh", "-c", _RUN, "sh", str(programs() / "postgres"), "-D", str(self.folder / "data"), *options]
        self._ready.clear()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **as_server_user()
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        self._ready.wait()
        if _READY not in self.log:
            raise AssertionError(self.log)

    def signal(self, number: int) -> None:
        """Send a signal to all its processes."""
        for pid in (self.pid, *_children(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """End it at once, as a crash would; what was committed stays."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
            assert self._reader is not None
            self._reader.join()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.pid = int(process.stdout.readline().split()[1])
        for line in process.stdout:
            self._log.append(line)
            if _READY in line:
                self._ready.set()
        self._ready.set()
        process.stdout.close()


def _children(parent: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


@contextmanager
def postgres_server(*, tcp: bool = False, durable: bool = False, **settings: str) -> Iterator[Server]:
    """Start a server with an empty database.

    Args:
        tcp: Whether it listens on a port of the loopback, too.
        durable: Whether it syncs to disk.
        settings: Further settings of it.
    """
    port = 0
    if tcp:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        if os.getuid() == 0:
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        initdb = [str(programs() / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "postgres", "--no-sync"]
        subprocess.run([*initdb, "--locale=C", "-E", "UTF8"], check=True, capture_output=True, cwd="/", **as_server_user())
        quick = {} if durable else {"fsync": "off", "full_page_writes": "off"}
        server = Server(folder, port, {"max_connections": "60", **quick, **settings})
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def standby_of(primary: Server, name: str) -> Iterator[Server]:
    """Start a standby that receives the log of a server, under a name for its `synchronous_standby_names`."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        if os.getuid() == 0:
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        source = f"host={primary.folder} user=postgres application_name={name}"
        copy = [str(programs() / "pg_basebackup"), "-D", str(folder / "data"), "-R", "-c", "fast", "--no-sync", "-d", source]
        subprocess.run(copy, check=True, capture_output=True, cwd="/", **as_server_user())
        standby = Server(folder, 0, {"max_connections": "60", "fsync": "off"})
        standby.start()
        try:
            yield standby
        finally:
            standby.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
