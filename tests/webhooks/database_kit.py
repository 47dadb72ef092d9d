"""The database of a test of commands, whose store is always in the same schema."""

from __future__ import annotations

import subprocess

from tests.postgres_server import Server, programs

PASSWORD = "pa55-canary"


def url_of(server: Server, **options: str) -> str:
    """Return the URL of a server's database, with a password that it does not ask for."""
    more = "".join(f"&{name}={value}" for name, value in options.items())
    return f"postgresql://postgres:{PASSWORD}@/postgres?{_place(server)}{more}"


def shown_url(server: Server) -> str:
    """Return that URL as commands show it."""
    return f"postgresql://postgres@/postgres?{_place(server)}"


def _place(server: Server) -> str:
    return f"host={server.folder}" + (f"&port={server.port}" if server.port else "")


def run_sql(server: Server, *statements: str) -> str:
    """Run statements, each in a transaction of its own, and return what they answer."""
    psql = [str(programs() / "psql"), "-h", str(server.folder), "-p", str(server.port or 5432), "-U", "postgres", "-qAt"]
    commands = [part for statement in statements for part in ("-c", statement)]
    done = subprocess.run([*psql, "-v", "ON_ERROR_STOP=1", *commands], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
