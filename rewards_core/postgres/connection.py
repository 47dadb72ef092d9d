"""Connections to PostgreSQL, and the errors of stores for those of the database and the network."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from attrs import field, frozen

from rewards_core.errors import StoreError, StoreFull
from rewards_core.install_hint import install_hint
from rewards_core.secrets import Secret, shielded, without_frames
from rewards_core.text import one_line
from rewards_core.validation import check_str

try:
    import asyncpg
except ImportError:
    raise ImportError(f"PostgreSQL needs the package asyncpg. Run {install_hint('postgres')}.") from None

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SHOWN_OPTIONS = frozenset({"host", "port", "dbname", "database", "user", "sslmode"})
SCHEMES = ("postgresql", "postgres")
OLDEST = 14
"""The oldest major version of PostgreSQL that works."""

DATABASE_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""Errors of the database and the network; `TimeoutError` is an `OSError`."""
REPEATABLE_ERRORS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
"""Errors after which the same transaction may succeed."""
STALE_ERRORS = (OSError, asyncpg.ConnectionDoesNotExistError, asyncpg.ReadOnlySQLTransactionError)
"""Errors after which other connections may be of no use either: their server is frozen, cut off, gone or a standby now."""
UniqueViolation = asyncpg.UniqueViolationError
"""The error of a row that is there already."""
_POOLER_ERRORS = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)

_CALL_ERRORS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)
_OTHER_HOST_ERRORS = (
    OSError,
    asyncpg.TargetServerAttributeNotMatched,
    asyncpg.CannotConnectNowError,
    asyncpg.ConnectionDoesNotExistError,
)
"""Errors of one host after which another one of the URL may do."""
_STALLED_COMMIT = "01000"
_host = re.compile(r"(/[^,]*|\[[0-9A-Fa-f:.]+\]|[^\s:,\[\]]*)(?::([0-9]+))?").fullmatch
_MAX_PORT = 65_535


class StatementRefused(StoreError):
    """The database refused what one call gave it, which does not concern the other calls of its transaction."""


class Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that remembers a warning about its last commit, and since when it has been idle."""

    __slots__ = ("idle_since", "warning")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.warning: str | None = None
        self.idle_since = 0.0
        self.add_log_listener(_note_warning)


def _note_warning(connection: Connection, message: Any) -> None:
    """Note that the wait for a synchronous standby was cancelled: the commit may be lost at a failover."""
    if message.sqlstate == _STALLED_COMMIT and (message.severity_en or message.severity) == "WARNING":
        connection.warning = message.message


@frozen
class Address:
    """The URL of a database, whose password appears in no repr, log or traceback, and its parts that may be shown.

    `shown` names it in messages, `typed` is the URL without the password. `hosts` are those it names, each with its port ("" for
    the usual one); the last that could be used comes first.
    """

    url: Secret
    shown: str
    typed: str
    hosts: list[tuple[str, str]] = field(eq=False)

    def __str__(self) -> str:
        return self.shown


@shielded
def address_of(url: str, name: str) -> Address:
    """Return the address in a URL.

    Raises:
        TypeError: the URL is not a str.
        ValueError: it is not a `postgresql://` URL, it names an impossible host or port, or its password is not percent-encoded;
            nothing of it is shown.
    """
    secret = Secret(check_str(url, name), name)
    scheme, slashes, rest = url.partition("://")
    if scheme not in SCHEMES or not slashes:
        raise ValueError(f"{name}: give a URL such as 'postgresql://user@host/database'.")
    try:
        parts = urlsplit(url)
    except ValueError:  # which may show the password
        parts = urlsplit("")
    user, _, listed = parts.netloc.rpartition("@")
    if not parts.scheme or "#" in rest or "@" in user + parts.path + parts.query or not all(map(_host, listed.split(","))):
        raise ValueError(f"{name}: its host or port cannot be read. Percent-encode /, ?, #, : and @ in user and password.")
    options = parse_qsl(parts.query, keep_blank_values=True)
    if any(option == "sslmode" and mode not in _SSL_MODES for option, mode in options):
        raise ValueError(f"{name}: its sslmode is not one of {', '.join(_SSL_MODES)}.")
    hosts = _hosts_of(listed, dict(options))
    ports = [port for option, given in options if option == "port" for port in given.split(",")]
    if not all(map(_may_exist, [host for host, _ in hosts])) or not all(map(_is_port, [*ports, *(port for _, port in hosts)])):
        raise ValueError(f"{name}: it has a host name that cannot exist, or a port that is not 1 to {_MAX_PORT}.")
    shown = f"PostgreSQL at {listed or 'the local host'}{parts.path if parts.path != '/' else ''}"
    return Address(secret, shown, _without_password(parts), hosts)


def _without_password(parts: SplitResult) -> str:
    """Return a URL without its password, and without options that may hold one."""
    user, at, hosts = parts.netloc.rpartition("@")
    options = [(name, value) for name, value in parse_qsl(parts.query) if name in _SHOWN_OPTIONS]
    query = "?" + urlencode(options, safe="/", quote_via=quote) if options else ""
    return f"postgresql://{user.partition(':')[0]}{at}{hosts}{parts.path}{query}"


def _hosts_of(listed: str, options: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the hosts of a URL with their ports, as asyncpg reads them; none if it names none."""
    named = listed or options.get("host", "")
    found = [_host(each) for each in named.split(",") if named]
    hosts = [("", "") if one is None else (unquote(one[1].strip("[]")), one[2] or "") for one in found]
    ports = "" if listed else options.get("port", "")
    if ports:
        usual = ports.split(",") if "," in ports else [ports] * len(hosts)
        if len(usual) != len(hosts):
            return [("", "0")]  # which no check lets pass
        hosts = [(host, port) for (host, _), port in zip(hosts, usual, strict=True)]
    return hosts


def _may_exist(host: str) -> bool:
    if host.startswith("/"):  # the folder of a socket
        return True
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def _is_port(port: str) -> bool:
    return not port or (port.isascii() and port.isdigit() and len(port) <= len(str(_MAX_PORT)) and 1 <= int(port) <= _MAX_PORT)


async def connect(
    address: Address,
    *,
    settings: dict[str, str],
    connect_timeout: float,
    command_timeout: float,
    prepared: bool = True,
) -> Connection:
    """Connect to the writable server of an address; of several hosts, one after the other gets a share of the time.

    Raises what `DATABASE_ERRORS` lists, and `StoreError` for a wrong URL. No frame of asyncpg is on the traceback: their local
    variables hold the password.
    """
    options = {
        "command_timeout": command_timeout,
        "server_settings": settings,
        "statement_cache_size": 512 if prepared else 0,
    }
    if len(address.hosts) < 2:
        return await _connect(address, timeout=connect_timeout, **options)
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + connect_timeout
    problems: list[Exception] = []
    for left, (host, port) in zip(range(len(address.hosts), 0, -1), tuple(address.hosts), strict=True):
        own = {"host": [host], "port": int(port) if port else None, "timeout": (ends_at - loop.time()) / left}
        try:
            connection = await _connect(address, **own, **options)
        except _OTHER_HOST_ERRORS as problem:
            problems.append(problem)
        else:
            address.hosts.sort(key=lambda each: each != (host, port))
            return connection
    try:
        raise min(problems, key=_rank)
    finally:
        problems.clear()


def _rank(problem: Exception) -> int:
    """Return 0 for the error that tells most about several hosts: one may be the primary and hang while a standby answers."""
    kinds = (TimeoutError, asyncpg.TargetServerAttributeNotMatched)
    return next((rank for rank, kind in enumerate(kinds) if isinstance(problem, kind)), len(kinds))


async def _connect(address: Address, **options: Any) -> Connection:
    problem: BaseException
    try:
        return await asyncpg.connect(  # type: ignore[no-any-return]
            dsn=address.url.reveal(),
            max_cached_statement_lifetime=0,
            target_session_attrs="read-write",
            connection_class=Connection,
            **options,
        )
    except BaseException as error:  # noqa: BLE001 - it is raised again below
        problem = without_frames(error)
    try:
        if isinstance(problem, Exception) and (
            not isinstance(problem, DATABASE_ERRORS)
            or (isinstance(problem, asyncpg.InterfaceError) and isinstance(problem, ValueError))
        ):
            what = type(problem).__name__
            raise StoreError(f"{address} cannot be used: {what}. Check the options of its URL, such as sslmode.")
        raise problem
    finally:
        del problem


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
        return StoreError(
            f"{where} is read-only, so nothing was written. Connect to the primary or promote this standby; if it is the "
            "primary, see its default_transaction_read_only."
        )
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
    return StoreError(f"{where} cannot be used: {type(problem).__name__}.")


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
        blocked = isinstance(problem, asyncpg.LockNotAvailableError)
        advice = "End the session that holds the lock." if blocked else "Find out what slows the server, or allow more time."
        return StoreError(
            f"{where} did not finish a statement in time: {said}. This call changed nothing and may be repeated. {advice}"
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
    """Return whether a connection may be used again after a call that raised `problem`; None if it raised nothing."""
    if connection.is_closed() or connection.is_in_transaction():
        return False
    if problem is None:
        return True
    if isinstance(problem, asyncpg.PostgresError):
        return problem.severity_en not in {"FATAL", "PANIC"} and not (
            isinstance(problem, STALE_ERRORS) or is_of_transaction_pool(problem)
        )
    return isinstance(problem, Exception) and not isinstance(problem, DATABASE_ERRORS)


def is_of_transaction_pool(problem: BaseException) -> bool:
    """Return whether an error is the answer of a pooler in transaction mode to settings at the start or prepared statements.

    A pooler refuses much else with the same code, also in session mode.
    """
    if isinstance(problem, asyncpg.ProtocolViolationError):
        return any(what in str(problem) for what in ("startup parameter", "prepared statement"))
    return isinstance(problem, _POOLER_ERRORS)


def tell_answered(problem: BaseException | None) -> bool:
    """Return whether the server has answered a call that raised `problem`; None if it raised nothing."""
    return problem is None or isinstance(problem, asyncpg.PostgresError)


def quoted(name: str) -> str:
    """Return a name as an identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as a literal in SQL, whatever `standard_conforming_strings` is."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def columns_of(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Return rows as columns, the arrays that `unnest` takes."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
