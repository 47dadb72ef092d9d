"""Options that a variable or a file sets beforehand: which wins, what each may say, and what a mistake is answered with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rewards_core.cli.commands import command_line
from rewards_core.cli.program import Program

HOME = "tests.rewards_core.option_commands"
PROGRAM = Program(
    name="some-tool",
    commands={"do": (f"{HOME}:do", "Show what the options say."), "group": (f"{HOME}:group", "Do some things.")},
    apart=frozenset({"snapshot"}),
    older={"TOOL_NAME": "name"},
)
APP = command_line(PROGRAM, help="Help.", epilog="Epilog.")
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


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"SOME_TOOL_QUICK": "maybe"}, "SOME_TOOL_QUICK: give true or false, not 'maybe'."),
        ({"SOME_TOOL_ASK": "2"}, "SOME_TOOL_ASK: give true or false, not '2'."),
        ({"SOME_TOOL_TAG": "a 'b"}, "SOME_TOOL_TAG: a quotation mark is missing. Give texts with blanks between them."),
        ({"SOME_TOOL_SIZE": "many"}, "Invalid value for SOME_TOOL_SIZE: "),
        ({"SOME_TOOL_DO_SIZE": "-1"}, "Invalid value for SOME_TOOL_DO_SIZE: "),
        ({"SOME_TOOL_RATE": "fast"}, "Invalid value for SOME_TOOL_RATE: "),
        ({"SOME_TOOL_FORMAT": "xml"}, "Invalid value for SOME_TOOL_FORMAT: "),
        (
            {"SOME_TOOL_SNAPSHOT": "1"},
            "Set SOME_TOOL_DO_SNAPSHOT and SOME_TOOL_GROUP_COUNT_SNAPSHOT instead.",
        ),
        ({"SOME_TOOL_CONFIG": "none.toml"}, "SOME_TOOL_CONFIG: none.toml cannot be read: No such file or directory."),
    ],
)
def test_a_wrong_variable_is_named(variables: dict[str, str], words: str) -> None:
    assert words in refused("do", **variables)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[does]\nsize = 1", "tool.toml: there is no command for the table 'does'. Did you mean do?"),
        ("[zzz]\nsize = 1", "tool.toml: there is no command for the table 'zzz'. There are do and group."),
        ("[do.more]\nsize = 1", "tool.toml: there is no command for the table 'do.more'. A command's table holds options only."),
        ("[do.size]\nsize = 1", "tool.toml: [do] size: it is an option, not a table. Write size = VALUE."),
        ("[do]\nsizes = 1", "tool.toml: [do] 'sizes': do has no such option. Did you mean size?"),
        ("[do]\ndepth = 1", "tool.toml: [do] 'depth': do has no such option."),
        ("[do]\nzzzzzzz = 1", "tool.toml: [do] 'zzzzzzz': do has no such option. See --help."),
        ("max_size = 1", "tool.toml: 'max_size': no command has such an option. Did you mean max-size?"),
        ('[do]\nsize = "7"', "tool.toml: [do] size: give a whole number, not a text."),
        ("size = 7.0", "tool.toml: size: give a whole number, not a number with a point."),
        ("size = true", "tool.toml: size: give a whole number, not true or false."),
        ('share = "7"', "tool.toml: share: give a number, not a text."),
        ("share = false", "tool.toml: share: give a number, not true or false."),
        ("rate = false", "tool.toml: rate: give a number, not true or false."),
        ("name = 7", "tool.toml: name: give a text in quotation marks, not a whole number."),
        ("name = 1979-05-27", "tool.toml: name: give a text in quotation marks, not date."),
        ('tag = "a"', "tool.toml: tag: give an array of texts, not a text."),
        ("tag = [1]", "tool.toml: tag: give an array of texts, not an array."),
        ("quick = 1", "tool.toml: quick: give true or false, not a whole number."),
        ("[do]\nno-ask = true", "tool.toml: [do] no-ask: write ask = false."),
        ("[do]\nsize = -1", "Invalid value for 'size' in [do] of tool.toml: "),
        ("size = -1", "Invalid value for 'size' of tool.toml: "),
        (
            "snapshot = true",
            "tool.toml: snapshot: it means something else in each of [do] and [group.count]. Write it into one of these tables.",
        ),
        ("[do]\nconfig = 'a'", "tool.toml: [do] 'config': do has no such option."),
        ("size = ", "--config: tool.toml is not a TOML file: Invalid value (at"),
        ("a = " + "[" * 100_000, "--config: tool.toml is nested too deeply. Write one table for each command."),
        ("#" * (1 << 20) + "\n", "--config: tool.toml is not a TOML file: it is larger than 1 MiB."),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place_and_what_is_nearest(config: Write, text: str, words: str) -> None:
    assert words in refused("do", f"--config={config(text)}")


def test_a_group_knows_its_commands_and_their_options(config: Write) -> None:
    told = refused("group", "count", f"--config={config('[group.cuont]')}")
    assert told == "tool.toml: there is no command for the table 'group.cuont'. Did you mean count?"
    told = refused("group", "count", f"--config={config('[group]' + chr(10) + 'dept = 1')}")
    assert told == "tool.toml: [group] 'dept': no command has such an option. Did you mean depth?"


def test_a_file_that_is_no_text_or_no_file_is_refused(config: Write) -> None:
    config("").write_bytes(b"name = '\xff'")
    assert refused("do", "--config=tool.toml") == "--config: tool.toml is not a TOML file: it is not UTF-8."
    assert refused("do", "--config=.") == "--config: . cannot be read: Is a directory. Name another file."


def test_no_message_about_the_file_shows_a_value(config: Write) -> None:
    for text in ('api-secret = "hunter2"', '[do]\nsize = "hunter2"', 'name = ["hunter2"]'):
        assert "hunter2" not in refused("do", f"--config={config(text)}")


def test_a_message_names_the_option_of_the_command_and_where_it_was_set(config: Write) -> None:
    config("[group.count]\nmax-size = 3")
    told = call("group", "count", "--config=tool.toml", SOME_TOOL_SIZE="4").stderr
    assert (
        told
        == "--max-size: give a number of at least 4, not 3.0. --max-size was set by 'max-size' in [group.count] of tool.toml.\n"
    )
    told = call("group", "count", "--config=tool.toml", "--size=2").stderr
    assert told == "--size 2 is what it is\n"
    told = call("group", "count", "--config=tool.toml", SOME_TOOL_SIZE="2").stderr
    assert told == "--size 2 is what it is. --size was set by SOME_TOOL_SIZE.\n"


def test_a_refusal_of_the_command_itself_says_where_the_option_was_set() -> None:
    told = refused("group", "count", SOME_TOOL_GROUP_COUNT_SNAPSHOT="on")
    assert "--snapshot cannot be had today. --snapshot was set by SOME_TOOL_GROUP_COUNT_SNAPSHOT." in told


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
    assert json.loads(done.stderr)["message"].startswith("--config: none.toml cannot be read")


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


@pytest.mark.parametrize(
    ("variable", "advice"),
    [
        ("SOME_TOOL_SIEZ", "Did you mean SOME_TOOL_SIZE?"),
        ("SOME_TOOL_GROUP_COUNT_MAXSIZE", "Did you mean SOME_TOOL_GROUP_COUNT_MAX_SIZE?"),
        ("SOME_TOOL_CONFG", "Did you mean SOME_TOOL_CONFIG?"),
        ("SOME_TOOL_XYZZY", "See --help."),
    ],
)
def test_a_variable_that_sets_nothing_is_warned_about(variable: str, advice: str) -> None:
    done = call("do", **{variable: "1"})
    assert (done.exit_code, done.stderr) == (0, f"{variable} is set, but no command has such an option. {advice}\n")
    assert json.loads(done.stdout) == DEFAULTS


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
