"""Webhook keys are read in one place, and no error about them shows a secret or holds one in a frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from original_async import OriginalWebhooks
from original_async.settings import WEBHOOK_KEYS
from payouts.cli.connections import webhook_source
from rewards_core.keys import parse_keys, read_keys_variable, webhook_keys
from tests.canary import locals_with
from webhooks.cli.sources import ReloadableSource, SourceSpec

READERS: dict[str, Callable[[Path], object]] = {
    "variable": lambda _: read_keys_variable(WEBHOOK_KEYS),
    "file": lambda path: webhook_keys(path, WEBHOOK_KEYS),
    "from_env": lambda _: OriginalWebhooks.from_env(),
    "listener": lambda file: ReloadableSource(SourceSpec(keys_file=file)),
    "payout": lambda file: webhook_source(file, scope="default"),
}
NONE = ["", "# only", '{"a":' * 9_000, "{}"]
CANARIES = ["tell-tale", "a:1 tell-tale", ":tell-tale", '{"a": ["tell-tale"]}', "{tell-tale", '{"tell tale": "tell-tale"}']


def shows_nothing(error: BaseException) -> bool:
    """Return whether the text, causes and frames of an error are free of secrets."""
    came_from = error.__cause__ or error.__context__
    return came_from is None and "tell-tale" not in f"{vars(error)}{error.args}" and not locals_with(error, ["tell-tale"])


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("a:1", {"a": "1"}),
        ("a:1 b:2,c:3\n d:4:5 ", {"a": "1", "b": "2", "c": "3", "d": "4:5"}),
        ("# comment x:y\na:1", {"a": "1"}),
        ('{"a": "1", "b": "2"}', {"a": "1", "b": "2"}),
    ],
)
def test_keys_are_read_as_pairs_or_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, keys: dict[str, str]) -> None:
    (tmp_path / "keys").write_text(text)
    monkeypatch.setenv("KEYS", text)
    assert parse_keys(text, "keys") == webhook_keys(tmp_path / "keys", "KEYS") == read_keys_variable("KEYS") == keys


@pytest.mark.parametrize("text", [*NONE, *CANARIES])
@pytest.mark.parametrize("reader", READERS)
def test_keys_that_are_none_are_refused_without_showing_or_holding_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, text: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    monkeypatch.setenv(WEBHOOK_KEYS, text)
    with pytest.raises(ValueError, match="ID:SECRET") as refused:
        READERS[reader](file)
    assert "tell" not in str(refused.value)
    assert shows_nothing(refused.value)


@pytest.mark.parametrize("text", ["a:tell-tale a:tell-tale-2", '{"a": "tell-tale", "a": "tell-tale-2"}'])
@pytest.mark.parametrize("reader", READERS)
def test_an_id_that_is_given_twice_is_refused_by_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, text: str
) -> None:
    (tmp_path / "keys").write_text(text)
    monkeypatch.setenv(WEBHOOK_KEYS, text)
    with pytest.raises(ValueError, match="pair 2") as refused:
        READERS[reader](tmp_path / "keys")
    assert shows_nothing(refused.value)


def test_the_error_says_where_and_which() -> None:
    with pytest.raises(ValueError, match=r"^KEYS: pair 2 .* ID:SECRET"):
        parse_keys("a:1 b", "KEYS")
    with pytest.raises(ValueError, match=r"^KEYS .* ID:SECRET"):
        parse_keys("# nothing", "KEYS")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none: .*No such file"):
        webhook_keys(tmp_path / "none", "KEYS")
    file = tmp_path / "keys"
    file.write_bytes(b"a:tell-tale\xff")
    with pytest.raises(ValueError, match=r"keys: .*UTF-8") as refused:
        webhook_keys(file, "KEYS")
    assert shows_nothing(refused.value)


def test_a_source_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEBHOOK_KEYS, raising=False)
    with pytest.raises(ValueError, match=r"ORIGINAL_WEBHOOK_KEYS .*ID:SECRET"):
        OriginalWebhooks.from_env()
    monkeypatch.setenv(WEBHOOK_KEYS, "a:one, b:two")
    source = OriginalWebhooks.from_env(scope="shop", app_uid="APP")
    assert source.scope == "shop"
    assert source.sign(b"{}") == OriginalWebhooks({"a": "one", "b": "two"}).sign(b"{}")
    other = source.parse(b'{"event": "reward.allocated", "data": {"app": {"uid": "OTHER"}}}')
    assert "OTHER" in (other.problem or "")
    with pytest.raises(ValueError, match=r"^scope: "):
        OriginalWebhooks.from_env(scope="")
