"""The files of a capture: each request as it arrived, and for deliveries an anonymized sample that is safe to share."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from webhooks.cli.capture.anonymizer import Anonymizer
from webhooks.cli.capture.redaction import Headers, Redaction, json_text
from webhooks.cli.capture.requests import CapturedRequest
from webhooks.cli.event_list import body_record
from webhooks.cli.lists import iso_time

_ABOUT = "A delivery as it arrived. It is private. The sample beside it is safe to share."
_ABOUT_REDACTED = " The values listed under redacted were removed, so its signature can no longer be verified."
_ABOUT_SAMPLE = (
    "A delivery with made-up ids, names, addresses, amounts and times; equal values stay equal. Its signature does not verify. "
    "The names of members, white space and the vendor's own words are as they arrived."
)
_MAX_NAME = 60
_number = re.compile(r"[0-9]+(?=-)").match
_unsafe = re.compile(r"[^A-Za-z0-9._-]+").sub


class CaptureFiles:
    """Write files that only their owner can read; existing files are never overwritten.

    Args:
        folder: The folder, created if it does not exist.
        redaction: What is redacted.
        clean: Removes secrets from a text.

    Attributes:
        last_number: The highest number of the files that are there already.

    Raises:
        OSError: the folder cannot be created.
        ValueError: its path is not a folder.
    """

    def __init__(self, folder: Path, redaction: Redaction, clean: Callable[[str], str]) -> None:
        self.folder = folder
        self._redaction = redaction
        self._clean = clean
        self._anonymizer = Anonymizer()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(f"--out: {folder} is not a folder, and cannot be created. Give another path.") from None
        numbers = [int(found[0]) for each in folder.iterdir() if (found := _number(each.name))]
        self.last_number = max(numbers, default=0)

    def write(self, request: CapturedRequest, report: Mapping[str, Any]) -> tuple[Path, Path | None]:
        """Write a request, and return its file and its sample; a request that no configured key signed has no sample.

        Raises:
            OSError: it could not be written.
        """
        headers = [(name, self._clean(value)) for name, value in self._redaction.of_headers(request.headers)]
        body, redacted = self._redacted_body(request.body)
        redacted += [f"header:{name}" for (name, kept), (_, came) in zip(headers, request.headers, strict=True) if kept != came]
        content = {
            "about": _ABOUT + (_ABOUT_REDACTED if redacted else ""),
            "redacted": redacted,
            "captured_at": iso_time(request.at),
            "peer": request.peer,
            **_request(request, self._clean(request.target), headers),
            **body_record(body),
            "report": report,
        }
        name = request.event.name if request.ours and request.event is not None and request.event.name else "not-verified"
        path = self._create(f"{request.number:04}-{_unsafe('_', name)[:_MAX_NAME]}", content)
        text = None if body is None or not request.ours else json_text(body)
        if text is None:
            return path, None
        sample = path.with_suffix(".sample.json")
        _write_new(sample, self._clean, self._sample(request, headers, text, report))
        return path, sample

    def _redacted_body(self, body: bytes | None) -> tuple[bytes | None, list[str]]:
        if body is None:
            return None, []
        kept, redacted = self._redaction.of_body(body)
        if kept is None:
            return None, redacted
        text = kept.decode("utf-8", "surrogateescape")
        clean = self._clean(text)
        return (kept, redacted) if clean == text else (clean.encode("utf-8", "surrogateescape"), [*redacted, "a webhook secret"])

    def _sample(self, request: CapturedRequest, headers: Headers, text: str, report: Mapping[str, Any]) -> dict[str, Any]:
        anonymizer = self._anonymizer
        body = anonymizer.body(text)
        target = request.path + ("?..." if "?" in request.target else "")
        facts = _request(request, target, anonymizer.headers(headers, len(body.encode("utf-8"))))
        for key_id in _key_ids(report):
            anonymizer.value(key_id)
        shown = {name: value for name, value in report.items() if name != "identity"}
        return {"about": _ABOUT_SAMPLE, **facts, "body": body, "report": map_texts(shown, anonymizer.sentence)}

    def _create(self, name: str, content: Mapping[str, Any]) -> Path:
        for suffix in itertools.chain([""], (f"-{number}" for number in itertools.count(2))):
            path = self.folder / f"{name}{suffix}.json"
            try:
                _write_new(path, self._clean, content)
            except FileExistsError:  # another capture writes to this folder
                continue
            return path
        raise AssertionError


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a value of mappings and lists with every text changed, except the names of members."""
    if isinstance(value, Mapping):
        return {name: map_texts(each, change) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_texts(each, change) for each in value]
    return change(value) if isinstance(value, str) else value


def _request(request: CapturedRequest, target: str, headers: Headers) -> dict[str, Any]:
    return {"method": request.method, "target": target, "http_version": request.http, "headers": [list(each) for each in headers]}


def _key_ids(report: Mapping[str, Any]) -> set[str]:
    """Return the key ids that a report's sentences contain."""
    signature = report["signature"]
    found = {signature["key"], *(each[name] for each in signature["readings"] for name in ("names_key", "made_with"))}
    return {key_id for key_id in found if key_id}


def _write_new(path: Path, clean: Callable[[str], str], content: Mapping[str, Any]) -> None:
    """Write a file that only its owner can read.

    Raises:
        FileExistsError: it exists.
        OSError: it cannot be written; an incomplete file is removed.
    """
    text = clean(json.dumps(content, ensure_ascii=False, indent=2)) + "\n"
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:  # a header that is not UTF-8
        data = (clean(json.dumps(content, indent=2)) + "\n").encode("utf-8")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise
