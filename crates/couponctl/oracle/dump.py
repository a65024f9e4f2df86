"""A dump: the directory that `couponctl dump` writes. README.md names its files."""

import base64
import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from rules import MALFORMED

Row = dict[str, str]


class Unusable(Exception):
    """The dump is torn, or no dump at all."""


class Record(NamedTuple):
    partition: int
    offset: int
    timestamp_ms: int | None
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes | None]


class Dump:
    """A directory as `couponctl dump` leaves it."""

    def __init__(self, path: Path) -> None:
        try:
            meta, self.bounds = (json.loads((path / name).read_bytes()) for name in ("meta.json", "bounds.json"))
            self.taken_at, self.claims_topic = milliseconds(meta["taken_at"]), meta["topic_prefix"] + "coupon.claims"
            topics = ("claims", "outcomes", "state", "persisted", "dlq")
            self.topics = {name: list(read_topic(path / f"{name}.jsonl")) for name in topics}
            self.claims, self.outcomes = self.read_log("claims"), self.read_log("outcomes")
            if min(len(self.claims), len(self.outcomes)) < meta["partitions"]:
                raise Unusable("bounds.json does not name every partition")
            tables = ("claims", "issued_coupons", "parked_claims", "coupons", "commands", "partition_progress", "audit_events")
            self.tables = {name: read_table(path / f"{name}.csv") for name in tables}
            # What retention deleted of each coupon.
            deleted = path / "coupon_retention.csv"
            self.tables["coupon_retention"] = read_table(deleted) if deleted.exists() else defaultdict(list)
            redis = path / "redis.jsonl"
            self.redis = [json.loads(item) for item in redis.read_bytes().splitlines()] if redis.exists() else None
        except (OSError, csv.Error, *MALFORMED) as error:
            raise Unusable(f"{type(error).__name__}: {error}") from error

    def read_log(self, name: str) -> dict[int, tuple[int, list[Record]]]:
        """Of each partition its first offset and its records, which must be all that the bounds name."""
        records: dict[int, list[Record]] = defaultdict(list)
        for record in self.topics[name]:
            records[record.partition].append(record)
            if record.timestamp_ms is None and name != "claims":
                raise Unusable(f"{name} {record.partition}: offset {record.offset} has no append time")
        for bound in self.bounds[name]:
            offsets = [record.offset for record in records[bound["partition"]]]
            if offsets != list(range(bound["start"], bound["end"])):
                raise Unusable(f"{name} {bound['partition']}: the records are not those that bounds.json names")
        return {bound["partition"]: (bound["start"], records[bound["partition"]]) for bound in self.bounds[name]}


def read_topic(path: Path) -> Iterable[Record]:
    def unpack(packed: str | None) -> bytes | None:
        return None if packed is None else base64.b64decode(packed, validate=True)

    with path.open("rb") as lines:
        for line in lines:
            raw = json.loads(line)
            headers = {name: unpack(value) for name, value in (raw.get("headers") or {}).items()}
            key, value = unpack(raw["key"]), unpack(raw["value"])
            yield Record(raw["partition"], raw["offset"], raw["timestamp_ms"], key, value, headers)


def read_table(path: Path) -> dict[int, list[Row]]:
    """The rows by partition."""
    rows: dict[int, list[Row]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, strict=True):
            spelled = row["coupon_id"][1:].partition("-")[0] if "coupon_id" in row else ""
            rows[int(row.get("partition") or row.get("src_partition") or spelled)].append(row)
    return rows


def milliseconds(moment: str) -> int:
    """Of a timestamp as PostgreSQL or RFC 3339 spell it."""
    return (datetime.fromisoformat(moment) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
