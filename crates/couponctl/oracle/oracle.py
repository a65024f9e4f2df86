#!/usr/bin/env python3
"""Recomputes from a dump who had to win, and compares that with everything the system says.

Exit code 0: nothing found, 1: broken promises, 2: the dump cannot be used. README.md says what is compared, rules.py
how it is decided, dump.py what a dump is.
"""

import argparse
import json
import re
import sqlite3
import sys
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from dump import PROGRESS, RETENTION, Dump, Part, Row, Unusable, milliseconds
from rules import (
    CLAIM_CODES,
    COMMAND_CODES,
    COUPON_ID,
    MALFORMED,
    TIMESTAMP_MS_MAX,
    Coupon,
    Json,
    NewerVersion,
    Undecodable,
    decode,
    fold,
    genesis,
    link,
)
from shelf import Shelf, Shelves, side_by_side

PROMISES = ("NO-OVERSELL", "ONE-EACH", "FIRST-COME", "ONE-OUTCOME", "DURABLE-ACK", "AGREE")
LEDGER = ("granted", "rejected", "deferred", "undecided", "dead_lettered")
DAY_MS, DEAD_LETTER_BYTES_MAX, DEAD_LETTER_KEY_BYTES_MAX = 86_400_000, 64 * 1024, 1024

# What an outcome says: about its record, and in answer to it. The chain is compared apart, unknown fields are ignored.
RECORD_FIELDS = (
    *("v", "src_offset", "appended_at", "invalid_reason", "claim_id", "command_id", "coupon_id"),
    *("user_id", "round", "slot", "kind", "actor", "reason"),
)
ANSWER_FIELDS = ("code", "final", "decided_offset", "issue_no", "user_nth", "rank", "granted_claim_id")
OUTCOME_FIELDS = (*RECORD_FIELDS, *ANSWER_FIELDS, "refusal", "state", "rules", "remaining")


@dataclass
class Line:
    """A partition: what its records had to be answered, and what they were answered. Keys are claims offsets."""

    partition: int
    start: int  # where the claims log begins
    records: Part
    coupons: dict[str, Coupon] = field(default_factory=dict)
    wanted: MutableMapping[int, Json] = field(default_factory=dict)
    found: MutableMapping[int, bytes] = field(default_factory=dict)  # the first copies, as they stand in the log
    found_from: int = 0  # where the outcomes begin that are still there
    decided: int = 0  # the first offset without an outcome

    @property
    def is_whole(self) -> bool:
        """The claims log begins at 0: all can be recomputed. Else the outcomes log is believed, as far as it goes."""
        return self.start == 0

    @property
    def proven_from(self) -> int:
        return 0 if self.is_whole else self.found_from

    def answer(self, src: int) -> Json | None:
        """What the record was answered first."""
        copy = self.found.get(src)
        return None if copy is None else json.loads(copy)

    def truth(self, src: int) -> Json | None:
        return self.wanted.get(src) if self.is_whole else self.answer(src)

    def truths(self, next_src: int) -> Iterator[tuple[int, Json]]:
        for src, outcome in (self.wanted if self.is_whole else self.found).items():
            if self.proven_from <= src < next_src:
                yield src, outcome if self.is_whole else json.loads(outcome)

    def link(self, next_src: int) -> str | None:
        """The chain behind the outcomes below `next_src`, if the last of them is still there."""
        if next_src == 0:
            return genesis(self.partition)
        last = self.answer(next_src - 1)
        return None if last is None else str(last["chain"])


def is_new(outcome: Json) -> bool:
    return bool(outcome["decided_offset"] == outcome["src_offset"])


def is_answer(outcome: Json) -> bool:
    """A new answer to a claim that is remembered: none of an unknown or a retired coupon."""
    forgotten = outcome.get("code") in ("unknown_coupon", "closed", "already_issued") and not outcome.get("final")
    return outcome.get("code") in CLAIM_CODES and not forgotten and is_new(outcome)


def coupon_of(cells: Json) -> str:
    """The coupon of a wanted row, as tables spell it."""
    named = str(cells.get("claim_id") or cells.get("coupon_id") or "").partition(".")[0]
    return as_uuid(named) if named.startswith("c") and "-" in named[:6] else named


def differing(found: Json, wanted: Json, names: Iterable[str]) -> str:
    wrong = [name for name in names if found.get(name) != wanted.get(name)]
    said = [f"{name} is {found.get(name)!r}, not {wanted.get(name)!r}" for name in wrong if name != "user_id"]
    return ", ".join([*said, *("user_id is another" for name in wrong if name == "user_id")])  # a report names nobody


def is_cell(name: str, cell: str, wanted: object) -> bool:
    """Whether a table's cell says `wanted`; moments are milliseconds."""
    if wanted is None or cell == "":
        return cell == "" and wanted in (None, "")
    if name.endswith("_at"):
        return milliseconds(cell) == wanted
    if isinstance(wanted, bool):
        return cell == ("t" if wanted else "f")
    return bool(json.loads(cell) == wanted) if isinstance(wanted, dict) else cell == str(wanted)


def as_uuid(spelled: str) -> str:
    """A coupon id or a command id as the tables keep it."""
    return str(uuid.UUID(re.split("[-.]", spelled)[-1]))


@dataclass
class IssuedRows:
    """What there is to know of the rows of one coupon in issued_coupons."""

    numbers: Shelf
    held: Shelf  # how many each user holds
    count: int = 0
    most_held: int = 0

    def add(self, row: Row) -> None:
        self.count += 1
        self.numbers[str(int(row["issue_no"]))] = None
        self.held[row["user_id"]] = held = self.held.get(row["user_id"], 0) + 1
        self.most_held = max(self.most_held, held)

    def are_numbered_in_turn(self) -> bool:
        return len(self.numbers) == self.count and all(str(n) in self.numbers for n in range(1, self.count + 1))


class Audit:
    """What a dump breaks: promise, place and finding of each violation."""

    def __init__(self, dump: Dump, quiet: bool) -> None:
        self.dump, self.quiet = dump, quiet
        self.violations: list[tuple[str, str, str]] = []
        self.notes: list[str] = []
        self.compared: Counter[str] = Counter()
        self.shelf = Shelves().shelf  # what there is of each claim is in there
        self.lines = {
            partition: Line(partition, start, log, wanted=self.shelf(), found=self.shelf())
            for partition, (start, log) in sorted(dump.claims.items())
        }
        self.letters = self.shelf()  # key and bytes of each copy in the DLQ, by partition and offset of its origin
        for record in dump.topics["dlq"]:
            resolves = "resolution" in record.headers  # says what was done about a letter
            if record.headers.get("origin_topic") == dump.claims_topic.encode() and not resolves:
                origin = (record.headers.get(name) or b"" for name in ("origin_partition", "origin_offset"))
                self.letters[b" ".join(origin).decode(errors="surrogateescape")] = (record.key, record.value)
        for line in self.lines.values():
            self.recompute(line)
            self.compare_outcomes(line)
            self.count_grants(line)
            self.compare_dead_letters(line)
            new = self.granted_since(line)
            self.compare_tables(line, new)
            self.count_coupons(line.partition, new)
            new.clear()
        for name, rows in dump.tables.items():
            for partition in rows.keys() - self.lines.keys():
                self.broken("AGREE", f"table {name}", f"has {len(rows[partition])} rows of partition {partition}")
        self.compare_topics()
        self.compare_view()
        self.ledger = self.count_ledger()

    def broken(self, promise: str, place: str, finding: str) -> None:
        self.violations.append((promise, place, finding))

    def late(self, promise: str, place: str, finding: str) -> None:
        """Lag: no harm while the system works, a broken promise where it is said to be at rest."""
        if self.quiet:
            self.broken(promise, place, finding)
        else:
            self.notes.append(f"{place}: {finding}")

    # ---- The logs

    def recompute(self, line: Line) -> None:
        for record in line.records:
            src, now = record.offset, record.timestamp_ms
            try:
                line.wanted[src] = fold(line.partition, line.coupons, src, now, record.value, self.shelf)
            except NewerVersion as newer:
                self.notes.append(f"partition {line.partition}: halts at {src}, {newer} is newer than these rules")
                break
        self.compared["records folded"] += len(line.wanted) if line.is_whole else 0

    def compare_outcomes(self, line: Line) -> None:
        start, records = self.dump.outcomes.get(line.partition, (0, []))
        next_src: int | None = 0 if start == 0 else None
        newest: tuple[int | None, str] = (None, "")  # the outcome before this one, most often: its place and its link
        for record in records:
            place = f"partition {line.partition}, outcomes offset {record.offset}"
            try:
                outcome = json.loads(record.value or b"")
                src, chain = outcome["src_offset"], outcome["chain"]
                previous = newest[1] if src - 1 == newest[0] else line.link(src)
                follows = link(previous or chain, outcome) == chain or previous is None
            except MALFORMED as error:
                self.broken("ONE-OUTCOME", place, f"is no outcome: {error!r}")
                continue
            place = f"partition {line.partition}, claims offset {src}"
            first = line.found.setdefault(src, record.value)
            if first is not record.value:
                self.compared["later copies"] += 1
                if first != record.value:
                    self.broken("ONE-OUTCOME", place, f"its copy at outcomes offset {record.offset} is another answer")
                continue
            if next_src is None:
                next_src = line.found_from = src
            if src > next_src:
                self.broken("ONE-OUTCOME", place, f"the outcomes of {next_src} to {src - 1} are missing before it")
            if not follows:
                self.broken("AGREE", place, f"its chain {chain} does not follow from {previous}")
            newest, next_src = (src, str(chain)), max(next_src, src + 1)
            self.compare_outcome(line, place, outcome, line.wanted.get(src))
        self.compared["outcomes"] += len(line.found)
        if next_src is None:  # retention took them all: only PostgreSQL knows how far they went
            next_src = line.found_from = self.reflected(line.partition)[1]
        line.decided, end = next_src, line.start + len(line.records)
        if line.decided < line.start:
            lost = f"claims offsets {line.decided} to {line.start - 1} were deleted before they were decided"
            self.broken("DURABLE-ACK", f"partition {line.partition}", lost)
        if line.decided < end:
            self.late("ONE-OUTCOME", f"partition {line.partition}", f"{end - line.decided} records are undecided")
        if not line.is_whole:
            note = f"the claims log begins at {line.start}: proven from {line.proven_from} on, without the fold"
            self.notes.append(f"partition {line.partition}: {note}")
        elif line.found_from > 0:
            note = f"the outcomes log begins with the answer to {line.found_from}"
            self.notes.append(f"partition {line.partition}: {note}")

    def compare_outcome(self, line: Line, place: str, found: Json, wanted: Json | None) -> None:
        if wanted is None:
            if found["src_offset"] >= line.start:
                self.broken("AGREE", place, "is answered, but is no record of the claims log that can be decided")
            return
        wrong = differing(found, wanted, OUTCOME_FIELDS if line.is_whole else RECORD_FIELDS)
        if wrong:
            one_won = line.is_whole and (found["code"] == "granted") != (wanted["code"] == "granted")
            self.broken("FIRST-COME" if one_won else "AGREE", place, f"{wanted.get('claim_id', 'its answer')}: {wrong}")

    def count_grants(self, line: Line) -> None:
        """What must hold of the answers whatever the fold says."""
        finals, held, grants = self.shelf(), self.shelf(), Counter[str]()
        for src, copy in line.found.items():
            outcome = json.loads(copy)
            if outcome["code"] not in CLAIM_CODES or not outcome["final"]:
                continue
            place, claim_id = f"partition {line.partition}, claims offset {src}", outcome["claim_id"]
            first = finals.setdefault(claim_id, {name: outcome.get(name) for name in ANSWER_FIELDS})
            changed = differing(outcome, first, ANSWER_FIELDS)
            if changed:
                self.broken("ONE-OUTCOME", place, f"{claim_id} already had another final outcome: {changed}")
            coupon = line.coupons.get(claim_id.partition(".")[0])
            if outcome["code"] == "granted" and is_new(outcome) and coupon is not None and line.is_whole:
                whole, holder = coupon.coupon_id, f"{coupon.coupon_id} {outcome['user_id']}"
                grants[whole] += 1
                holds = held[holder] = held.get(holder, 0) + 1
                self.compared["grants"] += 1
                quantity = (coupon.state(src) or {"quantity": 0})["quantity"]
                if grants[whole] > quantity:
                    self.broken("NO-OVERSELL", place, f"{claim_id} is grant {grants[whole]} of {quantity}")
                limit = coupon.definition["per_user_limit"]
                if holds > limit:
                    self.broken("ONE-EACH", place, f"{claim_id} is grant {holds} of {limit} for this user")
        finals.clear()
        held.clear()

    def letter(self, partition: int, src: int) -> tuple[bytes | None, bytes | None] | None:
        """Key and bytes of a record's copy in the DLQ."""
        return self.letters.get(f"{partition} {src}")

    def compare_dead_letters(self, line: Line) -> None:
        """What cannot be read is parked: its bytes stand in the DLQ before its outcome says so."""
        for origin, (src, wanted) in zip(line.records, line.wanted.items(), strict=False):  # none behind a halt
            place, letter = f"partition {line.partition}, claims offset {src}", self.letter(line.partition, src)
            if wanted["code"] != "invalid":
                if letter is not None:
                    self.broken("AGREE", place, "has a copy in the DLQ, but can be read")
            elif letter is not None:
                kept = None if origin.value is None else origin.value[:DEAD_LETTER_BYTES_MAX]
                self.compared["dead letters"] += 1
                key, value = letter
                if (value, key or b"") != (kept, (origin.key or b"")[:DEAD_LETTER_KEY_BYTES_MAX]):
                    self.broken("ONE-OUTCOME", place, "its copy in the DLQ has other bytes")
            elif src < line.decided:
                self.broken("ONE-OUTCOME", place, "is invalid, but has no copy in the DLQ")

    def compare_topics(self) -> None:
        """coupon.state is the fold at the offset that it names, coupon.persisted names links of the chain."""
        for name in ("state", "persisted"):
            for record in self.dump.topics[name]:
                line, wrong = self.lines.get(record.partition), ""
                if record.value is None or line is None:
                    continue
                try:
                    said = json.loads(record.value)
                    next_src = said["next_src"] if name == "persisted" else said.get("decided_offset", -1) + 1
                    if next_src > line.decided:
                        wrong = f"reflects {next_src}, the outcomes log {line.decided}"
                    elif name == "persisted":
                        is_link = line.link(next_src) in (None, said["chain"])
                        wrong = "" if is_link else "its chain is not the log's"
                    elif "partition" in said:
                        wrong = "" if said["partition"] == record.partition else "is of another partition"
                    elif line.is_whole:
                        wanted = line.coupons[said["coupon_id"]].state(next_src) or {}
                        wrong = differing(said, wanted, sorted({*said, *wanted} - {"v", "decided_offset"}))
                except MALFORMED as error:
                    wrong = f"cannot be so: {error!r}"
                self.compared[f"{name} records"] += 1
                if wrong:
                    self.broken("AGREE", f"{name} {record.partition}, offset {record.offset}", wrong)

    # ---- PostgreSQL, at its own watermark

    def reflected(self, partition: int) -> tuple[int, int]:
        """The first offset that the tables did not reflect before they were read, and behind that."""
        rows = [[int(row["next_src"]) for row in self.dump.tables[name][partition]] for name in PROGRESS]
        before, after = (max(said, default=0) for said in rows)
        if after < before:
            raise Unusable(f"partition {partition}: PostgreSQL was put back in time while it was read")
        return before, after

    def true_to(self, partition: int) -> dict[str, int]:
        """Up to where each row of `coupons` was true when it was read."""
        before, after = self.reflected(partition)
        true_to = {row["coupon_id"]: int(row["next_src"] or 0) for row in self.dump.tables["coupons"][partition]}
        if any(not before <= at <= after for at in true_to.values()):
            raise Unusable(f"partition {partition}: rows of coupons are of no moment between {before} and {after}")
        return true_to

    def granted_since(self, line: Line) -> Shelf:
        """The claims granted while the tables were read; of each, whether its coupon's row knows nothing of it."""
        before, after = self.reflected(line.partition)
        granted, true_to = self.shelf(), self.true_to(line.partition)
        for src, outcome in line.truths(after) if before < after else ():
            if src >= before and outcome["code"] == "granted" and is_answer(outcome):
                granted[outcome["claim_id"]] = src >= true_to.get(as_uuid(outcome["coupon_id"]), before)
        return granted

    def compare_tables(self, line: Line, new: Shelf) -> None:
        partition, (before, next_src) = line.partition, self.reflected(line.partition)
        if next_src != line.decided:
            finding = f"PostgreSQL reflects {next_src}, the outcomes log {line.decided}"
            (self.broken if next_src > line.decided else self.late)("AGREE", f"partition {partition}", finding)
        if before < next_src:
            finding = f"PostgreSQL went from {before} to {next_src} while it was read"
            self.late("AGREE", f"partition {partition}", finding)
        commands, parked, issued = self.shelf(), self.shelf(), self.shelf()
        for src, outcome in line.truths(next_src):
            if outcome["code"] in COMMAND_CODES and is_new(outcome) and outcome.get("state"):  # the coupon is known
                commands[src] = outcome
            if outcome["code"] == "invalid" and outcome.get("claim_id"):
                parked[src] = parked_row(outcome)
            if outcome["code"] == "granted" and is_answer(outcome):
                issued[outcome["claim_id"]] = issued_row(line, outcome)
        for row in self.rows_before(line):  # what the claims table alone still knows
            if row["code"] == "granted":
                outcome = row | {"appended_at": milliseconds(row["appended_at"])}
                issued[outcome["claim_id"]] = issued_row(line, outcome)
        answers = ((src, claim_row(outcome)) for src, outcome in line.truths(next_src) if is_answer(outcome))

        def came_later(src: int) -> bool:
            return src >= before

        self.compare_rows(line, "claims", "src_offset", answers, came_later)
        for table, row_of in (("commands", command_row), ("audit_events", audit_row)):
            rows = ((src, row_of(outcome)) for src, outcome in commands.items())
            self.compare_rows(line, table, "src_offset", rows, came_later)
        self.compare_rows(line, "parked_claims", "src_offset", parked.items(), came_later)
        self.compare_rows(line, "issued_coupons", "claim_id", issued.items(), new.__contains__)
        issued.clear()
        if line.is_whole:
            true_to, wanted = self.true_to(partition), {}
            for coupon in line.coupons.values():
                coupon_id = as_uuid(coupon.coupon_id)
                at = true_to.get(coupon_id, before)
                if coupon.state(at):
                    wanted[coupon_id] = coupon_row(line, coupon, at)
            self.compare_rows(line, "coupons", "coupon_id", sorted(wanted.items()))
        for table, at in zip(PROGRESS, (before, next_src), strict=True):
            last = line.truth(at - 1) if at > line.proven_from else None
            if last is not None:
                progress = {"last_record_id": last.get("claim_id") or last.get("command_id")}
                progress["last_appended_at"] = last["appended_at"]
                if at - 1 in line.found:
                    progress["chain"] = f"\\x{line.link(at)}"
                self.compare_rows(line, table, "partition", [(partition, progress)])

    def rows_before(self, line: Line) -> Iterator[Row]:
        """The claims table's rows of what the logs do not prove any more."""
        rows = self.dump.tables["claims"][line.partition] if line.proven_from > 0 else ()
        return (row for row in rows if int(row["src_offset"]) < line.proven_from)

    def compare_rows(
        self,
        line: Line,
        table: str,
        key: str,
        wanted: Iterable[tuple[Any, Json]],
        came_later: Callable[[Any], bool] = lambda _: False,
    ) -> None:
        """A table's rows with those that are wanted, which are sorted by key. One that came later than the first look
        at the tables need not be there."""
        rows = self.shelf()
        for row in self.dump.tables[table][line.partition]:
            if key != "src_offset" or int(row[key]) >= line.proven_from:
                rows[row[key] if key.endswith("_id") else int(row[key])] = row
        self.compared[f"rows of {table}"] += len(rows)
        _, deleted = self.deleted(line.partition, table)
        missing, extra, changed = [], [], []
        for identity, cells, row in side_by_side(wanted, rows.items()):
            place = f"table {table}, {key} {identity}"
            if cells is None:
                promise = "FIRST-COME" if table == "issued_coupons" else "AGREE"
                extra.append((promise, place, "is there, but nothing below the watermark made it"))
            elif row is None:
                if came_later(identity):
                    continue
                coupon_id = coupon_of(cells)
                if deleted[coupon_id] > 0:
                    deleted[coupon_id] -= 1
                    continue
                missing.append(("AGREE", place, "is not there, though below the watermark"))
            else:
                wrong = {name: row[name] for name in cells if not is_cell(name, row[name], cells[name])}
                if wrong:
                    changed.append(("AGREE", place, differing(wrong, cells, wrong)))
        for violation in (*missing, *extra, *changed):
            self.broken(*violation)
        rows.clear()

    def deleted(self, partition: int, table: str) -> tuple[Counter[str], Counter[str]]:
        """How many rows of each coupon retention had deleted before the tables were read, and behind that."""
        columns = {"claims": ("losing_claims", "issued_coupons"), "parked_claims": ("losing_claims",), "issued_coupons": ("issued_coupons",)}
        names = columns.get(table, ())
        rows = (self.dump.tables[name][partition] for name in RETENTION)
        before, after = (Counter({row["coupon_id"]: sum(int(row[n]) for n in names) for row in read}) for read in rows)
        return before, after

    def count_coupons(self, partition: int, new: Shelf) -> None:
        """What must hold of the issued coupons whatever the log says, as far as their coupons' rows know of them."""
        issued: dict[str, IssuedRows] = defaultdict(lambda: IssuedRows(numbers=self.shelf(), held=self.shelf()))
        for row in self.dump.tables["issued_coupons"][partition]:
            if not new.get(row["claim_id"], False):
                issued[as_uuid(row["coupon_id"])].add(row)
        none = IssuedRows(numbers=self.shelf(), held=self.shelf())
        before, after = self.deleted(partition, "issued_coupons")
        for coupon in self.dump.tables["coupons"][partition]:
            rows, place = issued.pop(coupon["coupon_id"], none), f"table coupons, coupon_id {coupon['coupon_id']}"
            if max(rows.count, int(coupon["issued"])) > int(coupon["quantity"]):
                self.broken("NO-OVERSELL", place, f"{rows.count} of {coupon['quantity']} are issued")
            fewest, deleted = before[coupon["coupon_id"]], after[coupon["coupon_id"]]
            if not fewest <= int(coupon["issued"]) - rows.count <= deleted:
                self.broken("AGREE", place, f"issued is {coupon['issued']}, and {rows.count} coupons are issued")
            if not deleted and not rows.are_numbered_in_turn():
                self.broken("FIRST-COME", place, f"the issue numbers are not 1..{rows.count}")
            limit, most = int(coupon["per_user_limit"]), rows.most_held
            if most > limit:
                self.broken("ONE-EACH", place, f"one user holds {most} of {limit}")
        for coupon_id in issued:
            self.broken("AGREE", f"table issued_coupons, {coupon_id}", "belongs to no coupon")

    # ---- Redis

    def compare_view(self) -> None:
        pattern = re.compile(rf".*coupon:\{{({COUPON_ID})\}}(?::[0-9]+)?", re.DOTALL)
        finals: dict[str, Shelf] = defaultdict(self.shelf)  # the macs of each coupon's claims
        views: dict[str, dict[str, str]] = {}
        for item in self.dump.view():
            key = pattern.fullmatch(item["key"])
            if key is None:
                continue
            if item["type"] != "bucket":
                views[key[1]] = item["value"]
                continue
            line = self.lines.get(int(key[1][1:].partition("-")[0]))
            for mac, value in item["value"].items():
                if bytes.fromhex(mac).startswith(b"push."):
                    continue
                answer = read_answer(key[1], mac, bytes.fromhex(value))
                wrong = "its partition does not exist" if line is None else wrong_answer(line, answer)
                self.compared["answers in Redis"] += 1
                if answer and answer["final"]:
                    finals[key[1]][mac] = True
                if wrong:
                    self.broken("AGREE", f"{item['key']}, {mac}", wrong)
        if self.quiet and self.dump.redis is not None:
            for line in self.lines.values():
                for coupon in line.coupons.values() if line.is_whole else ():
                    self.compare_whole_view(line, coupon, views.get(coupon.coupon_id), finals[coupon.coupon_id])

    def compare_whole_view(self, line: Line, coupon: Coupon, view: dict[str, str] | None, finals: Shelf) -> None:
        expired = view is None and self.dump.taken_at >= coupon.definition["closes_at"]
        if coupon.status == "retired" or expired:
            return
        wanted = {"watermark": str(line.decided), "remaining": str(coupon.remaining)}
        wanted |= {"status": coupon.status, "round": str(coupon.round)}
        wrong = differing(view or {}, wanted, wanted)
        both = side_by_side(coupon.finals.items(), finals.items())
        missing = (mac for mac, wanted, found in both if wanted and not found)
        first = next(missing, None)
        self.compared["whole views"] += 1
        if wrong or first:
            lacking = f"{1 + sum(1 for _ in missing)} final answers are missing, such as {first}" if first else ""
            self.broken("AGREE", f"the view of {coupon.coupon_id}", " · ".join(filter(None, [wrong, lacking])))

    # ---- The ledger

    def count_ledger(self) -> Json:
        """Each distinct claim of the claims log by its final answer, else by its latest."""
        claims = self.shelf()  # of each: is it in the log, is a record of it undecided, has it a final answer, which
        unknown = (False, False, False, None)
        for line in self.lines.values():
            for row in self.rows_before(line):
                is_accepted, waits, is_final, state = claims.get(row["claim_id"], unknown)
                if not is_final:
                    is_final, state = row["final"] == "t", ledger_state(row["code"])
                claims[row["claim_id"]] = (is_accepted, waits, is_final, state)
            for src, wanted, copy in side_by_side(line.wanted.items(), line.found.items()):
                claim_id = wanted and wanted.get("claim_id")
                if claim_id is None:
                    continue
                _, waits, is_final, state = claims.get(claim_id, unknown)
                answer = json.loads(copy) if copy else wanted if line.is_whole and src < line.found_from else None
                if answer is None:
                    waits = waits or src >= line.decided
                elif not is_final and (answer["code"] != "invalid" or self.letter(line.partition, src)):
                    is_final, state = bool(answer.get("final")), ledger_state(answer["code"])
                claims[claim_id] = (True, waits, is_final, state)
            if len(line.wanted) < len(line.records):
                for record in islice(line.records, len(line.wanted), None):  # what is behind a halt
                    claim_id = named(record.value)
                    if claim_id is not None:
                        _, _, is_final, state = claims.get(claim_id, unknown)
                        claims[claim_id] = (True, True, is_final, state)
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for claim_id, (is_accepted, waits, _, state) in claims.items():
            if is_accepted:
                of_coupon = counts[claim_id.partition(".")[0]]
                of_coupon["accepted"] += 1
                of_coupon[state or ("undecided" if waits else "lost")] += 1
        total = sum(counts.values(), Counter())
        if total["lost"]:
            lost = f"{total['lost']} accepted claims have no answer, and are not in the DLQ"
            self.broken("ONE-OUTCOME", "ledger", lost)
        self.ledger_of = {coupon_id: ledger(of_coupon) for coupon_id, of_coupon in counts.items()}
        return ledger(total)

    def expect_accepted(self, low: int, high: int) -> None:
        accepted = self.ledger["accepted"]
        if accepted < low:
            self.broken("DURABLE-ACK", "ledger", f"{low} claims were accepted, {accepted} are in the log")
        if accepted > high:
            self.broken("AGREE", "ledger", f"at most {high} claims were sent, {accepted} are in the log")


VIEW_CODES = ("granted", "sold_out", "already_issued", "closed", "not_open", "paused", "unknown_coupon")


def read_answer(coupon_id: str, mac: str, value: bytes) -> Json | None:
    """An answer as a bucket holds it: README.md of infrastructure-redis names the bytes. None where it is none."""
    rest = iter(value)

    def number() -> int:
        total = shift = 0
        while (byte := next(rest)) >= 0x80:
            total, shift = total | (byte & 0x7F) << shift, shift + 7
        return total | byte << shift

    def eight() -> bytes:
        return bytes(next(rest) for _ in range(8))

    def claim(has_slot: int) -> str:
        return f"{coupon_id}.{next(rest)}.{eight().hex() if has_slot else 0}"

    try:
        flags = next(rest)
        offset = int.from_bytes(eight()) if flags & 0x80 else number()
        answer: Json = {"code": VIEW_CODES[flags & 0x0F], "final": not flags & 0x80, "decided_offset": offset}
        answer["decided_at"] = number()
        answer["claim_id"] = f"{claim(flags & 0x10)}.{mac}"
        for name in ("rank", "issue_no", "user_nth"):
            plus_one = number()
            answer[name] = plus_one - 1 if plus_one else None
        winner = f"{claim(flags & 0x40)}.{(eight() + eight()).hex()}" if flags & 0x20 else None
        answer["granted_claim_id"] = winner
    except (StopIteration, RuntimeError, IndexError):
        return None
    return None if len(mac) != 32 or next(rest, None) is not None else answer


def wrong_answer(line: Line, answer: Json | None) -> str:
    """What is wrong with the answer to a claim that Redis holds."""
    if answer is None:
        return "is no answer"
    src = answer["decided_offset"]
    truth = line.truth(src) or {}
    if src < line.proven_from:
        return ""
    if src >= line.decided or not is_answer(truth):
        return f"says that it was answered at {src}, the log does not"
    wanted = {"claim_id": truth["claim_id"], "decided_at": truth["appended_at"]}
    wanted |= {name: truth.get(name) for name in ANSWER_FIELDS}
    return differing(answer, wanted, wanted)


def named(value: bytes | None) -> str | None:
    """The claim that a record names, whatever becomes of it."""
    try:
        return decode(value).get("claim_id")
    except Undecodable as undecodable:
        return str(undecodable.args[0]) if undecodable.args[0] else None
    except NewerVersion:
        return None


def ledger(counts: Counter[str]) -> Json:
    return {name: counts[name] for name in ("accepted", *LEDGER)}


def ledger_state(code: str) -> str:
    named = {"granted": "granted", "not_open": "deferred", "paused": "deferred", "invalid": "dead_lettered"}
    return named.get(code, "rejected")


# ======== The rows that outcomes make


def claim_row(outcome: Json) -> Json:
    names = ("claim_id", "coupon_id", "user_id", "round", "appended_at", *ANSWER_FIELDS)
    return {name: outcome.get(name) for name in names if name != "decided_offset"}


def parked_row(outcome: Json) -> Json:
    coupon_id = outcome["claim_id"].partition(".")[0]
    return {"coupon_id": as_uuid(coupon_id), "claim_mac": as_uuid(outcome["claim_id"])}


def command_row(outcome: Json) -> Json:
    row: Json = {"coupon_id": as_uuid(outcome["coupon_id"]), "command_mac": as_uuid(outcome["command_id"])}
    row |= {name: outcome.get(name) for name in ("kind", "code", "refusal", "appended_at")}
    row["version"] = outcome["state"]["version"]
    return row


def audit_row(outcome: Json) -> Json:
    row = command_row(outcome) | {name: outcome.get(name) for name in ("actor", "reason", "state")}
    return {name: cell for name, cell in row.items() if name not in ("refusal", "version")}


def issued_row(line: Line, outcome: Json) -> Json:
    row = {name: outcome.get(name) for name in ("claim_id", "coupon_id", "user_id", "user_nth", "issue_no")}
    row["issued_at"] = outcome["appended_at"]
    if line.is_whole:
        expiry = line.coupons[outcome["coupon_id"]].definition.get("expiry", {})
        row["expires_at"] = expiry.get("at")
        if "days_after_issue" in expiry:
            row["expires_at"] = min(row["issued_at"] + expiry["days_after_issue"] * DAY_MS, TIMESTAMP_MS_MAX)
    return row


def coupon_row(line: Line, coupon: Coupon, next_src: int) -> Json:
    state = coupon.state(next_src) or {}
    definition, last, published = state["definition"], state["last_command"], coupon.changes[0][0]
    same = ("name", "per_user_limit", "opens_at", "closes_at", "rules", "key_id")
    row = {name: definition[name] for name in same} | {"initial_quantity": definition["quantity"]}
    row |= {name: state.get(name) for name in ("status", "round", "quantity", "issued", "version", "last_grant_offset")}
    expiry = definition.get("expiry", {})
    row |= {"expires_at": expiry.get("at"), "expires_after_days": expiry.get("days_after_issue")}
    row |= {"last_command_mac": as_uuid(last["command_id"]), "last_command_code": last["code"]}
    row |= {"published_offset": published, "published_at": line.wanted[published]["appended_at"]}
    return row | {"coupon_id": as_uuid(coupon.coupon_id)}


# ======== The report


def report(audit: Audit) -> Json:
    counts = Counter(promise for promise, _, _ in audit.violations)
    lines = {
        str(line.partition): {
            "records": len(line.records),
            "decided": line.decided,
            "in_postgres": audit.reflected(line.partition)[1],
            "proven_from": line.proven_from,
            "folded": line.is_whole,
        }
        for line in audit.lines.values()
    }
    return {
        "promises": {promise: counts[promise] for promise in PROMISES},
        "violations": [dict(zip(("promise", "place", "finding"), found, strict=True)) for found in audit.violations],
        "ledger": audit.ledger,
        "coupons": dict(sorted(audit.ledger_of.items())),
        "partitions": lines,
        "compared": dict(sorted(audit.compared.items())),
        "notes": audit.notes,
    }


def print_ledger(name: str, ledger: Json) -> None:
    print(f"{name}: accepted {ledger['accepted']} =", " + ".join(f"{state} {ledger[state]}" for state in LEDGER))


def print_report(found: Json, coupons: Iterable[str]) -> None:
    for violation in found["violations"]:
        print(f"{violation['promise']}: {violation['place']}: {violation['finding']}")
    for note in found["notes"]:
        print(f"note: {note}")
    print("compared:", ", ".join(f"{count} {what}" for what, count in found["compared"].items()))
    print_ledger("ledger", found["ledger"])
    for coupon_id in coupons:
        print_ledger(coupon_id, found["coupons"].get(coupon_id, ledger(Counter())))
    broken = ", ".join(f"{promise} {count}" for promise, count in found["promises"].items() if count)
    print(f"oracle: {len(found['violations'])} violations: {broken}" if broken else "oracle: every promise holds")


def accepted_range(spelled: str) -> tuple[int, int]:
    low, _, high = spelled.partition("..")
    return int(low), int(high or low)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Recomputes from a dump who had to win, and compares.")
    parser.add_argument("dump", type=Path, help="a directory that `couponctl dump` wrote")
    parser.add_argument("--quiet", action="store_true", help="the system is at rest: lag is a violation")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--coupon", action="append", default=[], metavar="ID", help="print this coupon's ledger, too")
    parser.add_argument("--expect-accepted", type=accepted_range, metavar="N|N..M", help="distinct claims in the log")
    options = parser.parse_args(arguments)
    try:
        audit = Audit(Dump(options.dump), options.quiet)
    except (Unusable, OSError, OverflowError, sqlite3.Error, *MALFORMED) as error:
        print(f"oracle: the dump cannot be used: {error!r}", file=sys.stderr)
        return 2
    if options.expect_accepted is not None:
        audit.expect_accepted(*options.expect_accepted)
    found = report(audit)
    if options.json:
        json.dump(found, sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        print_report(found, options.coupon)
    return 1 if audit.violations else 0


if __name__ == "__main__":
    sys.exit(main())
