"""Options that a variable or a file sets beforehand: which wins, what each may say, and what a mistake is answered with."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rewards_core.cli.commands import command_line
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.program import Program
from tests.texts import said

HOME = "tests.rewards_core.option_commands"
PROGRAM = Program(
    name="some-tool",
    commands={"do": (f"{HOME}:do", "Show what the options say."), "group": (f"{HOME}:group", "Do some things.")},
    ambiguous=frozenset({"snapshot"}),
    legacy_variables={"TOOL_NAME": "name"},
)
APP = command_line(PROGRAM, help="Help.", exit_codes={Exit.OK: "done"})
DEFAULTS: dict[str, Any] = {
    "size": 1,
    "share": 0.5,
    "rate": 20.0,
    "name": None,
    "format": None,
    "place": "here",
    "tag": [],
    "quick": False,
    "ask": None,
    "port": 80,
    "snapshot": False,
}

Call = Callable[..., Result]
Write = Callable[[str], Path]


def call(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(APP, list(arguments), env=variables, catch_exceptions=False)


def options(*arguments: str, **variables: str) -> dict[str, Any]:
    """Return what `do` was told, where that is not what it is told by default."""
    done = call("do", *arguments, **variables)
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    return {name: value for name, value in told.items() if value != DEFAULTS[name]}


def refused(*arguments: str, **variables: str) -> str:
    """Return what a command says that cannot be run as it is set."""
    done = call(*arguments, **variables)
    assert (done.exit_code, done.stdout) == (2, "")
    return " ".join(word for word in done.stderr.replace("│", " ").split() if word.strip("╭─╮╰╯"))


def without_typers_words(text: str) -> str:
    return re.sub(r"Usage: .*(Invalid value for [^:]+): .*", r"\1", text)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file of options, and work where it is."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        path = tmp_path / "tool.toml"
        path.write_text(text, encoding="utf-8")
        return Path("tool.toml")

    return write


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_pipe_is_a_file_of_options_too(place: str) -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, b"[do]\nsize = 7\n")
        os.close(writing)
        typed = [f"--config=/dev/fd/{reading}", "do"]
        done = call(*(typed if place == "before" else reversed(typed)))
        assert (done.exit_code, json.loads(done.stdout)["size"]) == (0, 7)
    finally:
        os.close(reading)


def test_without_variables_and_file_the_defaults_hold() -> None:
    assert options() == {}


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("SIZE", "7", {"size": 7}),
        ("SHARE", "0.25", {"share": 0.25}),
        ("RATE", "5/s", {"rate": 5.0}),
        ("NAME", "a b", {"name": "a b"}),
        ("FORMAT", "csv", {"format": "csv"}),
        ("PLACE", "/there", {"place": "/there"}),
        ("TAG", "a 'b c' d", {"tag": ["a", "b c", "d"]}),
        ("QUICK", "yes", {"quick": True}),
        ("QUICK", "off", {}),
        ("ASK", "TRUE", {"ask": True}),
        ("ASK", "0", {"ask": False}),
        ("DO_SIZE", "8", {"size": 8}),
        ("SIZE", "", {}),
        ("SIZE", "  ", {}),
    ],
)
def test_a_variable_sets_an_option_of_every_kind(variable: str, text: str, expected: dict[str, Any]) -> None:
    assert options(**{f"SOME_TOOL_{variable}": text}) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("size = 7", {"size": 7}),
        ("share = 2", {"share": 2.0}),
        ("share = 0.25", {"share": 0.25}),
        ("rate = 5", {"rate": 5.0}),
        ('rate = "5/s"', {"rate": 5.0}),
        ('name = "a b"', {"name": "a b"}),
        ('format = "jsonl"', {"format": "jsonl"}),
        ('place = "/there"', {"place": "/there"}),
        ('tag = ["a", "b c"]', {"tag": ["a", "b c"]}),
        ("tag = []", {}),
        ("quick = true", {"quick": True}),
        ("ask = false", {"ask": False}),
    ],
)
@pytest.mark.parametrize("table", ["", "[do]"])
def test_a_file_sets_an_option_of_every_kind(config: Write, table: str, line: str, expected: dict[str, Any]) -> None:
    assert options(f"--config={config(f'{table}{chr(10)}{line}')}") == expected


def test_what_is_typed_wins_over_variables_and_these_over_the_file(config: Write) -> None:
    config("size = 2\n[do]\nsize = 3")
    Path("shared.toml").write_text("size = 2")
    layers = [
        ({"size": 2}, {"SOME_TOOL_CONFIG": "shared.toml"}, ()),
        ({"size": 3}, {"SOME_TOOL_CONFIG": "tool.toml"}, ()),
        ({"size": 4}, {"SOME_TOOL_SIZE": "4"}, ()),
        ({"size": 5}, {"SOME_TOOL_DO_SIZE": "5"}, ()),
        ({"size": 6}, {}, ("--size=6",)),
    ]
    variables: dict[str, str] = {}
    for expected, more, typed in layers:
        variables |= more
        assert options(*typed, **variables) == expected


def test_a_list_that_is_typed_replaces_the_one_that_was_set() -> None:
    assert options("--tag=c", SOME_TOOL_TAG="a b") == {"tag": ["c"]}


def test_a_variable_of_an_earlier_version_still_counts_and_gives_way_to_that_of_today() -> None:
    assert options(TOOL_NAME="old") == {"name": "old"}
    assert options(TOOL_NAME="old", SOME_TOOL_NAME="new") == {"name": "new"}
    assert options(TOOL_NAME="old", SOME_TOOL_NAME="") == {"name": "old"}


@pytest.mark.parametrize("words", [("--config=tool.toml", "do"), ("do", "--config=tool.toml"), ("do", "--config", "tool.toml")])
def test_the_file_may_be_named_before_or_after_the_command(config: Write, words: tuple[str, ...]) -> None:
    config("size = 9")
    assert json.loads(call(*words).stdout)["size"] == 9


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_file_may_be_named_beside_every_word_of_a_command(config: Write, place: int) -> None:
    words = ["group", "rest"]
    words.insert(place, f"--config={config('[group.rest]' + chr(10) + 'depth = 9')}")
    assert json.loads(call(*words).stdout) == {"depth": 9}


def test_a_file_that_is_typed_takes_the_place_of_the_one_a_variable_names(config: Write) -> None:
    assert options(f"--config={config('size = 9')}", SOME_TOOL_CONFIG="missing.toml") == {"size": 9}


def test_a_table_of_a_group_holds_for_its_commands_and_the_table_of_a_command_for_that_one(config: Write) -> None:
    config("size = 1\n[group]\nsize = 2\nmax-size = 9\ndepth = 3\n[group.count]\nsize = 4")
    assert "--size 4 is" in call("group", "count", "--config=tool.toml").stderr
    config("size = 1\n[group]\nsize = 2\nmax-size = 9\ndepth = 3\n")
    assert "--size 2 is" in call("group", "count", "--config=tool.toml").stderr
    assert json.loads(call("group", "rest", "--config=tool.toml").stdout) == {"depth": 3}


def test_what_others_have_is_no_mistake(config: Write) -> None:
    config('depth = 3\n[group]\nmax-size = "no number"\n[group.rest]\nanything = 1')
    assert options("--config=tool.toml") == {}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_port_that_kubernetes_tells_of_a_service_of_this_name_is_none_to_listen_on(protocol: str) -> None:
    assert options(SOME_TOOL_PORT=f"{protocol}://10.96.0.17:8480") == {}
    assert options(SOME_TOOL_PORT="tcp://10.96.0.17:8480", SOME_TOOL_DO_PORT="81") == {"port": 81}


def test_a_wrong_variable_is_named() -> None:
    found = {
        "QUICK": "maybe",
        "ASK": "2",
        "TAG": "a 'b",
        "SIZE": "many",
        "DO_SIZE": "-1",
        "RATE": "fast",
        "FORMAT": "xml",
        "SNAPSHOT": "1",
        "CONFIG": "none.toml",
    }
    errors = [refused("do", **{f"SOME_TOOL_{name}": text}) for name, text in found.items()]
    said("options: wrong variables", "\n".join(map(without_typers_words, errors)))


MISTAKES_IN_FILES = (
    "[does]\nsize = 1",
    "[zzz]\nsize = 1",
    "[do.more]\nsize = 1",
    "[do.size]\nsize = 1",
    "[do]\nsizes = 1",
    "[do]\ndepth = 1",
    "[do]\nzzzzzzz = 1",
    "max_size = 1",
    '[do]\nsize = "7"',
    "size = 7.0",
    "size = true",
    'share = "7"',
    "share = false",
    "rate = false",
    "name = 7",
    "name = 1979-05-27",
    'tag = "a"',
    "tag = [1]",
    "quick = 1",
    "[do]\nno-ask = true",
    "[do]\nsize = -1",
    "size = -1",
    "snapshot = true",
    "[do]\nconfig = 'a'",
    "a = " + "[" * 100_000,
    "#" * (1 << 20) + "\n",
)


@pytest.mark.slow
def test_a_mistake_in_the_file_is_told_with_its_place_and_what_is_nearest(config: Write) -> None:
    errors = [refused("do", f"--config={config(text)}") for text in MISTAKES_IN_FILES]
    said("options: mistakes in a file", "\n".join(map(without_typers_words, errors)))
    assert "tool.toml" in refused("do", f"--config={config('size = ')}")


def test_a_group_knows_its_commands_and_their_options(config: Write) -> None:
    texts = ("[group.cuont]", "[group]\ndept = 1")
    errors = [refused("group", "count", f"--config={config(text)}") for text in texts]
    said("options: mistakes in a file for a command of a group", "\n".join(errors))


def test_a_file_that_is_no_text_or_no_file_is_refused(config: Write) -> None:
    config("").write_bytes(b"name = '\xff'")
    errors = (refused("do", "--config=tool.toml"), refused("do", "--config=."))
    said("options: files that are not TOML", "\n".join(errors))


def test_no_message_about_the_file_shows_a_value(config: Write) -> None:
    for text in ('api-secret = "hunter2"', '[do]\nsize = "hunter2"', 'name = ["hunter2"]'):
        assert "hunter2" not in refused("do", f"--config={config(text)}")


def test_a_message_names_the_option_of_the_command_and_where_it_was_set(config: Write) -> None:
    config("[group.count]\nmax-size = 3")
    wrong = call("group", "count", "--config=tool.toml", SOME_TOOL_SIZE="4")
    typed = call("group", "count", "--config=tool.toml", "--size=2")
    preset = call("group", "count", "--config=tool.toml", SOME_TOOL_SIZE="2")
    said("options: messages about presets", wrong.stderr + typed.stderr + preset.stderr)


def test_a_refusal_of_the_command_itself_says_where_the_option_was_set() -> None:
    assert "SOME_TOOL_GROUP_COUNT_SNAPSHOT" in refused("group", "count", SOME_TOOL_GROUP_COUNT_SNAPSHOT="on")


JSON_SET = {
    "typed": (("group", "log", "--log-format", "json"), {}),
    "typed in one word": (("group", "log", "--log-format=json"), {}),
    "typed over a variable": (("group", "log", "--log-format=text", "--log-format=json"), {"SOME_TOOL_LOG_FORMAT": "text"}),
    "variable": (("group", "log"), {"SOME_TOOL_LOG_FORMAT": "json"}),
    "variable of the command": (("group", "log"), {"SOME_TOOL_GROUP_LOG_LOG_FORMAT": "json", "SOME_TOOL_LOG_FORMAT": "text"}),
    "file": (("group", "log", "--config", "tool.toml"), {}),
    "file before the command": (("--config=tool.toml", "group", "log"), {}),
    "file beside the group": (("group", "--config=tool.toml", "log"), {}),
    "file of a variable": (("group", "log"), {"SOME_TOOL_CONFIG": "tool.toml"}),
}
MISTAKES = {
    ("many",): "Invalid value for 'number': ",
    ("1", "--size", "many"): "Invalid value for '--size': ",
    ("1", "--siez", "1"): "No such option: --siez",
    ("1", "--size"): "Option '--size' requires an argument.",
    (): "Missing argument 'number'.",
    ("1", "2"): "Got unexpected extra argument",
}


@pytest.mark.parametrize("typed", MISTAKES, ids=" ".join)
@pytest.mark.parametrize("where", JSON_SET)
def test_where_standard_error_is_json_so_is_what_is_wrong_with_the_words(
    config: Write, where: str, typed: tuple[str, ...]
) -> None:
    config('log-format = "text"\n[group]\nlog-format = "json"')
    words, variables = JSON_SET[where]
    done = call(*words, *typed, **variables)
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    told = json.loads(line)
    assert (told["level"], told["logger"]) == ("error", "command")
    assert MISTAKES[typed] in told["message"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("dos",), "No such command 'dos'."),
        (("group", "logs"), "No such command 'logs'."),
        (("--siez=1", "do"), "No such option: --siez"),
        (("group", "--siez=1", "log"), "No such option: --siez"),
        (("group", "log", "1", "--log-format=xml"), ""),
    ],
)
def test_where_a_variable_asks_for_json_so_is_a_word_that_is_no_command(typed: tuple[str, ...], message: str) -> None:
    done = call(*typed, SOME_TOOL_LOG_FORMAT="json")
    assert (done.exit_code, done.stdout) == (2, "")
    if message:
        assert message in json.loads(done.stderr)["message"]
    else:
        assert "Invalid value for '--log-format'" in done.stderr


def test_what_is_set_wrongly_is_told_as_json_too() -> None:
    done = call("group", "log", "1", SOME_TOOL_LOG_FORMAT="json", SOME_TOOL_SIZE="many")
    assert json.loads(done.stderr)["message"].startswith("Invalid value for SOME_TOOL_SIZE: ")
    done = call("group", "log", "1", "--config=none.toml", SOME_TOOL_LOG_FORMAT="json")
    assert json.loads(done.stderr)["message"].startswith("--config: none.toml ")


@pytest.mark.parametrize(
    ("typed", "variables"),
    [
        (("group", "log", "many", "--log-format=text"), {"SOME_TOOL_LOG_FORMAT": "json"}),
        (("group", "log", "many", "--", "--log-format=json"), {}),
        (("do", "--size=many"), {"SOME_TOOL_LOG_FORMAT": "json"}),
    ],
)
def test_a_command_that_writes_text_tells_mistakes_as_text(typed: tuple[str, ...], variables: dict[str, str]) -> None:
    assert "Usage: some-tool" in refused(*typed, **variables)


def test_after_a_mistake_told_as_json_the_next_is_text_again() -> None:
    call("group", "log", "many", "--log-format=json")
    assert "Usage: some-tool" in refused("group", "log", "many")


def test_without_a_word_the_help_is_shown_whatever_standard_error_is() -> None:
    done = call("group", SOME_TOOL_LOG_FORMAT="json")
    assert (done.stderr, "Usage: some-tool group" in done.stdout) == ("", True)


def test_a_variable_that_sets_nothing_is_warned_about() -> None:
    warnings = []
    for name in ("SIEZ", "GROUP_COUNT_MAXSIZE", "CONFG", "XYZZY"):
        done = call("do", **{f"SOME_TOOL_{name}": "1"})
        assert (done.exit_code, json.loads(done.stdout)) == (0, DEFAULTS)
        warnings.append(done.stderr)
    said("options: variables that set nothing", "".join(warnings))


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("SOME_TOOL_GROUP_REST_DEPTH", "1"),
        ("SOME_TOOL_DEPTH", "1"),
        ("SOME_TOOL_SIEZ", " "),
        ("SOME_TOOLS", "1"),
        ("_SOME_TOOL_COMPLETE", ""),
        ("SOME_TOOL_SERVICE_HOST", "10.96.0.17"),
        ("SOME_TOOL_SERVICE_PORT", "8480"),
        ("SOME_TOOL_SERVICE_PORT_HTTP", "8480"),
        ("SOME_TOOL_PORT", "tcp://10.96.0.17:8480"),
        ("SOME_TOOL_PORT_8480_TCP", "tcp://10.96.0.17:8480"),
        ("SOME_TOOL_PORT_8480_TCP_PROTO", "tcp"),
        ("SOME_TOOL_PORT_8480_TCP_PORT", "8480"),
        ("SOME_TOOL_PORT_8480_TCP_ADDR", "10.96.0.17"),
        ("SOME_TOOL_BLUE_PORT", "udp://10.96.0.17:8480"),
        ("SOME_TOOL_BLUE_SERVICE_HOST", "10.96.0.17"),
    ],
)
def test_a_variable_of_another_command_or_of_somebody_else_is_not_warned_about(variable: str, text: str) -> None:
    assert call("do", **{variable: text}).stderr == ""


def test_where_standard_error_is_json_so_is_a_warning_about_a_variable() -> None:
    done = call("group", "log", "1", SOME_TOOL_LOG_FORMAT="json", SOME_TOOL_SIEZ="1")
    assert (done.exit_code, json.loads(done.stderr)["level"]) == (0, "warning")
