"""How a command ends that cannot do what it was told."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import typer

from payouts.states import CampaignUnclear, LedgerError
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import fail, give_up

P = ParamSpec("P")


def with_exit_codes(command: Callable[P, None]) -> Callable[P, None]:
    """Let a command end with the documented codes for what it cannot do."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except CampaignUnclear as problem:
            missing = Exit.NOT_FOUND if problem.known else Exit.UNAVAILABLE
            fail(str(problem), Exit.USAGE if problem.meant else missing)
        except LedgerError as problem:
            fail(str(problem), Exit.UNAVAILABLE)
        except BrokenPipeError:  # the reader has left, such as `head`: no mistake
            give_up()
            raise typer.Exit(Exit.FAULT) from None
        except OSError as problem:
            fail(f"{problem.filename or 'a file'}: {problem.strerror or problem}", Exit.USAGE)
        except sqlite3.Error as problem:
            fail(
                f"The ledger cannot be read or written: {problem}. Look at the disk, then run the same command again.",
                Exit.UNAVAILABLE,
            )
        except (KeyboardInterrupt, typer.Abort):
            fail("Interrupted. What was done until then is in the ledger.", Exit.INTERRUPTED)

    return run
