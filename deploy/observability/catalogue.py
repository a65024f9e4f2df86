"""The catalogue of metrics as crates/service-runtime/src/catalogue.rs has it, and the names that no release registers yet."""

import re
from pathlib import Path

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCE = ROOT / "crates/service-runtime/src/catalogue.rs"
ROW = re.compile(r'^\s*[A-Z_]+ = "(?P<name>\w+)" (?P<kind>\w+)(\(\w+\))?, \[(?P<labels>[^\]]*)\], "(?P<services>\w+)",', re.M)
SUFFIXES = {"Histogram": ("_bucket", "_count", "_sum"), "Counter": ("",), "Gauge": ("",)}
EVERYWHERE = {"service", "namespace", "instance"}
"""Labels of every series: its own, and what the scrape adds."""


def registered():
    """{metric without prefix: (kind, labels)} of the release."""
    rows = {}
    for row in ROW.finditer(SOURCE.read_text()):
        rows[row["name"]] = (row["kind"], set(re.findall(r"\w+", row["labels"])))
    assert len(rows) > 30, f"{SOURCE} is no longer written the way that this script reads it"
    return rows


def service_sources(further=()):
    """The text of what runs as a service, SQL included, and of further places."""
    services = ["api-gateway", "stock-consumer", "db-writer", "notifier", "reconciler", "audit", "service-runtime", "coupon-domain", "infrastructure-*"]
    places = [f"{name}/src/**/*.rs" for name in services] + [*further]
    places += ["infrastructure-*/src/**/*.sql", "infrastructure-*/src/**/*.lua"]
    return "\n".join(path.read_text() for place in places for path in sorted(ROOT.glob(f"crates/{place}")) if path.is_file())


def literals():
    """Every text in quotes in a service: a label's value that is none of them is set by nobody."""
    return set(re.findall(r'"([^"\\\n]*)"', service_sources()))


def exceptions():
    return yaml.safe_load((HERE / "exceptions.yaml").read_text()) or {}


def series():
    """{series name: (kind, labels it may be selected and grouped by)}, of everything that boards, rules and runbooks may name."""
    metrics = {f"coupon_{name}": row for name, row in registered().items()}
    for name, row in (exceptions().get("metrics") or {}).items():
        metrics.setdefault(f"coupon_{name}", (row["kind"].capitalize(), set(row["labels"])))
    named = {}
    for name, (kind, labels) in metrics.items():
        for suffix in SUFFIXES[kind]:
            named[name + suffix] = (kind, labels | EVERYWHERE | ({"le"} if suffix == "_bucket" else set()))
    named["process_cpu_seconds_total"] = ("Counter", EVERYWHERE)
    named["process_resident_memory_bytes"] = ("Gauge", EVERYWHERE)
    return named
