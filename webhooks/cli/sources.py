"""Sources of deliveries: their paths and scopes, and their keys, which can be reloaded while the listener runs."""

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

_NAMES = ("scope", "app", "keys")
_KEYS_DIFFER = frozenset({"unknown_key", "mismatch"})
_RELOAD = "If a key was rotated, add the new one to the keys file and send SIGHUP to the listener."
_RESTART = f"If a key was rotated, set {WEBHOOK_KEYS} and restart the listener; a --keys-file can be reloaded without a restart."


@frozen(kw_only=True)
class SourceSpec:
    """One source of deliveries: its path in normal form, its scope, the only app it may send events of, its file of keys."""

    path: str = WEBHOOK_PATH
    scope: str = DEFAULT_SCOPE
    app_uid: str | None = None
    keys_file: Path | None = None


def parse_source(text: str) -> SourceSpec:
    """Parse `PATH[,scope=S][,app=UID][,keys=FILE]`.

    Raises:
        ValueError: a part is invalid.
    """
    path, *rest = (part.strip() for part in text.split(","))
    options: dict[str, str] = {}
    for part in rest:
        name, equals, value = part.partition("=")
        if name not in _NAMES or not equals or not value:
            raise ValueError(f"--source: {part[:80]!a} is not part of a source. Give PATH[,scope=S][,app=UID][,keys=FILE].")
        options[name] = value
    return SourceSpec(
        path=checked_path(path, "--source"),
        scope=check_id(options.get("scope", DEFAULT_SCOPE), "--source: scope"),
        app_uid=check_id(options["app"], "--source: app") if "app" in options else None,
        keys_file=Path(options["keys"]) if "keys" in options else None,
    )


def checked_path(path: str, option: str) -> str:
    """Return the normal form of a path; raises `ValueError`, which names `option`, if no request can have this path."""
    if not path.startswith("/"):
        raise ValueError(f"{option}: the path {path[:80]!a} does not begin with '/'. Give one such as /webhooks/original.")
    for mark, part in (("?", "query"), ("#", "fragment")):
        if mark in path:
            raise ValueError(
                f"{option}: the path {path[:80]!a} can match no delivery: {mark!r} begins a {part}, which is not part of a path. "
                f"Give {path.partition(mark)[0][:80]!a}, which matches deliveries with any query."
            )
    if not path.isprintable():
        raise ValueError(f"{option}: the path {path[:80]!a} contains unprintable characters. Remove them.")
    return normal_path(path)


class ReloadableSource:
    """A source whose keys can be replaced while the listener runs; raises `ValueError` if they are missing or invalid."""

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec
        self._current = self._read()

    @property
    def scope(self) -> str:
        """The scope of every event of this source."""
        return self._current.scope

    def ids_of_secrets_below(self, characters: int) -> list[str]:
        """Return the ids of keys with a secret shorter than this."""
        keys = webhook_keys(self.spec.keys_file, WEBHOOK_KEYS)
        return [key_id for key_id in keys if len(keys[key_id]) < characters]

    def replace_keys(self, other: ReloadableSource) -> None:
        """Use the keys of another reading of the same source."""
        self._current = other._current

    @property
    def event_names(self) -> frozenset[str]:
        """The event names that the vendor documents."""
        return self._current.event_names

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Return whether the headers name a configured key."""
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
        """Parse a verified body."""
        return self._current.parse(body, headers)

    def _read(self) -> original_async.OriginalWebhooks:
        spec = self.spec
        return original_async.OriginalWebhooks(webhook_keys(spec.keys_file, WEBHOOK_KEYS), scope=spec.scope, app_uid=spec.app_uid)


def by_path(sources: Iterable[ReloadableSource]) -> dict[str, list[ReloadableSource]]:
    """Return the sources of each path; raises `ValueError` if two share a scope."""
    paths: dict[str, list[ReloadableSource]] = {}
    scopes: set[str] = set()
    for source in sources:
        if source.scope in scopes:
            raise ValueError(f"--source: two sources have the scope {source.scope!r}. Give each its own with scope=.")
        scopes.add(source.scope)
        paths.setdefault(source.spec.path, []).append(source)
    return paths
