"""Options that are set beforehand: by variables, or by the file of `--config`; what is typed wins over both."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from attrs import frozen

from rewards_core.cli.config_file import ConfigFile
from rewards_core.cli.logs import told_as_json
from rewards_core.cli.option_kinds import Kind
from rewards_core.cli.output import tell
from rewards_core.cli.program import Program
from rewards_core.environment import listed

_service_of_kubernetes = re.compile(r"(tcp|udp|sctp)://").match
"""What `WEBHOOK_LISTENER_PORT` holds in every pod beside a service named webhook-listener."""
_name_of_kubernetes = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)").fullmatch
"""What else it sets there."""


@frozen(kw_only=True)
class Preset:
    """The value of an option that was set beforehand.

    Attributes:
        option: The option, such as `--port`.
        parameter: The function's name for it.
        value: The value.
        origin: The variable or the key that set it, for messages.
    """

    option: str
    parameter: str
    value: Any
    origin: str


def presets(
    program: Program, words: Sequence[str], own: Mapping[str, Kind], group: Collection[str], config: Path | None
) -> list[Preset]:
    """Return what variables and the file set for a command; warn about variables that set nothing, as if mistyped.

    Args:
        program: The command line.
        words: The command, such as `"events", "list"`.
        own: Its options.
        group: The names of its siblings, if it belongs to a group.
        config: The file that was typed, None for the one that a variable names, if any.

    Raises:
        ValueError: a variable or the file is wrong; the text says what to correct.
    """
    _warn_of_strangers(program, words, own, os.environ)
    found: dict[str, tuple[Any, str]] = {}
    file = _file(program, config)
    if file is not None:
        for name, value, origin in ConfigFile(*file).values(program, words, own, group):
            found[name] = (value, origin)
    for name, text, origin in _from_variables(program, words, own, os.environ):
        try:
            found[name] = (own[name].from_variable(text), origin)
        except ValueError as problem:
            raise ValueError(f"{origin}: {problem}") from None
    return [
        Preset(option=f"--{name}", parameter=own[name].parameter, value=value, origin=origin)
        for name, (value, origin) in found.items()
    ]


def _warn_of_strangers(program: Program, words: Sequence[str], own: Collection[str], environ: Mapping[str, str]) -> None:
    """Warn about variables that look like those of options and are none; import other commands only to judge one not its own."""
    start = f"{program.variable()}_"
    known = {program.variable("config"), *program.older, *_variables(program, words, own)}
    strange = [
        name
        for name, text in environ.items()
        if name.startswith(start) and name not in known and text.strip() and not _of_kubernetes(name, text.strip())
    ]
    if not strange:
        return
    for command, kinds in program.options():
        known.update(_variables(program, command.split(), kinds))
    endings = [name.removeprefix(start) for name in known if name.startswith(start)]
    for name in sorted({*strange} - known):
        nearest = get_close_matches(name.removeprefix(start), endings, n=1)
        advice = f"Did you mean {start}{nearest[0]}?" if nearest else "See --help."
        warning = f"{name} is set, but no command has such an option. {advice}"
        if not told_as_json(warning, "warning"):
            tell(warning)


def _variables(program: Program, words: Sequence[str], options: Collection[str]) -> Iterator[str]:
    for name in options:
        yield program.variable(name)
        yield program.variable(*words, name)


def _of_kubernetes(name: str, text: str) -> bool:
    return bool(_name_of_kubernetes(name) or (name.endswith("_PORT") and _service_of_kubernetes(text)))


def preset_text(program: Program, words: Sequence[str], name: str, config: str | Path | None) -> str | None:
    """Return what one option is set to beforehand, as far as that can be read; nothing is checked.

    Of a file that can be read only once, such as a pipe, nothing is read: it is left to `presets`.

    Args:
        program: The command line.
        words: The command, as far as it is known.
        name: The option without its dashes.
        config: The file that was typed, if any.
    """
    for variable in (program.variable(*words, name), program.variable(name)):
        if text := os.environ.get(variable, "").strip():
            return text
    file = _file(program, config)
    try:
        return ConfigFile(*file).text(words, name) if file is not None and file[0].is_file() else None
    except ValueError:
        return None


def _file(program: Program, config: str | Path | None) -> tuple[Path, str] | None:
    """Return the file of options, if there is one, and what names it."""
    variable = program.variable("config")
    if config:
        return Path(config), "--config"
    return (Path(named), variable) if (named := os.environ.get(variable)) else None


def _from_variables(
    program: Program, words: Sequence[str], own: Mapping[str, Kind], environ: Mapping[str, str]
) -> Iterator[tuple[str, str, str]]:
    """Yield options with the texts of their variables and the variables, those that win last."""
    for name in own:
        older = [variable for variable, option in program.older.items() if option == name]
        for variable in (*older, program.variable(name), program.variable(*words, name)):
            text = environ.get(variable, "").strip()
            if not text or (name == "port" and _service_of_kubernetes(text)):
                continue
            if name in program.apart and variable == program.variable(name):
                takers = [program.variable(*command.split(), name) for command, kinds in program.options() if name in kinds]
                raise ValueError(f"{variable}: --{name} means something else in each command. Set {listed(takers)} instead.")
            yield name, text, variable
