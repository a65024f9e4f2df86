#!/usr/bin/env python3
"""Recomputes from a dump who had to win, and compares that with everything the system says.

Exit code 0: nothing found, 1: broken promises, 2: the dump cannot be used. README.md says what is compared, rules.py
how it is decided, dump.py what a dump is.
"""

import argparse
import json
import re
import sys
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dump import Dump, Record, Row, Unusable, milliseconds
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
    records: list[Record]
    coupons: dict[str, Coupon] = field(default_factory=dict)
    wanted: dict[int, Json] = field(default_factory=dict)
    found: dict[int, Json] = field(default_factory=dict)  # the first copies
    found_from: int = 0  # where the outcomes begin that are still there
    decided: int = 0  # the first offset without an outcome

    @property
    def is_whole(self) -> bool:
        """The claims log begins at 0: all can be recomputed. Else the outcomes log is believed, as far as it goes."""
        return self.start == 0

    @property
    def proven_from(self) -> int:
        return 0 if self.is_whole else self.found_from

    def truths(self, next_src: int) -> dict[int, Json]:
        truth = self.wanted if self.is_whole else self.found
        return {src: outcome for src, outcome in truth.items() if self.proven_from <= src < next_src}

    def link(self, next_src: int) -> str | None:
        """The chain behind the outcomes below `next_src`, if the last of them is still there."""
        if next_src == 0:
            return genesis(self.partition)
        return str(self.found[next_src - 1]["chain"]) if next_src - 1 in self.found else None


def is_new(outcome: Json) -> bool:
    return bool(outcome["decided_offset"] == outcome["src_offset"])


def is_answer(outcome: Json) -> bool:
    """A new answer to a claim that is remembered: none of an unknown or a retired coupon."""
    forgotten = outcome.get("code") in ("unknown_coupon", "closed") and not outcome.get("final")
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


class Audit:
    """What a dump breaks: promise, place and finding of each violation."""

    def __init__(self, dump: Dump, quiet: bool) -> None:
        self.dump, self.quiet = dump, quiet
        self.violations: list[tuple[str, str, str]] = []
        self.notes: list[str] = []
        self.compared: Counter[str] = Counter()
        self.lines = {partition: Line(partition, start, log) for partition, (start, log) in sorted(dump.claims.items())}
        self.letters: dict[tuple[bytes | None, bytes | None], Record] = {}
        for record in dump.topics["dlq"]:
            resolves = "resolution" in record.headers  # says what was done about a letter
            if record.headers.get("origin_topic") == dump.claims_topic.encode() and not resolves:
                self.letters[record.headers.get("origin_partition"), record.headers.get("origin_offset")] = record
        for line in self.lines.values():
            self.recompute(line)
            self.compare_outcomes(line)
            self.count_grants(line)
            self.compare_dead_letters(line)
            self.compare_tables(line)
            self.count_coupons(line.partition)
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
                line.wanted[src] = fold(line.partition, line.coupons, src, now, record.value)
            except NewerVersion as newer:
                self.notes.append(f"partition {line.partition}: halts at {src}, {newer} is newer than these rules")
                break
        self.compared["records folded"] += len(line.wanted) if line.is_whole else 0

    def compare_outcomes(self, line: Line) -> None:
        start, records = self.dump.outcomes.get(line.partition, (0, []))
        next_src: int | None = 0 if start == 0 else None
        copies: dict[int, bytes | None] = {}
        for record in records:
            place = f"partition {line.partition}, outcomes offset {record.offset}"
            try:
                outcome = json.loads(record.value or b"")
                src, chain = outcome["src_offset"], outcome["chain"]
                previous = line.link(src)
                follows = link(previous or chain, outcome) == chain or previous is None
            except MALFORMED as error:
                self.broken("ONE-OUTCOME", place, f"is no outcome: {error!r}")
                continue
            place = f"partition {line.partition}, claims offset {src}"
            if src in copies:
                self.compared["later copies"] += 1
                if copies[src] != record.value:
                    self.broken("ONE-OUTCOME", place, f"its copy at outcomes offset {record.offset} is another answer")
                continue
            if next_src is None:
                next_src = line.found_from = src
            if src > next_src:
                self.broken("ONE-OUTCOME", place, f"the outcomes of {next_src} to {src - 1} are missing before it")
            if not follows:
                self.broken("AGREE", place, f"its chain {chain} does not follow from {previous}")
            copies[src], line.found[src], next_src = record.value, outcome, max(next_src, src + 1)
            self.compare_outcome(line, place, outcome, line.wanted.get(src))
        self.compared["outcomes"] += len(line.found)
        if next_src is None:  # retention took them all: only PostgreSQL knows how far they went
            next_src = line.found_from = self.reflected(line.partition)
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
        finals: dict[str, Json] = {}
        grants: Counter[tuple[str, ...]] = Counter()
        for src, outcome in sorted(line.found.items()):
            if outcome["code"] not in CLAIM_CODES or not outcome["final"]:
                continue
            place, claim_id = f"partition {line.partition}, claims offset {src}", outcome["claim_id"]
            changed = differing(outcome, finals.setdefault(claim_id, outcome), ANSWER_FIELDS)
            if changed:
                self.broken("ONE-OUTCOME", place, f"{claim_id} already had another final outcome: {changed}")
            coupon = line.coupons.get(claim_id.partition(".")[0])
            if outcome["code"] == "granted" and is_new(outcome) and coupon is not None and line.is_whole:
                whole, holder = (coupon.coupon_id,), (coupon.coupon_id, outcome["user_id"])
                grants.update([whole, holder])
                self.compared["grants"] += 1
                quantity = (coupon.state(src) or {"quantity": 0})["quantity"]
                if grants[whole] > quantity:
                    self.broken("NO-OVERSELL", place, f"{claim_id} is grant {grants[whole]} of {quantity}")
                limit = coupon.definition["per_user_limit"]
                if grants[holder] > limit:
                    self.broken("ONE-EACH", place, f"{claim_id} is grant {grants[holder]} of {limit} for this user")

    def letter(self, partition: int, src: int) -> Record | None:
        return self.letters.get((str(partition).encode(), str(src).encode()))

    def compare_dead_letters(self, line: Line) -> None:
        """What cannot be read is parked: its bytes stand in the DLQ before its outcome says so."""
        for src, wanted in line.wanted.items():
            place, letter = f"partition {line.partition}, claims offset {src}", self.letter(line.partition, src)
            if wanted["code"] != "invalid":
                if letter is not None:
                    self.broken("AGREE", place, "has a copy in the DLQ, but can be read")
            elif letter is not None:
                origin = line.records[src - line.start]
                kept = None if origin.value is None else origin.value[:DEAD_LETTER_BYTES_MAX]
                self.compared["dead letters"] += 1
                if (letter.value, letter.key or b"") != (kept, (origin.key or b"")[:DEAD_LETTER_KEY_BYTES_MAX]):
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
                    next_src = said["next_src"] if name == "persisted" else said["decided_offset"] + 1
                    if next_src > line.decided:
                        wrong = f"reflects {next_src}, the outcomes log {line.decided}"
                    elif name == "persisted":
                        is_link = line.link(next_src) in (None, said["chain"])
                        wrong = "" if is_link else "its chain is not the log's"
                    elif line.is_whole:
                        wanted = line.coupons[said["coupon_id"]].state(next_src) or {}
                        wrong = differing(said, wanted, sorted({*said, *wanted} - {"v", "decided_offset"}))
                except MALFORMED as error:
                    wrong = f"cannot be so: {error!r}"
                self.compared[f"{name} records"] += 1
                if wrong:
                    self.broken("AGREE", f"{name} {record.partition}, offset {record.offset}", wrong)

    # ---- PostgreSQL, at its own watermark

    def reflected(self, partition: int) -> int:
        return max((int(row["next_src"]) for row in self.dump.tables["partition_progress"][partition]), default=0)

    def compare_tables(self, line: Line) -> None:
        partition, next_src = line.partition, self.reflected(line.partition)
        if next_src != line.decided:
            finding = f"PostgreSQL reflects {next_src}, the outcomes log {line.decided}"
            (self.broken if next_src > line.decided else self.late)("AGREE", f"partition {partition}", finding)
        truths = line.truths(next_src)
        answers = {src: claim_row(outcome) for src, outcome in truths.items() if is_answer(outcome)}
        commands = {
            src: outcome
            for src, outcome in truths.items()
            if outcome["code"] in COMMAND_CODES and is_new(outcome) and outcome.get("state")  # the coupon is known
        }
        self.compare_rows(line, "claims", "src_offset", answers)
        self.compare_rows(line, "commands", "src_offset", {src: command_row(o) for src, o in commands.items()})
        self.compare_rows(line, "audit_events", "src_offset", {src: audit_row(o) for src, o in commands.items()})
        parked = {src: parked_row(o) for src, o in truths.items() if o["code"] == "invalid" and o.get("claim_id")}
        self.compare_rows(line, "parked_claims", "src_offset", parked)
        granted = [truths[src] for src, row in answers.items() if row["code"] == "granted"]
        granted += [  # what the claims table alone still knows
            row | {"appended_at": milliseconds(row["appended_at"])}
            for row in self.dump.tables["claims"][partition]
            if row["code"] == "granted" and int(row["src_offset"]) < line.proven_from
        ]
        self.compare_rows(line, "issued_coupons", "claim_id", {o["claim_id"]: issued_row(line, o) for o in granted})
        if line.is_whole:
            rows = (coupon_row(line, coupon, next_src) for coupon in line.coupons.values() if coupon.state(next_src))
            self.compare_rows(line, "coupons", "coupon_id", {row["coupon_id"]: row for row in rows})
        if next_src - 1 in truths:
            last = truths[next_src - 1]
            progress = {"last_record_id": last.get("claim_id") or last.get("command_id")}
            progress["last_appended_at"] = last["appended_at"]
            if next_src - 1 in line.found:
                progress["chain"] = f"\\x{line.link(next_src)}"
            self.compare_rows(line, "partition_progress", "partition", {partition: progress})

    def compare_rows(self, line: Line, table: str, key: str, wanted: dict[Any, Json]) -> None:
        rows: dict[Any, Row] = {}
        for row in self.dump.tables[table][line.partition]:
            if key != "src_offset" or int(row[key]) >= line.proven_from:
                rows[row[key] if key.endswith("_id") else int(row[key])] = row
        self.compared[f"rows of {table}"] += len(rows)
        deleted = self.deleted(line.partition, table)
        for missing in sorted(wanted.keys() - rows.keys()):
            coupon_id = coupon_of(wanted[missing])
            if deleted[coupon_id] > 0:
                deleted[coupon_id] -= 1
                continue
            self.broken("AGREE", f"table {table}, {key} {missing}", "is not there, though below the watermark")
        for extra in sorted(rows.keys() - wanted.keys()):
            promise = "FIRST-COME" if table == "issued_coupons" else "AGREE"
            self.broken(promise, f"table {table}, {key} {extra}", "is there, but nothing below the watermark made it")
        for same in sorted(wanted.keys() & rows.keys()):
            row, cells = rows[same], wanted[same]
            wrong = {name: row[name] for name in cells if not is_cell(name, row[name], cells[name])}
            if wrong:
                self.broken("AGREE", f"table {table}, {key} {same}", differing(wrong, cells, wrong))

    def deleted(self, partition: int, table: str) -> Counter[str]:
        """How many rows of each coupon retention has deleted from a table."""
        columns = {"claims": ("losing_claims", "issued_coupons"), "parked_claims": ("losing_claims",), "issued_coupons": ("issued_coupons",)}
        rows = self.dump.tables["coupon_retention"][partition]
        return Counter({row["coupon_id"]: sum(int(row[name]) for name in columns.get(table, ())) for row in rows})

    def count_coupons(self, partition: int) -> None:
        """What must hold of the issued coupons whatever the log says."""
        issued: dict[str, list[Row]] = defaultdict(list)
        for row in self.dump.tables["issued_coupons"][partition]:
            issued[as_uuid(row["coupon_id"])].append(row)
        for coupon in self.dump.tables["coupons"][partition]:
            rows, place = issued.pop(coupon["coupon_id"], []), f"table coupons, coupon_id {coupon['coupon_id']}"
            if max(len(rows), int(coupon["issued"])) > int(coupon["quantity"]):
                self.broken("NO-OVERSELL", place, f"{len(rows)} of {coupon['quantity']} are issued")
            deleted = self.deleted(partition, "issued_coupons")[coupon["coupon_id"]]
            if len(rows) + deleted != int(coupon["issued"]):
                self.broken("AGREE", place, f"issued is {coupon['issued']}, and {len(rows)} coupons are issued")
            if not deleted and sorted(int(row["issue_no"]) for row in rows) != list(range(1, len(rows) + 1)):
                self.broken("FIRST-COME", place, f"the issue numbers are not 1..{len(rows)}")
            limit = int(coupon["per_user_limit"])
            most = max(Counter(row["user_id"] for row in rows).values(), default=0)
            if most > limit:
                self.broken("ONE-EACH", place, f"one user holds {most} of {limit}")
        for coupon_id in issued:
            self.broken("AGREE", f"table issued_coupons, {coupon_id}", "belongs to no coupon")

    # ---- Redis

    def compare_view(self) -> None:
        pattern = re.compile(rf".*coupon:\{{({COUPON_ID})\}}(?::[0-9]+)?", re.DOTALL)
        finals: dict[str, set[str]] = defaultdict(set)  # the macs of each coupon's claims
        views: dict[str, dict[str, str]] = {}
        for item in self.dump.redis or []:
            key = pattern.fullmatch(item["key"])
            if key is None:
                continue
            if item["type"] != "bucket":
                views[key[1]] = item["value"]
                continue
            line = self.lines.get(int(key[1][1:].partition("-")[0]))
            for mac, value in item["value"].items():
                if bytes.fromhex(mac).startswith(b"push.") and not value:
                    continue
                answer = read_answer(key[1], mac, bytes.fromhex(value))
                wrong = "its partition does not exist" if line is None else wrong_answer(line, answer)
                self.compared["answers in Redis"] += 1
                if answer and answer["final"]:
                    finals[key[1]].add(mac)
                if wrong:
                    self.broken("AGREE", f"{item['key']}, {mac}", wrong)
        if self.quiet and self.dump.redis is not None:
            for line in self.lines.values():
                for coupon in line.coupons.values() if line.is_whole else ():
                    self.compare_whole_view(line, coupon, views.get(coupon.coupon_id), finals[coupon.coupon_id])

    def compare_whole_view(self, line: Line, coupon: Coupon, view: dict[str, str] | None, finals: set[str]) -> None:
        expired = view is None and self.dump.taken_at >= coupon.definition["closes_at"]
        if coupon.status == "retired" or expired:
            return
        wanted = {"watermark": str(line.decided), "remaining": str(coupon.remaining)}
        wanted |= {"status": coupon.status, "round": str(coupon.round)}
        wrong = differing(view or {}, wanted, wanted)
        missing = coupon.finals.keys() - finals
        self.compared["whole views"] += 1
        if wrong or missing:
            lacking = f"{len(missing)} final answers are missing, such as {min(missing)}" if missing else ""
            self.broken("AGREE", f"the view of {coupon.coupon_id}", " · ".join(filter(None, [wrong, lacking])))

    # ---- The ledger

    def count_ledger(self) -> Json:
        """Each distinct claim of the claims log by its final answer, else by its latest."""
        latest: dict[str, tuple[bool, str]] = {}  # final or not, and what the ledger calls it
        accepted: set[str] = set()
        waiting: set[str] = set()

        def settle(claim_id: str, final: bool, state: str) -> None:
            if not latest.get(claim_id, (False,))[0]:
                latest[claim_id] = (final, state)

        for line in self.lines.values():
            for row in self.dump.tables["claims"][line.partition]:
                if int(row["src_offset"]) < line.proven_from:
                    settle(row["claim_id"], row["final"] == "t", ledger_state(row["code"]))
            for src, wanted in line.wanted.items():
                claim_id = wanted.get("claim_id")
                if claim_id is None:
                    continue
                accepted.add(claim_id)
                answer = line.found.get(src) or (wanted if line.is_whole and src < line.found_from else None)
                if answer is None:
                    waiting.update([claim_id] if src >= line.decided else [])
                elif answer["code"] != "invalid" or self.letter(line.partition, src):
                    settle(claim_id, bool(answer.get("final")), ledger_state(answer["code"]))
            behind = (named(record.value) for record in line.records[len(line.wanted) :])
            behind_a_halt = {claim_id for claim_id in behind if claim_id is not None}
            accepted |= behind_a_halt
            waiting |= behind_a_halt
        states = {claim_id: state for claim_id, (_, state) in latest.items() if claim_id in accepted}
        states |= dict.fromkeys(waiting - latest.keys(), "undecided")
        lost = len(accepted) - len(states)
        if lost:
            self.broken("ONE-OUTCOME", "ledger", f"{lost} accepted claims have no answer, and are not in the DLQ")
        by_coupon: dict[str, list[str]] = defaultdict(list)
        for claim_id in accepted:
            by_coupon[claim_id.partition(".")[0]].append(claim_id)
        self.ledger_of = {coupon_id: add_up(claims, states) for coupon_id, claims in by_coupon.items()}
        return add_up(accepted, states)

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
    truth = (line.wanted if line.is_whole else line.found).get(src, {})
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


def add_up(accepted: Iterable[str], states: dict[str, str]) -> Json:
    claims = list(accepted)
    counts = Counter(states[claim_id] for claim_id in claims if claim_id in states)
    return {"accepted": len(claims)} | {state: counts[state] for state in LEDGER}


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
            "in_postgres": audit.reflected(line.partition),
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
        print_ledger(coupon_id, found["coupons"].get(coupon_id, add_up([], {})))
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
    except (Unusable, *MALFORMED) as error:
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
