"""Write the pages of the command lines and of exit codes from the code, in place of `<!-- commands of NAME -->` and the like."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import payouts.cli
import webhooks.cli
from rewards_core.cli.exit_codes import Exit
from vendor_sandboxes.__main__ import parser_of_sandboxes

if TYPE_CHECKING:
    import argparse

    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

PROGRAMS = {"payouts": payouts.cli, "webhook-listener": webhooks.cli}
_marker = re.compile(r"<!-- (commands|exit codes)(?: of ([\w-]+))? -->")
_values = {int: "N", float: "NUMBER", str: "TEXT"}
_NO_OPTIONS = frozenset({"--help", "--install-completion", "--show-completion"})


def commands_of(name: str) -> Iterator[tuple[str, Any]]:
    """Yield the words of each command of a program, and what typer made of it."""
    program = PROGRAMS[name].PROGRAM
    for word in program.commands:
        loaded = program.load(word)
        members = getattr(loaded, "commands", None)
        if members is None:
            yield word, loaded
        else:
            yield from ((f"{word} {each}", command) for each, command in members.items())


def _commands(name: str) -> Iterator[str]:
    if name == "vendor_sandboxes":
        yield from _sandboxes()
        return
    group = ""
    for words, command in commands_of(name):
        first, _, second = words.partition(" ")
        if second and first != group:
            yield f"## {name} {first}\n\n{PROGRAMS[name].PROGRAM.commands[first][1]}\n"
        group = first
        yield f"{'###' if second else '##'} {name} {words}\n\n{_help(command.help)}\n"
        yield f"{_usage(name, words, command)}\n"
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        if arguments:
            yield "| argument | meaning |\n|---|---|"
            yield from (f"| `{_argument(each)}` | {_cell(each.help)} |" for each in arguments)
            yield ""
        options = [each for each in command.params if each.param_type_name == "option" and each.opts[0] not in _NO_OPTIONS]
        if options:
            yield "| option | default | meaning |\n|---|---|---|"
            yield from (f"| {_option(each)} | {_default(each)} | {_cell(each.help)} |" for each in options if not each.hidden)
            yield ""


def _help(text: str) -> str:
    """Return a help text as Markdown: its examples are indented."""
    lines: list[str] = []
    for line in text.splitlines():
        indented = line.startswith("  ")
        if indented and not (lines and lines[-1].startswith("    ")):
            lines.append("```text")
        if lines and lines[-1].startswith("    ") and line and not indented:
            lines.append("```\n")
        if indented:
            lines.append(f"    {line.strip()}")
        elif not (lines and lines[-1].startswith("    ")):
            lines.append(line.replace("<", "&lt;"))
    if lines and lines[-1].startswith("    "):
        lines.append("```")
    shown = "\n".join(line.removeprefix("    ") for line in lines)
    return re.sub(r"^(For example|Example): (\w.+)$", r"\1:\n\n```text\n\2\n```", shown, flags=re.MULTILINE)


def _usage(name: str, words: str, command: Any) -> str:
    needed = [f"{each.opts[0]} {_value(each)}" for each in command.params if each.param_type_name == "option" and each.required]
    arguments = [_argument(each) for each in command.params if each.param_type_name == "argument"]
    return f"```text\n{' '.join([name, words, '[OPTIONS]', *needed, *arguments])}\n```"


def _argument(param: Any) -> str:
    shown = (param.metavar or param.name).upper() + ("..." if param.nargs == -1 else "")
    return shown if param.required else f"[{shown}]"


def _option(param: Any) -> str:
    value = _value(param)
    names = [f"`{each} {value}`".replace("|", r"\|") if value else f"`{each}`" for each in param.opts]
    return ", ".join([*names, *(f"`{each}`" for each in param.secondary_opts)])


def _value(param: Any) -> str:
    kind = param.type_descriptor.annotation
    if kind is bool:
        return ""
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return str(param.metavar or _values.get(kind, "PATH" if kind.__name__ == "Path" else "TEXT"))


def _default(param: Any) -> str:
    if param.required:
        return "required"
    if isinstance(param.show_default, str):
        return f"({param.show_default})"
    value = param.default() if callable(param.default) else param.default
    if value is None or value is False or value in ((), []):
        return ""
    if value is True:
        return f"`{param.opts[0]}`"
    return f"`{value.value if isinstance(value, Enum) else value}`"


def _cell(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*")


def _sandboxes() -> Iterator[str]:
    for name, parser in sandbox_parsers().items():
        yield f"## python -m vendor_sandboxes {name}\n\n| option | default | meaning |\n|---|---|---|"
        for action in parser._actions:  # noqa: SLF001 - argparse offers no other way
            if action.option_strings and action.dest != "help":
                value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
                default = "" if action.default in (None, False, (), "==SUPPRESS==") else f"`{action.default}`"
                yield f"| `{action.option_strings[0]}{value}` | {_cell(default)} | {_cell((action.help or '') % vars(action))} |"
        yield ""


def sandbox_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each vendor's sandbox."""
    (vendors,) = (each for each in parser_of_sandboxes()._actions if each.dest == "vendor")  # noqa: SLF001
    return dict(vendors.choices or {})


def _exit_codes() -> Iterator[str]:
    yield "| code | " + " | ".join(f"`{name}`" for name in PROGRAMS) + " |"
    yield "|---" * (len(PROGRAMS) + 1) + "|"
    for code in Exit:
        meanings = [module.EXIT_CODES.get(code, "") for module in PROGRAMS.values()]
        if any(meanings):
            yield f"| {code:d} | " + " | ".join(map(_cell, meanings)) + " |"


def _fill(app: Sphinx, docname: str, content: list[str]) -> None:
    del app, docname

    def written(found: re.Match[str]) -> str:
        return "\n".join(_exit_codes() if found[1] == "exit codes" else _commands(found[2]))

    content[0] = _marker.sub(written, content[0])


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}
