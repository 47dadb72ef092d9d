"""Where credentials may be sent."""

from __future__ import annotations

from typing import Any

import pytest

from original_async.settings import find_base_url
from rewards_core.base_urls import check_base_url, is_loopback, url_from
from tests.canary import locals_with
from tests.texts import said


@pytest.mark.parametrize(
    "url",
    [
        "https://api.getoriginal.com/v1",
        "https://example.com:8443/a/b",
        "http://localhost:9400/v1",
        "http://127.0.0.1:1/v1",
        "http://127.8.9.10/v1",
        "http://[::1]:9400/v1",
        "HTTPS://example.com",
    ],
)
def test_https_and_loopback_may_be_used(url: str) -> None:
    assert check_base_url(url) == url


def test_the_closing_slash_is_left_out() -> None:
    assert check_base_url("https://example.com/v1/") == "https://example.com/v1"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/v1",
        "/v1",
        "ftp://example.com",
        "file:///etc/passwd",
        "https://",
        "https:///v1",
        "https://exa mple.com",
        "https://example.com\n",
        "https://example.com:port/",
        "https://example.com\\@other/",
        "https://[::1/",
        "http://\udcff/",
    ],
)
def test_what_is_no_absolute_http_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^coins_base_url: "):
        check_base_url(url, name="coins_base_url", allow_insecure=True)


@pytest.mark.parametrize("url", [None, 7, b"https://example.com"])
def test_another_type_is_refused(url: Any) -> None:
    with pytest.raises(TypeError, match=r"^base_url: "):
        check_base_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:canary@example.com/v1",
        "https://canary@example.com/v1",
        "https://:canary@example.com",
        "https://@example.com",
    ],
)
def test_credentials_in_the_url_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"^base_url: ") as caught:
        check_base_url(url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/v1?api_key=canary",
        "https://example.com/v1#canary",
        "https://example.com/v1?",
        "https://example.com/v1#",
    ],
)
def test_a_query_or_fragment_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"^base_url: ") as caught:
        check_base_url(url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://user:canary@example.com", "https://example.com?canary", "http://canary.example"])
def test_no_frame_holds_a_url_that_is_refused(url: str) -> None:
    for look in (check_base_url, lambda url: find_base_url("production", url, allow_insecure=False)):
        with pytest.raises(ValueError) as caught:
            look(url)
        assert locals_with(caught.value, ["canary"]) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/v1",
        "http://10.0.0.1/v1",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "http://0.0.0.0",
    ],
)
def test_plain_http_outside_loopback_must_be_asked_for(url: str) -> None:
    with pytest.raises(ValueError, match=r"^base_url: "):
        check_base_url(url)
    assert check_base_url(url, allow_insecure=True) == url


def test_loopback_is_known_by_definition_not_by_look_up() -> None:
    assert is_loopback("LOCALHOST")
    assert is_loopback("::1")
    assert not is_loopback("example.com")


def test_each_error_says_what_is_wrong_and_shows_no_credentials() -> None:
    lines = []
    for url in (
        7,
        "example.com/v1",
        "https://user:canary@example.com/v1",
        "https://example.com?key=canary",
        "http://example.com",
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            check_base_url(url)  # type: ignore[arg-type]
        lines.append(str(caught.value))
    for url in ("example.com/v1", "https://user:canary@example.com/v1", "http://example.com"):
        with pytest.raises(ValueError) as caught:
            url_from({"VENDOR_URL": url}, "VENDOR_URL")
        lines.append(str(caught.value))
    said("base URLs: what is refused", "\n".join(lines))
