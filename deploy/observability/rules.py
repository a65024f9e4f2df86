#!/usr/bin/env python3
"""Makes helm/firstcome/files/rules from the tables below: `rules.py --write`, or `--check` that what lies there is what it makes.

Each file is a Prometheus rule file of its own, so compose mounts the folder as it is. The chart puts two things of its own in: the namespace
(wherever a file says "firstcome" as namespace) and what comes before docs/runbooks/ in runbook_url."""

import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "helm/firstcome/files/rules"
NAMESPACE = "firstcome"
SERVICES = ["api-gateway", "stock-consumer", "db-writer", "notifier", "reconciler"]


def rate(metric, window, function="rate"):
    return f"sum by (namespace) ({function}({metric}[{window}]))"


CLAIMS = 'coupon_claims_total{result!~"invalid|unauthorized|rate_limited"}'
REFUSED = 'coupon_claims_total{result=~"overloaded|doubt"}'
POST = 'route="/v1/coupons/{coupon_id}/claims"'


def slower(histogram, bound, matcher=""):
    """Events of a histogram, and its bucket up to the bound in s. Prometheus 3 writes a bound of 5 as 5.0."""
    bucket = f'le=~"{bound}(\\\\.0)?"' if "." not in bound else f'le="{bound}"'
    return f"{histogram}_count" + (f"{{{matcher}}}" if matcher else ""), f"{histogram}_bucket{{{','.join(filter(None, [matcher, bucket]))}}}"


def bad_and_all(bad, every):
    return lambda window: (rate(bad, window), rate(every, window))


def late_and_all(every, in_time):
    return lambda window: (f"{rate(every, window)} - {rate(in_time, window)}", rate(every, window))


# SLO: what its budget is (1 - objective), its events, and (bad, all) per second over a window.
SLOS = {
    "append": ("0.001", CLAIMS, bad_and_all(REFUSED, CLAIMS)),
    "accept": ("0.01", slower("coupon_http_request_seconds", "0.1", POST)[0], late_and_all(*slower("coupon_http_request_seconds", "0.1", POST))),
    "decide": ("0.01", "coupon_claim_to_decided_seconds_count", late_and_all(*slower("coupon_claim_to_decided_seconds", "2.5"))),
    "tell": ("0.01", "coupon_claim_to_told_seconds_count", late_and_all(*slower("coupon_claim_to_told_seconds", "5"))),
}
BURN_WINDOWS = ["5m", "30m", "1h", "6h"]
EVENT_WINDOWS = ["1h", "6h"]

# Alert (prefixed Coupon): severity, for, expression, summary.
ALERTS = {
    "PromiseBroken": ("critical", "0m", "coupon_invariant_violations > 0", "The promise {{ $labels.id }} is broken {{ $value }} times"),
    "LedgerUnbalanced": (
        "critical", "2m",
        'sum by (namespace) (coupon_ledger_claims{state="accepted"}) - sum by (namespace) (coupon_ledger_claims{state!="accepted"}) != 0',
        "The ledger differs by {{ $value }}: accepted claims less granted, rejected, deferred, undecided and dead-lettered ones"),
    "PartitionHalted": (
        "critical", "0m", "coupon_partition_halted > 0", "{{ $labels.service }} stands still on partition {{ $labels.partition }}: {{ $labels.reason }}"),
    "KeysDiffer": (
        "critical", "0m", "count by (namespace, key) (count by (namespace, key, fingerprint) (coupon_key_info)) > 1",
        "Key {{ $labels.key }} has {{ $value }} different secrets"),
    "TopicSettingWrong": (
        "critical", "0m", "max by (namespace, topic, setting) (coupon_topic_setting_wrong) > 0",
        "{{ $labels.topic }} is not kept as promises need it: {{ $labels.setting }}"),
    "PartitionsUnassigned": (
        "critical", "2m",
        'count by (namespace) (coupon_watermark_offset{service="reconciler",store="log"})'
        " > min by (namespace) (sum by (namespace, topic) (coupon_kafka_assigned_partitions))",
        "Nobody works on some of the {{ $value }} partitions"),
    "DecisionsLate": (
        "critical", "1m", 'coupon_lag_seconds{stage="decide"} > 10', "Partition {{ $labels.partition }}: a claim has waited {{ $value }} s for its decision"),
    "RetentionAtRisk": (
        "critical", "5m", 'coupon_lag_seconds{stage="persist"} > 86400',
        "Partition {{ $labels.partition }}: PostgreSQL is {{ $value | humanizeDuration }} behind; outcomes are deleted after 7 days"),
    "AppendsInDoubt": (
        "critical", "1m",
        'sum by (namespace) (rate(coupon_claims_total{result="doubt"}[2m]))'
        ' / sum by (namespace) (rate(coupon_claims_total{result=~"accepted|doubt"}[2m])) > 0.01',
        "{{ $value | humanizePercentage }} of claims get no acknowledgement from the broker in time"),
    "KafkaLost": (
        "critical", "1m", 'max by (namespace, service) (coupon_dependency_up{dependency="kafka"}) == 0', "No {{ $labels.service }} reaches Kafka"),
    "BudgetBurnsFast": (
        "critical", "2m", "coupon_slo:burn:rate1h > 14.4 and coupon_slo:burn:rate5m > 14.4 and coupon_slo:events:increase1h > 1000",
        "The error budget of {{ $labels.slo }} burns {{ $value | humanize }} times too fast: in two days it is gone"),
    "StoreBehind": (
        "warning", "5m", 'coupon_lag_seconds{stage=~"persist|view"} > 120',
        "Partition {{ $labels.partition }}: stage {{ $labels.stage }} is {{ $value | humanizeDuration }} behind"),
    "StoreLost": (
        "warning", "2m", 'max by (namespace, service, dependency) (coupon_dependency_up{dependency=~"redis|postgres"}) == 0',
        "No {{ $labels.service }} reaches {{ $labels.dependency }}"),
    "ViewRebuilt": (
        "warning", "0m", 'sum by (namespace) (increase(coupon_view_refreshes_total{kind=~"full|bucket"}[10m])) > 0', "The Redis view, or a part of it, was lost or put back, and is pushed again"),
    "RedisEvicts": ("warning", "5m", "max by (namespace) (coupon_redis_evicts) > 0", "Redis may throw parts of the view away: its maxmemory-policy is not noeviction"),
    "AuthKeysStale": (
        "warning", "5m", "time() - min by (namespace, service, of) (coupon_auth_keys_timestamp_seconds > 0) > 1800",
        "{{ $labels.service }} read the keys of {{ $labels.of }}' tokens {{ $value | humanizeDuration }} ago: a key that their issuer takes into use now would count for nothing"),
    "WatermarkConflicts": (
        "warning", "0m", 'sum by (namespace) (increase(coupon_writer_skips_total{reason="conflict"}[10m])) > 5',
        "Batches found PostgreSQL's watermark moved {{ $value | humanize }} times in 10 minutes"),
    "DeadLetters": ("warning", "1m", "coupon_dlq_depth_records > 0", "{{ $value }} dead letters wait for a person"),
    "QueueNearlyFull": (
        "warning", "1m", "coupon_queue_depth / coupon_queue_limit > 0.8", "{{ $labels.service }}: {{ $labels.queue }} is {{ $value | humanizePercentage }} full"),
    "ClockOff": (
        "warning", "5m", "abs(coupon_broker_clock_offset_seconds) > 1", "The broker's clock and {{ $labels.instance }}'s are {{ $value }} s apart"),
    "RestartLoop": (
        "warning", "0m", "changes(coupon_start_timestamp_seconds[15m]) > 3",
        "{{ $labels.service }} on {{ $labels.instance }} has started {{ $value }} times in 15 minutes"),
    "AuditStale": (
        "warning", "5m", "time() - coupon_reconcile_timestamp_seconds > 300", "The reconciler's last pass ended {{ $value | humanizeDuration }} ago"),
    "BudgetBurnsSlowly": (
        "warning", "15m", "coupon_slo:burn:rate6h > 6 and coupon_slo:burn:rate30m > 6 and coupon_slo:events:increase6h > 1000",
        "The error budget of {{ $labels.slo }} burns {{ $value | humanize }} times too fast: in five days it is gone"),
}


def group(name, rules):
    return f"# Made by deploy/observability/rules.py: change it there.\ngroups:\n  - name: {name}\n    rules:\n" + "".join(rules)


def recorded(record, slo, expr):
    lines = expr.replace("\n", "\n          ")
    return f"      - record: {record}\n        labels: {{slo: {slo}}}\n        expr: |-\n          {lines}\n"


def recording():
    rules = []
    for slo, (budget, events, bad_and_every) in SLOS.items():
        for window in BURN_WINDOWS:
            bad, every = bad_and_every(window)
            rules.append(recorded(f"coupon_slo:burn:rate{window}", slo, f"({bad})\n/ ({every} > 0)\n/ {budget}"))
        bad, every = bad_and_every("5m")
        rules.append(recorded("coupon_slo:bad:rate5m", slo, bad))
        rules.append(recorded("coupon_slo:events:rate5m", slo, every))
        month = f'avg_over_time(coupon_slo:%s:rate5m{{slo="{slo}"}}[30d])'
        rules.append(recorded("coupon_slo:burn:rate30d", slo, f"{month % 'bad'}\n/ ({month % 'events'} > 0)\n/ {budget}"))
        rules += [recorded(f"coupon_slo:events:increase{window}", slo, rate(events, window, "increase")) for window in EVENT_WINDOWS]
    return group("firstcome-slo", rules)


def alert(name, severity, patience, expr, summary, labels=""):
    return (
        f"      - alert: {name}\n        expr: |-\n          {expr}\n        for: {patience}\n"
        f"        labels:\n          severity: {severity}\n{labels}"
        f'        annotations:\n          summary: "{summary}"\n          runbook_url: docs/runbooks/{name}.md\n'
    )


def service_down():
    name = "CouponServiceDown"
    rules = [
        alert(
            name, "critical", "2m", f'absent(coupon_ready{{service="{service}",namespace="{NAMESPACE}"}} == 1)', f"No {service} is ready",
            f'          service: {service}\n          namespace: "{NAMESPACE}"\n')
        for service in SERVICES
    ]
    return group(name, rules)


def files():
    made = {FOLDER / "recording.yaml": recording(), FOLDER / "alerts/CouponServiceDown.yaml": service_down()}
    for short, row in ALERTS.items():
        made[FOLDER / f"alerts/Coupon{short}.yaml"] = group(f"Coupon{short}", [alert(f"Coupon{short}", *row)])
    return made


if __name__ == "__main__":
    from generated import main

    sys.exit(main(FOLDER, "*.yaml", files()))
