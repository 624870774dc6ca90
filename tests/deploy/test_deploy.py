"""What is deployed agrees with the code: metrics, settings, commands."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from redis import Redis

import app.metrics as api_metrics
import worker.metrics as worker_metrics
from app.embedded_redis import EmbeddedRedis
from app.jobs import Jobs
from app.records import Records
from app.settings import Settings
from app.store import Store

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy/grafana/dashboards/visionxl.json"
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
ALERT_TESTS = ROOT / "deploy/prometheus/alerts_test.yml"
SCRAPES = ROOT / "deploy/prometheus/prometheus.yml"
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


# --- metrics -------------------------------------------------------------------------------------------------------

ADDED_BY_PROMETHEUS = {"le", "job", "instance"}


def series_of(registry: CollectorRegistry) -> dict[str, set[str]]:
    """Every series that a registry exports, with its labels: a histogram gives _bucket, _sum and _count."""
    found: dict[str, set[str]] = {}
    for collector, names in registry._collector_to_names.items():
        if isinstance(collector, MetricWrapperBase):
            found |= {name: set(collector._labelnames) for name in names}
        else:
            found |= {sample.name: set(sample.labels) for family in collector.collect() for sample in family.samples}
    return found


@pytest.fixture(scope="module")
def exported(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, set[str]]]:
    """Every series of the service."""
    data = tmp_path_factory.mktemp("data")
    settings = Settings.model_validate({"redis_url": redis_server.url, "data_dir": data})
    with Redis.from_url(redis_server.url) as redis:
        jobs = Jobs(settings, Records(redis), Store(settings.files))
        api = api_metrics.Metrics(settings, jobs, version="0")
        worker = worker_metrics.Metrics("worker", version="0", model="bundled")
        yield series_of(api.registry) | series_of(worker.registry)


def labels_in(query: str) -> set[str]:
    """The label names that a query groups by or matches on."""
    grouped = {name for names in re.findall(r"\bby \(([^)]*)\)", query) for name in names.split(",")}
    matched = {name for matchers in re.findall(r"\{([^}]*)\}", query) for name in re.findall(r"(\w+)\s*[=!]", matchers)}
    return {name.strip() for name in grouped | matched}


def queries() -> list[str]:
    """Every query of the dashboard, its drop-downs included, and of the alerts."""
    board = json.loads(DASHBOARD.read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    chosen = [variable["query"]["query"] for variable in board["templating"]["list"]]
    alerts = [rule["expr"] for group in read_yaml(ALERTS)["groups"] for rule in group["rules"]]
    return [*shown, *chosen, *alerts]


@pytest.mark.parametrize("query", queries())
def test_every_metric_and_label_asked_for_is_exported(query: str, exported: dict[str, set[str]]) -> None:
    names = set(re.findall(r"\bvisionxl_\w+", query))
    assert names <= exported.keys()
    assert names or "up{" in query
    labels = {label for name in names for label in exported[name]}
    assert labels_in(query) <= labels | ADDED_BY_PROMETHEUS


def test_the_committed_dashboard_is_what_its_script_makes() -> None:
    made = runpy.run_path(str(ROOT / "tools/make_dashboard.py"))["dashboard"]()
    assert made == json.loads(DASHBOARD.read_text())


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        spot = panel["gridPos"]
        cells = {(spot["x"] + x, spot["y"] + y) for x in range(spot["w"]) for y in range(spot["h"])}
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells


def test_the_dashboard_reads_from_the_source_that_is_provisioned() -> None:
    provisioned = read_yaml(ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml")
    used = set(re.findall(r'"uid": "([^"]*)"', DASHBOARD.read_text())) - {"visionxl"}
    assert used == {source["uid"] for source in provisioned["datasources"]}


def test_every_alert_says_what_it_means_and_is_tested() -> None:
    rules = [rule for group in read_yaml(ALERTS)["groups"] for rule in group["rules"]]
    for rule in rules:
        assert {"summary", "description"} <= rule["annotations"].keys()
        assert rule["labels"]["severity"] in {"page", "warn"}
    # Some tests name the alert, others query the series ALERTS for it.
    fired = set(re.findall(r"alertname(?:: |=\")(\w+)", ALERT_TESTS.read_text()))
    assert fired == {rule["alert"] for rule in rules}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is part of Prometheus")
@pytest.mark.parametrize("check", ["check config prometheus.yml", "test rules alerts_test.yml"])
def test_prometheus_accepts_its_files(check: str) -> None:
    subprocess.run(["promtool", *check.split()], cwd=SCRAPES.parent, check=True)


# --- containers ----------------------------------------------------------------------------------------------------


def services() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(COMPOSE)["services"]
    return found


@pytest.mark.parametrize("path", [COMPOSE, DOCKERFILE], ids=lambda path: path.name)
def test_every_variable_is_a_setting(path: Path) -> None:
    named = set(re.findall(r"VXL_[A-Z_]+", path.read_text()))
    assert named
    assert {name.removeprefix("VXL_").lower() for name in named} <= Settings.model_fields.keys()


@pytest.mark.parametrize("name", ["api", "worker", "worker-cpu"])
def test_settings_accept_the_values_that_compose_gives(name: str) -> None:
    environment: dict[str, str | None] = services()[name]["environment"]
    values = {
        key.removeprefix("VXL_").lower(): re.sub(r"\$\{\w+:-(.*)\}", r"\1", value)
        for key, value in environment.items()
        if value is not None  # passed on where the caller has it, else left out
    }
    settings = Settings.model_validate(values)
    assert settings.redis_url == "redis://redis:6379/0"
    assert settings.files == "/data/files"  # in the volume that API and workers share
    assert "data:/data" in services()[name]["volumes"]


def test_a_worker_is_not_killed_before_it_has_drained() -> None:
    for name in ("worker", "worker-cpu"):
        worker = services()[name]
        assert int(worker["stop_grace_period"].removesuffix("s")) > float(worker["environment"]["VXL_DRAIN_SECONDS"])


def test_redis_keeps_what_it_is_given() -> None:
    redis = services()["redis"]
    command = shlex.join(redis["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert "redis:/data" in redis["volumes"]
    assert "ports" not in redis


def test_nothing_is_open_to_other_machines() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_file_mounted_from_here_exists() -> None:
    mounts = [mount for service in services().values() for mount in service.get("volumes", [])]
    for mount in mounts:
        if mount.startswith("./"):
            assert (ROOT / mount.split(":")[0]).exists(), mount


def test_prometheus_scrapes_the_ports_that_the_settings_name() -> None:
    jobs = {job["job_name"]: job for job in read_yaml(SCRAPES)["scrape_configs"]}
    assert jobs["api"]["static_configs"] == [{"targets": [f"api:{Settings.model_fields['api_metrics_port'].default}"]}]
    [worker] = jobs["worker"]["dns_sd_configs"]
    assert (worker["names"], worker["port"]) == (["worker"], Settings.model_fields["metrics_port"].default)


def test_images_are_pinned() -> None:
    images = [service["image"] for service in services().values() if "build" not in service]
    images += re.findall(r"^FROM (\S+:\S+)", DOCKERFILE.read_text(), re.MULTILINE)
    assert len(images) == 4
    assert all(re.search(r":v?\d+\.\d+\.\d+", image) for image in images)


@pytest.mark.parametrize("name", ["api", "worker"])
def test_the_command_of_an_image_exists(name: str) -> None:
    """`vxl NAME` is a command of the CLI, `python -m MODULE` a module."""
    stage = DOCKERFILE.read_text().split(f" AS {name}\n")[1].split("\nFROM ")[0]
    command: list[str] = json.loads(re.findall(r"^CMD (\[.*\])$", stage, re.MULTILINE)[-1])
    if command[:2] == ["python", "-m"]:
        assert (ROOT / command[2].replace(".", "/")).with_suffix(".py").is_file()
    else:
        assert command[0] == "vxl"
        run = [sys.executable, "-c", "from app.cli import main; main()", *command[1:], "--help"]
        subprocess.run(run, cwd=ROOT, check=True, capture_output=True)
