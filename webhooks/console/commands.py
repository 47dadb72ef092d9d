"""The command for each action, ready to copy."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from webhooks.store.records import DEFAULT_SERVICE

if TYPE_CHECKING:
    from pathlib import Path

    from rewards_core.operations import OperationRef
    from webhooks.store.records import StoredEvent
    from webhooks.store.urls import StoreUrl

_PROGRAM = "webhook-listener"


class Commands:
    """Write commands that work on the console's store.

    Args:
        store: The store's URL. A password in it is left out: the command reads `WEBHOOK_LISTENER_STORE`, or fails.
    """

    def __init__(self, store: StoreUrl) -> None:
        self._server = ""
        self._reachable = not store.in_memory
        self._file = store.file
        shown = str(store) == store.reveal()
        self._option = f"--store {shlex.quote(str(store))}" if shown else '--store "$WEBHOOK_LISTENER_STORE"'

    def locate(self) -> None:
        """Name the store's file by its whole path from now on, so that commands work in any folder."""
        if self._file is not None:
            self._option = f"--store {shlex.quote(f'sqlite:///{self._file.absolute()}')}"

    def ask(self, url: str, token_file: Path | None) -> None:
        """Let commands that ask the listener do so at this URL, with the token in this file."""
        self._server = f" --admin {shlex.quote(url)}"
        if token_file is not None:
            self._server += f" --admin-token-file {shlex.quote(str(token_file))}"

    @property
    def note(self) -> str:
        """Why there are no commands, empty if there are."""
        return "" if self._reachable else "This store is in the memory of the listener, where no command reaches it."

    def retry(self, stored: StoredEvent) -> str | None:
        """Return the command that processes a dead letter again; None if none can."""
        if not stored.event.body:
            return None
        return self._on_store("dead-letters retry" if stored.event.problem is None else "events replay", str(stored.id))

    def show(self, event_id: int) -> str | None:
        """Return the command that shows an event with its body."""
        return self._on_store("events show", str(event_id))

    def events_about(self, ref: OperationRef) -> str | None:
        """Return the command that lists the events about an operation."""
        return self._on_store(f"events list --uid={shlex.quote(ref.uid)}")

    def outcome_of(self, ref: OperationRef) -> str | None:
        """Return the command that shows the outcome of an operation, with its conflicts."""
        return self._on_store(f"outcomes list --uid={shlex.quote(ref.uid)}")

    def forget(self, ref: OperationRef) -> str | None:
        """Return the command that stops the polls of an operation."""
        options = f"--kind={shlex.quote(ref.kind)} --scope={shlex.quote(ref.scope)}"
        return self._on_store(f"pending forget {options}", ref.uid)

    def retire(self, service: str, handler: str) -> str | None:
        """Return the command that makes the jobs of a handler dead letters."""
        of_service = "" if service == DEFAULT_SERVICE else f" --service={shlex.quote(service)}"
        return self._on_store(f"handlers retire{of_service}", handler)

    def refused(self, reason: str) -> str:
        """Return the command that lists the refusals for a reason."""
        return f"{_PROGRAM} refused list --reason={shlex.quote(reason)}{self._server}"

    def _on_store(self, words: str, argument: str | None = None) -> str | None:
        if not self._reachable:
            return None
        last = "" if argument is None else f" {'-- ' if argument.startswith('-') else ''}{shlex.quote(argument)}"
        return f"{_PROGRAM} {words} {self._option}{last}"


def labelled(commands: Mapping[str, str | None]) -> list[dict[str, str]]:
    """Return commands as JSON values, each with the label that says what it does; None is left out."""
    return [{"label": label, "command": command} for label, command in commands.items() if command is not None]
