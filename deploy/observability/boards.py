#!/usr/bin/env python3
"""Makes helm/firstcome/files/dashboards from the tables below: `boards.py --write`, or `--check` that what lies there is what it makes.

Queries are written without the prefix `coupon_` and without the selectors that all of them have; R, M, S, P and V add both."""

import json
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "helm/firstcome/files/dashboards"
PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}


def V(metric):
    """A metric with the selectors that every query has. Recorded series (with a colon) have no service."""
    name, labels = re.fullmatch(r"([\w:]+)(?:\{(.*)\})?", metric).groups()
    own = 'namespace="$namespace"' if ":" in name else 'namespace="$namespace",service=~"$service"'
    prefix = "" if name.startswith("process_") else "coupon_"
    return f"{prefix}{name}{{{own}{',' + labels if labels else ''}}}"


def R(by, metric):
    return f"sum by ({by}) (rate({V(metric)}[$__rate_interval]))"


def M(by, metric):
    return f"max by ({by}) ({V(metric)})"


def S(by, metric):
    return f"sum by ({by}) ({V(metric)})"


def P(by, metric):
    return f"histogram_quantile(0.99, sum by (le, {by}) (rate({V(metric + '_bucket')}[$__rate_interval])))"


# A panel: title, unit, what it tells, then its queries with their legends. A unit "red:<unit>" is one number that should be 0.
BOARDS = {
    "coupon-overview": ("Overview", "Is every promise kept, does every claim get through, and what is left.", [
        ("Broken promises", "red:short", "Violations that the reconciler has found, by promise. Anything but 0 pages: CouponPromiseBroken.",
         ("{{id}}", M("id", "invariant_violations"))),
        ("Halted", "red:short", "Partitions that stand still, and why. Anything but 0 pages: CouponPartitionHalted.",
         ("{{partition}} {{reason}}", M("partition, reason", "partition_halted"))),
        ("DLQ", "red:short", "Dead letters that were neither redriven nor discarded: CouponDeadLetters.", ("letters", V("dlq_depth_records"))),
        ("Budget", "percentunit", "What is left of the error budget of 30 days. Below 0 it is overdrawn.",
         ("{{slo}}", f"1 - {V('slo:burn:rate30d')}")),
        ("Flow", "ops", "Accepted, decided, written, told: in a healthy system the curves lie on one another, a little later each.",
         ("accepted ({{service}})", R("service", 'claims_total{result="accepted"}')),
         ("decided ({{service}})", R("service", "decisions_total")),
         ("written ({{service}})", R("service", 'rows_written_total{table="claims"}')),
         ("told ({{service}})", R("service", 'sse_events_total{event="decided"}'))),
        ("Remaining", "short", "What is left of each coupon, as the fold says.",
         ("{{coupon_id}}", f"min by (coupon_id) ({V('stock_quantity')} - {V('stock_issued')})")),
        ("Lag", "s", "Age of the oldest claim that a stage has not done, measured from outside.", ("{{stage}}", M("stage", "lag_seconds"))),
        ("Stages", "s", "99 % of claims are decided, persisted and told within so long of their append time.",
         ("decided ({{service}})", P("service", "claim_to_decided_seconds")),
         ("persisted ({{service}})", P("service", "claim_to_persisted_seconds")),
         ("told by {{channel}}", P("channel", "claim_to_told_seconds"))),
    ]),
    "coupon-gateway": ("Gateway", "What comes in, how it is answered, and which limit speaks.", [
        ("Requests", "reqps", "Requests by route and class of status; streams left out.", ("{{route}} {{status}}", R("route, status", "http_request_seconds_count"))),
        ("Requests, p99", "s", "99 % of a route's requests take no longer.", ("{{route}}", P("route", "http_request_seconds"))),
        ("Claims", "ops", "POSTs of claims, each once, by what they were answered. Doubt is a 503 without an acknowledgement.", ("{{result}}", R("result", "claims_total"))),
        ("Prefilter", "ops", "Looks at the Redis view before a claim is appended. It fails open: errors and timeouts cost advice, not claims.",
         ("{{result}}", R("result", "prefilter_seconds_count"))),
        ("Prefilter, p99", "s", "Cut off at redis.read_timeout_ms.", ("{{result}}", P("result", "prefilter_seconds"))),
        ("Append, p99", "s", "From producing a record to the broker's acknowledgement.", ("{{topic}} {{result}}", P("topic, result", "kafka_delivery_seconds"))),
        ("Fill", "percentunit", "How full each bounded queue is. Above 80 %: CouponQueueNearlyFull.",
         ("{{service}} {{queue}}", f"max by (service, queue) ({V('queue_depth')} / {V('queue_limit')})")),
        ("Limits", "ops", "429, 503 and work held back, by the limit that said so.", ("{{service}} {{limit}}", R("service, limit", "limit_hits_total"))),
        ("Clock", "s", "The broker's append time less the gateway's clock. Beyond 1 s: CouponClockOff.", ("{{instance}}", V("broker_clock_offset_seconds"))),
        ("CPU", "short", "Cores in use.", ("{{instance}}", R("instance", "process_cpu_seconds_total"))),
        ("RSS", "bytes", "Resident memory.", ("{{service}} {{instance}}", V("process_resident_memory_bytes"))),
    ]),
    "coupon-pipeline": ("Pipeline", "Partitions, watermarks, batches and Kafka.", [
        ("Lag", "short", "Claims behind, by stage and partition, measured from outside: a dead consumer is lag, not a missing series.",
         ("{{stage}} {{partition}}", M("stage, partition", "lag_claims"))),
        ("Hot", "s", "The five oldest. One coupon is one partition, so a hot coupon is a hot partition.", ("{{stage}} {{partition}}", f"topk(5, {V('lag_seconds')})")),
        ("Watermarks", "short", "The first claims offset that a store does not reflect yet. log is the end of the line.",
         ("{{store}} {{partition}}", M("store, partition", "watermark_offset"))),
        ("Decisions", "ops", "By answer; repeat is true where it was final before.", ("{{code}} repeat={{repeat}}", R("code, repeat", "decisions_total"))),
        ("Batch, p99 of records", "short", "At its limit (decide.batch_records_max, write.batch_records_max) the stage is as busy as it can be.", ("{{service}}", P("service", "batch_records"))),
        ("Batch, p99 of steps", "s", "Where a batch's time goes.", ("{{service}} {{step}}", P("service, step", "batch_seconds"))),
        ("Assigned", "short", "Partitions held, per group. Fewer than the topic has: CouponPartitionsUnassigned.", ("{{group}} {{topic}}", S("group, topic", "kafka_assigned_partitions"))),
        ("Rebalances", "ops", "Rebalances that members took part in. In a burst there should be none.", ("{{group}}", R("group", "kafka_rebalances_total"))),
        ("RTT, p99", "s", "Round trips to a broker in librdkafka's statistics.", ("{{broker}}", M("broker", 'kafka_broker_rtt_seconds{quantile="p99"}'))),
        ("Errors", "ops", "Errors in librdkafka's statistics.", ("{{broker}} {{kind}}", R("broker, kind", "kafka_broker_errors_total"))),
        ("Dead letters", "ops", "Copies written to the dead-letter queue.", ("{{topic}} {{reason}}", R("topic, reason", "dlq_records_total"))),
        ("Topic settings", "red:short", "Settings of topics that are not as promises need them. Anything but 0 pages: CouponTopicSettingWrong.",
         ("{{topic}} {{setting}}", M("topic, setting", "topic_setting_wrong"))),
    ]),
    "coupon-stores": ("Stores", "PostgreSQL and Redis as the services see them.", [
        ("Up", "bool_yes_no", "Whether the dependency answered last time. Without Redis the system is slower, not wrong.",
         ("{{service}} {{dependency}}", f"min by (service, dependency) ({V('dependency_up')})")),
        ("p99", "s", "99 % of an operation's requests take no longer.",
         ("postgres {{operation}}", P("operation", "postgres_seconds")), ("redis {{operation}}", P("operation", "redis_seconds"))),
        ("Errors", "ops", "Requests that ended in an error or a timeout.",
         ("postgres {{operation}}", R("operation", 'postgres_seconds_count{result!="ok"}')), ("redis {{operation}}", R("operation", 'redis_seconds_count{result!="ok"}'))),
        ("Rows", "ops", "Rows written, by table.", ("{{table}}", R("table", "rows_written_total"))),
        ("Skips", "ops", "duplicate: a copy was skipped, as it should be. conflict: a batch found the watermark moved (CouponWatermarkConflicts).",
         ("{{reason}}", R("reason", "writer_skips_total"))),
        ("View", "ops", "Refreshes of the Redis view. full: it was lost or put back (CouponViewRebuilt).", ("{{kind}}", R("kind", "view_refreshes_total"))),
    ]),
    "coupon-notifier": ("Notifier", "Who waits, what they are told, and how streams end.", [
        ("Streams", "short", "Open event streams, and all clients that wait.", ("{{queue}}", S("queue", 'queue_depth{queue=~"sse_streams|waiters"}'))),
        ("Events", "ops", "Events sent, and those whose client had gone.", ("{{event}} {{result}}", R("event, result", "sse_events_total"))),
        ("Closed", "ops", "Streams by how they ended: told everything, client gone, or our shutdown.", ("{{reason}}", R("reason", "sse_stream_seconds_count"))),
    ]),
    "coupon-exactness": ("Exactness", "accepted = granted + rejected + deferred + undecided + dead_lettered, audited from outside.", [
        ("Ledger", "short", "Distinct claims of each coupon by their latest answer, at one cut.", ("{{coupon_id}} {{state}}", S("coupon_id, state", "ledger_claims"))),
        ("Difference", "red:short", "Accepted less all others. Anything but 0 pages: CouponLedgerUnbalanced.",
         ("difference", f"""sum({V('ledger_claims{state="accepted"}')}) - sum({V('ledger_claims{state!="accepted"}')})""")),
        ("Keys", "short", "How many processes hold a key of this fingerprint. Two fingerprints of one key page: CouponKeysDiffer.",
         ("{{key}} {{fingerprint}}", f"count by (key, fingerprint) ({V('key_info')})")),
        ("Issuers' keys", "s", "Since a gateway or notifier last read the public keys by which tokens are checked. Above 1,800 s: CouponAuthKeysStale.",
         ("{{service}} {{of}}", f"max by (service, of) (time() - ({V('auth_keys_timestamp_seconds')} > 0))")),
        ("Audit age", "s", "Since the end of the reconciler's last pass; nothing before its first. Above 300 s: CouponAuditStale.",
         ("age", f"time() - ({V('reconcile_timestamp_seconds')} > 0)")),
    ]),
    "coupon-slo": ("SLOs", "How fast the error budgets of 30 days burn: at 1 exactly used up after 30 days.", [
        *((f"Burn, {window}", "short", tells, ("{{slo}}", M("slo", f"slo:burn:rate{window}"))) for window, tells in [
            ("5m", "Ends CouponBudgetBurnsFast soon after the cause has gone."),
            ("30m", "Ends CouponBudgetBurnsSlowly soon after the cause has gone."),
            ("1h", "Above 14.4 pages: CouponBudgetBurnsFast."),
            ("6h", "Above 6 is a ticket: CouponBudgetBurnsSlowly."),
            ("30d", "Above 1 the budget is overdrawn."),
        ]),
        ("Events", "short", "Events in the last hour. Below 1,000 burn rates do not alert: idle days stay quiet.", ("{{slo}}", S("slo", "slo:events:increase1h"))),
    ]),
}


def panel(number, title, unit, description, targets, where):
    red = unit.startswith("red:")
    steps = [{"color": "green", "value": None}] + ([{"color": "red", "value": 0.5}] if red else [])
    drawn = {
        "id": number, "title": title, "description": description, "type": "stat" if red else "timeseries", "datasource": PROMETHEUS, "gridPos": where,
        "fieldConfig": {"defaults": {"unit": unit.removeprefix("red:"), "thresholds": {"mode": "absolute", "steps": steps}}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": PROMETHEUS, "expr": expr, "legendFormat": legend, "range": True}
            for index, (legend, expr) in enumerate(targets)
        ],
    }
    if red:
        drawn["options"] = {"colorMode": "background", "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    else:
        drawn["options"] = {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]}, "tooltip": {"mode": "multi", "sort": "desc"}}
    return drawn


def board(uid, title, description, rows):
    panels = []
    for index, (name, unit, tells, *targets) in enumerate(rows):
        where = {"x": index % 2 * 12, "y": index // 2 * 8, "w": 12, "h": 8}
        panels.append(panel(index + 1, name, unit, tells, targets, where))
    query = {"type": "query", "datasource": PROMETHEUS, "refresh": 2, "sort": 1}
    return {
        "uid": uid, "title": f"Firstcome / {title}", "description": description, "tags": ["firstcome"], "schemaVersion": 39, "editable": False,
        "timezone": "utc", "refresh": "10s", "time": {"from": "now-1h", "to": "now"}, "graphTooltip": 1, "annotations": {"list": []},
        "links": [{"type": "dashboards", "title": "Firstcome", "tags": ["firstcome"], "asDropdown": False, "includeVars": True, "keepTime": True}],
        "templating": {"list": [
            {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
            {"name": "namespace", "label": "Namespace", "query": "label_values(coupon_ready, namespace)", **query},
            {"name": "service", "label": "Service", "query": 'label_values(coupon_ready{namespace="$namespace"}, service)', **query,
             "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}},
        ]},
        "panels": panels,
    }


def files():
    return {FOLDER / f"{uid}.json": json.dumps(board(uid, *rest), indent=1) + "\n" for uid, rest in BOARDS.items()}


if __name__ == "__main__":
    from generated import main

    sys.exit(main(FOLDER, "*.json", files()))
