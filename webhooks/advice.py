"""What to do about a refusal, for each reason that a receiver or a server in front of it has; a source has its own words."""

from __future__ import annotations

from collections.abc import Mapping

_IF_GENUINE = "If the sender is genuine,"

ADVICE: Mapping[str, str] = {
    # what a receiver refuses
    "method": "Deliveries come by POST. A browser or a health check asks otherwise: point health checks elsewhere.",
    "encoding": "The body is compressed, and a signature fits only the bytes that were signed. "
    "Turn off compression of requests in whatever stands in front.",
    "size": f"The body is longer than is allowed. {_IF_GENUINE} raise max_body (--max-body).",
    "slow": f"The body did not arrive in time. {_IF_GENUINE} raise body_timeout (--body-timeout).",
    "absent": "Nothing of the body came in time: the sender stalled, or a middleware in front of the receiver took the body and "
    "does not hand it on.",
    "read_before": "A middleware in front of the receiver read the body as a stream. Let it leave this path alone, or read by "
    "`await request.read()` in aiohttp and by `await request.body()` in Starlette.",
    "broken": "The connection ended inside the body, or the body was framed wrongly. The sender tries again; if this goes on, "
    "look at the proxy in front.",
    "error": "The source failed while it checked the signature. This is a fault of the source; the log says which.",
    # what the listener's server refuses
    "path": "No deliveries are taken at this path. Compare it with the URL that the sender was given.",
    "address": f"--allow does not list this address. {_IF_GENUINE} add it; behind a proxy give --trusted-proxy too.",
    "connections": "Every connection that --max-connections allows waited for the store. Raise it, serve with --workers, or see "
    "what slows the disk.",
    "connections_per_peer": "All connections that --max-per-peer allows to this address waited for the store. If it is "
    "your proxy, give it as --trusted-proxy, so that its clients are counted instead.",
    "handshakes_per_peer": "This address was opening as many TLS connections at a time as --max-per-peer allows, and the longest "
    "at it was closed. If it is your proxy, give it as --trusted-proxy.",
    "evicted": "The connection was idle, or slower than the others, and made room for another: all that --max-connections or "
    f"--max-per-peer allows, all TLS handshakes, or all memory for bodies, was taken. {_IF_GENUINE} it tries again.",
    "handshake": "No TLS connection came about: the peer spoke plain HTTP or an older TLS, did not trust the certificate, or "
    f"left. {_IF_GENUINE} check the certificate's chain and --tls-min.",
    "header_timeout": f"The headers did not arrive in time. {_IF_GENUINE} raise --header-timeout.",
    "headers_too_large": "The headers are larger than those of any delivery. "
    f"{_IF_GENUINE} look at what the proxy in front adds.",
    "malformed": f"What arrived is not HTTP that can be read. {_IF_GENUINE} see whether it speaks TLS to a plain port.",
    "answer_timeout": "The peer did not take its answer in time. What it delivered may have been kept; sent again, it is a "
    "duplicate.",
    # what its admin port refuses
    "admin_method": "The admin port answers GET and HEAD alone, and changes nothing. Use the commands of webhook-listener.",
    "admin_site": "A page of another site made a browser ask the admin port. Nothing was shown to it.",
    "admin_host": "The admin port was asked by a name that is not its own; a page of another site may have made its name lead "
    "here. If the name is one of yours, add it with --admin-allow-host.",
    "admin_token": "Show the token of --admin-token-file as 'Authorization: Bearer TOKEN'.",
    "admin_path": "The admin port has /healthz, /readyz, /metrics and /refused. Deliveries go to the other port.",
}
"""Reason to what to do."""

NOT_STARTED = (
    "a delivery was kept, but its handlers do not run: the receiver was not started. Put `async with receiver:` into the "
    "application's lifespan (FastAPI, Starlette) or around your program, or serve it by receiver.register(app, path) (aiohttp). "
    "Events that came before the first start of a handler are handed to it by receiver.replay"
)
"""What is said once of a receiver whose handlers nobody started."""
