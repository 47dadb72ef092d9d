"""The console's page in a real browser."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.browser import chromium
from tests.webhooks.console_kit import FakeWatched, Page, batch, page_of, row, split_link
from tests.webhooks.listener_process import ListenerProcess, delivery, post, running
from tests.webhooks.store_contract import event, outcome, ref, resource
from webhooks.cli.admin import open_admin
from webhooks.cli.settings import AdminSettings
from webhooks.console.console import Console
from webhooks.console.watched import Readiness
from webhooks.refusals import Refusals
from webhooks.store.memory import MemoryStore
from webhooks.store.readings import Wake
from webhooks.store.sqlite import SQLiteStore
from webhooks.store.urls import StoreUrl

LOOK = (Path(__file__).parents[1] / "data" / "site_look.js").read_text("utf-8")
TABS = ("arrivals", "pending", "dead-letters", "conflicts", "refused", "handlers")
MARKUP = "<img src=x onerror=alert(1)>"
SCRIPT = "</script><script>alert(2)</script>"
REVERSED = "\u202egnp.exe\u2066"


async def fill(path: Path) -> None:
    """Put something into a store for every part of the page."""
    store = SQLiteStore(path)
    await store.accept(event("1", of=ref("1001"), complete=resource("1001")))
    await store.accept(event("2", of=ref("1002")))
    await store.accept(event("3", name="", problem="the body is not JSON"))
    await store.add_pending([ref("1003")], poll_in=60)
    now = time.time()  # what is old is removed
    await store.record_outcome(outcome(ref("1004"), "done", at=now - 60))
    await store.record_outcome(outcome(ref("1004"), "failed", at=now))
    await store.aclose()


@asynccontextmanager
async def listening(folder: Path, *options: str) -> AsyncIterator[ListenerProcess]:
    async with running(folder, "--console", *options) as listener:
        yield listener


async def send(listener: ListenerProcess, *bodies: bytes, headers: dict[str, str] | None = None) -> list[int]:
    async with aiohttp.ClientSession() as session:
        return [await post(session, listener.url, body, headers) for body in bodies]


@pytest.mark.slow
async def test_a_delivery_appears_with_its_verdict_and_so_does_a_refused_one(tmp_path: Path) -> None:
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile") as page:
        await page.until_text("#empty", "Nothing has arrived yet.")
        assert await send(listener, delivery("71"), delivery("71")) == [200, 200]
        await page.until_text("#arrivals", "duplicate")
        rows = await page.browser.evaluate("[...document.querySelectorAll('#arrivals tbody tr')].map((one) => one.innerText)")
        assert [[part.split() for part in one.split("\t")[1:4]] for one in rows] == [
            [["duplicate"], ["reward.allocated", "/webhooks/original"], ["71"]],
            [["new"], ["reward.allocated", "/webhooks/original"], ["71"]],
        ]
        assert all(one.endswith(" ms") for one in rows)
        assert await send(listener, b"{}", headers={}) == [401]
        await page.until_text("#arrivals", "missing from 127.0.0.1")
        await page.until("document.querySelector('#arrivals-chart svg').ariaLabel.includes('2 taken and 1 refused')")
        assert page.browser.complaints == []


@pytest.mark.slow
async def test_hostile_names_uids_and_bodies_stay_text(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "inbox.db")
    await store.accept(event("1", name=MARKUP, of=ref(SCRIPT), complete=resource(SCRIPT), said=MARKUP))
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile") as page:
        await page.until_text("#arrivals", SCRIPT)
        await store.accept(event("2", name=REVERSED, of=ref("x" * 300)))
        hostile = [delivery("1", name=REVERSED), delivery("2", name="y" * 5_000), delivery("3", name=MARKUP)]
        assert await send(listener, *hostile) == [200] * 3
        await page.until("document.querySelectorAll('#arrivals tbody tr').length === 4")
        await page.click("#arrivals tr:last-child button", MARKUP)
        await page.until_text("#pane h2", MARKUP)
        await page.click("#pane button", "Show the body")
        await page.until_text("#pane pre", MARKUP)
        await page.click("#pane button", SCRIPT)
        await page.until_text("#pane h2", SCRIPT)
        await page.until_text("#pane .story", "Settled.")
        copied = await page.text("#pane .command code")
        assert copied.startswith(f"webhook-listener events list --uid='{SCRIPT}' --store sqlite:///")
        assert await page.browser.evaluate("document.querySelectorAll('img, script:not([src])').length") == 0
        assert not set(REVERSED[0] + REVERSED[-1]) & set(await page.text("#arrivals"))
        assert await page.browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.browser.complaints == []
    await store.aclose()


@pytest.mark.slow
async def test_no_markup_can_be_written_and_no_request_leaves_the_page(tmp_path: Path) -> None:
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile") as page:
        for tab in TABS:
            await page.click(f"#tab-{tab}")
        await page.until_text("#panel", "No handler is registered.")
        own = split_link(listener.where["console"])[0]
        assert all(url.startswith(own) for url in page.browser.requests)
        token = listener.where["console"].partition("#")[2]
        assert not [url for url in page.browser.requests if token in url.partition("#")[0]]
        assert page.browser.complaints == []
        for attempt in ("document.body.innerHTML = '<b>x</b>'", "trustedTypes.createPolicy('x', {})"):
            assert await page.browser.evaluate(f"try {{ {attempt}; 'done' }} catch (error) {{ error.name }}") == "TypeError"
        for url in (listener.where["url"], "https://example.com/"):
            sending = f"fetch({json.dumps(url)}, {{ mode: 'no-cors' }}).then(() => 'sent', (error) => error.name)"
            assert await page.browser.evaluate(sending) == "TypeError"
        blocked = [one for one in page.browser.complaints if "Content Security Policy" in one]
        assert len(blocked) >= 2
        assert await page.browser.evaluate("document.cookie") == ""


@pytest.mark.slow
async def test_the_token_leaves_the_address_and_opens_the_page_again_after_a_reload(tmp_path: Path) -> None:
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile") as page:
        token = listener.where["console"].partition("#")[2]
        assert await page.browser.evaluate("location.href") == split_link(listener.where["console"])[0]
        assert token not in await page.browser.evaluate("document.documentElement.outerHTML")
        await page.browser.go(split_link(listener.where["console"])[0])
        await page.until("document.querySelector('#connection')?.className === 'live'")


async def test_without_the_token_the_page_asks_for_it_and_shows_nothing(tmp_path: Path) -> None:
    await fill(tmp_path / "inbox.db")
    async with listening(tmp_path) as listener, chromium(tmp_path / "profile") as browser:
        page, (url, _) = Page(browser), split_link(listener.where["console"])
        await browser.open(url, "light")
        await page.until_text("#token", "The token is missing")
        assert "1001" not in await browser.evaluate("document.documentElement.outerHTML")
        assert not [one for one in browser.requests if "feed" in one]
        for given, then in (("wrong", "The token was not accepted."), (listener.where["console"], "")):
            await browser.evaluate(f"document.querySelector('#token-text').value = {json.dumps(given)}")
            await page.click("#token button")
            if then:
                await page.until_text("#token-problem", then)
        await page.until_text("#arrivals", "1001")


@pytest.mark.slow
async def test_a_restart_makes_the_token_void_and_the_page_says_so(tmp_path: Path) -> None:
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile") as page:
        port = listener.where["admin"].rpartition(":")[2]
        await listener.kill()
        await page.until_text("#connection", "Trying again")
        async with listening(tmp_path, "--admin-port", port):
            await page.until_text("#token-problem", "The token was not accepted.")


@pytest.mark.slow
async def test_filters_and_panes_work_by_keyboard(tmp_path: Path) -> None:
    await fill(tmp_path / "inbox.db")
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile") as page:
        await page.until_text("#arrivals", "1001")
        await page.browser.evaluate("document.querySelector('#tab-arrivals').focus()")
        await page.press("ArrowRight")
        assert await page.focused() == "Pending 2"
        await page.until_text("#rows", "1003")
        await page.press("ArrowLeft", "ArrowLeft")
        assert await page.focused() == "Handlers"
        await page.press("ArrowRight")
        await page.until_text("#arrivals", "1001")
        await page.press("Tab")
        assert await page.focused() == "event"
        await page.press("Tab")
        assert await page.focused() == "uid"
        await page.press(*"1002", "Tab")  # a change counts when the field is left
        await page.until("document.querySelectorAll('#arrivals tbody tr').length === 1")
        await page.until_text("#arrivals", "1002")
        while "reward." not in await page.focused():
            await page.press("Tab")
        await page.press("Enter")
        await page.until_text("#pane h2", "reward.allocated")
        assert await page.browser.evaluate("document.activeElement.id") == "pane"
        await page.press("Escape")
        await page.until("document.querySelector('#pane').hidden")
        assert "reward." in await page.focused()
        while await page.focused() != "1002":
            await page.press("Tab")
        await page.press("Enter")
        await page.until_text("#pane .story", "was stored as event 2")
        await page.press("Escape")
        while await page.focused() != "Clear":
            await page.press("Shift+Tab")
        await page.press("Space")
        await page.until_text("#arrivals", "1001")


@pytest.mark.slow
async def test_the_focus_stays_on_a_row_that_is_shown_again(tmp_path: Path) -> None:
    await fill(tmp_path / "inbox.db")
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile") as page:
        await page.until_text("#arrivals", "1001")
        rows = "[...document.querySelectorAll('#arrivals .link')]"
        await page.browser.evaluate(f"{rows}.filter((one) => one.innerText === 'reward.allocated')[1].focus()")
        filtered = "document.querySelector('#tools form').dispatchEvent(new Event('change', {bubbles: true}))"
        await page.browser.evaluate(f"window.before = document.activeElement; {filtered}")
        assert await page.browser.evaluate("document.activeElement === before")
        await page.press("Enter")
        await page.until_text("#pane h2", "reward.allocated")
        await page.browser.evaluate(filtered)
        await page.press("Escape")
        assert await page.browser.evaluate("document.activeElement === before")


@pytest.mark.slow
async def test_the_focus_stays_on_the_command_that_an_empty_list_shows(tmp_path: Path) -> None:
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile") as page:
        await page.until("document.querySelector('#empty .copy')")
        await page.browser.evaluate("document.querySelector('#empty .copy').focus()")
        await page.click("#tools button", "Pause")
        await page.click("#tools button", "Continue")
        assert await page.browser.evaluate("document.activeElement.matches('#empty .copy')")


@pytest.mark.slow
async def test_what_was_seen_stays_when_the_filter_changes(tmp_path: Path) -> None:
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile") as page:
        await send(listener, delivery("1"), delivery("1"), delivery("2"))
        await page.until("document.querySelectorAll('#arrivals tbody tr').length === 3")
        choose = "document.querySelector('[name=verdict]').value = {}; document.querySelector('[name=verdict]').dispatchEvent({})"
        change = "new Event('change', { bubbles: true })"
        await page.browser.evaluate(choose.format("'duplicate'", change))
        await page.until("document.querySelectorAll('#arrivals tbody tr').length === 1")
        assert "duplicate" in await page.text("#arrivals tbody")
        await send(listener, delivery("3"), delivery("1"))
        await page.until("document.querySelectorAll('#arrivals tbody tr').length === 2")
        await page.click("#tools button", "Clear")
        await page.until("document.querySelectorAll('#arrivals tbody tr').length === 5")
        assert (await page.text("#arrivals tbody")).count("duplicate") == 2


@pytest.mark.slow
async def test_a_list_follows_its_store_also_after_a_copy(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "inbox.db")
    await store.add_pending([ref(f"{number:03}") for number in range(60)], poll_in=60)
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile") as page:
        await page.click("#strip button", "Pending")
        await page.until_text("#rows", "049")
        assert "050" not in await page.text("#rows")
        await page.click("#more")
        await page.until_text("#rows", "059")
        await page.browser.evaluate(
            "document.querySelector('#rows .copy').focus(), document.querySelector('#rows .copy').click()"
        )
        await page.until("['Copied', 'Selected'].includes(document.querySelector('#rows .copy').innerText)")
        await page.browser.evaluate("getSelection().removeAllRanges()")
        await store.remove_pending([ref("000"), ref("001")])
        await page.until("!document.querySelector('#rows').innerText.includes('001')")
        await page.until_text("#tab-pending", "Pending 58")
        assert await page.browser.evaluate("document.activeElement.className") == "copy"
        kept = await page.browser.evaluate(  # a button whose word has changed, as for two seconds after a copy
            "(it => (it.focus(), it.textContent = 'Copied', it.ariaLabel))(document.querySelectorAll('#rows .copy')[2])"
        )
        await store.remove_pending([ref("002"), ref("003")])
        await page.until("!document.querySelector('#rows').innerText.includes('003')")
        assert await page.browser.evaluate("document.activeElement.ariaLabel") == kept
        await store.aclose()


@pytest.mark.slow
async def test_a_copied_command_is_whole(tmp_path: Path) -> None:
    await fill(tmp_path / "inbox.db")
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile") as page:
        origin = listener.where["admin"]
        await page.browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite"], origin=origin)
        await page.click("#tab-dead-letters")
        await page.click("#rows .copy")
        await page.until("document.querySelector('#rows .copy').innerText === 'Copied'")
        await page.until_text("#spoken", "Copied")
        copied = await page.browser.evaluate("navigator.clipboard.readText()")
        assert copied == f"webhook-listener events replay --store sqlite:///{tmp_path / 'inbox.db'} 3"


@pytest.mark.slow
async def test_an_open_story_goes_on(tmp_path: Path) -> None:
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile") as page:
        await page.find("4001")
        await page.until_text("#pane", "The store knows no operation with this uid")
        await send(listener, delivery("4001"))
        await page.until_text("#pane .story", "Settled.")


@pytest.mark.slow
async def test_a_new_link_in_the_same_tab_opens_the_page_again(tmp_path: Path) -> None:
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile") as page:
        port = listener.where["admin"].rpartition(":")[2]
        await listener.kill()
        async with listening(tmp_path, "--admin-port", port) as again:
            await page.until_text("#token-problem", "The token was not accepted.")
            await page.browser.evaluate(f"location.href = {json.dumps(again.where['console'])}")
            await page.until("document.querySelector('#connection').className === 'live'")
            assert await page.browser.evaluate("location.hash") == ""


async def test_a_listener_that_is_not_ready_is_said(tmp_path: Path) -> None:
    class NotReady(FakeWatched):
        async def readiness(self) -> Readiness:
            return Readiness(ready=False, reasons=["the disk is full"])

        def worker_states(self) -> Any:
            return {"starting": 0, "ready": 1, "draining": 0, "dead": 1}

        async def metrics(self) -> None:
            return None

    watched = NotReady()
    console = Console(watched, MemoryStore(), StoreUrl("memory:"))
    async with AsyncExitStack() as stack:
        where = await open_admin(stack, watched, AdminSettings(port=0), None, Refusals(logging.getLogger("test")), console)
        page = await stack.enter_async_context(page_of(where["console"], tmp_path / "profile"))
        await page.until_text(".tile.bad", "no")
        await page.until_text(".tile.bad", "the disk is full")
        await page.until_text(".tile.warn", "1 dead")
        assert (await page.browser.evaluate("document.title")).startswith("Not ready")
        watched.coming = [batch(*(row(str(number), at=2.0) for number in range(240)))]
        await page.until_text("#arrivals", "190 more deliveries arrived here. Filter to see those of one uid.")


@pytest.mark.slow
async def test_a_paused_list_stands_still_and_catches_up(tmp_path: Path) -> None:
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile") as page:
        await page.click("#tools button", "Pause")
        await send(listener, delivery("81"), delivery("82"))
        await page.until_text("#tools", "Continue (2 new)")
        assert await page.browser.evaluate("document.querySelectorAll('#arrivals tbody tr').length") == 0
        await page.click("#tools button", "Continue")
        await page.until("document.querySelectorAll('#arrivals tbody tr').length === 2")


@pytest.mark.slow
async def test_the_story_of_one_reward_is_told_by_all_who_took_part(tmp_path: Path) -> None:
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile") as page:
        await send(listener, delivery("2001", name="reward.allocated"))
        application = SQLiteStore(tmp_path / "inbox.db")
        (settled,) = await application.outcomes([ref("2001")])
        at = settled.settled_at
        application.woken(Wake(ref=ref("2001"), via="webhook", asked_at=at - 9, settled_at=at, woken_at=at + 0.004))
        await application.watch([ref("2002"), ref("2003")], poll_in=60)  # with this it reports the first time
        await page.until_text("#wakes-now", "half within 4 ms")
        tiles = "Object.fromEntries([...document.querySelectorAll('.tile')].map((one) => one.innerText.split('\\n')))"
        await page.until(f"{tiles}.Waiters === '2' && {tiles}.Pending === '2'")
        await page.find("2001")
        await page.until_text("#pane .story", "after it was delivered")
        steps = await page.browser.evaluate("[...document.querySelectorAll('.story strong')].map((one) => one.innerText)")
        assert steps == ["Asked.", "Delivered.", "Settled.", "Awake."]
        await page.find("2002")
        await page.until_text("#pane", "The next poll is due in")
        await page.find("nobody")
        await page.until_text("#pane", "The store knows no operation with this uid")
        await application.aclose()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_every_part_of_the_page_can_be_read(tmp_path: Path, scheme: str, width: int) -> None:
    await fill(tmp_path / "inbox.db")
    async with listening(tmp_path) as listener, page_of(listener.where["console"], tmp_path / "profile", scheme, width) as page:
        await send(listener, delivery("91"), delivery("91"), delivery("y" * 200, name="z" * 200))
        await send(listener, b"{}", headers={})
        await page.until_text("#arrivals", "missing")
        look = LOOK.replace("article *", "main *, header *").replace('"ARTICLE"', '"MAIN"')
        for tab in TABS:
            await page.click(f"#tab-{tab}")
            await page.until(
                "(document.querySelector('#rows').innerText + document.querySelector('#empty').innerText).length > 20"
            )
            found = await page.browser.evaluate(look)
            assert (tab, found["problems"]) == (tab, [])
            assert found["texts"] > 20
        await page.click("#tab-arrivals")
        await page.click("#arrivals button", "reward.allocated")
        await page.click("#pane button", "Show the body")
        await page.until_text("#pane pre", "data")
        assert (await page.browser.evaluate(look))["problems"] == []
        await page.find("1004")
        await page.until_text("#pane", "1 conflict")
        assert (await page.browser.evaluate(look))["problems"] == []
        assert page.browser.complaints == []
