"""What a console looks at, made up; its feed, read as a page reads it; and the page itself in a browser."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.browser import Browser, chromium
from webhooks.console.watched import Readiness
from webhooks.delivery_watch import DeliveryFilter, newest_rows
from webhooks.refusals import Refusal

REFUSAL = Refusal(
    reason="mismatch", advice="Look at the key.", count=2, first_at=1.0, last_at=2.0, status=401, peer="192.0.2.7", path="/hook"
)


class FakeWatched:
    """A listener whose deliveries a test makes up.

    Attributes:
        coming: The deliveries that the next calls of `deliveries` choose from.
        asked: How often they were asked for.
        rested: How often it was told to rest.
    """

    def __init__(self) -> None:
        self.coming: list[Mapping[str, Any]] = []
        self.asked = 0
        self.rested = 0
        self.refusals: Sequence[Refusal] = [REFUSAL]

    sees_refusals = True
    interval = 0.1

    async def deliveries(self, filters: Sequence[DeliveryFilter]) -> Mapping[str, Any]:
        self.asked += 1
        coming = self.coming.pop(0) if self.coming else {"rows": [], "counts": {}}
        shown = []
        for which in filters:
            rows, left_out = newest_rows(one for one in coming["rows"] if which.fits(one["event"], one["uid"], one["verdict"]))
            shown.append({"rows": rows, "left_out": left_out})
        return {"counts": coming["counts"], "shown": shown}

    def rest(self) -> None:
        self.rested += 1

    async def readiness(self) -> Readiness:
        return Readiness(ready=True)

    async def refused(self) -> Sequence[Refusal]:
        return self.refusals

    def worker_states(self) -> None:
        return None


def row(uid: str | None = "1", verdict: str = "new", **more: Any) -> dict[str, Any]:
    """Return a delivery."""
    named = {"event": "reward.allocated", "identity": None, "reason": None} if verdict != "refused" else {"event": ""}
    return {"at": 1.0, "verdict": verdict, "uid": uid, **named, **more}


def batch(*rows: dict[str, Any]) -> dict[str, Any]:
    """Return deliveries as `deliveries` does."""
    counts: dict[str, int] = {}
    for one in rows:
        counts[one["verdict"]] = counts.get(one["verdict"], 0) + 1
    return {"rows": list(rows), "counts": counts}


def parsed(frame: bytes) -> tuple[str, Any]:
    """Return the name and the data of a frame."""
    if frame == b":\n\n":
        return "", None
    name, data = frame.decode().removesuffix("\n\n").split("\n")
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


async def heard(frames: AsyncGenerator[bytes, None], name: str) -> Any:
    """Return the data of the next frame with a name."""
    async for frame in frames:
        found, data = parsed(frame)
        if found == name:
            return data
    raise AssertionError(f"the feed ended without {name}")


# a console that runs elsewhere


def split_link(link: str) -> tuple[str, dict[str, str]]:
    """Return the URL of a console, and the header with the token of its link."""
    url, _, token = link.partition("#")
    return url, {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def watching(link: str, **which: str) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    """Follow the feed of a console."""
    url, headers = split_link(link)
    async with aiohttp.ClientSession() as session, session.get(f"{url}feed", headers=headers, params=which) as reply:
        assert reply.status == 200, await reply.text()
        yield _frames(reply)


async def _frames(reply: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    frame = b""
    async for line in reply.content:
        frame += line
        if line == b"\n":
            yield frame
            frame = b""


async def asked(link: str, name: str, **query: Any) -> Any:
    """Return what a console answers."""
    url, headers = split_link(link)
    async with aiohttp.ClientSession() as session, session.get(f"{url}{name}", headers=headers, params=query) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


class Page:
    """The page of a console in a browser."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    async def until(self, condition: str) -> Any:
        """Wait until a JavaScript expression is true, and return its value."""
        look = f"() => {{ const it = {condition}; it ? found(it) : setTimeout(look, 20); }}"
        return await self.browser.evaluate(f"new Promise((found) => {{ const look = {look}; look(); }})")

    async def text(self, selector: str) -> str:
        """Return the text of an element, once it is there."""
        return str(await self.until(f"document.querySelector({json.dumps(selector)})?.innerText"))

    async def until_text(self, selector: str, words: str) -> None:
        """Wait until an element contains a text."""
        await self.until(f"document.querySelector({json.dumps(selector)})?.innerText.includes({json.dumps(words)})")

    async def click(self, selector: str, words: str = "") -> None:
        """Click on the first element, once it is there, that contains a text."""
        found = (
            f"[...document.querySelectorAll({json.dumps(selector)})].find((one) => one.innerText.includes({json.dumps(words)}))"
        )
        await self.until(f"{found} && ({found}.click(), true)")

    async def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for pressed in keys:
            shift, key = pressed.startswith("Shift+"), pressed.removeprefix("Shift+")
            for kind in ("keyDown", "keyUp"):
                text = {"Enter": "\r", "Space": " "}.get(key, key if len(key) == 1 else "")
                named = {"key": " " if key == "Space" else key, "code": key, "modifiers": 8 * shift}
                named["windowsVirtualKeyCode"] = _CODES.get(key, 0)
                typed = {"text": text} if text and kind == "keyDown" else {}
                await self.browser.call("Input.dispatchKeyEvent", type=kind, **named, **typed)

    async def find(self, uid: str) -> None:
        """Ask for the story of a reward."""
        value = f"document.querySelector('#find-uid').value = {json.dumps(uid)}"
        await self.browser.evaluate(f"{value}; document.querySelector('#find').requestSubmit()")

    async def focused(self) -> str:
        """Return the text or the name of the focused element."""
        return str(
            await self.browser.evaluate(
                "document.activeElement.innerText || document.activeElement.name || document.activeElement.id"
            )
        )


_CODES = {"Enter": 13, "Escape": 27, "Tab": 9, "Space": 32, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}


@asynccontextmanager
async def page_of(link: str, profile: Path, scheme: str = "light", width: int = 1280) -> AsyncIterator[Page]:
    """Open a console in a browser, and wait until it follows the feed."""
    async with chromium(profile) as browser:
        page = Page(browser)
        await browser.open(link, scheme, width)
        await page.until(
            "document.querySelector('#connection')?.className === 'live' && document.querySelector('#strip').children.length > 2"
        )
        yield page
