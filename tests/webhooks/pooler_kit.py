"""pgbouncer before a server of a test."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.postgres_server import Server, as_server_user


@contextmanager
def pooler_before(server: Server) -> Iterator[int]:
    """Run a pooler in transaction mode before a server with a TCP port, and lend its port."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    assert Path(program).exists(), "run tests/install_system_parts.sh"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = server.folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\npostgres = host=127.0.0.1 port={server.port} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 3\n"
    )
    if os.getuid() == 0:
        os.chown(settings, pwd.getpwnam("postgres").pw_uid, -1)
    with subprocess.Popen([program, settings], stderr=subprocess.PIPE, text=True, **as_server_user()) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "process up" in line:
                break
        yield port
        process.send_signal(signal.SIGKILL)
