"""The rules: what a record of the claims log says, what it had to be answered, and the chain over the answers.

Written from the rules in coupon-domain's README with the standard library alone. Nothing here is taken from the system
that the oracle judges.
"""

import hashlib
import json
import re
import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

Json = dict[str, Any]

# ======== What decodes: every number has a range. Each record is its fields and what each may hold.

QUANTITY_MAX, ROUND_MAX, RULES_NEWEST, RECORD_BYTES_MAX = 10_000_000, 31, 2, 8 * 1024

# An unknown field may nest as deep as a record is long; what skips it elsewhere knows no depth, and neither may this.
sys.setrecursionlimit(2 * RECORD_BYTES_MAX)
TIMESTAMP_MS_MAX = 253_402_300_799_999
COUPON_ID = r"c(?:0|[1-9][0-9]{0,3})-[0-9a-f]{32}"
COMMAND_ID = COUPON_ID + r"\.[0-9a-f]{32}"
SLOT = r"(?:0|(?!0{16})[0-9a-f]{16})"
CLAIM_ID = COUPON_ID + r"\.(?:[0-9]|[12][0-9]|3[01])\." + SLOT + r"\.[0-9a-f]{32}"
KINDS = ("publish", "reschedule", "pause", "resume", "restock", "close", "retire")

LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")

Check = Callable[[Any], bool]


def whole(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def text(low: int, high: int) -> Check:
    """So many bytes of UTF-8, no control character, no lone surrogate."""
    wrong = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
    return lambda value: type(value) is str and not wrong.search(value) and low <= len(value.encode()) <= high


def spelled(pattern: str) -> Check:
    compiled = re.compile(pattern)
    return lambda value: type(value) is str and compiled.fullmatch(value) is not None


def optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def shaped(shape: dict[str, Check]) -> Check:
    return lambda value: isinstance(value, Fields) and value.fits(shape)


class Fields(dict[str, Any]):
    """A JSON object. A name that it has twice has no value; names that nobody asks for do not matter."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.unusable = set() if len(self) == len(names) else {name for name in names if names.count(name) > 1}
        if LONE_SURROGATE.search("".join(names)):  # a name is no Unicode: nothing here can be believed
            self.unusable = set(names)

    def fits(self, shape: dict[str, Check]) -> bool:
        return not self.unusable & shape.keys() and all(check(self.get(name)) for name, check in shape.items())

    def only(self, shape: dict[str, Check]) -> Json:
        return {name: self[name] for name in shape if self.get(name) is not None}


MOMENT = whole(0, TIMESTAMP_MS_MAX)
WINDOW = {"opens_at": MOMENT, "closes_at": MOMENT}
EXPIRY = {"at": optional(MOMENT), "days_after_issue": optional(whole(1, 3_650))}
DEFINITION = WINDOW | {
    "name": lambda value: text(1, 200)(value) and value.strip() != "",
    "quantity": whole(1, QUANTITY_MAX),
    "per_user_limit": whole(1, 100),
    "expiry": optional(lambda value: shaped(EXPIRY)(value) and len(value) == len(value.only(EXPIRY)) == 1),
    "rules": whole(1, 2**16 - 1),
    "key_id": spelled(r"[a-z0-9-]{1,32}"),
}
CLAIM = {
    "v": whole(1, 1),
    "claim_id": spelled(CLAIM_ID),
    "coupon_id": spelled(COUPON_ID),
    "user_id": text(1, 128),
    "round": whole(0, ROUND_MAX),
    "slot": spelled(SLOT),
    "received_at": MOMENT,
}
COMMAND = {
    "v": whole(1, 1),
    "command_id": spelled(COMMAND_ID),
    "coupon_id": spelled(COUPON_ID),
    "kind": lambda value: value in KINDS,
    "expected_version": optional(whole(0, 2**31 - 1)),
    "definition": optional(lambda value: shaped(DEFINITION)(value) and value["opens_at"] < value["closes_at"]),
    "times": optional(lambda value: shaped(WINDOW)(value) and value["opens_at"] < value["closes_at"]),
    "delta": optional(lambda value: whole(-QUANTITY_MAX, QUANTITY_MAX)(value) and value != 0),
    "reason": optional(text(0, 500)),
    "actor": text(1, 128),
}


class Undecodable(Exception):
    """Neither a claim nor a command. Its argument: the claim that it would have been, where that can be read."""


class NewerVersion(Exception):
    """A newer release wrote it: the partition halts there."""


def whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= 20 and digits != "-0" else float(digits)


def no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(object_pairs_hook=Fields, parse_int=whole_number, parse_constant=no_number)


def decode(value: bytes | None) -> Json:
    """A claim or a command. Every byte string is that, of a newer version, or undecodable."""
    try:
        # What is not UTF-8 becomes lone surrogates, which no field that is read may hold.
        record = DECODER.decode((value or b"").decode(errors="surrogateescape"))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, Fields):
        raise Undecodable(None)
    is_named, is_small = not record.unusable & {"v", "claim_id", "command_id"}, len(value or b"") <= RECORD_BYTES_MAX
    if is_named and whole(2, 2**64 - 1)(record.get("v")):
        raise NewerVersion(f"version {record['v']}")
    if is_small and record.fits(CLAIM):
        ids = f"{record['coupon_id']}.{record['round']}.{record['slot']}."
        if record["claim_id"].startswith(ids):
            return record.only(CLAIM)
    if is_small and is_named and record.fits(COMMAND):
        command = record.only(COMMAND)
        if "definition" in command:
            command["definition"] = record["definition"].only(DEFINITION)
            if command["definition"]["rules"] > RULES_NEWEST:
                raise NewerVersion(f"rules {command['definition']['rules']}")
        needed = {"publish": {"definition"}, "reschedule": {"times"}, "restock": {"delta"}}.get(command["kind"], set())
        fits = needed == command.keys() & {"definition", "times", "delta"}
        expects_none = command["kind"] == "publish" and command.get("expected_version", 0) != 0
        if fits and not expects_none and command["command_id"].startswith(f"{command['coupon_id']}."):
            return command
    claim_id = record.get("claim_id")
    raise Undecodable(claim_id if is_named and CLAIM["claim_id"](claim_id) else None)


# ======== The fold: (what was, record) → outcome. The only clock is the record's append time.


@dataclass
class Coupon:
    """A coupon as the line has made it so far."""

    coupon_id: str
    definition: Json
    quantity: int
    status: str = "active"
    round: int = 0
    version: int = 0
    commands: dict[str, Json] = field(default_factory=dict)  # the answers, for ever
    finals: MutableMapping[str, Json] = field(default_factory=dict)  # the final answer to each claim's mac
    held: MutableMapping[str, list[Json]] = field(default_factory=dict)  # the grants of each user
    grants: "array[int]" = field(default_factory=lambda: array("q"))  # the claims offset of each issue number
    changes: list[tuple[int, Json]] = field(default_factory=list)  # the claims offset and state of each new command

    @property
    def remaining(self) -> int:
        return self.quantity - len(self.grants)

    def is_closed(self, now: int) -> bool:
        return self.status in ("closed", "retired") or now >= self.definition["closes_at"]

    def state(self, next_src: int) -> Json | None:
        """As the records below `next_src` made it; none before it was published."""
        changes = bisect_left(self.changes, next_src, key=lambda change: change[0])
        issued = bisect_left(self.grants, next_src)
        if changes == 0:
            return None
        last_grant = {"last_grant_offset": self.grants[issued - 1]} if issued else {}
        return self.changes[changes - 1][1] | {"issued": issued} | last_grant

    def judge_claim(self, claim: Json, now: int) -> tuple[str, str | None]:
        """A claim without a final outcome: its code and, where another claim won instead, which."""
        if self.status == "retired":
            return "closed", None
        winner = self.winner_in_the_way(claim)
        if winner is not None and self.definition["rules"] >= 2:
            return "already_issued", winner
        if now < self.definition["opens_at"]:
            return "not_open", None
        if self.is_closed(now):
            return "closed", None
        if self.status == "paused":
            return "paused", None
        if winner is not None:
            return "already_issued", winner
        return ("granted" if self.remaining > 0 else "sold_out"), None

    def winner_in_the_way(self, claim: Json) -> str | None:
        """The grant because of which this user gets no other: that of the same slot, else, at the limit, the first."""
        held = self.held.get(claim["user_id"], [])
        for grant in held:
            if grant["slot"] == claim["slot"]:
                return grant["claim_id"]
        return held[0]["claim_id"] if len(held) >= self.definition["per_user_limit"] else None

    def answer_claim(self, claim: Json, src: int, now: int) -> Json:
        mac = claim["claim_id"].rpartition(".")[2]  # it alone says which claim of the coupon this is
        if mac in self.finals:
            return self.finals[mac]
        code, winner = self.judge_claim(claim, now)
        answer: Json = {"code": code, "final": False, "decided_offset": src}
        if winner is not None:
            answer["granted_claim_id"] = winner
        is_answered_anew = code == "already_issued" and self.definition["rules"] >= 2
        if code in ("not_open", "paused") or self.status == "retired" or is_answered_anew:
            return answer
        answer |= {"final": True, "rank": len(self.finals) + 1}
        if code == "granted":
            self.grants.append(src)
            self.held[claim["user_id"]] = held = [*self.held.get(claim["user_id"], []), claim]
            answer |= {"issue_no": len(self.grants), "user_nth": len(held)}
        self.finals[mac] = answer
        return answer

    def judge_command(self, command: Json, now: int) -> tuple[str, str | None]:
        """A command that was not seen before: its code and, where refused, why. What is `applied` is done."""
        kind = command["kind"]
        if self.status == "retired":
            return ("no_change", None) if kind == "retire" else ("refused", "retired")
        if command.get("expected_version", self.version) != self.version:
            return "version_mismatch", None
        if kind == "publish":
            return "refused", "already_published"
        if kind == "retire" and not self.is_closed(now):
            return "refused", "not_closed"
        if kind not in ("close", "retire") and self.is_closed(now):
            return "refused", "closed"
        if kind == "restock":
            return self.restock(command["delta"])
        if kind == "reschedule":
            window = {name: command["times"][name] for name in WINDOW}
            only_its_end = self.definition["rules"] >= 2 and window["opens_at"] == self.definition["opens_at"]
            if now >= self.definition["opens_at"] and not only_its_end:
                return "refused", "already_open"
            if self.definition == self.definition | window:
                return "no_change", None
            self.definition = self.definition | window
            return "applied", None
        status = {"pause": "paused", "resume": "active", "close": "closed", "retire": "retired"}[kind]
        if status == self.status:
            return "no_change", None
        self.status = status
        return "applied", None

    def restock(self, delta: int) -> tuple[str, str | None]:
        quantity = self.quantity + delta
        if quantity > QUANTITY_MAX:
            return "refused", "above_quantity_max"
        if quantity < max(len(self.grants), 1):
            return "refused", "below_issued"
        if delta > 0 and self.round == ROUND_MAX:
            return "refused", "rounds_exhausted"
        self.quantity, self.round = quantity, self.round + (delta > 0)
        return "applied", None

    def answer_command(self, command: Json, src: int, now: int) -> Json:
        command_id = command["command_id"]
        if command_id not in self.commands:
            is_new = not self.commands  # its very first command is the one that published it
            code, refusal = ("applied", None) if is_new else self.judge_command(command, now)
            self.version += code == "applied"
            self.commands[command_id] = {"code": code, "decided_offset": src}
            if refusal is not None:
                self.commands[command_id]["refusal"] = refusal
            state = {name: getattr(self, name) for name in ("coupon_id", "definition", "status", "round", "quantity")}
            last_command = {"command_id": command_id, "code": code}
            self.changes.append((src, state | {"version": self.version, "last_command": last_command}))
            if self.status == "retired":
                self.finals.clear()
                self.held.clear()
        return self.commands[command_id] | {"state": self.state(src + 1)}


def fold(
    partition: int,
    coupons: dict[str, Coupon],
    src: int,
    dated: int | None,
    value: bytes | None,
    memory: Callable[[], MutableMapping[str, Any]] = dict,
) -> Json:
    """The outcome of a record, as its JSON reads but for the chain. One that the broker did not date is answered as of 1970, and cannot be read.

    A coupon remembers its claims and users in what `memory` makes.
    """
    now = dated or 0
    outcome: Json = {"v": 1, "rules": 1, "src_offset": src, "appended_at": now, "decided_offset": src}
    try:
        record = decode(value)
        reason = None if record["coupon_id"].startswith(f"c{partition}-") else "wrong_partition"
    except Undecodable as undecodable:
        record, reason = {"claim_id": undecodable.args[0]}, "undecodable"
    claim_id = record.get("claim_id")
    if dated is None:
        reason = "undated"
    if reason is not None:
        named = {"claim_id": claim_id, "coupon_id": claim_id.partition(".")[0]} if claim_id else {}
        return outcome | named | {"code": "invalid", "invalid_reason": reason}
    repeated = ("claim_id", "user_id", "round", "slot") if claim_id else ("command_id", "kind", "actor", "reason")
    outcome |= {name: record[name] for name in ("coupon_id", *repeated) if name in record}
    coupon_id = record["coupon_id"]
    if coupon_id not in coupons and record.get("kind") == "publish":
        definition = record["definition"]
        coupons[coupon_id] = Coupon(coupon_id, definition, definition["quantity"], finals=memory(), held=memory())
    coupon = coupons.get(coupon_id)
    if coupon is None:
        unknown = {"code": "unknown_coupon", "final": False}
        return outcome | (unknown if claim_id else {"code": "refused", "refusal": "unknown_coupon"})
    outcome |= coupon.answer_claim(record, src, now) if claim_id else coupon.answer_command(record, src, now)
    return outcome | {"rules": coupon.definition["rules"], "remaining": coupon.remaining}


# ======== The chain: SHA-256 over the previous link and the outcome. Numbers are big-endian; an optional value is a
# byte 0, or a byte 1 and the value; a text is its length in two bytes and its UTF-8; a word is its place in its list.

CLAIM_CODES = ("granted", "sold_out", "already_issued", "closed", "not_open", "paused", "unknown_coupon")
COMMAND_CODES = ("applied", "no_change", "version_mismatch", "refused")
STATUSES = ("active", "paused", "closed", "retired")
INVALID_REASONS = ("undecodable", "wrong_partition", "undated")
REFUSALS = (
    *("unknown_coupon", "already_published", "closed", "retired", "already_open"),
    *("below_issued", "above_quantity_max", "rounds_exhausted", "not_closed"),
)
MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError, struct.error)


def genesis(partition: int) -> str:
    return hashlib.sha256(b"firstcome chain v1" + struct.pack(">i", partition)).hexdigest()


def link(previous: str, outcome: Json) -> str:
    """The link behind `outcome`; raises one of MALFORMED where that is no outcome."""
    code, get = outcome["code"], outcome.get
    packed = bytes.fromhex(previous) + struct.pack(">Bqq", 1, outcome["src_offset"], outcome["appended_at"])
    packed += struct.pack(">qH", outcome["decided_offset"], outcome["rules"]) + option(">I", get("remaining"))
    if code in CLAIM_CODES:
        packed += b"\1" + pack_id(outcome["claim_id"]) + pack_text(outcome["user_id"])
        packed += word(CLAIM_CODES, code) + bytes([outcome["final"]]) + option(">I", get("issue_no"))
        packed += option(">H", get("user_nth")) + option(">I", get("rank")) + option(pack_id, get("granted_claim_id"))
    elif code in COMMAND_CODES:
        packed += b"\2" + pack_id(outcome["command_id"]) + word(KINDS, outcome["kind"]) + word(COMMAND_CODES, code)
        packed += option(lambda refusal: word(REFUSALS, refusal), get("refusal")) + pack_text(outcome["actor"])
        packed += option(pack_text, get("reason")) + option(pack_state, get("state"))
    else:
        packed += b"\3" + word(INVALID_REASONS, outcome["invalid_reason"]) + option(pack_id, get("claim_id"))
    return hashlib.sha256(packed).hexdigest()


def option(layout: str | Callable[[Any], bytes], value: Any) -> bytes:
    if value is None:
        return b"\0"
    return b"\1" + (struct.pack(layout, value) if isinstance(layout, str) else layout(value))


def word(words: tuple[str, ...], value: str) -> bytes:
    return bytes([words.index(value) + 1])


def pack_text(value: str) -> bytes:
    return struct.pack(">H", len(value.encode())) + value.encode()


@lru_cache
def pack_coupon(coupon_id: str) -> bytes:
    partition, _, unique = coupon_id[1:].partition("-")
    return struct.pack(">i", int(partition)) + bytes.fromhex(unique)


def pack_id(value: str) -> bytes:
    """A claim id: coupon, round, slot, mac. A command id: coupon, mac."""
    coupon_id, *place, mac = value.split(".")
    packed_place = struct.pack(">BQ", int(place[0]), int(place[1], 16)) if place else b""
    return pack_coupon(coupon_id) + packed_place + bytes.fromhex(mac)


def pack_state(state: Json) -> bytes:
    definition, last = state["definition"], state["last_command"]
    packed = pack_coupon(state["coupon_id"]) + pack_text(definition["name"])
    packed += struct.pack(">IH", definition["quantity"], definition["per_user_limit"])
    packed += struct.pack(">qq", definition["opens_at"], definition["closes_at"])
    match definition.get("expiry"):
        case None:
            packed += b"\0"
        case {"at": moment}:
            packed += struct.pack(">Bq", 1, moment)
        case {"days_after_issue": days}:
            packed += struct.pack(">BH", 2, days)
    packed += struct.pack(">H", definition["rules"]) + pack_text(definition["key_id"])
    packed += word(STATUSES, state["status"]) + bytes([state["round"]])
    packed += struct.pack(">III", state["quantity"], state["issued"], state["version"])
    packed += pack_id(last["command_id"]) + word(COMMAND_CODES, last["code"])
    return packed + option(">q", state.get("last_grant_offset"))
