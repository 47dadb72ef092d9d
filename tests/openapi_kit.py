"""The OpenAPI files of the reference, and what they say of requests, answers and events."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import yaml
from jsonschema import Draft202012Validator

FILES = Path(__file__).parents[1] / "docs" / "reference" / "openapi"


class Description:
    """One file; its methods fail for what is not as it says."""

    def __init__(self, name: str) -> None:
        self.content: Any = yaml.safe_load((FILES / f"{name}.yaml").read_text("utf-8"))

    def operation(self, method: str, path: str) -> dict[str, Any]:
        """Return the operation of a request, with the parameters of its path."""
        for template in sorted(self.content["paths"], key=lambda each: each.count("{")):
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
                item = self.content["paths"][template]
                found: dict[str, Any] = item[method.lower()]
                return {**found, "parameters": [*item.get("parameters", ()), *found.get("parameters", ())]}
        raise AssertionError(f"{method} {path} is not described")

    def check_request(self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> str:
        """Check a request, and return the id of its operation."""
        operation = self.operation(method, path)
        parameters = [self._found(each) for each in operation["parameters"]]
        of_query = [each for each in parameters if each["in"] == "query"]
        assert {each["name"] for each in of_query if each.get("required")} <= set(query) <= {each["name"] for each in of_query}
        self._check_headers([each for each in parameters if each["in"] == "header"], headers)
        (security,) = operation.get("security", self.content["security"])
        for name in security:
            scheme = self.content["components"]["securitySchemes"][name]
            if scheme["type"] == "apiKey":
                assert headers[scheme["name"]]
            else:
                assert headers["Authorization"].split()[0].lower() == scheme["scheme"]
        if "requestBody" in operation:
            self._check_body(operation["requestBody"], headers["Content-Type"], body)
        else:
            assert not body
        return str(operation["operationId"])

    def check_answer(self, method: str, path: str, status: int, content_type: str, body: bytes) -> None:
        """Check an answer."""
        responses = self.operation(method, path)["responses"]
        self._check_body(self._found(responses.get(str(status), responses["default"])), content_type, body)

    def check_event(self, name: str, headers: Mapping[str, str], body: bytes) -> None:
        """Check a delivery."""
        operation = self.content["webhooks"][name]["post"]
        self._check_headers([self._found(each) for each in operation["parameters"]], headers)
        self._check_body(operation["requestBody"], headers["Content-Type"], body)

    def errors(self, schema: Any, value: Any) -> list[str]:
        """Return what a schema has against a value."""
        whole = {**schema, "components": self.content["components"]}
        return [f"{each.json_path}: {each.message}" for each in Draft202012Validator(whole).iter_errors(value)]

    def _check_headers(self, parameters: list[Any], headers: Mapping[str, str]) -> None:
        folded = {name.lower(): value for name, value in headers.items()}
        for each in parameters:
            assert each["name"] in folded or not each.get("required"), each["name"]
            if each["name"] in folded:
                assert not (found := self.errors(each["schema"], folded[each["name"]])), found

    def _check_body(self, place: Any, content_type: str, body: bytes) -> None:
        kind = content_type.partition(";")[0]
        schema = place["content"][kind]["schema"]
        text = body.decode()
        value: Any = text
        if kind == "application/json":
            value = json.loads(text)
        elif kind == "application/x-www-form-urlencoded":
            value = dict(parse_qsl(text))
        assert not (found := self.errors(schema, value)), found

    def _found(self, part: Any) -> Any:
        if "$ref" not in part:
            return part
        found = self.content
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        return found
