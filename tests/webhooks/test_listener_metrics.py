"""`/metrics` of a listener as Prometheus reads it, and the dashboard and the alerts that are made of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from attrs import fields
from prometheus_client.parser import text_string_to_metric_families

from tests.system_parts import system_program
from tests.webhooks.fakes import FakeSource, FakeVendor
from tests.webhooks.listener_process import ROOT, client, delivery, post, running
from tests.webhooks.queue_kit import FakeQueue
from vendor_sandboxes.original import API_KEY, API_SECRET
from webhooks.cli.metric_families import families_of
from webhooks.cli.metrics import Metrics, of_queue, of_store, of_workers
from webhooks.cli.workers import STATES
from webhooks.completions import Completions
from webhooks.ingress.queue import QueueIngress
from webhooks.prometheus import collector
from webhooks.receiver import Receiver
from webhooks.store.memory import MemoryStore
from webhooks.store.readings import StoreStatistics

ALERTS = ROOT / "deploy" / "alerts.yml"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text("utf-8"))
PAGE = (ROOT / "docs" / "how-to" / "monitoring.md").read_text("utf-8")
REFERENCE = (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")
PROMQL = {"absent", "by", "histogram_quantile", "increase", "max", "offset", "or", "predict_linear", "rate", "sum", "unless"}
POLLING = {"ORIGINAL_API_KEY": API_KEY, "ORIGINAL_API_SECRET": API_SECRET, "ORIGINAL_BASE_URL": "http://127.0.0.1:9/v1"}


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"] for rule in group["rules"]]


def panels() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def named_in(expression: str) -> set[str]:
    """Return the metrics in an expression."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)|\b\d+\w*", " ", expression)
    return set(re.findall(r"[a-zA-Z_:][\w:]*", bare)) - PROMQL


def promtool(*arguments: str, given: str | None = None, folder: Path | None = None) -> str:
    command = [system_program("promtool"), *arguments]
    done = subprocess.run(command, input=given, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


async def metrics(folder: Path, workers: int) -> str:
    """Return the metrics of a listener that stored two deliveries and refused one."""
    async with running(folder, "--workers", str(workers), env=POLLING) as listener, client() as session:
        for body in (delivery("1"), delivery("2")):
            assert await post(session, listener.url, body) == 200
        assert await post(session, listener.url, delivery("3"), {}) == 401
        async with session.get(listener.where["admin"] + "/metrics") as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
            return await answer.text()


def samples(text: str) -> dict[str, list[tuple[Mapping[str, str], float]]]:
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.mark.slow
@pytest.mark.processes_are_measured
@pytest.mark.parametrize("workers", [1, 2])
async def test_prometheus_understands_the_metrics_and_each_process_has_its_own(tmp_path: Path, workers: int) -> None:
    text = await metrics(tmp_path, workers)
    assert promtool("check", "metrics", given=text) == ""
    found = samples(text)
    assert len(re.findall("^# TYPE webhooks_rejected_total ", text, re.MULTILINE)) == 1
    assert found["webhooks_delivery_seconds_count"] == [({}, 2.0)]
    assert found["webhooks_outcomes"] == [({}, 2.0)]
    processes = [{}] if workers == 1 else [{"worker": each} for each in ("0", "1", "supervisor")]
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds", "process_open_fds"):
        assert sorted((labels for labels, _ in found[name]), key=str) == processes
    starts = [value for _, value in found["process_start_time_seconds"]]
    assert max(starts) - min(starts) < 3_600
    assert not [name for name in found if name.endswith("_created")]
    if workers > 1:
        named = {name for each in (*panels(), *(rule["expr"] for rule in alerts())) for name in named_in(each)}
        missing = named - found.keys() - {"up"}  # which Prometheus makes
        assert not missing
        queue = QueueIngress(FakeQueue(), Receiver(FakeSource(), MemoryStore()))
        of_queues = {family.name for family in of_queue(queue.statistics, readable=True)}
        shown = {family.name for family in text_string_to_metric_families(text) if family.name.startswith("webhooks_")}
        told = set(re.findall(r"^\| `(webhooks_\w+)`", REFERENCE, re.MULTILINE))
        assert {name.removesuffix("_total") for name in told} == shown | of_queues


async def test_the_reference_gives_the_type_and_the_labels_of_each_metric() -> None:
    receiver, completions = Receiver(FakeSource(), MemoryStore()), Completions(FakeVendor(), MemoryStore())
    listener = Metrics({"busy": 1})
    listener.watch({"/": receiver}, completions)
    listener.watch_connections(lambda: 0)
    store = StoreStatistics(**{each.name: 0 for each in fields(StoreStatistics)})
    queue = QueueIngress(FakeQueue(), receiver).statistics
    in_application = {family.name for family in collector(receiver, completions).collect()}
    families = [
        *await listener.families(),
        *families_of([*of_store(store, 0.0, 0), *of_queue(queue, readable=True), *of_workers(dict.fromkeys(STATES, 0), 0)]),
    ]
    shown: dict[str, tuple[str, set[str]]] = {}
    for name, _, kind, samples in families:
        if name.startswith("webhooks_"):
            shown[name] = kind, shown.get(name, ("", set[str]()))[1].union(*(labels for _, labels, _ in samples)) - {"le"}
    rows = re.findall(r"^\| `(webhooks_\w+)` \| (\w+) \|([^|]*)\| ([^|]+) \|", REFERENCE, re.MULTILINE)
    told = {name.removesuffix("_total"): (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows}
    assert told == shown
    assert {name.removesuffix("_total") for name, _, _, where in rows if where == "application"} == in_application
    (states,) = re.findall("^`state` is (.*)$", REFERENCE, re.MULTILINE)
    assert tuple(re.findall(r"`(\w+)`", states)) == STATES
    reasons = REFERENCE.split("counts the first refusal: ")[1].split(". ")[0]
    (none,) = [family for family in collector(receiver).collect() if family.name == "webhooks_rejected"]
    assert re.findall(r"`(\w+)`", reasons) == [each.labels["reason"] for each in none.samples]


def test_expressions_are_read_as_prometheus_reads_them() -> None:
    assert named_in('max by (job) (a_total{b=~"c|d"}) > max by (job) (e offset 1h) or predict_linear(f[6h], 3 * 86400) < 0') == {
        "a_total",
        "e",
        "f",
    }
    assert len(list(panels())) > 10


@pytest.mark.slow
def test_each_alert_fires_when_it_should_and_is_silent_otherwise(tmp_path: Path) -> None:
    shutil.copy(ALERTS, tmp_path)
    shutil.copy(ROOT / "tests" / "webhooks" / "data" / "alerts_test.yml", tmp_path)
    promtool("check", "rules", "alerts.yml", folder=tmp_path)
    promtool("test", "rules", "alerts_test.yml", folder=tmp_path)
    tested = (tmp_path / "alerts_test.yml").read_text("utf-8")
    for rule in alerts():
        assert tested.count(rule["alert"]) == 2, rule["alert"]


def test_the_page_gives_the_job_that_an_alert_names(tmp_path: Path) -> None:
    (configuration,) = re.findall(r"^```text prometheus.yml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    shutil.copy(ALERTS, tmp_path)
    (tmp_path / "prometheus.yml").write_text(configuration)
    promtool("check", "config", "prometheus.yml", folder=tmp_path)
    (job,) = [each["job_name"] for each in yaml.safe_load(configuration)["scrape_configs"]]
    assert {each for rule in alerts() for each in re.findall(r'job="([^"]*)"', rule["expr"])} == {job}


def test_the_page_says_what_to_do_about_each_alert() -> None:
    assert re.findall(r"^\| `(Webhook\w+)` \|", PAGE, re.MULTILINE) == [rule["alert"] for rule in alerts()]


def test_the_expressions_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert [each["type"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "query"]
    for panel in DASHBOARD["panels"]:
        for each in (panel, *panel["targets"]):
            assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(panels())
    ]
    (tmp_path / "panels.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", "panels.yml", folder=tmp_path)
