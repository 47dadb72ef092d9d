"""A command line that imports each command only when it is called."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.logs import json_messages, log_as_json
from rewards_core.cli.messages import OptionNames, option_names, with_option_names
from rewards_core.cli.output import fail
from rewards_core.cli.presets import Preset, peek_preset, presets
from rewards_core.cli.program import OptionSpec, Program, option_specs
from rewards_core.version import VERSION

_CONFIG = f"{__name__}:config"
_PRESETS = f"{__name__}:presets"
_FORMAT = "log-format"
_UsageError: Any = typer.BadParameter.__base__
_line_break_in_paragraph = re.compile(r"(?<=\S)\n(?=\S)").sub


def command_line(program: Program, *, help: str, exit_codes: Mapping[Exit, str]) -> typer.Typer:  # noqa: A002
    """Return the Typer application of a command line; its help says what each exit code means."""
    codes = "; ".join(f"{code:d} {meaning}" for code, meaning in exit_codes.items())
    app = typer.Typer(
        name=program.name,
        cls=_Group,
        help=help,
        epilog=(
            f"Exit codes: {codes}.\n\nEvery option can also be set in two other ways: by an environment variable, such as "
            f"{program.variable('json')} for --json, or in a TOML file named by --config. The keys of that file are option names "
            "without the leading dashes. A key above the first table is for all commands; a key in a command's table is for that "
            "command. The command line overrides variables, and variables override the file."
        ),
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "obj": program},
    )

    @app.callback()
    def begin(
        version: Annotated[
            bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
        ] = False,
    ) -> None:
        """Hold the option that stands before every command."""

    for name, (_, line) in program.commands.items():
        app.command(name, cls=_lazy_command(program, name), help=line)(lambda: None)
    return app


def _show_version(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        typer.echo(f"{context.find_root().info_name} {VERSION}")
        raise typer.Exit


def _load_config(context: typer.Context, config: Path | None) -> None:
    """Remember the file of `--config`; for a command, set the defaults of its options from variables and the file."""
    if context.resilient_parsing:
        return
    if config is not None:
        context.meta[_CONFIG] = config
    if not isinstance(context.command, _Command):
        return
    parent: Any = context.parent
    group = [] if parent.parent is None else [*getattr(parent.command, "commands", ())]
    words = _words(context.info_name, parent)
    try:
        found = presets(context.obj, words, option_specs(context.command), group, context.meta.get(_CONFIG))
    except ValueError as error:
        fail(str(error), Exit.USAGE)
    context.default_map = {preset.parameter: preset.value for preset in found}
    context.meta[_PRESETS] = found


def _words(name: str | None, parent: Any) -> list[str]:
    """Return the words of a command or a group, such as `events list`; none for the program itself."""
    return [] if parent is None else [*_words(parent.info_name, parent.parent), str(name)]


@contextmanager
def _usage_errors_as_json(
    program: Program, words: Sequence[str], typed: Sequence[str], parent: Any, own: Mapping[str, OptionSpec] | None = None
) -> Iterator[None]:
    """Report usage errors as JSON, if `--log-format json` is typed or preset and the command, if known, has that option."""
    if own is None or _FORMAT in own:
        config = _typed(typed, "config") or (parent and parent.meta.get(_CONFIG))
        form = _typed(typed, _FORMAT) or peek_preset(program, words, _FORMAT, config)
    else:
        form = None
    with json_messages(form == "json"):
        try:
            yield
        except _UsageError as error:
            message = error.format_message()  # empty where the help was shown instead
            if message and log_as_json(message, "error"):
                raise typer.Exit(Exit.USAGE) from None
            raise


def _typed(words: Sequence[str], name: str) -> str | None:
    """Return the last value of an option among words that have not been parsed."""
    found = None
    for word, following in zip_longest(words, words[1:]):
        if word == "--":
            break
        if word == f"--{name}":
            found = following
        elif word.startswith(f"--{name}="):
            found = word.partition("=")[2]
    return found


def _with_config(
    config: Annotated[
        Path | None,
        typer.Option("--config", is_eager=True, expose_value=False, callback=_load_config, metavar="FILE"),
    ] = None,
) -> None:
    """Hold the option that every command and every group has."""


@cache
def _config_option(program: str) -> Any:
    holder = typer.Typer(add_completion=False)
    holder.command()(_with_config)
    option: Any = get_command(holder).params[0]
    option.help = f"Read options from this TOML file; see {program} -h."
    return option


def _params_with_config(params: list[Any], context: Any) -> list[Any]:
    *own, shows_help = params
    return [*own, _config_option(context.find_root().info_name), shows_help]


class _Command(TyperCommand):
    """A command whose options can be preset."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _params_with_config(super().get_params(ctx), ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the help with paragraphs as wide as the screen; typer keeps the docstring's line breaks after the first one."""
        self.help = _line_break_in_paragraph(" ", inspect.cleandoc(self.help or ""))
        super().format_help(ctx, formatter)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        with _usage_errors_as_json(parent.obj, _words(info_name, parent), [*args], parent, option_specs(self)):
            try:
                return super().make_context(info_name, args, parent, **extra)
            except typer.BadParameter as error:
                for name, spec in option_specs(self).items():
                    if not error.message and error.param is not None and error.param.name == spec.parameter:  # it is missing
                        error.message = f"Give it, set {parent.obj.variable(name)}, or set {name} in the file of --config."
                for preset in _presets_in_force(error.ctx):
                    if error.param is not None and error.param.name == preset.parameter:
                        error.param_hint = preset.origin
                raise

    def invoke(self, ctx: Any) -> Any:
        options = {spec.parameter: f"--{name}" for name, spec in option_specs(self).items()}
        origins = {preset.option: preset.origin for preset in _presets_in_force(ctx)}
        with option_names(OptionNames(options=options, origins=origins)):
            try:
                return super().invoke(ctx)
            except typer.BadParameter as error:
                error.message = with_option_names(error.message)
                if log_as_json(error.format_message(), "error"):
                    raise typer.Exit(Exit.USAGE) from None
                raise


def _presets_in_force(context: Any) -> list[Preset]:
    """Return the presets of a command without those that a typed option overrides."""
    found: list[Preset] = context.meta.get(_PRESETS, [])
    return [each for each in found if getattr(context.get_parameter_source(each.parameter), "name", "") == "DEFAULT_MAP"]


class _Group(TyperGroup):
    """A group of commands, which takes `--config` too."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _params_with_config(super().get_params(ctx), ctx)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        program = self.context_settings["obj"] if parent is None else parent.obj
        with _usage_errors_as_json(program, _words(info_name, parent), [*args], parent):
            return super().make_context(info_name, args, parent, **extra)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        with _usage_errors_as_json(ctx.obj, _words(ctx.info_name, ctx.parent), args, ctx):
            return super().resolve_command(ctx, args)


def _lazy_command(program: Program, name: str) -> type[TyperCommand]:
    class Lazy(TyperCommand):
        def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
            return program.load(name, _Command, _Group).make_context(info_name, args, parent, **extra)

    return Lazy
