"""Wrong values for every option of every command: the message names the options that this command has, and no traceback comes."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from payouts import Ledger
from payouts.cli import PROGRAM as PAYOUTS
from payouts.cli import app as payouts
from rewards_core.cli.program import OptionSpec, Program
from tests.test_command_lines import arguments
from webhooks.cli import PROGRAM as LISTENER
from webhooks.cli import app as webhooks
from webhooks.store.sqlite import SQLiteStore

pytestmark = pytest.mark.repeats_itself

NUMBERS = ("-1", "1e-300", "1e308", "9" * 30)
TEXTS = ("", "a b", "/proc/nowhere/é")
NOWHERE = "http://127.0.0.1:9/"
ENDS_AT_ONCE = {
    "serve": ("--poll", "--store=memory:", "--unix=/proc/nowhere/x/socket", "--admin-port=-1", f"--forward-to={NOWHERE}"),
    "consume": ("--no-poll", "--store=memory:", "--admin-port=-1"),
    "capture": ("--store=memory:", "--unix=/proc/nowhere/x/socket", "--out=/proc/nowhere/x"),
    "console": ("--store=sqlite:////proc/nowhere/x.db",),
    "trigger": (f"--to={NOWHERE}", "--delay=0"),
    "wait": ("--timeout=0",),
    "events forget": ("--user=1", "--yes"),
    "dead-letters purge": ("--older-than-days=1",),
    "run": ("--vendor=original", "--campaign=c", "--dry-run"),
    "resolve": ("--as=done", "--note=n"),
}
"""What a command needs, and what keeps it from going on for long with a value that is right."""
LISTENS = {"host", "port", "unix"}
OTHER_SPELLINGS = {"event": {"name"}}
TAKES_TIME = {("trigger", "delay"), ("trigger", "duplicate"), ("wait", "timeout")}
OPTIONS = [
    pytest.param(app, program, words, specs, spec, id=f"{words} --{spec.name}")
    for app, program in ((webhooks, LISTENER), (payouts, PAYOUTS))
    for words, specs in program.options()
    for spec in specs.values()
    if spec.type is not bool and words != "tail" and (words, spec.name) not in TAKES_TIME
]
VARIABLES = {
    "ORIGINAL_WEBHOOK_KEYS": f"4o3vfxtcmo7b:{'s' * 32}",
    "ORIGINAL_BASE_URL": NOWHERE,
    "ORIGINAL_API_SECRET": "s" * 32,
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, a ledger and a file of rows."""
    folder = tmp_path_factory.mktemp("filled")

    async def begin() -> None:
        store = SQLiteStore(folder / "inbox.db")
        await store.ping()
        await store.aclose()
        async with Ledger(folder / "payouts.db", vendor="original", campaign="c"):
            pass

    asyncio.run(begin())
    (folder / "1").write_text("id,reward_uid,to_user_uid,amount\nr1,764893807463,32,1\n")
    return folder


@pytest.fixture(autouse=True)
def folder(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a copy of that folder."""
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)

    handlers = logging.getLogger().handlers[:]
    logging.disable()  # what a listener logs is not what its command says
    yield tmp_path
    logging.disable(logging.NOTSET)
    logging.getLogger().handlers[:] = handlers


def typed(words: str, name: str, value: str) -> list[str]:
    """Return the options of a command that is given a value for one of them."""
    beside = [each for each in ENDS_AT_ONCE.get(words, ()) if each.partition("=")[0] != f"--{name}"]
    if words in {"serve", "capture"} and name in LISTENS:
        beside = [each for each in beside if not each.startswith(("--unix", "--store"))] + [
            "--store=sqlite:////proc/nowhere/x.db"
        ]
    return [*beside, f"--{name}={value}"]


def wrongs(done: Result, specs: dict[str, OptionSpec]) -> list[str]:
    """Return what is wrong with how a command ended."""
    found = []
    if not isinstance(done.exception, SystemExit | None):
        found += traceback.format_exception(done.exception)
    own = {*specs, *(spec.negative for spec in specs.values()), "help", "config"}
    own |= {other for name in specs for other in OTHER_SPELLINGS.get(name, ())}
    told = re.sub(r"`[^`]*`", "", done.stderr)  # another command, as a person types it
    found += [
        f"no option of this command: --{each}" for each in re.findall(r"(?<![\w-])--([a-z][a-z-]*)", told) if each not in own
    ]
    if re.match(r"[a-z]+(_[a-z]+)*: (give|'|an? |it )", told):
        found.append(f"no option: {told}")
    return found


@pytest.mark.parametrize(("app", "program", "words", "specs", "spec"), OPTIONS)
def test_a_wrong_value_is_answered_in_the_words_of_the_command(
    app: Typer, program: Program, words: str, specs: dict[str, OptionSpec], spec: OptionSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words == "serve":
        monkeypatch.setenv("ORIGINAL_API_KEY", "k")
    found = {}
    for value in NUMBERS if spec.type in {int, float} else TEXTS:
        options = typed(words, spec.name, value)
        done = CliRunner().invoke(app, [*words.split(), *arguments(program, words), *options])
        if wrong := wrongs(done, specs):
            found[" ".join(options)] = wrong
    assert found == {}


@pytest.mark.parametrize("part", ["scope", "app"])
def test_a_part_of_a_source_is_named_with_its_option(part: str) -> None:
    done = CliRunner().invoke(webhooks, ["serve", f"--source=/a,{part}=a b"])
    assert done.exit_code == 2
    assert f"--source: {part}: 'a b' " in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("option", ["--allow", "--trusted-proxy"])
def test_a_network_that_is_none_is_named_with_its_option(option: str) -> None:
    done = CliRunner().invoke(webhooks, ["serve", f"{option}=everybody"])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"{option}: ")
