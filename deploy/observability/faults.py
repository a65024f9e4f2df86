#!/usr/bin/env python3
"""Plants a fault for each check, in a copy of the tree, and shows what the check says: `faults.py FOLDER_OF_PROGRAMS`. Fails where one goes unnoticed."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = ["deploy/observability", "helm", "docs", "README.md", "ARCHITECTURE.md", "crates"]
OVERVIEW = "helm/firstcome/files/dashboards/coupon-overview.json"
ALERTS = "helm/firstcome/files/rules/alerts"
CATALOGUE = "crates/service-runtime/src/catalogue.rs"
CASES = "deploy/observability/cases.yaml"
PAGES = "docs/runbooks"

# Check, what is done, in which file, what there and by what replaced (None: the file is removed), and a piece of what the check must say.
FAULTS = [
    ("boards and rules are what their tables make", "a board edited by hand", OVERVIEW, '"refresh": "10s"', '"refresh": "1m"', "not what the source makes"),
    ("boards and rules are what their tables make", "an alert's file lost", f"{ALERTS}/CouponClockOff.yaml", None, "", "CouponClockOff.yaml is missing"),
    ("rule files load", "a brace too few in an alert", f"{ALERTS}/CouponStoreBehind.yaml", '"persist|view"}', '"persist|view"', "CouponStoreBehind.yaml"),
    ("queries parse", "a parenthesis too few in a panel", OVERVIEW, "sum by (service) (rate(coupon_decisions_total", "sum by (service) rate(coupon_decisions_total", "coupon-overview, Flow"),
    ("queries parse", "a parenthesis too few in a runbook", f"{PAGES}/CouponClockOff.md", "coupon_broker_clock_offset_seconds\n```", "abs(coupon_broker_clock_offset_seconds\n```", "CouponClockOff.md"),
    ("names and labels are in the catalogue", "a metric renamed in the catalogue", CATALOGUE, '"decisions_total"', '"decided_total"', "coupon_decisions_total is in no release's catalogue"),
    ("names and labels are in the catalogue", "a label renamed in the catalogue", CATALOGUE, '["event", "result"]', '["kind", "result"]', "grouped by event"),
    ("names and labels are in the catalogue", "a selector by a label that there is not", f"{ALERTS}/CouponViewRebuilt.yaml", '{kind=', '{sort=', "has no label sort"),
    ("names and labels are in the catalogue", "a gauge rated", OVERVIEW, "rate(coupon_decisions_total", "rate(coupon_stock_issued", "is a gauge, and rated"),
    ("label values are in the code", "a result renamed in the gateway", "crates/api-gateway/src/metrics.rs", '"accepted"', '"taken"', 'no service says "accepted"'),
    ("boards are whole", "a selector without the namespace", OVERVIEW, r'coupon_dlq_depth_records{namespace=\"$namespace\",', "coupon_dlq_depth_records{", "is not selected by namespace"),
    ("boards are whole", "a fixed datasource", OVERVIEW, '"uid": "${datasource}"', '"uid": "P1809"', "names a datasource"),
    ("boards are whole", "a panel without unit", OVERVIEW, '"unit": "percentunit"', '"unit": ""', "lacks a description, a unit or a query"),
    ("alerts are whole", "a runbook removed", f"{PAGES}/CouponClockOff.md", None, "", "leads to no page of its own"),
    ("alerts are whole", "an alert that forgets the namespace", f"{ALERTS}/CouponViewRebuilt.yaml", "sum by (namespace)", "sum", "aggregates namespaces together"),
    ("alerts are whole", "an alert without severity", f"{ALERTS}/CouponClockOff.yaml", "severity: warning", "severity: info", "no severity"),
    ("alerts fire and stay quiet", "a dead alert: stage renamed", f"{ALERTS}/CouponDecisionsLate.yaml", 'stage="decide"', 'stage="decided"', "CouponDecisionsLate fires"),
    ("alerts fire and stay quiet", "a noisy alert: floor removed", f"{ALERTS}/CouponBudgetBurnsFast.yaml", " and coupon_slo:events:increase1h > 1000", "", "CouponBudgetBurnsFast quiet"),
    ("alerts fire and stay quiet", "a summary that names a label that there is not", f"{ALERTS}/CouponKeysDiffer.yaml", "$labels.key ", "$labels.id ", "CouponKeysDiffer fires"),
    ("alerts fire and stay quiet", "bounds of Prometheus 3 forgotten", "helm/firstcome/files/rules/recording.yaml", r'le=~"5(\\.0)?"', 'le="5"', "fires_for_latency"),
    ("alerts fire and stay quiet", "an alert without cases", CASES, "CouponClockOff:", "CouponClockOfff:", "CouponClockOff has no case"),
    ("alerts reach somebody", "critical alerts become tickets", "deploy/observability/alertmanager.yml", "receiver: page", "receiver: ticket", "goes to ticket, not to page"),
    ("alerts reach somebody", "a receiver removed", "deploy/observability/alertmanager.yml", "  - name: page\n", "", "page"),
    ("alerts reach somebody", "an inhibition of an alert that there is not", "deploy/observability/alertmanager.yml", "CouponAuditStale", "CouponAuditOld", "CouponAuditOld, which is no alert"),
    ("runbooks have their form", "a page that grew", f"{PAGES}/CouponClockOff.md", "**Impact.**", "\n" * 40 + "**Impact.**", "more than 60"),
    ("runbooks have their form", "a section forgotten", f"{PAGES}/CouponClockOff.md", "**Impact.**", "", "has the sections"),
    ("runbooks have their form", "an alert renamed, its page not", f"{ALERTS}/CouponClockOff.yaml", "alert: CouponClockOff", "alert: CouponClockWrong", "CouponClockWrong.md is missing"),
    ("links of runbooks resolve", "a link to a page that there is not", f"{PAGES}/CouponClockOff.md", "**Impact.**", "[there](Nowhere.md)", "Nowhere.md leads nowhere"),
    ("couponctl lines parse", "a flag that there is not", f"{PAGES}/CouponDeadLetters.md", "couponctl dlq list", "couponctl dlq list --open", "unexpected argument '--open'"),
    ("couponctl lines parse", "an argument forgotten", f"{PAGES}/CouponDeadLetters.md", " --reason noise", "", "required arguments were not provided"),
    ("names in runbooks are real", "a configuration key that there is not", f"{PAGES}/CouponQueueNearlyFull.md", "`claims.in_flight_max`", "`claims.inflight_max`", "claims.inflight_max is no configuration key"),
    ("names in runbooks are real", "a halt reason that a release adds", "crates/coupon-domain/src/halt.rs", 'Self::KeyMissing => "key_missing"', 'Self::KeyMissing => "key_lost"', "key_lost is not explained"),
    ("names in runbooks are real", "a metric renamed in the catalogue", CATALOGUE, '"limit_hits_total"', '"limit_reached_total"', "coupon_limit_hits_total is in no"),
    ("what runbooks quote is in the code", "a readiness reason reworded", "crates/api-gateway/src/state_map.rs", "coupon.state has not been read to its end", "coupon.state is being read", "no service says coupon.state has not been read to its end"),
    ("what runbooks quote is in the code", "a queue renamed", "crates/api-gateway/src/lib.rs", '"wallet_requests"', '"wallets"', "no service says wallet_requests"),
    ("exceptions are needed", "a metric that a release brings", CATALOGUE, 'BUILD_INFO = "build_info" Gauge', 'LAG = "lag_claims" Gauge, ["stage", "partition"], "S", "";\n    BUILD_INFO = "build_info" Gauge', "lag_claims is registered now"),
]


def planted(check, path, old, new, programs):
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in NEEDED:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
        # Without a fault the copy must pass: else it is the copy that fails.
        command = [sys.executable, copy / "deploy/observability/check.py", programs, check]
        if subprocess.run(command, capture_output=True).returncode:
            return None
        target = copy / path
        if old is None:
            target.unlink()
        else:
            text = target.read_text()
            assert old in text, f"{path} no longer says {old}"
            target.write_text(text.replace(old, new))
        return subprocess.run(command, capture_output=True, text=True)


def main(programs):
    unnoticed = 0
    for check, done, path, old, new, expected in FAULTS:
        result = planted(check, path, old, new, programs)
        noticed = result is not None and result.returncode == 1 and expected in result.stdout
        unnoticed += not noticed
        said = next((line.strip() for line in result.stdout.splitlines() if expected in line), result.stdout + result.stderr) if result else "fails without a fault"
        print(f"| {check} | {done} | {'' if noticed else 'NOT NOTICED: '}{said[:160].replace('|', chr(92) + '|')} |", flush=True)
    return bool(unnoticed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
