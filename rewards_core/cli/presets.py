"""Options that variables or the file of `--config` set; an option on the command line overrides both.

The file is TOML with a table per command, and above the tables what all commands share.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from attrs import frozen

from rewards_core.cli.output import print_stderr
from rewards_core.cli.program import OptionSpec, Program
from rewards_core.text import listed, one_line
from rewards_core.validation import shown

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

    `words` name the command, such as `"events", "list"`; `group` holds the other commands of its group.

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
    """Yield option, text and variable of each variable that is set; the variable that overrides the others comes last."""
    for name in own:
        legacy = [variable for variable, option in program.legacy_variables.items() if option == name]
        for variable in (*legacy, program.variable(name), program.variable(*words, name)):
            text = os.environ.get(variable, "").strip()
            if not text or (name == "port" and _kubernetes_url(text)):
                continue
            if name in program.ambiguous and variable == program.variable(name):
                takers = [program.variable(*command.split(), name) for command, specs in program.options() if name in specs]
                raise ValueError(f"{variable}: --{name} has a different meaning in each command. Set {listed(takers)} instead.")
            yield name, text, variable


_MAX_BYTES = 1 << 20


class ConfigFile:
    """Read a file of options.

    Args:
        path: The file.
        named_by: `--config`, or the variable that names the file; for messages.

    Raises:
        ValueError: it cannot be read, is too large, or is not TOML.
    """

    def __init__(self, path: Path, named_by: str) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                raw = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise ValueError(f"{named_by}: {path} cannot be read: {error.strerror or error}. Name another file.") from None
        if len(raw) > _MAX_BYTES:
            raise ValueError(f"{named_by}: {path} is larger than 1 MiB. Name a smaller file.")
        try:
            self._document = tomllib.loads(raw.decode())
        except RecursionError:
            raise ValueError(f"{named_by}: {path} is nested too deeply. Write one table for each command.") from None
        except ValueError as error:
            why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else one_line(str(error))
            raise ValueError(f"{named_by}: {path} is not a TOML file: {why}.") from None

    def values(
        self, program: Program, words: Sequence[str], own: Mapping[str, OptionSpec], group: Collection[str]
    ) -> Iterator[tuple[str, Any, str]]:
        """Yield option, value and origin of all that the file sets for a command; the value that overrides the others comes last.

        The arguments are those of `presets`.

        Raises:
            ValueError: a table or a key is unknown, or a value has the wrong type; the message says where, suggests the nearest
                name, and does not show the value.
        """
        table: Mapping[str, Any] = self._document
        for depth in range(len(words) + 1):
            here = words[:depth]
            inner = [*program.commands] if depth == 0 else [*group] if depth < len(words) else []
            for key, value in table.items():
                if isinstance(value, dict):
                    self._check_table(here, key, inner, own)
                elif key in own and not (depth == 0 and key in program.ambiguous):
                    yield key, self._read(here, key, value, own[key]), self._origin(here, key)
                else:
                    self._check_key(program, words, here, key, own)
            table = table.get(words[depth], {}) if depth < len(words) else {}
            if not isinstance(table, dict):  # an option may have a command's name
                table = {}

    def text(self, words: Sequence[str], name: str) -> str | None:
        """Return the text of an option from the innermost table of a command that sets it; None if no table does."""
        found = None
        table: Any = self._document
        for word in (*words, ""):
            if not isinstance(table, dict):
                break
            value = table.get(name)
            found = value if isinstance(value, str) else found
            table = table.get(word)
        return found

    def _read(self, here: Sequence[str], key: str, value: Any, spec: OptionSpec) -> Any:
        try:
            return spec.from_file(value)
        except ValueError as error:
            raise ValueError(f"{self._place(here)}{key}: {error}") from None

    def _check_table(self, here: Sequence[str], key: str, inner: Collection[str], own: Mapping[str, OptionSpec]) -> None:
        if key in inner:
            return
        if key in own:
            raise ValueError(f"{self._place(here)}{key}: it is an option, not a table. Write {key} = VALUE.")
        name = ".".join((*here, key))
        there = f"There are {listed([*inner])}." if inner else "A command's table holds options only."
        advice = _nearest(key, inner) or there
        raise ValueError(f"{self._path}: there is no command for the table {shown(name)}. {advice}")

    def _check_key(
        self, program: Program, words: Sequence[str], here: Sequence[str], key: str, own: Mapping[str, OptionSpec]
    ) -> None:
        """Refuse a key that is not an option of any command under this table; other commands are imported only here."""
        place = self._place(here)
        opposite = next((spec.name for spec in own.values() if key == spec.negative), None)
        if opposite is not None:
            raise ValueError(f"{place}{key}: write {opposite} = false.")
        below = {command: specs for command, specs in program.options() if command.split()[: len(here)] == [*here]}
        takers = [command for command, specs in below.items() if key in specs]
        if takers and not here and key in program.ambiguous:
            tables = listed([f"[{command.replace(' ', '.')}]" for command in takers])
            raise ValueError(
                f"{place}{key}: this key has a different meaning in each of {tables}. Write it into one of these tables."
            )
        if not takers:
            lacks = f"{' '.join(words)} has no such option" if [*here] == [*words] else "no command has such an option"
            options = {name for specs in below.values() for name in specs}
            raise ValueError(f"{place}{shown(key)}: {lacks}. {_nearest(key, options) or 'See --help.'}")

    def _origin(self, here: Sequence[str], key: str) -> str:
        table = f" in [{'.'.join(here)}]" if here else ""
        return f"'{key}'{table} of {self._path}"

    def _place(self, here: Sequence[str]) -> str:
        return f"{self._path}: [{'.'.join(here)}] " if here else f"{self._path}: "


def _nearest(word: str, known: Collection[str]) -> str:
    found = get_close_matches(word.replace("_", "-"), known, n=1, cutoff=0.5)
    return f"Did you mean {found[0]}?" if found else ""
