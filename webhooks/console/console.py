"""The console as a server's paths: the page's files, its live feed, and what it asks for. Nothing can be changed through it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from rewards_core.errors import StoreError
from rewards_core.operations import OperationRef
from rewards_core.secrets import Secret
from rewards_core.text import one_line
from webhooks.console.commands import Commands
from webhooks.console.feed import Feed
from webhooks.console.views import Views, as_json
from webhooks.delivery_watch import DeliveryFilter
from webhooks.ingress.base import Reply, StreamReply

if TYPE_CHECKING:
    from pathlib import Path

    from webhooks.console.watched import Watched
    from webhooks.store.base import Store
    from webhooks.store.urls import StoreUrl

PREFIX = "/console"
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_JSON = {**_HEADERS, "Content-Type": "application/json"}
_STREAM = {**_HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
_MAX_ID = 2**63 - 1
_MOVED = Reply(status=308, headers={**_HEADERS, "Location": f"{PREFIX}/"})


class Console:
    """Serve the console of a store and of what is watched.

    Args:
        watched: The listener or the store.
        store: The store; only read, and not closed.
        url: Its URL, for the commands that the page shows.

    Attributes:
        token: What a request for anything but the page's files must carry; new for each console.
    """

    def __init__(self, watched: Watched, store: Store, url: StoreUrl) -> None:
        self.token = Secret(secrets.token_urlsafe(32), "console token")
        self._commands = Commands(url)
        self._views = Views(store, watched, self._commands, time.time)
        self._feed = Feed(watched, self._views)
        self._asked: Mapping[str, Callable[[Mapping[str, str]], Awaitable[Any]]] = {
            "dead-letters": lambda query: self._views.dead_letters(_number(query, "before")),
            "pending": lambda query: self._views.pending(_ref(query)),
            "conflicts": lambda query: self._views.conflicts(_number(query, "before")),
            "refused": lambda _: self._views.refused(),
            "handlers": lambda _: self._views.handlers(),
            "event": lambda query: self._views.event(_number(query, "id"), query.get("identity"), query.get("uid")),
            "body": lambda query: self._views.body(_number(query, "id") or 0),
            "operation": lambda query: self._views.stories(query.get("uid", "")),
        }

    def link(self, url: str, admin_token_file: Path | None = None) -> str:
        """Return the link that opens the page at a server's URL; its fragment, which no browser sends, holds the token.

        Commands that ask the server give the file with the token of its other paths.
        """
        self._commands.ask(url, admin_token_file)
        return f"{url}{PREFIX}/#{self.token.reveal()}"

    async def load(self) -> None:
        """Read the page's files, and find out where the store's file is."""
        await asyncio.to_thread(_files)
        await asyncio.to_thread(self._commands.locate)

    @staticmethod
    def owns(path: str) -> bool:
        """Return whether a path is one of the console."""
        return path == PREFIX or path.startswith(f"{PREFIX}/")

    @staticmethod
    def is_open(path: str) -> bool:
        """Return whether a path needs no token: the page's files, which hold nothing of the store."""
        return path == PREFIX or path in _files()

    async def answer(self, path: str, query: str) -> Reply | None:
        """Return the reply to a request, None if the console has no such path."""
        if path == PREFIX:
            return _MOVED
        page = _files().get(path)
        if page is not None:
            return page
        name = path.removeprefix(f"{PREFIX}/")
        try:
            asked = dict(parse_qsl(query, max_num_fields=8))
            if name == "feed":
                which = DeliveryFilter(event=asked.get("event"), uid=asked.get("uid"), verdict=asked.get("verdict"))
                return StreamReply(status=200, headers=_STREAM, frames=self._feed.frames(which))
            ask = self._asked.get(name)
            if ask is None:
                return None
            found = await ask(asked)
        except ValueError as problem:
            return _problem(400, str(problem))
        except StoreError as problem:
            return _problem(503, f"The store does not answer: {problem}")
        if found is None:
            return _problem(404, "The store has no such event. It may have been purged.")
        return Reply(status=200, headers=_JSON, body=as_json(found))

    async def aclose(self) -> None:
        """End the feeds of all viewers; idempotent."""
        await self._feed.aclose()


@cache
def _files() -> Mapping[str, Reply]:
    """Return the page's files by path."""
    found = {}
    for file in files("webhooks.console").joinpath("static").iterdir():
        kind = next((kind for suffix, kind in _TYPES.items() if file.name.endswith(suffix)), None)
        if kind is not None:
            name = "" if file.name == "index.html" else file.name
            headers = {**_HEADERS, "Content-Type": f"{kind}; charset=utf-8"}
            found[f"{PREFIX}/{name}"] = Reply(status=200, headers=headers, body=file.read_bytes())
    return found


def _number(query: Mapping[str, str], name: str) -> int | None:
    """Return a number of a query, None if it is missing; raises `ValueError` if it is not an id."""
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _MAX_ID):
        raise ValueError(f"{name}: this is not an id.")
    return int(text)


def _ref(query: Mapping[str, str]) -> OperationRef | None:
    given = [query.get(name) for name in ("scope", "kind", "uid")]
    if any("\0" in (text or "") for text in given):
        raise ValueError("This is not an operation.")
    return OperationRef(*(text or "" for text in given)) if any(text is not None for text in given) else None


def _problem(status: int, words: str) -> Reply:
    return Reply(status=status, headers=_JSON, body=as_json({"problem": one_line(words)}))
