"""URLs of queues: two forms, no credentials, and no plain http to other machines."""

from __future__ import annotations

import pytest

from tests.texts import said
from webhooks.ingress.queue_url import QueueAddress, parse_queue_url

AWS_URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/rewards"
LOCAL = "http://127.0.0.1:9324"


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        ("sqs://rewards?region=eu-west-1", {}, QueueAddress(name="rewards", region="eu-west-1")),
        ("sqs://rewards", {}, QueueAddress(name="rewards")),
        ("sqs://Rewards_1.fifo", {"region": "us-east-1"}, QueueAddress(name="Rewards_1.fifo", region="us-east-1")),
        ("sqs://rewards", {"endpoint": f"{LOCAL}/"}, QueueAddress(name="rewards", endpoint=LOCAL)),
        (
            AWS_URL,
            {},
            QueueAddress(name="rewards", url=AWS_URL, region="eu-west-1", endpoint="https://sqs.eu-west-1.amazonaws.com"),
        ),
        (
            "https://vpce-1.sqs.us-east-1.vpce.amazonaws.com/1/q",
            {},
            QueueAddress(
                name="q",
                url="https://vpce-1.sqs.us-east-1.vpce.amazonaws.com/1/q",
                region="us-east-1",
                endpoint="https://vpce-1.sqs.us-east-1.vpce.amazonaws.com",
            ),
        ),
        (f"{LOCAL}/000000000000/q", {}, QueueAddress(name="q", url=f"{LOCAL}/000000000000/q", endpoint=LOCAL)),
        (
            "http://localstack:4566/1/q",
            {"allow_insecure": True, "region": "eu-west-1"},
            QueueAddress(name="q", url="http://localstack:4566/1/q", region="eu-west-1", endpoint="http://localstack:4566"),
        ),
    ],
)
def test_both_forms_are_read(url: str, options: dict[str, object], expected: QueueAddress) -> None:
    assert parse_queue_url(url, **options) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("", {}),
        ("rewards", {}),
        ("sqs://", {}),
        ("sqs://a b", {}),
        ("sqs://rewards/x", {}),
        ("sqs://rewards?regoin=eu-west-1", {}),
        ("sqs://rewards?region=EU West", {}),
        ("sqs://rewards?region=eu-west-1&region=x&secret=1", {}),
        ("ftp://sqs.eu-west-1.amazonaws.com/1/q", {}),
        ("https://sqs.eu-west-1.amazonaws.com/", {}),
        (f"{AWS_URL}?Action=x", {}),
        ("https://[::1/q", {}),
        ("http://sqs.eu-west-1.amazonaws.com/1/q", {}),
        ("sqs://q", {"endpoint": "http://elsewhere:4566"}),
        ("sqs://q", {"endpoint": "elsewhere"}),
        ("sqs://q", {"region": "no region"}),
    ],
)
def test_anything_else_is_refused(url: str, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^(url|endpoint|region): "):
        parse_queue_url(url, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "sqs://KEY:wJalrXUtnFEMI@rewards",
        "https://KEY:wJalrXUtnFEMI@sqs.eu-west-1.amazonaws.com/1/q",
        "sqs://wJalrXUtnFEMI@rewards",
    ],
)
def test_credentials_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="credentials") as caught:
        parse_queue_url(url)
    assert "wJalr" not in str(caught.value)
    trace = caught.value.__traceback__
    while trace is not None:
        assert "parse_queue_url" not in trace.tb_frame.f_code.co_name
        trace = trace.tb_next


def test_what_a_person_reads() -> None:
    texts = []
    for url in ("rewards", "sqs://KEY:secret@rewards", "http://elsewhere/1/q"):
        with pytest.raises(ValueError, match="url: ") as caught:
            parse_queue_url(url)
        texts.append(str(caught.value))
    said("queue: URLs that are refused", "\n".join(texts))
