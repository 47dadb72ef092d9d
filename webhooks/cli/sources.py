"""Whose deliveries the listener takes: keys from the environment or a file, sources on paths, reloaded while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import frozen

import original_async
from original_async.settings import WEBHOOK_KEYS, WEBHOOK_PATH
from rewards_core.errors import SignatureError
from rewards_core.keys import webhook_keys
from rewards_core.operations import DEFAULT_SCOPE, Event
from rewards_core.validation import check_id
from webhooks.ingress.paths import normal_path

_WORDS = ("scope", "app", "keys")
_KEYS_DIFFER = frozenset({"unknown_key", "mismatch"})
_RELOAD = "If a key was rotated, put the new one into the keys file and reload it with SIGHUP."
_RESTART = f"If a key was rotated, restart the listener with it in {WEBHOOK_KEYS}; a --keys-file could be reloaded with SIGHUP."


@frozen(kw_only=True)
class SourceSpec:
    """One source of deliveries.

    Attributes:
        path: Where its deliveries come in, in its normal spelling.
        scope: The scope of its operations.
        app_uid: The only app it may speak for, None for any.
        keys_file: Where its keys stand, None for the environment.
    """

    path: str = WEBHOOK_PATH
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
            raise ValueError(f"--source: {part[:80]!a} is no part of a source. Give PATH[,scope=S][,app=UID][,keys=FILE].")
        words[word] = value
    return SourceSpec(
        path=checked_path(path, "--source"),
        scope=check_id(words.get("scope", DEFAULT_SCOPE), "--source: scope"),
        app_uid=check_id(words["app"], "--source: app") if "app" in words else None,
        keys_file=Path(words["keys"]) if "keys" in words else None,
    )


def checked_path(path: str, option: str) -> str:
    """Return a path as deliveries are compared with it.

    Args:
        path: What was given.
        option: The option that gave it, for messages.

    Raises:
        ValueError: no delivery can come to it.
    """
    if not path.startswith("/"):
        raise ValueError(f"{option}: the path {path[:80]!a} does not begin with '/'. Give one such as /webhooks/original.")
    for mark, part in (("?", "query"), ("#", "fragment")):
        if mark in path:
            raise ValueError(
                f"{option}: no delivery comes to the path {path[:80]!a}, because {mark!r} begins a {part}, which is no part of a "
                f"path. Give {path.partition(mark)[0][:80]!a}: deliveries come to it with any query."
            )
    if not path.isprintable():
        raise ValueError(f"{option}: the path {path[:80]!a} holds characters that cannot be printed. Give one without them.")
    return normal_path(path)


class ReloadableSource:
    """A source whose keys can be exchanged while deliveries come in.

    Args:
        spec: The source.

    Raises:
        ValueError: its keys are missing or cannot be read.
    """

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec
        self._current = self._read()

    @property
    def scope(self) -> str:
        """The scope of every event of this source."""
        return self._current.scope

    def ids_of_secrets_below(self, characters: int) -> list[str]:
        """Return the ids of the keys whose secret is shorter than so many characters."""
        keys = webhook_keys(self.spec.keys_file, WEBHOOK_KEYS)
        return [key_id for key_id in keys if len(keys[key_id]) < characters]

    def take_keys_of(self, other: ReloadableSource) -> None:
        """Verify with the keys of another reading of the same source from now on."""
        self._current = other._current

    @property
    def event_names(self) -> frozenset[str]:
        """The names of the events that the vendor documents."""
        return self._current.event_names

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Return whether the headers hold a signature by a configured key."""
        return self._current.admits(headers)

    def verify(self, headers: Mapping[str, str], body: bytes) -> str:
        """Return the id of the key that signed these bytes."""
        try:
            return self._current.verify(headers, body)
        except SignatureError as problem:
            if problem.reason not in _KEYS_DIFFER:
                raise
            rotated = _RESTART if self.spec.keys_file is None else _RELOAD
            raise SignatureError(f"{problem} {rotated}", reason=problem.reason, key_ids=problem.key_ids) from None

    def parse(self, body: bytes, headers: Mapping[str, str] | None = None) -> Event:
        """Read a verified body."""
        return self._current.parse(body, headers)

    def _read(self) -> original_async.OriginalWebhooks:
        spec = self.spec
        return original_async.OriginalWebhooks(webhook_keys(spec.keys_file, WEBHOOK_KEYS), scope=spec.scope, app_uid=spec.app_uid)


def by_path(sources: Iterable[ReloadableSource]) -> dict[str, list[ReloadableSource]]:
    """Return the sources of each path.

    Raises:
        ValueError: two share a scope.
    """
    paths: dict[str, list[ReloadableSource]] = {}
    scopes: set[str] = set()
    for source in sources:
        if source.scope in scopes:
            raise ValueError(f"--source: two sources have the scope {source.scope!r}. Give each its own with scope=.")
        scopes.add(source.scope)
        paths.setdefault(source.spec.path, []).append(source)
    return paths
