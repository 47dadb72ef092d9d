"""No error of the receiver, its ingresses, the listener or who forwards shows a secret, or holds one in a frame of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import webhooks.cli.checks as checks_module
from original_async import OriginalWebhooks
from rewards_core.secrets import Secret
from tests.canary import locals_with
from webhooks import MemoryStore, Receiver
from webhooks.cli.forwarding import Forwarder
from webhooks.cli.listener import Listener
from webhooks.cli.settings import AdminSettings, ForwardSettings, ListenerSettings
from webhooks.cli.sources import ReloadableSource, SourceSpec
from webhooks.ingress.asgi import AsgiIngress

TOLD = "canary-" + "5e" * 20
URL = f"https://user:{TOLD}@other.example/hooks"


def refused(make: Callable[[], object], *kinds: type[Exception]) -> BaseException:
    """Return what refuses to make something; neither its text nor a frame of ours holds the secret."""
    with pytest.raises(kinds or (TypeError, ValueError)) as caught:
        make()
    error = caught.value
    assert locals_with(error, [TOLD]) == []
    assert TOLD not in f"{error!r} {error} {vars(error)} {error.__cause__!r} {error.__context__!r}"
    return error


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    (tmp_path / "keys").write_text(f"a:{TOLD}")
    return tmp_path / "keys"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (TOLD.encode() + b"\xff", r"token: this file of the admin token cannot be read: it is not UTF-8\.$"),
        (f"{TOLD} {TOLD}".encode(), r"^admin token in .*/token: there is white space in it"),
        (f"'{TOLD}'".encode(), r"^admin token in .*/token: it is in quotes"),
        (b"\n", r"^admin token in .*/token: it is empty"),
    ],
)
def test_a_file_of_the_admin_token_that_cannot_be_used_shows_and_leaves_nothing_of_it(
    tmp_path: Path, keys_file: Path, content: bytes, words: str
) -> None:
    (tmp_path / "token").write_bytes(content)
    admin = AdminSettings(host="0.0.0.0", token_file=tmp_path / "token")
    sources = [SourceSpec(keys_file=keys_file)]
    for make in (admin.token, lambda: Listener(ListenerSettings(sources=sources, store="memory:", admin=admin))):
        with pytest.raises(ValueError, match=words):
            make()
        refused(make)


def test_the_admin_token_is_read_without_the_line_break_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOLD}\n")
    assert AdminSettings(token_file=tmp_path / "token").token() == Secret(TOLD)


def test_receivers_and_ingresses_leave_no_frame_that_holds_a_secret() -> None:
    source = OriginalWebhooks({"a": TOLD})
    wrong: list[Callable[[], Any]] = [
        lambda: Receiver([source, OriginalWebhooks({"a": TOLD})], MemoryStore()),
        lambda: Receiver(source, MemoryStore(), body_timeout=-1.0),
        lambda: AsgiIngress(source),  # type: ignore[arg-type]
    ]
    for make in wrong:
        refused(make)


async def test_who_forwards_leaves_no_frame_that_holds_the_url() -> None:
    async with aiohttp.ClientSession() as session:
        error = refused(lambda: Forwarder(session, URL, timeout=1.0))
    assert str(error).startswith("--forward-to: ")


def test_a_listener_that_cannot_start_leaves_no_frame_that_holds_a_secret(keys_file: Path) -> None:
    settings = ListenerSettings(
        sources=[SourceSpec(keys_file=keys_file)], store="memory:", admin=None, forward=ForwardSettings(url=URL)
    )
    with pytest.raises(ValueError, match=r"^--forward-to: ") as caught:
        asyncio.run(Listener(settings).run(lambda _: None))
    assert locals_with(caught.value, [TOLD]) == []
    wrong = ListenerSettings(sources=[SourceSpec(keys_file=keys_file, scope="no scope")], store="memory:")
    refused(lambda: Listener(wrong))


def test_a_look_at_keys_holds_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: SourceSpec) -> ReloadableSource:
        raise LookupError

    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", f"a:{TOLD}")
    monkeypatch.setattr(checks_module, "ReloadableSource", broken)
    refused(lambda: checks_module.check_keys([SourceSpec()]), LookupError)
