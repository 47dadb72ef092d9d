"""What a process that takes deliveries changes in itself."""

from __future__ import annotations

import gc

_OBJECTS_BETWEEN_COLLECTIONS = 10_000


def leave_lasting_objects_alone() -> None:
    """Keep the garbage collector from looking, hundreds of times a second, through what lives as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, 20, 20)
