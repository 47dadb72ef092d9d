"""Whose deliveries the listener takes: keys from the environment or a file, sources on paths, reloaded while it runs."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import frozen

from original_async import OriginalWebhooks
from rewards_core.operations import DEFAULT_SCOPE, Event

KEYS_VARIABLE = "ORIGINAL_WEBHOOK_KEYS"
APP_VARIABLE = "ORIGINAL_APP_UID"
DEFAULT_PATH = "/webhooks/original"

_WORDS = ("scope", "app", "keys")


@frozen(kw_only=True)
class SourceSpec:
    """One source of deliveries.

    Attributes:
        path: Where its deliveries come in.
        scope: The scope of its operations.
        app_uid: The only app it may speak for, None for any.
        keys_file: Where its keys stand, None for the environment.
    """

    path: str = DEFAULT_PATH
    scope: str = DEFAULT_SCOPE
    app_uid: str | None = None
    keys_file: Path | None = None


def parse_source(text: str) -> SourceSpec:
    """Read `PATH[,scope=S][,app=UID][,keys=FILE]`.

    Raises:
        ValueError: it is none; the text says what to write.
    """
    path, *rest = (part.strip() for part in text.split(","))
    words: dict[str, str] = {}
    for part in rest:
        word, equals, value = part.partition("=")
        if word not in _WORDS or not equals or not value:
            raise ValueError(f"--source: expected PATH[,scope=S][,app=UID][,keys=FILE], got {part[:80]!a} in it")
        words[word] = value
    if not path.startswith("/"):
        raise ValueError(f"--source: expected a path that begins with '/', got {path[:80]!a}")
    return SourceSpec(
        path=path,
        scope=words.get("scope", DEFAULT_SCOPE),
        app_uid=words.get("app"),
        keys_file=Path(words["keys"]) if "keys" in words else None,
    )


def parse_keys(text: str, where: str) -> dict[str, str]:
    """Read `ID:SECRET` pairs, parted by white space or commas, or a JSON object of ids and secrets; `#` begins a comment line.

    Raises:
        ValueError: there is none, or a pair is not one. Nothing of a secret is in the text.
    """
    stripped = text.strip()
    if stripped.startswith("{"):
        try:
            value = json.loads(stripped)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or not all(isinstance(secret, str) for secret in value.values()):
            raise ValueError(f"{where}: expected a JSON object of key ids and secrets, got something else") from None
        keys = value
    else:
        lines = (line for line in stripped.splitlines() if not line.lstrip().startswith("#"))
        keys = {}
        for number, pair in enumerate(" ".join(lines).replace(",", " ").split(), 1):
            key_id, colon, secret = pair.partition(":")
            if not colon or not key_id or not secret:
                raise ValueError(f"{where}: expected ID:SECRET pairs, got something else as pair {number}")
            keys[key_id] = secret
    if not keys:
        raise ValueError(f"{where}: expected at least one ID:SECRET pair, got none; the console's Webhooks page shows them")
    return keys


def read_keys(spec: SourceSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """Return a source's keys from its file or the environment.

    Raises:
        ValueError: they are missing or cannot be read.
    """
    if spec.keys_file is None:
        if not environ.get(KEYS_VARIABLE, "").strip():
            raise ValueError(
                f"{KEYS_VARIABLE}: expected ID:SECRET pairs in the environment, got none; set it, or give --keys-file"
            )
        return parse_keys(environ[KEYS_VARIABLE], KEYS_VARIABLE)
    try:
        text = spec.keys_file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ValueError(f"{spec.keys_file}: expected a readable file of keys, got {type(problem).__name__}") from None
    return parse_keys(text, str(spec.keys_file))


def others_may_read(path: Path) -> bool:
    """Return whether a file of secrets is readable by more than its owner."""
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


class ReloadableSource:
    """A source whose keys can be exchanged while deliveries come in.

    Args:
        spec: The source.
        environ: Where keys stand that are in no file.

    Raises:
        ValueError: its keys are missing or cannot be read.
    """

    def __init__(self, spec: SourceSpec, environ: Mapping[str, str] = os.environ) -> None:
        self.spec = spec
        self._environ = environ
        self._current = self._read()

    @property
    def scope(self) -> str:
        """The scope of every event of this source."""
        return self._current.scope

    def reload(self) -> None:
        """Read the keys anew; if they cannot be read, the old ones stay.

        Raises:
            ValueError: they cannot be read.
        """
        self._current = self._read()

    def verify(self, headers: Mapping[str, str], body: bytes) -> str:
        """Return the id of the key that signed these bytes."""
        return self._current.verify(headers, body)

    def parse(self, body: bytes, headers: Mapping[str, str] | None = None) -> Event:
        """Read a verified body."""
        return self._current.parse(body, headers)

    def _read(self) -> OriginalWebhooks:
        spec = self.spec
        return OriginalWebhooks(read_keys(spec, self._environ), scope=spec.scope, app_uid=spec.app_uid)


def by_path(sources: Iterable[ReloadableSource]) -> dict[str, list[ReloadableSource]]:
    """Return the sources of each path.

    Raises:
        ValueError: two share a scope.
    """
    paths: dict[str, list[ReloadableSource]] = {}
    scopes: set[str] = set()
    for source in sources:
        if source.scope in scopes:
            raise ValueError(f"--source: expected different scopes, got {source.scope!r} twice; give one another with scope=")
        scopes.add(source.scope)
        paths.setdefault(source.spec.path, []).append(source)
    return paths
