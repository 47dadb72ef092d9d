"""The site is whole: links lead somewhere, nothing public is missing, a page says what it is for and repeats no other."""

from __future__ import annotations

import re
from collections import defaultdict
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from sphinx.util.inventory import InventoryFile

from docs._ext.command_lines import PROGRAMS, commands_of, sandbox_parsers
from docs._ext.public_names import PACKAGES, defined_as, public_names
from rewards_core.cli.exit_codes import Exit
from tests.site_kit import ROOT, build_site
from tests.test_documents import FENCE, TEXTS

pytestmark = pytest.mark.slow

PAGES = {name: text for name, text in TEXTS.items() if name.startswith("docs/")}
WRITTEN = {name: text for name, text in PAGES.items() if not name.startswith("docs/project/")}


class Page(HTMLParser):
    """The links, anchors and headings of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.headings = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in {"href", "src"} and tag != "link":
                self.links.add(value)
            if value and name in {"id", "name"}:
                self.anchors.add(value)
        self.headings += tag == "h1"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_site(tmp_path_factory)


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text("utf-8")) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_every_link_of_the_site_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    looked_at = 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_relative_to(site), f"{path.name}: {link} leads out of the site"
            assert target.exists(), f"{path.name}: {link} is not there"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name}: {link} has no such anchor"
                looked_at += 1
    assert looked_at > 1000


def test_every_page_has_one_title(pages: dict[Path, Page]) -> None:
    assert [path.name for path, page in pages.items() if page.headings != 1 and path.name != "search.html"] == []


def test_links_out_of_the_site_are_safe(pages: dict[Path, Page]) -> None:
    schemes = {urlsplit(link).scheme for page in pages.values() for link in page.links}
    assert schemes <= {"", "https", "mailto", "data"}, schemes


def inventory(site: Path) -> dict[str, Any]:
    with (site / "objects.inv").open("rb") as stream:
        found: Any = InventoryFile.load(stream, "", lambda _, name: name)
    return {name: kind for kind, items in getattr(found, "data", found).items() if kind.startswith("py:") for name in items}


def test_all_that_is_public_is_described_and_nothing_else(site: Path) -> None:
    described = inventory(site)
    missing = public_names().keys() - described.keys()
    assert not missing, f"add these to their page in docs/reference/api: {sorted(missing)}"
    known = public_names().keys() | defined_as().keys()
    for name in described:
        assert not re.search(r"\._(?!_)", name), f"{name} is private"
        owner = next((each for each in known if name == each or name.startswith(f"{each}.")), None)
        assert owner, f"{name} is not public"


def test_signatures_are_written_as_a_person_would(site: Path) -> None:
    found = [
        unescape(re.sub(r"<[^>]+>", "", signature))
        for path in (site / "reference/api").glob("*.html")
        for signature in re.findall(r'<dt class="sig.*?</dt>', path.read_text("utf-8"), re.DOTALL)
    ]
    assert len(found) > 300
    for signature in found:
        assert not re.search(r"NOTHING|<|~|\(value\)|\(\s*\*args,\s*\*\*kwargs|functools\.", signature), signature
    assert not [signature for signature in found if "casefold" in signature]  # of the text that an enumeration is


def test_what_is_used_inside_with_is_not_shown_as_an_iterator(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "reference/api/webhooks.html").read_text("utf-8"))
    for name, kind in (("close_on_signal", "AbstractAsyncContextManager"), ("fast_polls", "AbstractContextManager")):
        assert re.search(rf"{name}\([^)]*\)\s*→\s*{kind}\[None\]", unescape(text)), name


def test_arguments_are_told_from_what_they_mean_by_a_colon(site: Path) -> None:
    text = (site / "reference/api/original_async.html").read_text("utf-8")
    assert "<strong>api_key</strong>: The app" in text
    assert "</strong> -- " not in text


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_option_of_a_command_is_described(site: Path, name: str) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "reference/command-lines" / f"{name}.html").read_text("utf-8"))
    for words, command in commands_of(name):
        described = text.partition(f"\n{name} {words}")[2] or text.partition(f"{name} {words}¶")[2]
        assert described, f"{name} {words}"
        for param in command.params:
            for option in (*param.opts, *param.secondary_opts):
                if option.startswith("--") and option != "--help" and not getattr(param, "hidden", False):
                    assert option in described, f"{name} {words} {option}"


def test_every_option_of_a_sandbox_is_described(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "reference/command-lines/sandboxes.html").read_text("utf-8"))
    for name, parser in sandbox_parsers().items():
        described = text.partition(f"python -m vendor_sandboxes {name}¶")[2]
        options = re.findall(r"--[a-z][a-z-]+", parser.format_help())
        assert len(options) > 10
        assert [option for option in options if option != "--help" and option not in described] == []


def test_every_exit_code_is_described(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "reference/exit-codes.html").read_text("utf-8"))
    for program in PROGRAMS.values():
        assert set(program.EXIT_CODES) <= set(Exit)
        for code, meaning in program.EXIT_CODES.items():
            assert f"{code:d}" in text
            assert meaning in re.sub(r"\s+", " ", text)


def test_every_variable_is_described() -> None:
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    variable = re.compile(r'"((?:ORIGINAL|ENKASH|WATCHDOG)_[A-Z_]+|XDG_STATE_HOME|NOTIFY_SOCKET|WEBHOOK_(?:STORE|FORWARD_TO))"')
    used = {name for path in sources for name in variable.findall(path.read_text("utf-8"))}
    described = set(re.findall(r"`([A-Z][A-Z_]+)`", PAGES["docs/reference/configuration.md"]))
    assert len(used) > 15
    assert used <= described, sorted(used - described)


@pytest.mark.parametrize("page", WRITTEN)
def test_a_page_begins_by_saying_what_it_is_for(page: str) -> None:
    if page == "docs/index.md":
        return
    text = WRITTEN[page].split("\n\n")
    assert text[0].startswith("# ")
    assert re.match(r"(This (page|tutorial)|These pages) ", text[1]), f"{page} begins with: {text[1][:80]}"


def test_no_sentence_stands_on_two_pages() -> None:
    where = defaultdict(set)
    for page, text in WRITTEN.items():
        for paragraph in re.split(r"\n\s*\n|\n\* |\n\d+\. ", FENCE.sub("\n\n", text)):
            if not paragraph.startswith("|"):
                for sentence in re.split(r"(?<=[.!?:])\s+", paragraph):
                    words = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", sentence).split()
                    if len(words) >= 10:
                        where[" ".join(words).casefold()].add(page)
    repeated = {sentence: sorted(found) for sentence, found in where.items() if len(found) > 1}
    assert not repeated


def test_the_readme_leads_to_each_part_of_the_site() -> None:
    found = set(re.findall(r"\]\((docs/[\w/-]+\.md)\)", TEXTS["README.md"]))
    assert {f"docs/{part}/index.md" for part in ("tutorials", "how-to", "reference", "explanation")} <= found
