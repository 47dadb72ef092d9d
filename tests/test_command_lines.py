"""What both command lines have in every command: help, version, completion, and options that are set beforehand."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from typer import rich_utils
from typer.testing import CliRunner

from payouts import Ledger
from payouts.cli import PROGRAM as PAYOUTS
from payouts.cli import app as payouts
from rewards_core.cli.program import OptionSpec, Program
from rewards_core.install_hint import install_hint
from rewards_core.version import VERSION
from webhooks.cli import PROGRAM as LISTENER
from webhooks.cli import app as webhooks

LINES = {"webhooks": (LISTENER, webhooks), "payouts": (PAYOUTS, payouts)}
COMMANDS = [(module, words) for module, (program, _) in LINES.items() for words, _ in program.options()]
OPTIONS = [
    (module, words, spec)
    for module, (program, _) in LINES.items()
    for words, specs in program.options()
    for spec in specs.values()
]
HELPS = [(module, "") for module in LINES] + [("webhooks", "events")] + COMMANDS
REQUIRED = {"run": ["--vendor=original", "--campaign=c"]}


def process(module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def in_process(
    module: str, *arguments: str, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **variables: str
) -> str:
    """Run a program's entry point, and return what it says before it ends well."""
    patch.setattr(sys, "argv", [LINES[module][0].name, *arguments])
    for name, value in variables.items():
        patch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        import_module(f"{module}.__main__").main()
    said = capsys.readouterr()
    assert (ended.value.code or 0, said.err) == (0, "")
    return said.out


def parameters(program: Program, words: str) -> list[Any]:
    name, _, member = words.partition(" ")
    command = program.load(name)
    return (command.commands[member] if member else command).params


def arguments(program: Program, words: str) -> list[str]:
    """Return something for each argument that a command needs."""
    return ["1" for param in parameters(program, words) if param.param_type_name == "argument" and param.required]


async def begun(ledger: Path) -> None:
    async with Ledger(ledger, vendor="original", campaign="diwali"):
        pass


def told(text: str) -> str:
    return " ".join(word for word in text.replace("│", " ").split() if word.strip("╭─╮╰╯"))


@pytest.mark.parametrize(("module", "words"), COMMANDS)
def test_the_help_breaks_no_line_before_the_screen_does(module: str, words: str) -> None:
    help_text = CliRunner().invoke(LINES[module][1], [*words.split(), "-h"], env={"COLUMNS": "1000"}).stdout
    prose = help_text.partition("╭")[0].splitlines()
    broken = [line for line, after in pairwise(prose) if line.strip() and after.strip() and not after.startswith("   ")]
    assert broken == []


@pytest.mark.parametrize("module", LINES)
def test_the_version_is_shown(module: str) -> None:
    done = process(module, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{LINES[module][0].name} {VERSION}\n", "")


@pytest.mark.parametrize(("module", "words"), HELPS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_shows_help_within_80_columns(module: str, words: str, flag: str) -> None:
    done = CliRunner().invoke(LINES[module][1], [*words.split(), flag], env={"COLUMNS": "80"}, catch_exceptions=False)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "--config" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(("module", "words"), HELPS)
def test_a_terminal_of_80_columns_shows_every_option_value_and_default_whole(module: str, words: str) -> None:
    shown = {}
    for width in (80, 1_000):
        done = CliRunner().invoke(LINES[module][1], [*words.split(), "-h"], env={"COLUMNS": str(width)})
        assert "…" not in done.stdout
        shown[width] = sorted(told("\n".join(line for line in done.stdout.splitlines() if line.startswith("│"))).split())
    assert shown[80] == shown[1_000]
    params = parameters(LINES[module][0], words) if words else []
    names = {name for each in params if not getattr(each, "hidden", False) for name in (*each.opts, *each.secondary_opts)}
    assert {name for name in names if name.startswith("--")} <= {word.strip(",") for word in shown[80]}


def test_a_version_of_typer_with_its_own_tables_still_shows_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rich_utils, "Table", type("OtherTable", (Table,), {}))
    done = CliRunner().invoke(payouts, ["run", "-h"], env={"COLUMNS": "200"}, catch_exceptions=False)
    assert done.exit_code == 0
    assert "--asset-external-id-column" in done.stdout


@pytest.mark.parametrize("module", LINES)
def test_the_help_says_once_how_variables_and_files_set_options(module: str) -> None:
    program, app = LINES[module]
    shown = told(CliRunner().invoke(app, ["-h"], env={"COLUMNS": "200"}).stdout)
    assert shown.count(program.variable("json")) == 1
    assert "TOML file" in shown


@pytest.mark.parametrize("module", LINES)
def test_the_help_names_every_exit_code(module: str) -> None:
    codes = import_module(f"{module}.cli").EXIT_CODES
    shown = told(CliRunner().invoke(LINES[module][1], ["--help"], env={"COLUMNS": "200"}).stdout)
    assert all(f" {code:d} " in shown for code in codes)


@pytest.mark.parametrize("module", LINES)
@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_extra_a_program_says_which_to_install(
    module: str, missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as left:
        import_module(f"{module}.__main__").main()
    assert left.value.code == 2
    assert capsys.readouterr().err == f"{LINES[module][0].name} needs the package {missing}. Run {install_hint('cli')}.\n"


@pytest.mark.parametrize(("module", "command"), [("webhooks", "doctor"), ("payouts", "audit")])
@pytest.mark.parametrize("lacking", ["cli", "cli.{command}"])
def test_another_missing_module_is_not_blamed_on_the_extra(
    module: str, command: str, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [LINES[module][0].name, command])
    monkeypatch.setitem(sys.modules, f"{module}.{lacking.format(command=command)}", None)
    with pytest.raises(ModuleNotFoundError):
        import_module(f"{module}.__main__").main()


@pytest.mark.parametrize("module", LINES)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown_for_each_shell(
    module: str, shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = (module, "--show-completion", shell)
    shown = in_process(*typed, patch=monkeypatch, capsys=capsys, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert f"{LINES[module][0].variable('COMPLETE')}=complete_{shell}" in shown


@pytest.mark.parametrize(
    ("module", "words", "expected"),
    [
        ("webhooks", "de", {"dead-letters"}),
        ("webhooks", "events fo", {"forget"}),
        ("webhooks", "serve --tls", {"--tls-cert", "--tls-key", "--tls-min"}),
        ("webhooks", "serve --conf", {"--config"}),
        ("webhooks", "events list --state ", {"ready", "done", "dead"}),
        ("payouts", "re", {"retry", "resolve", "resume", "report"}),
        ("payouts", "run --vendor o", {"original"}),
    ],
)
def test_a_shell_completes_commands_options_and_their_words(
    module: str, words: str, expected: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = LINES[module][0]
    typed = f"{program.name} {words}"
    variables = {
        f"_{program.variable('COMPLETE')}": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split(" ")) - 1),
        program.variable("config"): "missing.toml",  # nothing is read before the command is run
    }
    assert set(in_process(module, patch=monkeypatch, capsys=capsys, **variables).split()) == expected


@pytest.mark.parametrize(("module", "words", "spec"), OPTIONS, ids=lambda each: getattr(each, "name", each))
def test_every_option_is_known_to_the_file_and_to_its_variable(
    tmp_path: Path, module: str, words: str, spec: OptionSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program, app = LINES[module]
    Path("config.toml").write_text(f"[{words.replace(' ', '.')}]\n{spec.name} = 1979-05-27\n")
    command = [*words.split(), *arguments(program, words), *REQUIRED.get(words, ())]
    done = CliRunner().invoke(app, [*command, "--config=config.toml"], catch_exceptions=False)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"config.toml: [{words.replace(' ', '.')}] {spec.name}: give ")
    if spec.type in {bool, int, float, list}:
        variable = program.variable(*words.split(), spec.name)
        done = CliRunner().invoke(app, command, env={variable: "'"}, catch_exceptions=False)
        assert done.exit_code == 2
        assert variable in told(done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


@pytest.mark.parametrize("program", [PAYOUTS, LISTENER], ids=lambda program: program.name)
def test_no_two_options_have_one_variable(program: Program) -> None:
    shared = {program.variable(spec.name): spec.name for _, specs in program.options() for spec in specs.values()}
    single = {program.variable(*words.split(), name): (words, name) for words, specs in program.options() for name in specs}
    assert len(single) == sum(len(specs) for _, specs in program.options())
    assert not shared.keys() & single.keys()


@pytest.mark.slow
def test_a_snapshot_is_asked_of_one_command_only(tmp_path: Path) -> None:
    done = process("payouts", "audit", "--ledger", str(tmp_path / "none.db"), PAYOUTS_SNAPSHOT="1")
    assert done.returncode == 2
    assert "Set PAYOUTS_RUN_SNAPSHOT, PAYOUTS_PLAN_SNAPSHOT and PAYOUTS_AUDIT_SNAPSHOT instead" in done.stderr


@pytest.mark.slow
def test_the_variables_of_earlier_versions_name_the_store(tmp_path: Path) -> None:
    variables = {"WEBHOOK_STORE": f"sqlite:///{tmp_path}/old.db"}
    assert "/old.db" in process("webhooks", "events", "list", **variables).stderr
    variables["WEBHOOK_LISTENER_STORE"] = f"sqlite:///{tmp_path}/new.db"
    assert "/new.db" in process("webhooks", "events", "list", **variables).stderr


@pytest.mark.slow
def test_results_are_json_or_text_as_the_file_says(tmp_path: Path) -> None:
    config = tmp_path / "payouts.toml"
    ledger = tmp_path / "payouts.db"
    asyncio.run(begun(ledger))
    status = ["payouts", "status", "--config", str(config), "--ledger", str(ledger)]
    config.write_text("json = false\n")
    assert process(*status).stdout.startswith("diwali (original): 0 of 0 rows paid\n")
    config.write_text("json = false\n[status]\njson = true\n")
    assert json.loads(process(*status).stdout)["campaign"] == "diwali"
    assert process(*status, "--text").stdout.startswith("diwali (original): 0 of 0 rows paid\n")


def test_no_option_takes_a_secret_itself() -> None:
    """A file of options is read by many; what is secret stands in a file of its own, or in the environment."""
    names = {spec.name for program, _ in LINES.values() for _, specs in program.options() for spec in specs.values()}
    holders = {name for name in names if any(word in name for word in ("secret", "token", "password", "keys", "credential"))}
    assert all(name.endswith("-file") for name in holders)
