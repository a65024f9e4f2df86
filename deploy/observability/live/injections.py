"""What is done to the stack, one thing after the other, and which alert must notice it."""

import contextlib
import dataclasses
import json
import secrets
import time

from .load import ended, wait_until
from .prometheus import SCRAPE_S
from .stack import Failed, eventually

QUIET_S = 26
"""Load and nothing else: what is shown then is the value before."""
OUTAGE_S = 126
"""How long PostgreSQL is away: longer than CouponStoreBehind's 120 s and the 2 minutes of CouponStoreLost."""
NOTICED_S = 90
"""How long a fault lasts for its alert to notice."""
SETTLED_S = 6
"""How long the run goes on after the last of them."""
PUBLIC_KEY = {"kty": "OKP", "crv": "Ed25519", "kid": "1", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
"""RFC 8037, appendix A.2."""
GARBAGE = [b"garbage", b"", b"{}", b"\xff\xfe", b"[1, 2"]
FLOOD = 400
"""More than decide.unreadable_consecutive_max (100): the line halts instead of parking all of it."""
STREAMS_MAX = 10
CLOCK_OFF = "-3s"
STEADY_USERS_PER_S, STEADY_S = 15, 900
"""Longer than any run: this crowd is ended, and does not end."""
LATE_USERS = 1500
"""A surge that finds no stock-consumer: enough late claims to burn the budget of decide."""

# Alert: how its metric is read (the worst series), and whether the run can bring it to its threshold.
ALERTS = {
    "CouponPromiseBroken": "max(coupon_invariant_violations)",
    "CouponLedgerUnbalanced": 'sum(coupon_ledger_claims{state="accepted"}) - sum(coupon_ledger_claims{state!="accepted"})',
    "CouponPartitionHalted": "max(coupon_partition_halted)",
    "CouponKeysDiffer": "max(count by (key) (count by (key, fingerprint) (coupon_key_info)))",
    "CouponTopicSettingWrong": "max(coupon_topic_setting_wrong)",
    "CouponServiceDown": 'sum(coupon_ready{service="stock-consumer"}) or vector(0)',
    "CouponPartitionsUnassigned": "min(sum by (topic) (coupon_kafka_assigned_partitions))",
    "CouponDecisionsLate": 'max(coupon_lag_seconds{stage="decide"})',
    "CouponRetentionAtRisk": 'max(coupon_lag_seconds{stage="persist"})',
    "CouponAppendsInDoubt": 'sum(rate(coupon_claims_total{result="doubt"}[2m])) / sum(rate(coupon_claims_total{result=~"accepted|doubt"}[2m]))',
    "CouponKafkaLost": 'min(max by (service) (coupon_dependency_up{dependency="kafka"}))',
    "CouponBudgetBurnsFast": 'coupon_slo:burn:rate1h{slo="decide"}',
    "CouponStoreBehind": 'max(coupon_lag_seconds{stage=~"persist|view"})',
    "CouponStoreLost": 'min(max by (service, dependency) (coupon_dependency_up{dependency=~"redis|postgres"}))',
    "CouponViewRebuilt": 'sum(increase(coupon_view_refreshes_total{kind="full"}[10m]))',
    "CouponRedisEvicts": "max(coupon_redis_evicts)",
    "CouponAuthKeysStale": "max(time() - (coupon_auth_keys_timestamp_seconds > 0))",
    "CouponWatermarkConflicts": 'sum(increase(coupon_writer_skips_total{reason="conflict"}[10m]))',
    "CouponDeadLetters": "max(coupon_dlq_depth_records)",
    "CouponQueueNearlyFull": "max(coupon_queue_depth / coupon_queue_limit)",
    "CouponClockOff": "max(abs(coupon_broker_clock_offset_seconds))",
    "CouponRestartLoop": "max(changes(coupon_start_timestamp_seconds[15m]))",
    "CouponAuditStale": "max(time() - coupon_reconcile_timestamp_seconds)",
    "CouponBudgetBurnsSlowly": 'coupon_slo:burn:rate6h{slo="decide"}',
}
LOW = {"CouponServiceDown", "CouponPartitionsUnassigned", "CouponKafkaLost", "CouponStoreLost"}
"""Those whose metric falls."""
OUT_OF_REACH = {"CouponRetentionAtRisk": (60, "a day's lag takes a day"), "CouponAuthKeysStale": (60, "half an hour takes half an hour")}
"""Alerts that cannot come true within minutes: how far the metric must move instead, and why."""


CONCERNED = {"CouponServiceDown": 'service="stock-consumer"', "CouponBudgetBurnsFast": 'slo="decide"', "CouponBudgetBurnsSlowly": 'slo="decide"'}
"""Of an alert with several subjects, the one that its fault concerns: a small machine may well be too slow for the budget of accept."""


def series_of(alert):
    """Where Prometheus keeps whether an alert is pending or firing."""
    return "ALERTS{" + ",".join(filter(None, [f'alertname="{alert}"', CONCERNED.get(alert)])) + "}"


@dataclasses.dataclass
class Injection:
    """One thing that was done, the alerts that must have noticed, and when it began and ended."""

    title: str
    alerts: tuple
    start: float
    end: float | None = None


class Run:
    def __init__(self, stack, prometheus, load, say):
        self.stack, self.prometheus, self.load, self.say = stack, prometheus, load, say
        self.injections, self.looked_for = [], set()

    @contextlib.contextmanager
    def injected(self, title, *alerts):
        """What is injected within. It lasts until its alerts are seen, at least."""
        # An alert that knows something already would prove nothing; if one stays noisy the verdict says so.
        with contextlib.suppress(Failed):
            eventually("alerts are quiet", lambda: not any(map(self.lately, alerts)), NOTICED_S, every=0.5)
        injection = Injection(title, alerts, time.time())
        self.injections.append(injection)
        self.say(title)
        yield injection
        self.see(*alerts)
        injection.end = time.time()

    def see(self, *alerts):
        """Waits until these are pending or firing. One that never is does not end the run: the verdict names it."""
        for alert in alerts:
            if alert in OUT_OF_REACH or alert in self.looked_for:
                continue
            self.looked_for.add(alert)
            with contextlib.suppress(Failed):
                eventually(alert, lambda alert=alert: self.active(alert), NOTICED_S, every=0.5)

    def active(self, alert):
        return self.prometheus.now(series_of(alert))

    def lately(self, alert):
        return self.prometheus.now(f"present_over_time({series_of(alert)}[{3 * SCRAPE_S}s])")

    def everything(self):
        self.quiet()
        self.another_key()
        with self.keys_unreadable(), self.postgres_away():
            self.audit_without_postgres()
            self.restarts()
            self.view_lost()
            self.redis_evicts()
            self.redis_hangs()
            self.nobody_decides()
            self.kafka_away()
            wait_until(self.injections_of("CouponStoreLost").start + OUTAGE_S)
            self.see("CouponStoreBehind")
            self.stack.start_again("postgres")
        back = 'min(coupon_dependency_up{dependency="postgres",service=~"db-writer|reconciler"})'
        eventually("PostgreSQL is back", lambda: self.prometheus.value(back) == 1, every=0.5)
        self.garbage()
        self.two_writers()
        self.row_deleted()
        self.clock_off()
        self.retention_shortened()
        self.letters_lost()
        self.flood()
        wait_until(self.injections[-1].end + SETTLED_S)

    def injections_of(self, alert):
        return next(injection for injection in self.injections if alert in injection.alerts)

    def quiet(self):
        self.load.prepare()
        self.load.start_everyday()
        # Prometheus asks its rules before it has scraped for the first time.
        eventually("no alert says anything", lambda: not self.prometheus.now("present_over_time(ALERTS[4s])"), every=0.5)
        self.say(f"load and nothing else, for {QUIET_S} s")
        crowd = self.load.crowd("crowd-quiet", 40 * QUIET_S, QUIET_S - 4)
        self.quiet_start = time.time()
        wait_until(self.quiet_start + QUIET_S)
        ended(crowd, "the first crowd", 120)
        self.quiet_end = time.time()
        # From now on it may be refused, and is not asked how it went.
        self.load.crowd("crowd-steady", STEADY_USERS_PER_S * STEADY_S, STEADY_S, STEADY_S)

    def another_key(self):
        with self.injected("a second notifier, with another secret for key k1", "CouponKeysDiffer"):
            self.stack.add("notifier-2", "notifier", {"KEYS__SECRETS__K1": secrets.token_hex(32)})

    @contextlib.contextmanager
    def keys_unreadable(self):
        keys = self.stack.folder / "issuer-keys.json"
        keys.write_text(json.dumps({"keys": [PUBLIC_KEY]}))
        self.stack.add("notifier-3", "notifier", {"AUTH__JWKS_FILE": str(keys), "AUTH__HS256_SECRET": None})
        read = ALERTS["CouponAuthKeysStale"]
        eventually("the age of its keys is scraped", lambda: self.prometheus.value(read) is not None)
        wait_until(time.time() + 2 * SCRAPE_S)
        with self.injected("the file of public keys of a third notifier broken", "CouponAuthKeysStale"):
            keys.write_text("{")
            yield
            self.stack.kill("notifier-3")

    @contextlib.contextmanager
    def postgres_away(self):
        with self.injected("PostgreSQL killed, for two minutes", "CouponStoreLost", "CouponStoreBehind", "CouponRetentionAtRisk"):
            self.stack.kill("postgres")
            self.see("CouponStoreLost")
            yield

    def audit_without_postgres(self):
        with self.injected("a reconciler started while PostgreSQL is away", "CouponAuditStale"):
            self.stack.add_reconciler("reconciler-2", until="livez")
            self.see("CouponAuditStale")
            self.stack.kill("reconciler-2")

    def restarts(self):
        right = {"KEYS__SECRETS__K1": self.stack.environment["KEY_SECRET"], "NOTIFY__STREAMS_MAX": str(STREAMS_MAX)}
        started = 'coupon_start_timestamp_seconds{instance="notifier-2"}'
        with self.injected("the second notifier killed and started four times", "CouponRestartLoop"):
            for _ in range(4):
                before = self.prometheus.value(started)
                self.stack.kill("notifier-2")
                self.stack.start_again("notifier-2", right)
                eventually("its new start is scraped", lambda before=before: self.prometheus.value(started) not in (None, before))

    def view_lost(self):
        with self.injected("Redis flushed", "CouponViewRebuilt"):
            self.stack.redis("FLUSHALL")

    def redis_evicts(self):
        with self.injected("Redis told to throw the least used keys away", "CouponRedisEvicts"):
            self.stack.redis("CONFIG SET maxmemory-policy allkeys-lru")
            self.see("CouponRedisEvicts")
            self.stack.redis("CONFIG SET maxmemory-policy noeviction")

    def redis_hangs(self):
        lost = 'max(coupon_dependency_up{service="api-gateway",dependency="redis"}) == 0'
        with self.injected("Redis suspended"):
            self.stack.suspend("redis")
            eventually("Redis is seen to be lost", lambda: self.prometheus.now(lost))
            self.stack.resume("redis")
            eventually("and back", lambda: not self.prometheus.now(lost))

    def nobody_decides(self):
        held = 'sum(coupon_kafka_assigned_partitions{service="stock-consumer"})'
        of_second = 'sum(coupon_kafka_assigned_partitions{instance="stock-consumer-2"})'
        self.stack.add("stock-consumer-2", "stock-consumer")
        eventually("two members share the partitions", lambda: self.prometheus.value(held) == 3 and self.prometheus.value(of_second))
        with self.injected("one of two stock-consumers suspended", "CouponPartitionsUnassigned"):
            self.stack.suspend("stock-consumer-2")
            self.see("CouponPartitionsUnassigned")
        late = ["CouponServiceDown", "CouponDecisionsLate", "CouponQueueNearlyFull", "CouponBudgetBurnsFast", "CouponBudgetBurnsSlowly"]
        with self.injected(f"the other one, too; {LATE_USERS:,} users come, {STREAMS_MAX} of {STREAMS_MAX} streams are open", *late):
            self.stack.suspend("stock-consumer")
            self.load.crowd("crowd-late", LATE_USERS, 4)
            streams = self.load.open_streams("notifier-2", [f"streamer-{number}" for number in range(STREAMS_MAX + 2)])
            self.see("CouponServiceDown", "CouponQueueNearlyFull", "CouponDecisionsLate")
            for name in ("stock-consumer", "stock-consumer-2"):
                self.stack.resume(name)
        for stream in streams:
            stream.close()
        self.stack.kill("notifier-2")

    def kafka_away(self):
        with self.injected("Kafka killed", "CouponKafkaLost", "CouponAppendsInDoubt"):
            self.stack.kill("kafka")
            self.see("CouponKafkaLost", "CouponAppendsInDoubt")
            self.stack.start_again("kafka")
            eventually("Kafka is back", lambda: self.prometheus.value('min(coupon_dependency_up{dependency="kafka"})') == 1, every=0.5)

    def garbage(self):
        with self.injected(f"{len(GARBAGE)} records of garbage appended to the claims topic", "CouponDeadLetters"):
            self.stack.append("coupon.claims", self.load.partition, self.load.coupon.encode(), *GARBAGE)

    def two_writers(self):
        with self.injected("a db-writer of another group on the same database", "CouponWatermarkConflicts"):
            self.stack.add("db-writer-2", "db-writer", {"KAFKA__GROUP_PREFIX": "second."})
            self.see("CouponWatermarkConflicts")
            self.stack.kill("db-writer-2")

    def row_deleted(self):
        with self.injected("a row deleted in PostgreSQL", "CouponPromiseBroken"):
            self.stack.sql("create table kept_claims as select * from claims order by src_partition, src_offset limit 1")
            self.stack.sql("delete from claims using kept_claims kept where claims.src_partition = kept.src_partition and claims.src_offset = kept.src_offset")
            self.see("CouponPromiseBroken")
            self.stack.sql("insert into claims select * from kept_claims")

    def clock_off(self):
        with self.injected(f"a second gateway whose clock is {CLOCK_OFF} off", "CouponClockOff"):
            self.stack.add("api-gateway-2", "api-gateway", clock=CLOCK_OFF)
            for number in range(3):
                if not self.load.press(self.load.coupon, self.load.token(f"clock-{number}"), "api-gateway-2"):
                    raise Failed("the second gateway refuses claims")
            self.see("CouponClockOff")
            self.stack.kill("api-gateway-2")

    def retention_shortened(self):
        looking = {"KAFKA__TOPICS_CHECK_MS": "1000"}
        with self.injected("coupon.outcomes kept for a minute, and a second gateway that looks every second", "CouponTopicSettingWrong"):
            self.stack.add("api-gateway-2", "api-gateway", looking)
            self.stack.alter("coupon.outcomes", "retention.ms", "60000")
            self.see("CouponTopicSettingWrong")
            self.stack.alter("coupon.outcomes", "retention.ms", "604800000")
            self.stack.kill("api-gateway-2")

    def letters_lost(self):
        """A claim that cannot be read is parked; then the dead-letter queue loses it."""
        coupon = self.load.coupon
        claim = {"v": 1, "claim_id": f"{coupon}.0.0.{'e' * 32}", "coupon_id": coupon, "user_id": "poisoned", "round": 0, "slot": "0", "received_at": "noon"}
        parked = self.prometheus.value("max(coupon_dlq_depth_records)") or 0
        with self.injected("a parked claim lost from the dead-letter queue", "CouponLedgerUnbalanced"):
            self.stack.append("coupon.claims", self.load.partition, coupon.encode(), json.dumps(claim).encode())
            eventually("it is parked", lambda: (self.prometheus.value("max(coupon_dlq_depth_records)") or 0) > parked)
            self.stack.delete_records("coupon.dlq", self.load.partition)

    def flood(self):
        with self.injected(f"{FLOOD} records of garbage at once", "CouponPartitionHalted"):
            self.stack.append("coupon.claims", self.load.spare, b"garbage", *[b"garbage"] * FLOOD)
