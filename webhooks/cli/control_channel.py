"""The control channel between a supervisor and a worker: one JSON object a line, over a socket pair."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cattrs import Converter

from webhooks.cli.settings import ListenerSettings, store_url
from webhooks.store.urls import StoreUrl

if TYPE_CHECKING:
    import socket

_MAX_MESSAGE = 4 << 20

_converter = Converter()
_converter.register_unstructure_hook(Path, str)
_converter.register_structure_hook(Path, lambda text, _: Path(text))
_converter.register_unstructure_hook(StoreUrl, StoreUrl.reveal)  # the channel has no other readers
_converter.register_structure_hook(StoreUrl, lambda text, _: store_url(text))


def settings_to_json(settings: ListenerSettings) -> Any:
    """Return a listener's settings as JSON values; they hold the files of keys and tokens, not their contents."""
    return _converter.unstructure(settings)


def settings_from_json(value: Any) -> ListenerSettings:
    """Return the settings from which `settings_to_json` made this value."""
    return _converter.structure(value, ListenerSettings)


class Channel:
    """One end of a control channel; make it with `Channel.over`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """Return the channel over one end of a socket pair, which then belongs to the channel."""
        return cls(*await asyncio.open_connection(sock=end, limit=_MAX_MESSAGE))

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; it is dropped if the other process has ended."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message; None when the other process has ended. Raises `ValueError` above 4 MiB."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    def close(self) -> None:
        """Close this end; idempotent."""
        self._writer.close()
