"""Connections to PostgreSQL, and the errors of stores for those of the database and the network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from attrs import frozen

from rewards_core.errors import StoreError, StoreFull
from rewards_core.secrets import Secret, shielded
from rewards_core.text import one_line
from rewards_core.validation import check_str

try:
    import asyncpg
except ImportError:
    raise ImportError("PostgreSQL needs the package asyncpg. Run pip install 'rewards-async[postgres]'.") from None

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SCHEMES = ("postgresql", "postgres")
OLDEST = 14
"""The oldest major version of PostgreSQL that works."""

DATABASE_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""Errors of the database and the network; `TimeoutError` is an `OSError`."""
REPEATABLE_ERRORS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
"""Errors after which the same transaction may succeed."""
READ_ONLY_ERRORS = (asyncpg.ReadOnlySQLTransactionError,)
POOLER_ERRORS = (
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.ProtocolViolationError,
)
"""What a pooler in transaction mode answers to prepared statements and to settings at the start."""

_CALL_ERRORS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)
_STALLED_COMMIT = "01000"
_hosts = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:,\[\]]*)(:[0-9]+)?(,(\[[0-9A-Fa-f:.]+\]|[^\s:,\[\]]*)(:[0-9]+)?)*").fullmatch


class StatementRefused(StoreError):
    """The database refused what one call gave it, which does not concern the other calls of its transaction."""


class Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that remembers a warning about its last commit."""

    __slots__ = ("warning",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.warning: str | None = None
        self.add_log_listener(_note_warning)


def _note_warning(connection: Connection, message: Any) -> None:
    """Note that the wait for a synchronous standby was cancelled: the commit may be lost at a failover."""
    if message.sqlstate == _STALLED_COMMIT and (message.severity_en or message.severity) == "WARNING":
        connection.warning = message.message


@frozen
class Address:
    """The URL of a database, whose password appears in no repr, log or traceback, and its part that may be shown."""

    url: Secret
    shown: str

    def __str__(self) -> str:
        return self.shown


@shielded
def address_of(url: str, name: str) -> Address:
    """Return the address in a URL.

    Raises:
        TypeError: the URL is not a str.
        ValueError: it is not a `postgresql://` URL, or its password is not percent-encoded; nothing of it is shown.
    """
    secret = Secret(check_str(url, name), name)
    scheme, slashes, rest = url.partition("://")
    if scheme not in SCHEMES or not slashes:
        raise ValueError(f"{name}: give a URL such as 'postgresql://user@host/database'.")
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    if "#" in rest or "@" in parts.path + parts.query or not _hosts(hosts):
        raise ValueError(f"{name}: its host or port cannot be read. Percent-encode /, ?, #, : and @ in user and password.")
    if any(option == "sslmode" and mode not in _SSL_MODES for option, mode in parse_qsl(parts.query, keep_blank_values=True)):
        raise ValueError(f"{name}: its sslmode is not one of {', '.join(_SSL_MODES)}.")
    return Address(secret, f"PostgreSQL at {hosts or 'the local host'}{parts.path if parts.path != '/' else ''}")


async def connect(
    address: Address,
    *,
    settings: dict[str, str],
    connect_timeout: float,
    command_timeout: float,
    prepared: bool = True,
) -> Connection:
    """Connect to the writable server of an address. Raises what `DATABASE_ERRORS` lists, and `ValueError` for a wrong URL."""
    return await asyncpg.connect(  # type: ignore[no-any-return]
        dsn=address.url.reveal(),
        timeout=connect_timeout,
        command_timeout=command_timeout,
        server_settings=settings,
        statement_cache_size=512 if prepared else 0,
        max_cached_statement_lifetime=0,
        target_session_attrs="read-write",
        connection_class=Connection,
    )


def as_store_error(problem: BaseException, where: object) -> StoreError:
    """Return the error of a store for one of the database or the network, without anything of the URL's password."""
    if isinstance(problem, StoreError):
        return problem
    if isinstance(problem, TimeoutError):
        return StoreError(
            f"{where} did not answer in time. The call may or may not have changed the store; it may be repeated. "
            "Check the server, its standby and the network."
        )
    if isinstance(problem, asyncpg.TargetServerAttributeNotMatched | asyncpg.ReadOnlySQLTransactionError):
        return StoreError(f"{where} is a read-only standby, so nothing was written. Connect to the primary, or promote it.")
    if isinstance(problem, asyncpg.exceptions.DataError):  # found before it was sent
        return StatementRefused(f"A value cannot be stored in {where}: {one_line(str(problem))}. Nothing was changed.")
    if isinstance(problem, asyncpg.PostgresError):
        return _as_store_error(problem, where)
    if isinstance(problem, asyncpg.InterfaceError | asyncpg.InternalClientError | ConnectionError | EOFError):
        return StoreError(
            f"The connection to {where} was lost or refused. A call in flight may or may not have changed the store; it may be "
            "repeated. Check that the server runs and accepts connections."
        )
    if isinstance(problem, OSError):
        return StoreError(f"{where} cannot be reached: {problem.strerror or type(problem).__name__}. Nothing was written.")
    return StoreError(f"{where} cannot be used: {type(problem).__name__}. Check the options of its URL, such as sslmode.")


def _as_store_error(problem: Any, where: object) -> StoreError:
    said = one_line(str(problem.message or problem))
    state = problem.sqlstate or ""
    if isinstance(problem, asyncpg.DiskFullError):
        return StoreFull(f"The disk of {where} is full. Free some space; nothing else is needed.")
    if state.startswith("28"):
        return StoreError(f"{where} refused this user or its password: {said}. Nothing was read or written.")
    if isinstance(problem, asyncpg.InvalidCatalogNameError):
        return StoreError(f"{where} has no such database: {said}. Create it, for example with createdb.")
    if isinstance(problem, asyncpg.InsufficientPrivilegeError):
        return StoreError(f"{where} does not allow this user to do that: {said}. Nothing was changed. Grant it the rights.")
    if isinstance(problem, asyncpg.LockNotAvailableError | asyncpg.QueryCanceledError):
        return StoreError(
            f"{where} did not finish a statement in time: {said}. This call changed nothing and may be repeated. End the session "
            "that holds the lock."
        )
    if state == "55000":  # raised by a trigger of ours
        return StoreError(f"{where}: {said}")
    if state[:2] in {"08", "53", "57", "58"}:
        return StoreError(f"{where} is not available: {said}. The call may be repeated; it is tried again with the next one.")
    refused = StatementRefused if isinstance(problem, _CALL_ERRORS) else StoreError
    return refused(f"{where} refused a statement: {said} (SQLSTATE {state or 'unknown'}).")


def is_unicode(connection: Connection) -> bool:
    """Return whether the database can hold every text that UTF-8 can."""
    return bool(connection.get_settings().server_encoding == "UTF8")


def is_usable(connection: Connection, problem: BaseException | None) -> bool:
    """Return whether a connection may be used after a call that ended so."""
    if connection.is_closed() or connection.is_in_transaction():
        return False
    if problem is None:
        return True
    if isinstance(problem, asyncpg.PostgresError):
        return problem.severity_en not in {"FATAL", "PANIC"} and not isinstance(problem, READ_ONLY_ERRORS + POOLER_ERRORS)
    return isinstance(problem, Exception) and not isinstance(problem, DATABASE_ERRORS)


def tell_answered(problem: BaseException | None) -> bool:
    """Return whether the server has answered a call that ended so."""
    return problem is None or isinstance(problem, asyncpg.PostgresError)


def quoted(name: str) -> str:
    """Return a name as an identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def columns_of(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Return rows as columns, the arrays that `unnest` takes."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
