"""Options that variables or the file of `--config` set; an option that is typed wins over both."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from attrs import frozen

from rewards_core.cli.config_file import ConfigFile
from rewards_core.cli.option_specs import OptionSpec
from rewards_core.cli.output import print_stderr
from rewards_core.cli.program import Program
from rewards_core.environment import listed

# Kubernetes sets these in every pod beside a service with the program's name: WEBHOOK_LISTENER_PORT=tcp://10.96.0.17:8480
_kubernetes_url = re.compile(r"(tcp|udp|sctp)://").match
_kubernetes_name = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)").fullmatch


@frozen(kw_only=True)
class Preset:
    """The value of an option that a variable or a file set.

    Attributes:
        option: The option, such as `--port`.
        parameter: The function's parameter.
        value: The value.
        origin: The variable or the key that set it, for messages.
    """

    option: str
    parameter: str
    value: Any
    origin: str


def presets(
    program: Program, words: Sequence[str], own: Mapping[str, OptionSpec], group: Collection[str], config: Path | None
) -> list[Preset]:
    """Return what variables and the file set for a command; warn about variables that look mistyped.

    The words are those of the command, such as `"events", "list"`; the group are the commands beside it.

    Raises:
        ValueError: a variable or the file is wrong; the message says what to correct.
    """
    _warn_about_unknown_variables(program, words, own)
    found: dict[str, tuple[Any, str]] = {}
    file = _file(program, config)
    if file is not None:
        for name, value, origin in ConfigFile(*file).values(program, words, own, group):
            found[name] = (value, origin)
    for name, text, origin in _from_variables(program, words, own):
        try:
            found[name] = (own[name].from_variable(text), origin)
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from None
    return [
        Preset(option=f"--{name}", parameter=own[name].parameter, value=value, origin=origin)
        for name, (value, origin) in found.items()
    ]


def peek_preset(program: Program, words: Sequence[str], name: str, config: str | Path | None) -> str | None:
    """Return the text that a variable or the file sets for one option, unchecked; None if there is none.

    A file that can be read only once, such as a pipe, is left to `presets`.
    """
    for variable in (program.variable(*words, name), program.variable(name)):
        if text := os.environ.get(variable, "").strip():
            return text
    file = _file(program, config)
    try:
        return ConfigFile(*file).text(words, name) if file is not None and file[0].is_file() else None
    except ValueError:
        return None


def _warn_about_unknown_variables(program: Program, words: Sequence[str], own: Collection[str]) -> None:
    prefix = f"{program.variable()}_"
    known = {program.variable("config"), *program.legacy_variables, *_variables(program, words, own)}
    unknown = [
        name
        for name, text in os.environ.items()
        if name.startswith(prefix) and name not in known and text.strip() and not _is_of_kubernetes(name, text.strip())
    ]
    if not unknown:
        return
    for command, specs in program.options():
        known.update(_variables(program, command.split(), specs))
    endings = [name.removeprefix(prefix) for name in known if name.startswith(prefix)]
    for name in sorted({*unknown} - known):
        nearest = get_close_matches(name.removeprefix(prefix), endings, n=1)
        advice = f"Did you mean {prefix}{nearest[0]}?" if nearest else "See --help."
        print_stderr(f"{name} is set, but no command has such an option. {advice}", level="warning")


def _variables(program: Program, words: Sequence[str], options: Collection[str]) -> Iterator[str]:
    for name in options:
        yield program.variable(name)
        yield program.variable(*words, name)


def _is_of_kubernetes(name: str, text: str) -> bool:
    return bool(_kubernetes_name(name) or (name.endswith("_PORT") and _kubernetes_url(text)))


def _file(program: Program, config: str | Path | None) -> tuple[Path, str] | None:
    """Return the file of options and what names it, if there is one."""
    variable = program.variable("config")
    if config:
        return Path(config), "--config"
    return (Path(named), variable) if (named := os.environ.get(variable)) else None


def _from_variables(program: Program, words: Sequence[str], own: Mapping[str, OptionSpec]) -> Iterator[tuple[str, str, str]]:
    """Yield option, text and variable of each variable that is set; the one that wins comes last."""
    for name in own:
        legacy = [variable for variable, option in program.legacy_variables.items() if option == name]
        for variable in (*legacy, program.variable(name), program.variable(*words, name)):
            text = os.environ.get(variable, "").strip()
            if not text or (name == "port" and _kubernetes_url(text)):
                continue
            if name in program.ambiguous and variable == program.variable(name):
                takers = [program.variable(*command.split(), name) for command, specs in program.options() if name in specs]
                raise ValueError(f"{variable}: --{name} means something else in each command. Set {listed(takers)} instead.")
            yield name, text, variable
