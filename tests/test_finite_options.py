"""No number that is typed for an option may be infinite, none at all, or so large that what is reckoned from it is."""

from __future__ import annotations

import re

import pytest
from typer import Typer
from typer.testing import CliRunner

from payouts.cli import app as payouts
from webhooks.cli import app as webhooks

pytestmark = pytest.mark.repeats_itself

RUN = ["run", "none.csv", "--vendor=original", "--campaign=c"]
SERVE = ["serve", "--source=/a"]


@pytest.mark.parametrize("number", ["inf", "nan", "1e400", "1e308"])
@pytest.mark.parametrize(
    ("app", "command"),
    [
        *(
            (payouts, [*RUN, option])
            for option in ("--rate", "--timeout", "--lookup-timeout", "--outage-timeout", "--grace", "--poll-after")
        ),
        (payouts, ["audit", "--rate"]),
        *(
            (webhooks, [*SERVE, option])
            for option in (
                "--header-timeout",
                "--body-timeout",
                "--idle-timeout",
                "--drain",
                "--polls-per-second",
                "--keep-days",
                "--forward-timeout",
                "--forward-for",
            )
        ),
        *((webhooks, ["consume", "sqs://q", option]) for option in ("--drain", "--keep-days", "--forward-for")),
        (webhooks, ["wait", "1", "--timeout"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_an_option_takes_finite_numbers_only(app: Typer, command: list[str], number: str) -> None:
    *others, option = command
    done = CliRunner().invoke(app, [*others, f"{option}={number}"])
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in re.sub(r"[│\s]+", " ", done.stderr)
