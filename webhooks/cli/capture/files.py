"""The files of a capture: each delivery as it arrived, and a sample of it that may be shown to others."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from webhooks.cli.capture.arrivals import Arrival
from webhooks.cli.capture.json_text import readable
from webhooks.cli.capture.made_up import MakeUp
from webhooks.cli.capture.redaction import Headers, Redaction, in_texts
from webhooks.cli.capture.report import Capture
from webhooks.cli.lists import moment

_ABOUT = "A delivery as it arrived. It is private: the sample beside it is for others."
_ABOUT_REDACTED = " What is named as redacted was taken out, so that its signature cannot be verified again."
_ABOUT_SAMPLE = (
    "A delivery whose ids, names, addresses, amounts and times are made up, the same ones for the same; its signature does not "
    "verify. Names of members, white space and the words of the vendor are as they arrived."
)
_number = re.compile(r"[0-9]+(?=-)").match
_strange = re.compile(r"[^A-Za-z0-9._-]+").sub
_LONGEST_NAME = 60


class CaptureFiles:
    """Write files that only their owner reads, and never over another.

    Args:
        folder: Where to; made if it is not there.
        redaction: What is taken out of each.
        clean: Takes secrets out of a text.

    Attributes:
        last_number: The highest number of a file that was there before.

    Raises:
        OSError: the folder cannot be made.
        ValueError: something else is there.
    """

    def __init__(self, folder: Path, redaction: Redaction, clean: Callable[[str], str]) -> None:
        self.folder = folder
        self._redaction = redaction
        self._clean = clean
        self._made_up = MakeUp()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(f"--out: {folder} is no folder, and none can be made there; give another path") from None
        numbers = [int(found[0]) for each in folder.iterdir() if (found := _number(each.name))]
        self.last_number = max(numbers, default=0)

    def write(self, capture: Capture, report: Mapping[str, Any]) -> tuple[Path, Path | None]:
        """Write a captured request, and return where it and its sample are; there is none of what no configured key signed.

        Raises:
            OSError: it could not be written.
        """
        arrival = capture.arrival
        headers = [(name, self._clean(value)) for name, value in self._redaction.of_headers(arrival.headers)]
        body, redacted = self._body(arrival.body)
        redacted += [f"header:{name}" for (name, kept), (_, came) in zip(headers, arrival.headers, strict=True) if kept != came]
        content = {
            "about": _ABOUT + (_ABOUT_REDACTED if redacted else ""),
            "redacted": redacted,
            "captured_at": moment(arrival.at),
            "peer": arrival.peer,
            **_request(arrival, self._clean(arrival.target), headers),
            **_text_or_base64(body),
            "report": report,
        }
        name = capture.event.name if capture.ours and capture.event is not None and capture.event.name else "not-verified"
        path = self._create(f"{capture.number:04}-{_strange('_', name)[:_LONGEST_NAME]}", content)
        text = None if body is None or not capture.ours else readable(body)
        if text is None:
            return path, None
        sample = path.with_suffix(".sample.json")
        _write_new(sample, self._clean, self._sample(arrival, headers, text, report))
        return path, sample

    def _body(self, body: bytes | None) -> tuple[bytes | None, list[str]]:
        if body is None:
            return None, []
        kept, redacted = self._redaction.of_body(body)
        if kept is None:
            return None, redacted
        text = kept.decode("utf-8", "surrogateescape")
        clean = self._clean(text)
        return (kept, redacted) if clean == text else (clean.encode("utf-8", "surrogateescape"), [*redacted, "a webhook secret"])

    def _sample(self, arrival: Arrival, headers: Headers, text: str, report: Mapping[str, Any]) -> dict[str, Any]:
        made = self._made_up
        body = made.body(text)
        told = {name: value for name, value in report.items() if name != "identity"}
        target = arrival.path + ("?..." if "?" in arrival.target else "")
        request = _request(arrival, target, made.headers(headers, len(body.encode("utf-8"))))
        for key_id in _keys_in(report):
            made.value(key_id)
        return {"about": _ABOUT_SAMPLE, **request, "body": body, "report": in_texts(told, made.sentence)}

    def _create(self, name: str, content: Mapping[str, Any]) -> Path:
        for suffix in itertools.chain([""], (f"-{number}" for number in itertools.count(2))):
            path = self.folder / f"{name}{suffix}.json"
            try:
                _write_new(path, self._clean, content)
            except FileExistsError:  # another capture writes here too
                continue
            return path
        raise AssertionError


def _request(arrival: Arrival, target: str, headers: Headers) -> dict[str, Any]:
    return {"method": arrival.method, "target": target, "http_version": arrival.http, "headers": [list(each) for each in headers]}


def _text_or_base64(body: bytes | None) -> dict[str, str | None]:
    """Return a body so that its bytes can be had again: as text if it is UTF-8, else as base64."""
    if body is None:
        return {"body": None}
    try:
        return {"body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode("ascii")}


def _keys_in(report: Mapping[str, Any]) -> set[str]:
    """Return the ids of keys that stand in the sentences of a report."""
    signature = report["signature"]
    found = {signature["key"], *(each[name] for each in signature["readings"] for name in ("names_key", "made_with"))}
    return {key_id for key_id in found if key_id}


def _write_new(path: Path, clean: Callable[[str], str], content: Mapping[str, Any]) -> None:
    """Write a file that only its owner reads.

    Raises:
        FileExistsError: there is one.
        OSError: it cannot be written; what was begun is removed.
    """
    text = clean(json.dumps(content, ensure_ascii=False, indent=2)) + "\n"
    if not _is_utf8(text):  # a header is not
        text = clean(json.dumps(content, indent=2)) + "\n"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
        try:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
