"""The oracle against logs whose outcomes are known, and against dumps with one planted fault each."""

import base64
import contextlib
import csv
import io
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import dump as dumps
import oracle
import rules
import shelf

GOLDEN = Path(__file__).parent / "../../coupon-domain/golden"
OPENS_AT, CLOSES_AT = 1_767_225_600_000, 1_767_312_000_000
COUPON = "c0-0192f3c0a1b27c3d8e4f5a6b7c8d9e0f"
Json = dict[str, Any]


def b64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def moment(ms: int | None) -> str:
    """As PostgreSQL prints it."""
    if ms is None:
        return ""
    text = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{ms % 1000:03}".rstrip("0").rstrip(".") + "+00" if ms % 1000 else f"{text}+00"


def claim(user: str, coupon: str = COUPON, round_no: int = 0, slot: str = "0") -> Json:
    mac = uuid.uuid5(uuid.NAMESPACE_OID, f"{coupon} {user} {round_no} {slot}").hex
    ids = {"claim_id": f"{coupon}.{round_no}.{slot}.{mac}", "coupon_id": coupon}
    return {"v": 1, **ids, "user_id": user, "round": round_no, "slot": slot, "received_at": 1}


def command(kind: str, number: int, coupon: str = COUPON, **fields: Any) -> Json:
    ids = {"command_id": f"{coupon}.{number:032x}", "coupon_id": coupon}
    return {"v": 1, **ids, "kind": kind, **fields, "actor": "ops@example.org"}


def publish(quantity: int, limit: int = 1, coupon: str = COUPON, number: int = 1, **fields: Any) -> Json:
    window = {"opens_at": OPENS_AT, "closes_at": CLOSES_AT}
    definition = {"name": "Tea", "quantity": quantity, "per_user_limit": limit, **window, "rules": 1, "key_id": "k1"}
    return command("publish", number, coupon, definition=definition | fields)


def view_value(outcome: Json) -> bytes:
    """An answer as a bucket holds it."""

    def number(of: int) -> bytes:
        return bytes([of]) if of < 0x80 else bytes([of & 0x7F | 0x80]) + number(of >> 7)

    def of_claim(claim_id: str) -> tuple[bool, bytes]:
        _, round_no, slot, _ = claim_id.split(".")
        return slot != "0", bytes([int(round_no)]) + (b"" if slot == "0" else bytes.fromhex(slot))

    has_slot, own = of_claim(outcome["claim_id"])
    won = outcome.get("granted_claim_id")
    winner_has_slot, winner = of_claim(won) if won else (False, b"")
    flags = oracle.VIEW_CODES.index(outcome["code"]) | 0x10 * has_slot | 0x20 * bool(won) | 0x40 * winner_has_slot
    offset = outcome["decided_offset"]
    head = bytes([flags]) + number(offset) if outcome["final"] else bytes([flags | 0x80]) + offset.to_bytes(8)
    counts = [outcome.get(name) for name in ("rank", "issue_no", "user_nth")]
    body = number(outcome["appended_at"]) + own + b"".join(number(0 if n is None else n + 1) for n in counts)
    return head + body + winner + bytes.fromhex(won.rpartition(".")[2] if won else "")


class Dump:
    """A right dump of one partition, to plant faults in. `outcomes` may be changed, then chained and stored anew."""

    def __init__(self, records: list[tuple[int, Json | bytes]], partition: int = 0) -> None:
        self.partition = partition
        self.coupons: dict[str, rules.Coupon] = {}
        self.claims_start = self.outcomes_start = 0  # what is before was taken by retention
        self.claims = [(ms, v if isinstance(v, bytes) else json.dumps(v).encode()) for ms, v in records]
        self.outcomes = [
            rules.fold(partition, self.coupons, src, ms, value) for src, (ms, value) in enumerate(self.claims)
        ]
        self.chain()
        self.store(len(self.outcomes))

    def chain(self) -> None:
        link = rules.genesis(self.partition)
        for outcome in self.outcomes:
            link = outcome["chain"] = rules.link(link, outcome)

    def store(self, next_src: int) -> None:
        """Fills all stores from the outcomes below `next_src`."""
        line = oracle.Line(self.partition, 0, [], self.coupons, dict(enumerate(self.outcomes)))
        self.copies: list[Json] = list(self.outcomes)
        self.tables: dict[str, list[Json]] = {name: [] for name in COLUMNS}
        self.redis: dict[str, Json] = {}
        self.dead: list[Json] = []
        for outcome in self.outcomes:
            if outcome["code"] == "invalid":
                headers = {"origin_partition": self.partition, "origin_offset": outcome["src_offset"]}
                self.dead.append({"headers": headers, "value": self.claims[outcome["src_offset"]][1]})
        for outcome in self.outcomes[:next_src]:
            place = {"src_partition": self.partition, "src_offset": outcome["src_offset"]}
            if oracle.is_answer(outcome):
                self.tables["claims"].append(place | oracle.claim_row(outcome))
                self.view(outcome)
                if outcome["code"] == "granted":
                    self.tables["issued_coupons"].append({"code": "X"} | oracle.issued_row(line, outcome))
            elif outcome["code"] == "invalid" and outcome.get("claim_id"):
                self.tables["parked_claims"].append(place | oracle.parked_row(outcome))
            elif oracle.is_new(outcome) and outcome.get("state"):
                self.tables["commands"].append(place | oracle.command_row(outcome))
                self.tables["audit_events"].append(place | oracle.audit_row(outcome))
        for coupon in self.coupons.values():
            if coupon.state(next_src):
                row = oracle.coupon_row(line, coupon, next_src)
                self.tables["coupons"].append({"partition": self.partition, "next_src": next_src} | row)
                hashed = {"watermark": str(next_src), "remaining": str(coupon.remaining)}
                hashed |= {"status": coupon.status, "round": str(coupon.round)}
                self.redis[coupon.coupon_id] = {
                    "key": f"t.coupon:{{{coupon.coupon_id}}}",
                    "type": "hash",
                    "value": hashed,
                }
        last = self.outcomes[next_src - 1]
        progress: Json = {"partition": self.partition, "next_src": next_src, "next_outcome_offset": next_src, "beat": 9}
        progress |= {"chain": f"\\x{last['chain']}", "last_appended_at": last["appended_at"]}
        progress["last_record_id"] = last.get("claim_id") or last.get("command_id")
        self.tables["partition_progress"], self.tables["partition_progress_after"] = [progress], [dict(progress)]

    def store_meanwhile(self, before: int, between: int, after: int) -> None:
        """Tables that were read while they were written: coupons stood at `between`, issued coupons were read last."""
        self.store(before)
        first = self.tables["partition_progress"]
        self.store(between)
        read = {name: self.tables[name] for name in ("coupons", "claims", "parked_claims")}
        self.store(after)
        self.tables |= read | {"partition_progress": first}

    def view(self, outcome: Json) -> None:
        coupon_id, _, rest = outcome["claim_id"].partition(".")
        mac = rest.rpartition(".")[2]
        held = {b"push.0000000000000001".hex(): b"1".hex(), mac: view_value(outcome).hex()}
        key = f"t.coupon:{{{coupon_id}}}:{len(self.redis)}"
        self.redis[outcome["claim_id"]] = {"key": key, "type": "bucket", "value": held}

    def write(self, path: Path) -> None:
        def lines(name: str, items: list[Json]) -> None:
            (path / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))

        def records(values: list[Json]) -> list[Json]:
            common: Json = {"partition": self.partition, "timestamp_ms": 1, "key": None, "headers": {}}
            return [common | {"offset": offset} | value for offset, value in enumerate(values)]

        claims = [{"timestamp_ms": ms, "value": b64(value)} for ms, value in self.claims]
        lines("claims", records(claims)[self.claims_start :])
        outcomes = [{"value": b64(json.dumps(outcome).encode())} for outcome in self.copies]
        lines("outcomes", records(outcomes)[self.outcomes_start :])
        states = [coupon.state(10**9) for coupon in self.coupons.values()]
        decided = {"v": 1, "decided_offset": len(self.outcomes) - 1}
        states = [state | decided for state in states if state] + [decided | {"partition": self.partition}]
        lines("state", records([{"value": b64(json.dumps(state).encode())} for state in states]))
        watermark = {"v": 1, "next_src": len(self.outcomes), "chain": self.outcomes[-1]["chain"]}
        lines("persisted", records([{"value": b64(json.dumps(watermark).encode())}]))
        topic = {"origin_topic": "t.coupon.claims"}
        letters = [(letter["value"], topic | letter["headers"]) for letter in self.dead]
        packed = [(value, {name: b64(str(text).encode()) for name, text in head.items()}) for value, head in letters]
        lines("dlq", records([{"value": b64(value), "headers": headers} for value, headers in packed]))
        lines("redis", list(self.redis.values()))
        bounds = {
            "claims": [{"partition": self.partition, "start": self.claims_start, "end": len(self.claims)}],
            "outcomes": [{"partition": self.partition, "start": self.outcomes_start, "end": len(self.copies)}],
        }
        (path / "bounds.json").write_text(json.dumps(bounds))
        meta = {"partitions": 1, "topic_prefix": "t.", "taken_at": "2026-01-01T12:00:00Z"}
        (path / "meta.json").write_text(json.dumps(meta))
        for name, rows in self.tables.items():
            with (path / f"{name}.csv").open("w", newline="") as file:
                table = csv.writer(file)
                columns = COLUMNS[name].split()
                table.writerow(columns)
                table.writerows([cell(column, row.get(column)) for column in columns] for row in rows)


COLUMNS = {
    "claims": "src_partition src_offset claim_id coupon_id user_id round code final rank issue_no user_nth "
    "granted_claim_id appended_at",
    "issued_coupons": "claim_id coupon_id user_id user_nth issue_no code issued_at expires_at used_at order_ref",
    "coupons": "coupon_id partition name initial_quantity per_user_limit opens_at closes_at expires_at "
    "expires_after_days rules key_id status round quantity issued version last_command_mac last_command_code "
    "last_grant_offset published_offset published_at next_src",
    "parked_claims": "src_partition src_offset coupon_id claim_mac",
    "commands": "command_mac coupon_id src_partition src_offset kind code refusal version appended_at",
    "coupon_retention": "partition coupon_id losing_claims issued_coupons",
    "coupon_retention_after": "partition coupon_id losing_claims issued_coupons",
    "partition_progress": "partition next_src next_outcome_offset chain beat last_record_id last_appended_at",
    "partition_progress_after": "partition next_src next_outcome_offset chain beat last_record_id last_appended_at",
    "audit_events": "src_partition src_offset coupon_id command_mac kind code actor reason state appended_at",
}


def cell(column: str, value: Any) -> str:
    if column.endswith("_at"):
        return moment(value)
    if isinstance(value, bool):
        return "t" if value else "f"
    return json.dumps(value) if isinstance(value, dict) else "" if value is None else str(value)


def small_dump() -> Dump:
    """Two coupons for four users, one double click, one too early, one record of garbage."""
    early, now = OPENS_AT - 1, OPENS_AT + 5
    users = [(now, claim(user)) for user in ("ann", "bob", "ann", "cy", "dan")]
    return Dump([(early, publish(2)), (early, claim("ann")), *users, (now, b"garbage")])


class OracleTest(unittest.TestCase):
    def run_oracle(self, dump: Dump, *options: str) -> tuple[int, Json]:
        with tempfile.TemporaryDirectory() as path, contextlib.redirect_stdout(io.StringIO()) as output:
            dump.write(Path(path))
            code = oracle.main([path, "--json", *options])
        return code, json.loads(output.getvalue())

    def assert_finds(self, dump: Dump, *promises: str, options: tuple[str, ...] = ("--quiet",)) -> Json:
        code, report = self.run_oracle(dump, *options)
        found = sorted({violation["promise"] for violation in report["violations"]})
        self.assertEqual(found, sorted(promises), report["violations"])
        self.assertEqual(code, 1 if promises else 0)
        return report


class TheRules(unittest.TestCase):
    def test_the_golden_logs_give_the_golden_outcomes_and_their_chains(self) -> None:
        for number in range(1, rules.RULES_NEWEST + 1):
            coupons: dict[str, rules.Coupon] = {}
            link = rules.genesis(3)
            log = (GOLDEN / f"log_rules_{number}.txt").read_bytes().splitlines()
            wanted = (GOLDEN / f"log_rules_{number}.outcomes.jsonl").read_bytes().splitlines()
            self.assertEqual(len(log), len(wanted))
            for src, line in enumerate(log):
                appended_at, _, value = line.partition(b" ")
                outcome = rules.fold(3, coupons, src, int(appended_at), value)
                link = outcome["chain"] = rules.link(link, outcome)
                self.assertEqual(outcome, json.loads(wanted[src]), f"rules {number}, offset {src}")

    def decide(self, *records: tuple[int, Json | bytes]) -> list[str]:
        return [outcome["code"] for outcome in Dump([(OPENS_AT + at, record) for at, record in records]).outcomes]

    def test_the_first_in_line_win_and_the_same_user_only_once(self) -> None:
        users = [(1, claim(user)) for user in ("ann", "ann", "bob", "cy")]
        codes = self.decide((-1, publish(2)), *users, (1, claim("ann", round_no=1)))
        self.assertEqual(codes, ["applied", "granted", "granted", "granted", "sold_out", "already_issued"])

    def test_each_answer_comes_in_its_order(self) -> None:
        day = CLOSES_AT - OPENS_AT
        codes = self.decide(
            (-2, claim("ann")),
            (-2, publish(1, limit=2)),
            (-2, command("pause", 2)),
            (-1, claim("ann")),
            (0, claim("ann")),
            (0, command("resume", 3)),
            (0, claim("ann")),
            (0, claim("bob")),
            (0, command("restock", 4, delta=5)),
            (0, claim("bob")),
            (0, claim("ann", round_no=1, slot="00000000000000a1")),
            (0, claim("ann", round_no=1)),
            (0, claim("ann", round_no=1, slot="00000000000000a2")),
            (day, claim("cy")),
            (day, command("retire", 5)),
            (day, claim("ann")),
        )
        wanted = "unknown_coupon applied applied not_open paused applied granted sold_out applied sold_out granted"
        self.assertEqual(codes, [*wanted.split(), "already_issued", "already_issued", "closed", "applied", "closed"])

    def test_a_restock_adds_a_round_and_never_takes_what_is_granted(self) -> None:
        dump = Dump(
            [
                (OPENS_AT, publish(2)),
                (OPENS_AT, command("restock", 2, delta=-2)),
                (OPENS_AT, claim("ann")),
                (OPENS_AT, command("restock", 3, delta=-1)),
                (OPENS_AT, command("restock", 4, delta=-1)),
                (OPENS_AT, command("restock", 5, delta=1)),
                (OPENS_AT, command("restock", 5, delta=1)),
                (OPENS_AT, command("restock", 6, delta=1, expected_version=9)),
                *((OPENS_AT, command("restock", 10 + count, delta=1)) for count in range(31)),
                (OPENS_AT, command("restock", 50, delta=9_999_999)),
            ]
        )
        answers = [
            (o["code"], o.get("refusal"), o["state"]["round"], o["remaining"]) for o in dump.outcomes if "kind" in o
        ]
        wanted = [("applied", None, 0, 2), ("refused", "below_issued", 0, 2), ("applied", None, 0, 0)]
        wanted += [("refused", "below_issued", 0, 0), ("applied", None, 1, 1), ("applied", None, 1, 1)]
        wanted += [("version_mismatch", None, 1, 1), ("applied", None, 2, 2)]
        self.assertEqual(answers[:8], wanted)
        self.assertEqual(answers[-3], ("applied", None, 31, 31))
        self.assertEqual(answers[-2], ("refused", "rounds_exhausted", 31, 31))
        self.assertEqual(answers[-1], ("refused", "above_quantity_max", 31, 31))

    def test_what_is_out_of_range_is_invalid(self) -> None:
        good = claim("ann")
        bad = [good | {"user_id": user} for user in ("", "x" * 129, "a\x00b", "a\x85b", "\ud800", 7)]
        bad += [good | {"round": 1}, good | {"slot": "00000000000000ff"}, good | {"received_at": -1}]
        bad += [good | {"v": 0}, good | {"v": 1.0}, good | {"v": True}, {"v": 1}, publish(0), publish(10_000_001)]
        bad += [publish(1, name=" "), publish(1, expiry={"at": 1, "days_after_issue": 1}), publish(1, key_id="K")]
        bad += [command("restock", 1, delta=0), command("pause", 1, delta=1), command("explode", 1)]
        texts = [json.dumps(record).encode() for record in bad]
        whole = json.dumps(good).encode()
        texts += [b"", b"[]", b"nul", whole[:-1], whole + b" " * 8192, b"\xef\xbb\xbf" + whole, b"[" * 8000]
        texts += [whole.replace(b'"v": 1', b'"v": 1, "v": 1'), whole.replace(b'"v": 1', b'"v": 1, "x": NaN')]
        for text in texts:
            with self.subTest(text=text[:200]), self.assertRaises(rules.Undecodable):
                rules.decode(text)
        self.assertEqual(rules.decode(whole.replace(b'"v": 1', b'"v": 1, "later": {"x": [1, 2]}')), good)
        nested = b"[" * 3_900 + b"]" * 3_900
        self.assertEqual(rules.decode(whole.replace(b'"v": 1', b'"v": 1, "later": ' + nested)), good)

    def test_a_newer_version_is_never_invalid(self) -> None:
        for record in (claim("ann") | {"v": 2}, {"v": 3}, publish(1, rules=rules.RULES_NEWEST + 1)):
            with self.assertRaises(rules.NewerVersion):
                rules.decode(json.dumps(record).encode())


class ADump(OracleTest):
    def test_of_a_right_system_holds_every_promise(self) -> None:
        report = self.assert_finds(small_dump(), options=("--quiet", "--expect-accepted", "4"))
        ledger = {"accepted": 4, "granted": 2, "rejected": 2, "deferred": 0, "undecided": 0, "dead_lettered": 0}
        self.assertEqual(report["ledger"], ledger)
        self.assertEqual(list(report["coupons"].values()), [ledger])
        self.assertEqual(report["compared"]["rows of issued_coupons"], 2)
        self.assertEqual(report["compared"]["whole views"], 1)

    def test_of_the_golden_logs_holds_every_promise(self) -> None:
        for number, granted, retired in ((1, 6, ("9e0f",)), (2, 8, ("9e0f", "9e10"))):
            log = [line.partition(b" ") for line in (GOLDEN / f"log_rules_{number}.txt").read_bytes().splitlines()]
            dump = Dump([(int(appended_at), value) for appended_at, _, value in log], partition=3)
            outcomes = (GOLDEN / f"log_rules_{number}.outcomes.jsonl").read_text().splitlines()
            self.assertEqual(dump.outcomes, [json.loads(outcome) for outcome in outcomes])
            live = {name: item for name, item in dump.redis.items() if not any(end in name for end in retired)}
            dump.redis = live
            report = self.assert_finds(dump)
            self.assertEqual(report["ledger"]["granted"], granted)
            self.assertEqual(report["ledger"]["dead_lettered"], 1)

    def test_with_later_copies_holds_every_promise(self) -> None:
        dump = small_dump()
        dump.copies += dump.outcomes[2:5]
        self.assertEqual(self.assert_finds(dump)["compared"]["later copies"], 3)

    def test_of_a_working_system_shows_lag_and_breaks_nothing(self) -> None:
        dump = small_dump()
        dump.copies = dump.outcomes[:6]
        dump.store(4)
        dump.copies = dump.outcomes[:6]
        dump.outcomes = dump.outcomes[:6]
        report = self.assert_finds(dump, options=())
        self.assertEqual(len(report["notes"]), 2, report["notes"])
        self.assertEqual(report["ledger"]["undecided"], 1)
        self.assert_finds(dump, "ONE-OUTCOME", "AGREE", options=("--quiet",))

    def test_of_tables_that_were_written_while_they_were_read_breaks_nothing(self) -> None:
        whole = len(small_dump().outcomes)
        for before in range(1, whole + 1):
            for between in range(before, whole + 1):
                for after in range(between, whole + 1):
                    with self.subTest(before=before, between=between, after=after):
                        dump = small_dump()
                        dump.store_meanwhile(before, between, after)
                        self.assert_finds(dump, options=())
        dump = small_dump()
        dump.store_meanwhile(2, 4, whole)
        self.assert_finds(dump, "AGREE", options=("--quiet",))

    def test_of_tables_that_were_written_while_they_were_read_shows_what_is_wrong(self) -> None:
        def lacks(table: str) -> Callable[[Dump], Any]:
            return lambda dump: dump.tables[table].pop(0)

        def has(table: str, column: str, value: Any) -> Callable[[Dump], Any]:
            return lambda dump: dump.tables[table][-1].update({column: value})

        faults: list[tuple[Callable[[Dump], Any], tuple[str, ...]]] = [
            (lacks("claims"), ("AGREE",)),
            (lacks("issued_coupons"), ("AGREE",)),
            (lacks("coupons"), ("AGREE",)),
            (has("claims", "code", "closed"), ("AGREE",)),
            (has("claims", "src_offset", 6), ("AGREE",)),
            (has("issued_coupons", "user_id", "eve"), ("AGREE",)),
            (has("coupons", "issued", 2), ("AGREE",)),
        ]
        for number, (fault, promises) in enumerate(faults):
            with self.subTest(fault=number):
                dump = small_dump()
                # Bob's grant is at 3: the coupon's row knows of ann's alone, and his row is there already.
                dump.store_meanwhile(3, 3, 6)
                fault(dump)
                self.assert_finds(dump, *promises, options=())

    def test_of_rows_that_retention_deleted_meanwhile_holds_every_promise(self) -> None:
        for gone, told, promises in ((1, (0, 1), ()), (1, (0, 2), ()), (1, (1, 1), ()), (2, (0, 1), ("AGREE",))):
            with self.subTest(gone=gone, told=told):
                dump = small_dump()
                won = [row for row in dump.tables["claims"] if row["code"] == "granted"][:gone]
                dump.tables["claims"] = [row for row in dump.tables["claims"] if row not in won]
                del dump.tables["issued_coupons"][:gone]
                of_coupon = {"partition": 0, "coupon_id": oracle.as_uuid(COUPON), "losing_claims": 0}
                for table, issued in zip(dumps.RETENTION, told, strict=True):
                    dump.tables[table] = [of_coupon | {"issued_coupons": issued}]
                self.assert_finds(dump, *promises)

    def test_of_a_store_that_went_back_in_time_cannot_be_used(self) -> None:
        for before, between, after in ((5, 4, 4), (3, 5, 4)):
            dump = small_dump()
            dump.store_meanwhile(before, between, after)
            with tempfile.TemporaryDirectory() as path, contextlib.redirect_stderr(io.StringIO()):
                dump.write(Path(path))
                self.assertEqual(oracle.main([path]), 2)

    def test_of_a_partition_that_halts_shows_what_stands_behind(self) -> None:
        dump = small_dump()
        dump.claims += [(OPENS_AT, json.dumps({"v": 2}).encode()), (OPENS_AT, json.dumps(claim("eve")).encode())]
        report = self.assert_finds(dump, options=())
        self.assertEqual((report["ledger"]["accepted"], report["ledger"]["undecided"]), (5, 1))
        self.assert_finds(dump, "ONE-OUTCOME", options=("--quiet",))

    def test_whose_log_was_cut_says_from_where_it_proves(self) -> None:
        dump = small_dump()
        dump.claims_start, dump.outcomes_start = 3, 2
        report = self.assert_finds(dump, options=())
        self.assertEqual((report["partitions"]["0"]["folded"], report["partitions"]["0"]["proven_from"]), (False, 2))
        self.assertEqual(report["ledger"]["granted"], 2, "ann's grant is known from the table")
        dump.tables["coupons"][0]["issued"] = 1
        self.assert_finds(dump, "AGREE", options=())
        dump.tables["coupons"][0]["issued"] = 2
        dump.tables["issued_coupons"].pop()
        self.assert_finds(dump, "AGREE", options=())

    def test_that_is_torn_cannot_be_used(self) -> None:
        with tempfile.TemporaryDirectory() as path, contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(oracle.main([path]), 2)
            small_dump().write(Path(path))
            self.assertEqual(len((Path(path) / "claims.jsonl").read_text().splitlines()), 8)
            lines = (Path(path) / "claims.jsonl").read_text().splitlines(keepends=True)
            (Path(path) / "claims.jsonl").write_text("".join(lines[:-1]))
            self.assertEqual(oracle.main([path]), 2)

    def test_cannot_be_used_where_the_temporary_file_has_no_room(self) -> None:
        full = sqlite3.OperationalError("database or disk is full")
        with tempfile.TemporaryDirectory() as path, contextlib.redirect_stderr(io.StringIO()) as said:
            small_dump().write(Path(path))
            with mock.patch.object(shelf.Shelf, "added", side_effect=full):
                self.assertEqual(oracle.main([path]), 2)
        self.assertIn("disk is full", said.getvalue())

    def test_a_hundred_thousand_claims_are_judged_in_time_and_in_little_memory(self) -> None:
        """A part wins, each tenth clicks twice, each tenth wants a second one: of each what it costs to remember."""
        claims: list[Json] = []
        for number in range(84_000):
            claims.append(claim(f"user-{number}"))
            if number % 10 == 1:
                claims.append(claims[number // 2])
            if number % 10 == 2:
                claims.append(claim(f"user-{number // 3}", slot="00000000000000a1"))
        crowd = Dump([(OPENS_AT - 1, publish(20_000)), *((OPENS_AT + 1, record) for record in claims)])
        self.assertGreater(len(claims), 100_000)
        few, _ = self.peak_bytes_and_seconds(small_dump())
        many, elapsed = self.peak_bytes_and_seconds(crowd)
        self.assertLess((many - few) / len(claims), 512, "a million claims have to fit into 512 MiB")
        # On a machine that is busy with something else; one that compared all with all would take hours.
        self.assertLess(elapsed, 300)

    def peak_bytes_and_seconds(self, dump: Dump) -> tuple[int, float]:
        """Of an oracle in a process of its own. Its ru_maxrss would count this process, too."""
        judge = "import sys, oracle; code = oracle.main(sys.argv[1:])"
        program = f"{judge}; print(open('/proc/self/status').read()); sys.exit(code)"
        with tempfile.TemporaryDirectory() as path:
            dump.write(Path(path))
            started, command_line = time.monotonic(), [sys.executable, "-c", program, path, "--quiet"]
            judged = subprocess.run(command_line, cwd=Path(__file__).parent, capture_output=True, text=True)
            elapsed = time.monotonic() - started
        self.assertEqual(judged.returncode, 0, judged.stdout[:2_000] + judged.stderr)
        peak = next(line for line in judged.stdout.splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024, elapsed

    def test_whose_partitions_stand_mixed_in_a_file_is_read_by_partition(self) -> None:
        record: Json = {"timestamp_ms": 1, "key": None, "headers": {}}
        places = [(0, 5), (1, 0), (1, 1), (0, 6), (2, 3), (0, 7)]
        with tempfile.TemporaryDirectory() as path:
            topic, table = dumps.Topic(Path(path) / "claims.jsonl"), dumps.Table(Path(path) / "commands.csv")
            lines = [record | {"partition": p, "offset": o, "value": b64(b"x" * o)} for p, o in places]
            topic.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
            with table.path.open("w", newline="") as file:
                csv.writer(file).writerows([("partition", "reason"), *((p, f'{o}\r\n\n"{o}') for p, o in places)])
            self.assertEqual([(item.partition, item.offset) for item in topic.learn()], places)
            self.assertEqual(len(list(table.learn())), 6)
            self.assertEqual([(item.partition, item.offset) for item in topic], places)
            self.assertEqual([len(topic.parts[partition]) for partition in range(4)], [3, 2, 1, 0])
            for partition in range(4):
                offsets = [o for p, o in places if p == partition]
                self.assertEqual([item.value for item in topic.parts[partition]], [b"x" * o for o in offsets])
                reasons = [row["reason"] for row in table.parts[partition]]
                self.assertEqual(reasons, [f'{o}\r\n\n"{o}' for o in offsets])


class AShelf(unittest.TestCase):
    def test_is_a_dictionary_sorted_by_its_keys(self) -> None:
        shelves = shelf.Shelves()
        texts = ["b", "a", "ab", "", "é", "\U0001f600", "\uffee", "\ud800", "c" * 5_000]
        numbers = [*range(500, 0, -1), -(2**63), 2**63 - 1]
        for keys in (texts, numbers):
            held, neighbour = shelves.shelf(), shelves.shelf()
            for key in keys:
                neighbour[key] = "another's"
                self.assertIs(held.setdefault(key, key), key)
                held[key] = {"of": key}
            self.assertEqual(list(held.items()), [(key, {"of": key}) for key in sorted(keys)])
            self.assertEqual(held.setdefault(keys[0], None), {"of": keys[0]})
            self.assertEqual(len(held), len(keys))
            del held[keys[0]]
            self.assertEqual((keys[0] in held, keys[1] in held, len(held)), (False, True, len(keys) - 1))
            held.clear()
            self.assertEqual((list(held), len(held), len(list(neighbour))), ([], 0, len(keys)))

    def test_holds_nothing_under_what_is_no_key_of_it(self) -> None:
        held = shelf.Shelves().shelf()
        held[1] = "one"
        for key in (2**70, 1.5, "1"):
            self.assertNotIn(key, held)
        for key in (None, (1, 2)):
            with self.assertRaises(TypeError):
                held[key] = "nothing"

    def test_beside_another_shows_what_each_of_them_lacks(self) -> None:
        pairs = shelf.side_by_side([(1, "a"), (2, "b"), (5, "c")], [(2, "B"), (3, "D")])
        self.assertEqual(list(pairs), [(1, "a", None), (2, "b", "B"), (3, None, "D"), (5, "c", None)])
        self.assertEqual(list(shelf.side_by_side([], [(1, "a")])), [(1, None, "a")])


class APlantedFault(OracleTest):
    """One fault each, and the promises that it breaks."""

    def changed(self, src: int, fields: Json, change: Callable[[Dump], None] | None = None) -> Dump:
        """The system answered otherwise, and everything downstream believed it."""
        dump = small_dump()
        dump.outcomes[src] |= fields
        if change is not None:
            change(dump)
        dump.chain()
        dump.store(len(dump.outcomes))
        return dump

    def test_one_coupon_too_many(self) -> None:
        dump = self.changed(5, {"code": "granted", "issue_no": 3, "user_nth": 1})
        report = self.assert_finds(dump, "NO-OVERSELL", "FIRST-COME", "AGREE")
        oversold = [found for found in report["violations"] if found["promise"] == "NO-OVERSELL"]
        self.assertEqual(len(oversold), 2, "the log and the tables each show it")

    def test_one_coupon_too_many_in_the_table_alone(self) -> None:
        dump = small_dump()
        extra = dump.tables["issued_coupons"][0] | {
            "claim_id": claim("eve")["claim_id"],
            "user_id": "eve",
            "issue_no": 3,
        }
        dump.tables["issued_coupons"].append(extra)
        dump.tables["coupons"][0]["issued"] = 3
        self.assert_finds(dump, "NO-OVERSELL", "FIRST-COME", "AGREE")

    def test_a_winner_who_was_not_first(self) -> None:
        def bob_loses(dump: Dump) -> None:
            dump.outcomes[3]["code"] = "sold_out"
            del dump.outcomes[3]["issue_no"], dump.outcomes[3]["user_nth"]

        dump = self.changed(5, {"code": "granted", "issue_no": 2, "user_nth": 1}, bob_loses)
        report = self.assert_finds(dump, "FIRST-COME", "AGREE")
        places = [found["place"] for found in report["violations"] if found["promise"] == "FIRST-COME"]
        self.assertEqual(places[:2], ["partition 0, claims offset 3", "partition 0, claims offset 5"])

    def test_a_second_coupon_for_one_user(self) -> None:
        dump = self.changed(5, {"user_id": "ann"})
        dump.tables["issued_coupons"][1] |= {"user_id": "ann", "user_nth": 2}
        self.assert_finds(dump, "ONE-EACH", "AGREE")

        def ann_wins_again(dump: Dump) -> None:
            dump.outcomes[3]["user_id"] = "ann"

        report = self.assert_finds(self.changed(3, {"user_nth": 2}, ann_wins_again), "ONE-EACH", "AGREE")
        places = [found["place"] for found in report["violations"] if found["promise"] == "ONE-EACH"]
        self.assertEqual(len(places), 2, "the log and the table each show it")

    def test_a_missing_row(self) -> None:
        for table in ("claims", "commands", "audit_events", "issued_coupons", "coupons"):
            with self.subTest(table=table):
                dump = small_dump()
                dump.tables[table].pop()
                self.assert_finds(dump, "AGREE")

    def test_an_extra_row(self) -> None:
        for table, key in (("claims", "src_offset"), ("commands", "src_offset"), ("audit_events", "src_offset")):
            with self.subTest(table=table):
                dump = small_dump()
                dump.tables[table].append(dump.tables[table][0] | {key: 4})
                self.assert_finds(dump, "AGREE")

    def test_a_row_above_the_watermark(self) -> None:
        dump = small_dump()
        ahead = dump.tables["claims"][-1]
        dump.store(5)
        self.assert_finds(dump, options=())
        dump.tables["claims"].append(ahead)
        self.assert_finds(dump, "AGREE", options=())

    def test_a_changed_row(self) -> None:
        for table, column, value in (
            ("claims", "code", "closed"),
            ("claims", "user_id", "eve"),
            ("claims", "appended_at", OPENS_AT),
            ("issued_coupons", "user_id", "eve"),
            ("issued_coupons", "expires_at", OPENS_AT),
            ("coupons", "version", 2),
            ("coupons", "round", 1),
            ("coupons", "status", "paused"),
            ("commands", "code", "refused"),
            ("audit_events", "actor", "somebody"),
            ("audit_events", "state", {}),
            ("partition_progress", "chain", "\\x00"),
            ("partition_progress_after", "chain", "\\x00"),
            ("partition_progress", "last_record_id", "c0"),
        ):
            with self.subTest(table=table, column=column):
                dump = small_dump()
                dump.tables[table][0][column] = value
                self.assert_finds(dump, "AGREE")

    def test_an_issued_counter_that_is_off(self) -> None:
        dump = small_dump()
        dump.tables["coupons"][0]["issued"] = 1
        self.assert_finds(dump, "AGREE")

    def test_a_number_that_was_issued_twice(self) -> None:
        dump = small_dump()
        dump.tables["issued_coupons"][1]["issue_no"] = 1
        self.assert_finds(dump, "FIRST-COME", "AGREE")

    def test_a_watermark_ahead_of_the_log(self) -> None:
        dump = small_dump()
        dump.copies.pop()
        report = self.assert_finds(dump, "AGREE", options=())
        places = [found["place"] for found in report["violations"]]
        self.assertEqual(places, ["partition 0", "state 0, offset 0", "state 0, offset 1", "persisted 0, offset 0"])

    def test_an_answer_in_redis_ahead_of_the_log(self) -> None:
        dump = small_dump()
        dump.copies = dump.outcomes[:6]
        report = self.assert_finds(dump, "AGREE", options=())
        self.assertTrue(any(found["place"].startswith("t.coupon:{") for found in report["violations"]))

    def test_a_changed_outcome(self) -> None:
        self.assert_finds(self.changed(6, {"code": "closed"}), "AGREE")
        self.assert_finds(self.changed(6, {"rank": 9}), "AGREE")
        self.assert_finds(self.changed(6, {"remaining": 1}), "AGREE")

    def test_a_final_outcome_that_changes(self) -> None:
        dump = self.changed(4, {"code": "sold_out", "decided_offset": 4})
        for name in ("issue_no", "user_nth"):
            del dump.outcomes[4][name]
        dump.chain()
        self.assert_finds(dump, "ONE-OUTCOME", "FIRST-COME", "AGREE")

    def test_a_lost_outcome(self) -> None:
        dump = small_dump()
        del dump.copies[5]
        report = self.assert_finds(dump, "ONE-OUTCOME")
        self.assertIn("the outcomes of 5 to 5 are missing before it", [v["finding"] for v in report["violations"]])
        dump = small_dump()
        del dump.copies[-1]
        self.assert_finds(dump, "ONE-OUTCOME", "AGREE")

    def test_an_outcome_of_no_record(self) -> None:
        dump = small_dump()
        dump.claims.pop()
        self.assert_finds(dump, "AGREE", options=())

    def test_a_broken_chain(self) -> None:
        dump = small_dump()
        dump.copies[5] = dump.copies[5] | {"chain": "00" * 32}
        self.assert_finds(dump, "AGREE")

    def test_a_copy_that_differs(self) -> None:
        dump = small_dump()
        dump.copies.append(dump.copies[3] | {"rank": 7})
        self.assert_finds(dump, "ONE-OUTCOME")

    def test_bytes_that_are_no_outcome(self) -> None:
        dump = small_dump()
        dump.copies.insert(2, {"v": 1})
        self.assert_finds(dump, "ONE-OUTCOME")

    def test_a_final_answer_that_changed_in_redis(self) -> None:
        for change in ((0, 3), (0, 0x81), (-3, 9)):
            with self.subTest(change=change):
                dump = small_dump()
                for item in dump.redis.values():
                    for mac, value in item["value"].items() if item["type"] == "bucket" else ():
                        if value.startswith("01"):
                            changed = bytearray.fromhex(value)
                            changed[change[0]] = change[1]
                            item["value"] = item["value"] | {mac: changed.hex()}
                self.assert_finds(dump, "AGREE", options=())

    def test_an_answer_in_redis_that_nobody_gave(self) -> None:
        dump = small_dump()
        held = dump.redis[claim("ann")["claim_id"]]["value"]
        held[claim("eve")["claim_id"].rpartition(".")[2]] = held.pop(claim("ann")["claim_id"].rpartition(".")[2])
        self.assert_finds(dump, "AGREE", options=())

    def test_a_view_that_is_not_complete(self) -> None:
        for name, change in ((claim("ann")["claim_id"], None), (COUPON, None), (COUPON, {"remaining": "1"})):
            with self.subTest(name=name, change=change):
                dump = small_dump()
                item = dump.redis.pop(name)
                if change:
                    dump.redis[name] = item | {"value": item["value"] | change}
                self.assert_finds(dump, options=())
                self.assert_finds(dump, "AGREE")

    def test_an_invalid_record_without_its_copy_in_the_dlq(self) -> None:
        dump = small_dump()
        dump.dead = []
        self.assert_finds(dump, "ONE-OUTCOME")
        dump = small_dump()
        dump.dead[0]["value"] = b"other"
        self.assert_finds(dump, "ONE-OUTCOME")
        dump = small_dump()
        dump.dead[0]["headers"]["origin_offset"] = 5
        self.assert_finds(dump, "ONE-OUTCOME", "AGREE")

    def test_what_was_done_about_a_letter_is_no_letter(self) -> None:
        dump = small_dump()
        headers = dump.dead[0]["headers"] | {"resolution": "discarded"}
        dump.dead.append({"headers": headers, "value": b""})
        self.assert_finds(dump)

    def test_an_invalid_claim_that_is_nowhere(self) -> None:
        named = json.dumps(claim("eve") | {"round": 99}).encode()
        dump = Dump([(OPENS_AT - 1, publish(2)), (OPENS_AT, named)])
        self.assertEqual(self.assert_finds(dump)["ledger"]["dead_lettered"], 1)
        dump.dead = []
        report = self.assert_finds(dump, "ONE-OUTCOME")
        self.assertIn("ledger", [found["place"] for found in report["violations"]])

    def test_more_or_fewer_claims_than_were_accepted(self) -> None:
        self.assert_finds(small_dump(), "DURABLE-ACK", options=("--expect-accepted", "5"))
        self.assert_finds(small_dump(), "AGREE", options=("--expect-accepted", "3"))
        self.assert_finds(small_dump(), options=("--expect-accepted", "3..6"))

    def test_a_coupon_state_that_is_not_the_fold(self) -> None:
        dump = small_dump()
        dump.coupons[COUPON].quantity = 3
        dump.coupons[COUPON].changes[0][1]["quantity"] = 3
        report = self.assert_finds(dump, "AGREE")
        self.assertTrue(all(found["place"].startswith("state") for found in report["violations"]))


if __name__ == "__main__":
    unittest.main()
