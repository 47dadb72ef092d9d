"""What a process that takes deliveries changes in itself."""

from __future__ import annotations

import asyncio.sslproto
import gc

_OBJECTS_BETWEEN_COLLECTIONS = 5_000
_TLS_BUFFER = 4_096


def leave_lasting_objects_alone() -> None:
    """Keep the garbage collector from looking, hundreds of times a second, through what lives as long as the process.

    It still runs often enough to free closed connections, which asyncio leaves to it: among a thousand strangers who reconnect
    over TLS every second, the process holds some 10 MB less than at 10,000, 20 and 20, and takes as many deliveries.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, 5, 5)


def read_tls_in_small_pieces() -> None:
    """Let a TLS connection of this process take 4 KiB for what it reads, instead of asyncio's 256.

    The buffer is there from the first byte of a handshake to the end of the connection. In `benchmarks strangers` a thousand
    connections and 256 handshakes would hold 320 MB for it; a TLS record has no more than 16 KiB.
    """
    asyncio.sslproto.SSLProtocol.max_size = _TLS_BUFFER
