"""pgbouncer before a server of a test."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.postgres_server import Server, as_server_user


@contextmanager
def pooler_before(server: Server, **settings: str) -> Iterator[int]:
    """Run a pooler before a server with a TCP port, in transaction mode unless a setting says otherwise, and lend its port."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    assert Path(program).exists(), "run tests/install_system_parts.sh"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    usual = {"listen_addr": "127.0.0.1", "listen_port": str(port), "unix_socket_dir": "", "auth_type": "any"}
    chosen = {**usual, "pool_mode": "transaction", "default_pool_size": "3", **settings}
    lines = ["[databases]", f"postgres = host=127.0.0.1 port={server.port} user=postgres", "[pgbouncer]"]
    file = server.folder / "pgbouncer.ini"
    file.write_text("\n".join([*lines, *(f"{name} = {value}" for name, value in chosen.items())]) + "\n")
    if os.getuid() == 0:
        os.chown(file, pwd.getpwnam("postgres").pw_uid, -1)
    with subprocess.Popen([program, file], stderr=subprocess.PIPE, text=True, **as_server_user()) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "process up" in line:
                break
        reader = threading.Thread(target=process.stderr.read)  # or the pooler would wait once the pipe is full
        reader.start()
        try:
            yield port
        finally:
            process.send_signal(signal.SIGKILL)
            reader.join()
