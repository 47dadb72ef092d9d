"""The help of every command there is."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from webhooks.cli import COMMANDS, app


def verbs(name: str) -> Iterator[str]:
    """Return the words of each command below one that stands in the list of commands."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        yield name
        return
    for each in found.registered_commands:
        assert each.name is not None
        yield f"{name} {each.name}"


def shown(*words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "300"}, catch_exceptions=False)
    assert result.exit_code == 0
    return " ".join(result.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    found = list(verbs(name))
    assert found
    for verb in found:
        assert f"webhook-listener {verb}" in shown(*verb.split()).partition("xample")[2], verb


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_fit_a_terminal_of_80_columns(name: str) -> None:
    for verb in verbs(name):
        help_text = CliRunner().invoke(app, [*verb.split(), "--help"], env={"COLUMNS": "80"}, catch_exceptions=False).stdout
        examples, _, _ = help_text.partition("xample")[2].partition("╭")
        lines = [line.strip(" :") for line in examples.splitlines() if line.strip(" :")]
        assert lines
        assert [line for line in lines if not line.startswith((f"webhook-listener {verb}", "export "))] == [], verb


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_their_help_says(name: str) -> None:
    words = COMMANDS[name][1]
    assert words in shown()
    assert words in shown(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_and_option_says_what_it_is(name: str) -> None:
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        found, function = typer.Typer(add_completion=False), found
        found.command(name)(function)
    command: Any = get_command(found)
    for each in getattr(command, "commands", {name: command}).values():
        for param in each.params:
            assert param.help, f"{name} {each.name}: {param.name}"
