"""Writes deploy/grafana/dashboards/visionxl.json: `python tools/make_dashboard.py`.

The dashboard answers, from top to bottom: how fast are we, where does the time go, who waits, what came out, are the
machines well, is the API well.
"""

import json
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parent.parent / "deploy" / "grafana" / "dashboards" / "visionxl.json"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
COLUMNS = 24  # of Grafana's grid

Panel = dict[str, Any]


def quantile(q: float, metric: str, by: str, only: str = "") -> str:
    """The q-quantile of a histogram, for each value of the labels `by`."""
    return f"histogram_quantile({q}, sum by (le, {by}) (rate({metric}_bucket{only}[$__rate_interval])))"


def mean(metric: str, only: str = "") -> str:
    """The mean of a histogram's observations, over everything."""
    return f"sum(rate({metric}_sum{only}[$__rate_interval])) / sum(rate({metric}_count{only}[$__rate_interval]))"


def panel(
    title: str,
    about: str,
    queries: dict[str, str],
    *,
    unit: str = "short",
    width: int = 12,
    height: int = 8,
    kind: str = "timeseries",
    stacked: bool = False,
) -> Panel:
    """One panel; its place on the grid is given later.

    queries: from legend to PromQL; {{label}} in a legend stands for the label's value.
    unit: Grafana's name of it: s, bytes, percentunit, reqps, short.
    width: of the 24 columns.
    """
    drawing: dict[str, Any] = {"fillOpacity": 30 if stacked else 8, "lineWidth": 1, "showPoints": "never"}
    if stacked:
        drawing["stacking"] = {"mode": "normal", "group": "A"}
    options: dict[str, Any] = {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "lastNotNull"], "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    if kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "gridPos": {"w": width, "h": height},
        "fieldConfig": {
            "defaults": {"unit": unit, "min": 0, "custom": drawing if kind == "timeseries" else {}},
            "overrides": [],
        },
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
            for n, (legend, expr) in enumerate(queries.items())
        ],
    }


def row(title: str) -> Panel:
    """A headline over the panels that follow it."""
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": COLUMNS, "h": 1}}


def placed(panels: list[Panel]) -> list[Panel]:
    """The panels from left to right and from top to bottom, each with an id."""
    x = y = tallest = 0
    for number, each in enumerate(panels, start=1):
        spot = each["gridPos"]
        if x + spot["w"] > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        each |= {"id": number, "gridPos": spot | {"x": x, "y": y}}
        x, tallest = x + spot["w"], max(tallest, spot["h"])
    return panels


FRAME = "visionxl_frame_duration_seconds"
STAGE = "visionxl_frame_stage_duration_seconds"
HTTP = "visionxl_http_request_duration_seconds"
CHOSEN = '{task=~"$task", resolution=~"$resolution"}'


def speed() -> list[Panel]:
    per_kind = "task, resolution"
    return [
        row("Seconds per frame"),
        panel(
            "Seconds per frame",
            "One output frame through the whole loop, by task and resolution.",
            {
                "p50 {{task}} {{resolution}}": quantile(0.5, FRAME, per_kind, CHOSEN),
                "p95 {{task}} {{resolution}}": quantile(0.95, FRAME, per_kind, CHOSEN),
            },
            unit="s",
            width=18,
            height=11,
        ),
        panel(
            "Seconds per frame now",
            "Mean over the tasks and resolutions chosen above.",
            {"mean": mean(FRAME, CHOSEN)},
            unit="s",
            width=6,
            height=11,
            kind="stat",
        ),
        panel(
            "Where a frame's time goes",
            "Seconds of each stage for one frame, every step added up.",
            {
                "{{stage}}": f'sum by (stage) (rate({STAGE}_sum{{task=~"$task"}}[$__rate_interval]))'
                f' / on () group_left () sum(rate({FRAME}_count{{task=~"$task"}}[$__rate_interval]))'
            },
            unit="s",
            stacked=True,
        ),
        panel(
            "Frames per second",
            "What all workers together put out, by task.",
            {"{{task}}": f"sum by (task) (rate({FRAME}_count{CHOSEN}[$__rate_interval]))"},
            stacked=True,
        ),
    ]


def jobs() -> list[Panel]:
    return [
        row("Jobs"),
        panel(
            "Jobs waiting",
            "Length of each queue.",
            {"{{queue}}": "max by (queue) (visionxl_queue_depth)"},
            width=8,
            stacked=True,
        ),
        panel(
            "Age of the oldest waiting job",
            "What a client who sent a job now may expect, or worse.",
            {"{{queue}}": "max by (queue) (visionxl_queue_oldest_job_age_seconds)"},
            unit="s",
            width=8,
        ),
        panel(
            "Jobs finished",
            "By how they ended.",
            {"{{status}}": "sum by (status) (increase(visionxl_jobs_finished_total[$__rate_interval]))"},
            width=8,
            stacked=True,
        ),
    ]


def machines() -> list[Panel]:
    return [
        row("Workers"),
        panel(
            "Workers by state",
            "Each worker is in one state at a time.",
            {"{{state}}": "sum by (state) (visionxl_worker_state)"},
            width=8,
            stacked=True,
        ),
        panel(
            "Since the last sign of life",
            "A worker that lives stays under its heartbeat of a few seconds, plus the time between two scrapes.",
            {"{{worker}}": "time() - max by (worker) (visionxl_worker_last_heartbeat_timestamp_seconds)"},
            unit="s",
            width=8,
        ),
        panel(
            "GPU memory, peak",
            "The most that PyTorch has held on each worker.",
            {"{{worker}}": "max by (worker) (visionxl_gpu_memory_peak_bytes)"},
            unit="bytes",
            width=8,
        ),
    ]


def api() -> list[Panel]:
    return [
        row("API"),
        panel(
            "Time to answer",
            "Over all routes. Event streams and long polls count from first byte to last.",
            {
                "p50": quantile(0.5, HTTP, "job"),
                "p95": quantile(0.95, HTTP, "job"),
                "p99": quantile(0.99, HTTP, "job"),
            },
            unit="s",
            width=8,
        ),
        panel(
            "Time to answer, p95 by route",
            "The slowest route is the first to look at.",
            {"{{method}} {{route}}": quantile(0.95, HTTP, "method, route")},
            unit="s",
            width=8,
        ),
        panel(
            "Requests",
            "By status.",
            {"{{status}}": f"sum by (status) (rate({HTTP}_count[$__rate_interval]))"},
            unit="reqps",
            width=8,
            stacked=True,
        ),
    ]


def choice(label: str) -> dict[str, Any]:
    """A drop-down above the dashboard, with the values that the label has in the frame histogram."""
    query = f"label_values({FRAME}_count, {label})"
    return {
        "type": "query",
        "name": label,
        "label": label.capitalize(),
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    return {
        "uid": "visionxl",
        "title": "VISION-XL",
        "tags": ["visionxl"],
        "schemaVersion": 41,
        "editable": False,
        "refresh": "15s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [choice("task"), choice("resolution")]},
        "panels": placed([*speed(), *jobs(), *machines(), *api()]),
    }


if __name__ == "__main__":
    DASHBOARD.write_text(json.dumps(dashboard(), indent=2) + "\n")
