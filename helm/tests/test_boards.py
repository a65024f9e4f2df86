"""Dashboards and rules reach the cluster as they are written, wherever they lie in files/."""

import json
import shutil

import pytest
import yaml

from conftest import CHART, CRDS, KUBERNETES, helm, of_kind

DASHBOARD = {"title": "{{ not a template }}", "panels": [{"expr": 'up{namespace="$namespace"}'}]}
RULE = """groups:
  - name: CouponTried
    rules:
      - alert: CouponTried
        expr: |-
          absent(coupon_ready{service="tried",namespace="firstcome"} == 1)
        labels:
          namespace: "firstcome"
        annotations:
          summary: "{{ $labels.instance }} is {{ $value | humanize }}"
          runbook_url: docs/runbooks/CouponTried.md
"""


@pytest.fixture
def chart(tmp_path):
    chart = tmp_path / "firstcome"
    shutil.copytree(CHART, chart)
    shutil.rmtree(chart / "files", ignore_errors=True)
    return chart


def render(chart, *arguments):
    crds = [f"--api-versions={crd}" for crd in CRDS]
    base = ["template", "firstcome", chart, "--namespace", "elsewhere", "--kube-version", KUBERNETES, *crds]
    rendered = helm(*base, "-f", CHART / "ci" / "full-values.yaml", *arguments)
    assert rendered.returncode == 0, rendered.stderr
    return [thing for thing in yaml.safe_load_all(rendered.stdout) if thing]


def dashboards(objects):
    return [thing for thing in of_kind(objects, "ConfigMap") if "-dashboard-" in thing["metadata"]["name"]]


def test_without_files_there_is_nothing(chart):
    objects = render(chart)
    assert not dashboards(objects) and not of_kind(objects, "PrometheusRule")


def test_files_arrive(chart):
    (chart / "files/dashboards").mkdir(parents=True)
    (chart / "files/rules/alerts").mkdir(parents=True)
    (chart / "files/dashboards/coupon-tried.json").write_text(json.dumps(DASHBOARD, indent=2))
    (chart / "files/rules/recording.yaml").write_text("groups: [{name: slo, rules: [{record: a, expr: b}]}]\n")
    (chart / "files/rules/alerts/CouponTried.yaml").write_text(RULE)
    objects = render(chart)

    [board] = dashboards(objects)
    assert board["metadata"]["name"] == "shop-dashboard-coupon-tried"
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert board["metadata"]["annotations"] == {"folder": "Coupons"}
    assert json.loads(board["data"]["coupon-tried.json"]) == DASHBOARD

    [rules] = of_kind(objects, "PrometheusRule")
    assert rules["metadata"]["labels"]["release"] == "prometheus"
    groups = {group["name"]: group["rules"] for group in rules["spec"]["groups"]}
    assert set(groups) == {"slo", "CouponTried"}
    [tried] = groups["CouponTried"]
    assert tried["expr"] == 'absent(coupon_ready{service="tried",namespace="elsewhere"} == 1)'
    assert tried["labels"]["namespace"] == "elsewhere"
    assert tried["annotations"]["runbook_url"] == "https://git.internal/firstcome/docs/runbooks/CouponTried.md"
    assert tried["annotations"]["summary"] == "{{ $labels.instance }} is {{ $value | humanize }}"

    off = render(chart, "--set", "monitoring.dashboards.enabled=false,monitoring.rules.enabled=false")
    assert not dashboards(off) and not of_kind(off, "PrometheusRule")


def test_our_own_files_arrive():
    objects = render(CHART)
    boards = sorted(path.name for path in (CHART / "files" / "dashboards").glob("*.json"))
    assert sorted(file for board in dashboards(objects) for file in board["data"]) == boards
    files = sorted((CHART / "files" / "rules").rglob("*.yaml"))
    written = sorted(group["name"] for path in files for group in yaml.safe_load(path.read_text())["groups"])
    rendered = sorted(group["name"] for rule in of_kind(objects, "PrometheusRule") for group in rule["spec"]["groups"])
    assert rendered == written
