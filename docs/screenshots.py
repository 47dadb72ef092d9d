"""Make the screenshots of the site from real runs: `python -m docs.screenshots`.

Programs run in a terminal of 80 columns whose screen a browser draws, so that a picture shows what a person sees.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import html
import os
import pty
import re
import struct
import sys
import tempfile
import termios
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pyte
from attrs import define

from tests.browser import Browser, chromium
from tests.webhooks.console_kit import Page

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "_static" / "screenshots"
COLUMNS = 80
KEY = "4o3vfxtcmo7b:a-webhook-secret"
_STYLE = """
body { margin: 0; background: #16181d; }
pre { display: inline-block; margin: 0; padding: 16px; color: #e6e6e6; font: 14px/1.35 "DejaVu Sans Mono", monospace; }
"""
_PLAIN = {"default": "#e6e6e6", "black": "#7f848e", "brown": "#e5c07b"}
_COLOURS = {"red": "#ff7b86", "green": "#98d379", "blue": "#7cc0ff", "magenta": "#d894e8", "cyan": "#6fd0dc", "white": "#ffffff"}


@define
class Terminal:
    """A program in a terminal, and what its screen shows."""

    screen: pyte.Screen
    process: asyncio.subprocess.Process
    changed: asyncio.Event

    @property
    def text(self) -> str:
        """What the screen shows, in lines."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    async def until(self, shows: Callable[[str], bool]) -> None:
        """Wait until the screen shows something."""
        while not shows(self.text):
            self.changed.clear()
            await self.changed.wait()

    def as_html(self, command: str) -> str:
        """Return the screen as a page, below the command that was typed."""
        lines = ["".join(_cell(self.screen.buffer[row][column]) for column in range(COLUMNS)) for row in range(self.screen.lines)]
        while lines and not self.screen.display[len(lines) - 1].strip():
            lines.pop()
        shown = "\n".join([f'<span style="color:#98d379">$</span> {html.escape(command)}', *lines])
        return f'<!doctype html><meta charset="utf-8"><style>{_STYLE}</style><pre>{shown}</pre>'


def _cell(found: pyte.screens.Char) -> str:
    colour = _COLOURS.get(found.fg) or _PLAIN.get(found.fg) or f"#{found.fg}"
    weight = ";font-weight:bold" if found.bold else ""
    return f'<span style="color:{colour}{weight}">{html.escape(found.data)}</span>' if found.data.strip() else found.data


@asynccontextmanager
async def terminal(command: Sequence[str], folder: Path, lines: int, **variables: str) -> AsyncIterator[Terminal]:
    """Run a program in a terminal, and end it."""
    screen = pyte.Screen(COLUMNS, lines)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, COLUMNS, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), **variables}
    environment.pop("NO_COLOR", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment
    )
    os.close(theirs)
    shown = Terminal(screen, process, asyncio.Event())

    def read() -> None:
        try:
            stream.feed(os.read(ours, 65_536))
        except OSError:  # the program has closed its end
            loop.remove_reader(ours)
        shown.changed.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(ours, read)
    try:
        yield shown
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        loop.remove_reader(ours)
        os.close(ours)


@asynccontextmanager
async def sandbox(folder: Path, port: int, webhook_url: str, *faults: str) -> AsyncIterator[dict[str, str]]:
    """Run the vendor's sandbox; yield the variables of its clients."""
    command = [
        "vendor_sandboxes",
        "original",
        "--port",
        str(port),
        "--confirm",
        "0.2:0.8",
        "--fail-rate",
        "0.02",
        "--webhook-url",
        webhook_url,
        *faults,
    ]
    async with terminal(command, folder, 5) as vendor:
        await vendor.until(lambda text: "http://" in text)
        url = vendor.text.split()[0]
        lines = (ROOT / "examples" / "sandbox.env").read_text("utf-8").splitlines()
        variables = dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
        yield {**variables, "ORIGINAL_BASE_URL": url if url.endswith("/v1") else f"{url}/v1"}


async def shoot(browser: Browser, page: Path, picture: Path, *, scheme: str = "dark", width: int = 760, height: int = 0) -> None:
    """Make a picture of a page, as high as the page or as given."""
    await browser.open(page, scheme, width)
    size = height or await browser.evaluate("document.documentElement.getBoundingClientRect().height")
    await capture(browser, picture, width, size)


async def capture(browser: Browser, picture: Path, width: int, height: float) -> None:
    """Make a picture of what the browser shows."""
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    found = await browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    picture.write_bytes(base64.b64decode(found["data"]))


async def payout(browser: Browser, folder: Path, pictures: Path, port: int, vendor_port: int) -> None:
    """Pay a file: its progress, and the report."""
    rows = folder / "rewards.csv"
    rows.write_bytes((ROOT / "examples" / "rewards.csv").read_bytes())
    arguments = ["run", "rewards.csv", "--vendor", "original", "--campaign", "diwali", "--yes", "--rate", "60"]
    more = ["--webhook-port", str(port), "--poll-after", "2", "--report", "report.html"]
    async with sandbox(folder, vendor_port, f"http://127.0.0.1:{port}/webhooks/original") as variables:
        async with terminal(["payouts", *arguments, *more], folder, 24, **variables) as run:
            await run.until(lambda text: any(f" {number} of 500" in text for number in range(200, 400)))
            page = folder / "progress.html"
            page.write_text(run.as_html("payouts " + " ".join(arguments)), "utf-8")
            await shoot(browser, page, pictures / "progress.png")
            await run.process.wait()
        for scheme in ("light", "dark"):
            await shoot(browser, folder / "report.html", pictures / f"report-{scheme}.png", scheme=scheme, width=1000, height=900)


async def listener(browser: Browser, folder: Path, pictures: Path, port: int) -> None:
    """Receive some deliveries."""
    variables = {"ORIGINAL_WEBHOOK_KEYS": KEY}
    arguments = ["serve", "--log-level", "info"]
    address = f"http://127.0.0.1:{port}/webhooks/original"
    async with terminal(["webhooks", *arguments, "--port", str(port), "--admin-port", "0"], folder, 24, **variables) as serve:
        await serve.until(lambda text: "/webhooks/original" in text)
        for extra in (
            ["--uid", "324167489835"],
            ["--uid", "764893807463", "--duplicate", "1"],
            ["--bad-signature"],
            ["--set", "event="],
        ):
            await _trigger(folder, variables, *extra, "--to", address)
        await serve.until(lambda text: "dead" in text)
        page = folder / "listener.html"
        page.write_text(serve.as_html("webhook-listener " + " ".join(arguments)), "utf-8")
        await shoot(browser, page, pictures / "listener.png")


async def console(browser: Browser, folder: Path, pictures: Path, port: int, vendor_port: int) -> str:
    """Watch a listener while a file is paid; return what the page says."""
    place = folder / "rewards"
    place.mkdir()
    (place / "rewards.csv").write_bytes((ROOT / "examples" / "rewards.csv").read_bytes())
    address = f"http://127.0.0.1:{port}/webhooks/original"
    serve = ["serve", "--console", "--port", str(port), "--admin-port", "0"]
    pay = ["run", "rewards.csv", "--vendor", "original", "--campaign", "diwali", "--yes", "--store", "inbox.db"]
    pace = ["--rate", "3", "--poll-after", "5", "--grace", "0"]  # a process reports its last 64 callers, every 10 s
    sent = (["--set", "event="], ["--uid", "324167489835", "--duplicate", "1"], ["--bad-signature"])
    async with (
        sandbox(place, vendor_port, address, "--confirm", "1:9", "--webhook-duplicate", "0.2") as variables,
        terminal(["webhooks", *serve], place, 24, **variables) as listening,
    ):
        await listening.until(lambda text: _link(text) is not None)
        await browser.open(_link(listening.text) or "", "light", 1280)
        page = Page(browser)
        async with terminal(["payouts", *pay, *pace], place, 24, **variables):
            await page.until("document.querySelectorAll('#wakes-chart path').length >= 20")
            await asyncio.gather(*(_trigger(place, variables, "--to", address, *extra) for extra in sent))
            for verdict in ("dead letter", "duplicate", "refused"):
                await page.until_text("#arrivals", verdict)
            await page.click("#arrivals tbody tr:last-child td:nth-child(4) .link")
            await page.until_text("#pane", "Awake.")
            told = await page.text("#page")
            await capture(browser, pictures / "console.png", 1280, 800)
            await page.press("Escape")
            await page.until("document.querySelector('#pane').hidden")
            await browser.look("dark", 390)
            await capture(browser, pictures / "console-390.png", 390, 844)
    return told


async def _trigger(folder: Path, variables: Mapping[str, str], *options: str) -> None:
    async with terminal(["webhooks", "trigger", *options], folder, 5, **variables) as trigger:
        await trigger.process.wait()


def _link(text: str) -> str | None:
    """Return the link of a console, which a terminal breaks at its right edge."""
    found = re.search(r"console: (http\S+#[\w-]{43})", text.replace("\n", ""))
    return None if found is None else found[1]


async def main(pictures: Path) -> None:
    """Make all pictures."""
    pictures.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        async with chromium(folder / "profile") as browser:
            await payout(browser, folder, pictures, 8480, 9400)
            await listener(browser, folder, pictures, 8480)
            await console(browser, folder, pictures, 8480, 9400)


if __name__ == "__main__":
    asyncio.run(main(PICTURES))
