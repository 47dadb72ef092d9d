"""The URL of a queue of Amazon SQS, in two forms: `sqs://NAME?region=REGION`, and the https URL that the console shows."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

from attrs import frozen

from rewards_core.base_urls import check_base_url
from rewards_core.secrets import shielded
from rewards_core.validation import check_flag, check_str

_FORMS = "'sqs://NAME?region=REGION' or the queue's URL, such as 'https://sqs.eu-west-1.amazonaws.com/123456789012/rewards'"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}(?:\.fifo)?", re.ASCII).fullmatch
_REGION = re.compile(r"[a-z0-9-]{1,40}", re.ASCII).fullmatch
_region_of_host = re.compile(r"(?:^|\.)sqs(?:-fips)?\.([a-z0-9-]+)\.", re.ASCII).search


@frozen(kw_only=True)
class QueueAddress:
    """Where a queue is; `url` is None until its name was looked up, `endpoint` for the region's own."""

    name: str
    url: str | None = None
    region: str | None = None
    endpoint: str | None = None


@shielded
def parse_queue_url(
    url: str,
    *,
    region: str | None = None,
    endpoint: str | None = None,
    allow_insecure: bool = False,
    name: str = "url",
    allowed_by: str = "allow_insecure=True",
) -> QueueAddress:
    """Return the address of a queue.

    Args:
        url: `sqs://NAME?region=REGION`, or the queue's URL.
        region: The region, where the URL does not say it; None for the one that the AWS SDK is configured with.
        endpoint: URL of a private endpoint; None for the region's own, or for the host of the queue's URL.
        allow_insecure: Whether plain http may be used outside loopback.
        name: The argument that holds the URL, for messages.
        allowed_by: The option that allows plain http, for messages.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the URL names no queue, holds credentials, or would be reached by plain http outside loopback.
    """
    check_flag(allow_insecure, "allow_insecure")
    if region is not None and not _REGION(check_str(region, "region")):
        raise ValueError("region: give the name of an AWS region, such as 'eu-west-1'.")
    if endpoint is not None:
        endpoint = check_base_url(endpoint, name="endpoint", allow_insecure=allow_insecure, allowed_by=allowed_by)
    try:
        parts = urlsplit(check_str(url, name))
    except ValueError:
        raise ValueError(f"{name}: give {_FORMS}.") from None
    if "@" in url:
        raise ValueError(
            f"{name}: there are credentials in it. Give it without them; the AWS SDK finds credentials in the environment, in "
            "its files, or in the role of the machine."
        )
    if parts.scheme == "sqs":
        given = parse_qs(parts.query, keep_blank_values=True)
        region = region or given.pop("region", [None])[-1]
        if not _NAME(parts.netloc) or parts.path or parts.fragment or given or (region is not None and not _REGION(region)):
            raise ValueError(f"{name}: give {_FORMS}.")
        return QueueAddress(name=parts.netloc, region=region, endpoint=endpoint)
    queue = parts.path.rpartition("/")[2]
    if parts.scheme not in {"http", "https"} or not _NAME(queue):
        raise ValueError(f"{name}: give {_FORMS}.")
    check_base_url(url, name=name, allow_insecure=allow_insecure, allowed_by=allowed_by)
    in_host = _region_of_host(parts.hostname or "")
    return QueueAddress(
        name=queue,
        url=url,
        region=region or (in_host and in_host[1]) or None,
        endpoint=endpoint or f"{parts.scheme}://{parts.netloc}",
    )
