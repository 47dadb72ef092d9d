"""What a process that takes deliveries changes in itself."""

from __future__ import annotations

import gc
import resource

_OBJECTS_BETWEEN_COLLECTIONS = 10_000


def leave_lasting_objects_alone() -> None:
    """Keep the garbage collector from looking, hundreds of times a second, through what lives as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, 20, 20)


def raise_file_limit(wanted: int) -> None:
    """Let this process have as many files open as it may have connections, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
