"""How to add an extra to this installation, for messages that say that one is missing."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

NAME = "rewards-async"
_parts_of = re.compile(r"^([^\[<>=!~;]*)(?:\[([^\]]*)\])?(.*)$").findall


def install_hint(extra: str) -> str:
    """Return the command that adds an extra, for the installer that made this installation.

    pipx and `uv tool` replace what they have installed, so their commands name the extras that are there too.
    """
    prefix = Path(sys.prefix)
    if (spec := _of_pipx(prefix)) is not None:
        return f"pipx install --force '{_with_extra(spec, extra)}'"
    if (spec := _of_uv_tool(prefix)) is not None:
        return f"uv tool install '{_with_extra(spec, extra)}'"
    installer = _installer()
    if installer.startswith("poetry"):
        command = "poetry add"
    elif installer.startswith("uv"):
        command = "uv add" if (prefix.parent / "uv.lock").exists() else "uv pip install"
    else:
        command = "pip install"
    return f"{command} '{NAME}[{extra}]'"


def _installer() -> str:
    from importlib import metadata  # noqa: PLC0415 - it takes time, and only an error needs it

    try:
        return (metadata.distribution(NAME).read_text("INSTALLER") or "").strip().lower()
    except metadata.PackageNotFoundError:
        return ""


def _of_pipx(prefix: Path) -> str | None:
    """Return what pipx was told to install here; None if this is not an environment of pipx."""
    try:
        text = (prefix / "pipx_metadata.json").read_text("utf-8")
    except OSError:
        return None
    try:
        return str(json.loads(text)["main_package"]["package_or_url"])
    except (ValueError, LookupError, TypeError):
        return f"{NAME}[cli]"


def _of_uv_tool(prefix: Path) -> str | None:
    """Return what `uv tool` was told to install here; None if this is not one of its environments."""
    import tomllib  # noqa: PLC0415 - as above

    try:
        text = (prefix / "uv-receipt.toml").read_text("utf-8")
    except OSError:
        return None
    extras: list[str] = []
    try:
        for requirement in tomllib.loads(text)["tool"]["requirements"]:
            extras += requirement.get("extras", []) if requirement["name"] == NAME else []
    except (ValueError, LookupError, TypeError, AttributeError):
        extras = ["cli"]
    return f"{NAME}[{','.join(extras)}]" if extras else NAME


def _with_extra(spec: str, extra: str) -> str:
    """Return a requirement, or a folder, with one more extra."""
    if "://" in spec:
        name, _, url = spec.rpartition(" @ ")
        return f"{_with_extra(name or NAME, extra)} @ {url}"
    ((place, extras, rest),) = _parts_of(spec)
    names = dict.fromkeys([*(name for name in extras.replace(" ", "").split(",") if name), extra])
    return f"{place}[{','.join(names)}]{rest}"
