"""A dump: the directory that `couponctl dump` writes. README.md names its files.

A file is read once to see that it is whole, and where in it each partition's records stand; then again as often as they
are asked for. No more than a record of it is in memory at a time.
"""

import base64
import csv
import json
from abc import ABC, abstractmethod
from array import array
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from rules import MALFORMED

Row = dict[str, str]

# How far each partition was written, and what retention deleted of each coupon: read before all others and behind them.
PROGRESS, RETENTION = ("partition_progress", "partition_progress_after"), ("coupon_retention", "coupon_retention_after")
TABLES = (*PROGRESS, *RETENTION, "claims", "issued_coupons", "parked_claims", "coupons", "commands", "audit_events")


class Unusable(Exception):
    """The dump is torn, or no dump at all."""


class Record(NamedTuple):
    partition: int
    offset: int
    timestamp_ms: int | None
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes | None]


class Part:
    """The records or rows of one partition, in their file's order."""

    def __init__(self, file: "File") -> None:
        self.file, self.length = file, 0
        self.spans = array("q")  # begin and end in bytes of each piece of the file that holds nothing else

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        return self.file.read(zip(self.spans[::2], self.spans[1::2], strict=True)) if self.spans else iter(())

    def extend(self, begin: int, end: int) -> None:
        if self.spans and self.spans[-1] == begin:
            self.spans[-1] = end
        else:
            self.spans.extend((begin, end))
        self.length += 1


class File(ABC):
    """A file of records or rows, each of a partition."""

    def __init__(self, path: Path) -> None:
        self.path, self.header_end, self.end = path, 0, 0
        self.parts: defaultdict[int, Part] = defaultdict(lambda: Part(self))

    def learn(self) -> Iterator[Any]:
        """Everything in it, and on the way what stands where: has to be read to its end before anything else."""

        def lines() -> Iterator[bytes]:
            for line in file:
                self.end += len(line)
                yield line

        with self.path.open("rb") as file:
            each = lines()
            self.read_header(each)
            begin = self.header_end = self.end
            for item in self.parse(each):
                self.parts[self.partition_of(item)].extend(begin, self.end)
                begin = self.end
                yield item

    def __iter__(self) -> Iterator[Any]:
        return self.read([(self.header_end, self.end)])

    def read(self, spans: Iterable[tuple[int, int]]) -> Iterator[Any]:
        def lines() -> Iterator[bytes]:
            with self.path.open("rb") as file:
                for begin, end in spans:
                    file.seek(begin)
                    while begin < end:
                        line = file.readline()
                        if not line:
                            raise Unusable(f"{self.path.name} became shorter while it was read")
                        begin += len(line)
                        yield line

        return self.parse(lines())

    @abstractmethod
    def read_header(self, lines: Iterator[bytes]) -> None:
        """What stands before everything else."""

    @abstractmethod
    def parse(self, lines: Iterable[bytes]) -> Iterator[Any]:
        """Takes no more lines than it needs for what it gives next."""

    @abstractmethod
    def partition_of(self, item: Any) -> int: ...


class Topic(File):
    """Records, one a line."""

    def read_header(self, lines: Iterator[bytes]) -> None:
        """There is none."""

    def parse(self, lines: Iterable[bytes]) -> Iterator[Record]:
        def unpack(packed: str | None) -> bytes | None:
            return None if packed is None else base64.b64decode(packed, validate=True)

        for line in lines:
            raw = json.loads(line)
            headers = {name: unpack(value) for name, value in (raw.get("headers") or {}).items()}
            key, value = unpack(raw["key"]), unpack(raw["value"])
            yield Record(raw["partition"], raw["offset"], raw["timestamp_ms"], key, value, headers)

    def partition_of(self, item: Record) -> int:
        return item.partition


class Table(File):
    """Rows, as CSV: one may hold line ends."""

    columns: list[str] | None = None

    def read_header(self, lines: Iterator[bytes]) -> None:
        self.columns = next(csv.reader((line.decode() for line in lines), strict=True), None)

    def parse(self, lines: Iterable[bytes]) -> Iterator[Row]:
        return csv.DictReader((line.decode() for line in lines), self.columns, strict=True)

    def partition_of(self, item: Row) -> int:
        spelled = item["coupon_id"][1:].partition("-")[0] if "coupon_id" in item else ""
        return int(item.get("partition") or item.get("src_partition") or spelled)


class Dump:
    """A directory as `couponctl dump` leaves it."""

    def __init__(self, path: Path) -> None:
        try:
            meta, self.bounds = (json.loads((path / name).read_bytes()) for name in ("meta.json", "bounds.json"))
            self.taken_at, self.claims_topic = milliseconds(meta["taken_at"]), meta["topic_prefix"] + "coupon.claims"
            self.topics = {name: Topic(path / f"{name}.jsonl") for name in ("state", "persisted", "dlq")}
            self.claims, self.outcomes = (self.read_log(path, name) for name in ("claims", "outcomes"))
            if min(len(self.claims), len(self.outcomes)) < meta["partitions"]:
                raise Unusable("bounds.json does not name every partition")
            files = {name: Table(path / f"{name}.csv") for name in TABLES}
            for file in (*self.topics.values(), *files.values()):
                deque(file.learn(), maxlen=0)
            self.tables = {name: file.parts for name, file in files.items()}
            redis = path / "redis.jsonl"
            self.redis = redis if redis.exists() else None
        except (OSError, csv.Error, *MALFORMED) as error:
            raise Unusable(f"{type(error).__name__}: {error}") from error

    def read_log(self, path: Path, name: str) -> dict[int, tuple[int, Part]]:
        """Of each partition its first offset and its records, which must be all that the bounds name."""
        log = Topic(path / f"{name}.jsonl")
        offsets: dict[int, range] = {}
        torn: set[int] = set()
        for record in log.learn():
            known = offsets.get(record.partition, range(record.offset, record.offset))
            offsets[record.partition] = range(known.start, known.stop + 1)
            if record.offset != known.stop:
                torn.add(record.partition)
            if record.timestamp_ms is None and name != "claims":
                raise Unusable(f"{name} {record.partition}: offset {record.offset} has no append time")
        for bound in self.bounds[name]:
            partition, named = bound["partition"], range(bound["start"], bound["end"])
            if partition in torn or offsets.get(partition, range(0)) != named:
                raise Unusable(f"{name} {partition}: the records are not those that bounds.json names")
        return {bound["partition"]: (bound["start"], log.parts[bound["partition"]]) for bound in self.bounds[name]}

    def view(self) -> Iterator[Any]:
        """The entries of Redis."""
        if self.redis is not None:
            with self.redis.open("rb") as lines:
                yield from map(json.loads, lines)


def milliseconds(moment: str) -> int:
    """Of a timestamp as PostgreSQL or RFC 3339 spell it."""
    return (datetime.fromisoformat(moment) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
