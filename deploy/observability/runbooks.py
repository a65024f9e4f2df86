"""The runbooks: their form, their links, and the names and commands in them."""

import re
import shlex
import subprocess
from pathlib import Path

import catalogue

FOLDER = catalogue.ROOT / "docs/runbooks"
PROCEDURES = {"ScheduledDrop", "RedisLost", "PostgresRestored", "BrokerLost", "RebuildFromLog", "AddPartitions", "RotateSecrets", "UpgradeAndRollback"}
LINES_MAX = 60
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
PROMISES = {"NO-OVERSELL", "ONE-EACH", "FIRST-COME", "ONE-OUTCOME", "DURABLE-ACK", "AGREE", "NAMED-DOUBT", "TOLD", "ONCE-USED", "OWN-ONLY", "BOUNDED"}
HALTS = catalogue.ROOT / "crates/coupon-domain/src/halt.rs"
NOWHERE = "127.0.0.1:9"
"""Where nothing listens, should a command get so far."""
VALUES = {"$COUPON": "c3-" + 32 * "0", "$LETTER": "3:4711"}
"""What stands for a value in the pages, and one that the command line takes."""
ENVIRONMENT = {
    "FIRSTCOME__PROFILE": "dev", "FIRSTCOME__REDIS__URL": "redis://x", "FIRSTCOME__POSTGRES__URL": "postgres://x",
    "FIRSTCOME__KEYS__SECRETS__K1": "x" * 40, "FIRSTCOME__KEYS__ACTIVE_ID": "k1", "FIRSTCOME__AUTH__HS256_SECRET": "x" * 40,
}


def pages():
    return sorted(FOLDER.glob("*.md"))


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def promql(page):
    return [query for block in blocks(page, "promql") for query in block.strip().split("\n")]


def prose(page):
    """Without fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


def form(alerts):
    wrong, wanted = [], {f"{name}.md" for name in alerts | PROCEDURES}
    found = {page.name for page in pages()} - {"README.md"}
    wrong += [f"{name} is missing" for name in sorted(wanted - found)] + [f"{name} belongs to no alert and is no procedure" for name in sorted(found - wanted)]
    index = (FOLDER / "README.md").read_text()
    wrong += [f"README.md does not list {name}" for name in sorted(found) if f"({name})" not in index]
    for page in pages():
        if page.name == "README.md":
            continue
        lines = page.read_text().splitlines()
        if len(lines) > LINES_MAX:
            wrong.append(f"{page.name} has {len(lines)} lines, more than {LINES_MAX}")
        if lines[0] != f"# {page.stem}":
            wrong.append(f"{page.name} is not headed by its name")
        at_stake = next((line for line in lines if line.startswith("Promise at stake:")), "")
        named = set(re.findall(r"[A-Z]+-[A-Z]+|AGREE|TOLD|BOUNDED", at_stake))
        if not named or named - PROMISES:
            wrong.append(f"{page.name} names no promise at stake, or one that there is not")
        sections = [section for line in lines for section in re.findall(r"^\*\*(\w+)\.?\*\*", line)]
        if sections != SECTIONS:
            wrong.append(f"{page.name} has the sections {', '.join(sections)} instead of {', '.join(SECTIONS)}")
        text = page.read_text()
        diagnosis = text[text.find("**Diagnosis"):text.find("**Mitigation")]
        if not re.search(r"^```(sh|promql)$", diagnosis, re.M) or "Healthy" not in diagnosis or "Unhealthy" not in diagnosis:
            wrong.append(f"{page.name}: the diagnosis needs commands, and what is healthy and unhealthy")
        mitigation = text[text.find("**Mitigation"):]
        if "Do not" not in mitigation or "Over when" not in mitigation:
            wrong.append(f"{page.name}: the mitigation says what not to do (Do not …), and how to know that it is over (Over when …)")
    return len(pages()), wrong


def links():
    wrong, looked = [], 0
    for page in pages():
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            looked += 1
            path, _, anchor = target.partition("#")
            if "://" in target or not (page.parent / path).exists() or anchor:
                wrong.append(f"{page.name}: {target} leads nowhere in this repository")
    return looked, wrong


def couponctl_lines(page):
    """Each couponctl command of a page, in blocks and in prose."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.search(r"(?:^|\$\(|\| |&& |do )(couponctl [^|;)>]*)", line):
                yield re.sub(r"\s+#.*", "", found[1])
    yield from re.findall(r"`(couponctl [^`]+)`", prose(page))


def clap_refuses(arguments, programs):
    """What the command line says where it cannot read the arguments. What it can read it carries out, against nothing: there is no configuration."""
    environment = {"KAFKA_BOOTSTRAP": NOWHERE} | {name: f"http://{NOWHERE}" for name in ("API_URL", "ADMIN_URL", "NOTIFIER_URL")}
    line = [programs / "couponctl", *arguments, "--config", "/nonexistent.toml"]
    said = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=20).stderr
    return next(iter(said.splitlines()), "") if said.startswith("error:") else None


def is_command(command, programs):
    return "unrecognized subcommand" not in (clap_refuses([command], programs) or "")


def command_lines(programs):
    wrong, looked = [], 0
    excepted = catalogue.exceptions().get("commands") or {}
    for page in pages():
        for line in couponctl_lines(page):
            looked += 1
            spelled = line
            for name, value in VALUES.items():
                spelled = spelled.replace(name, value)
            try:
                arguments = shlex.split(spelled)[1:]
            except ValueError as error:
                wrong.append(f"{page.name}: {line}: {error}")
                continue
            refused = clap_refuses(arguments, programs)
            if refused and not (arguments[0] in excepted and "unrecognized subcommand" in refused):
                wrong.append(f"{page.name}: {line}: {refused}")
    return looked, wrong


def configuration(programs):
    """Every key of every service, asked of the programs."""
    keys = set()
    for service in ("api-gateway", "stock-consumer", "db-writer", "notifier"):
        environment = dict(ENVIRONMENT)
        while True:
            done = subprocess.run([programs / service, "--print-config"], capture_output=True, text=True, env=environment)
            strange = re.findall(r"\$(FIRSTCOME__\w+)", done.stderr)
            if done.returncode == 0:
                break
            if not strange:
                raise SystemExit(f"{service} does not print its configuration: {done.stderr}")
            for name in strange:
                environment.pop(name)
        keys |= set(re.findall(r"^(?:# )?([a-z_]+\.[a-z0-9_]+)", done.stdout, re.M))
    return keys


def conditions():
    """The names of what /startupz and /readyz wait for."""
    named = re.findall(r'(?:ready|startup)_condition\("([a-z]+)"', catalogue.service_sources())
    return {*named, "partition-3"}


def reasons():
    """What the pages say that a service or command line says must be in its source; … stands for what differs from time to time."""
    sources, names = "\n".join(re.findall(r'"[^"\n]*"', re.sub(r"\\\n\s*", "", catalogue.service_sources(["couponctl/src/**/*.rs"])))), conditions()
    wrong, looked = [], 0
    for page in pages():
        for text in re.findall(r"`([^`]+)`", prose(page)):
            name, separator, said = text.partition(": ")
            if separator and name in names:
                pieces = [piece.strip(" :,;") for piece in re.split("…|halted, ", said)]
            elif re.fullmatch(r"(?!coupon_)[a-z]+(_[a-z]+)+", text):
                pieces = [text]
            else:
                continue
            looked += 1
            wrong += [f"{page.name}: no service says {piece}" for piece in pieces if not re.search(rf"(?<!\w){re.escape(piece)}(?!\w)", sources)]
    return looked, wrong


def names(alerts, programs):
    """Metrics, alerts, halt reasons and configuration keys in the pages."""
    wrong, looked = [], 0
    series, keys = catalogue.series(), configuration(programs)
    metrics = set(series) | {re.sub("_(bucket|count|sum)$", "", name) for name in series}
    sections = {key.split(".")[0] for key in keys}
    for page in pages():
        text = page.read_text()
        for name in re.findall(r"\bcoupon_[a-z_]+\b", text):
            looked += 1
            if name not in metrics and name not in {"coupon_id", "coupon_drafts", "coupon_slo"}:
                wrong.append(f"{page.name}: {name} is in no release's catalogue")
        for name in re.findall(r"\bCoupon[A-Z][A-Za-z]+\b", text):
            looked += 1
            if name not in alerts:
                wrong.append(f"{page.name}: {name} is no alert")
        for key in re.findall(r"`([a-z_]+\.[a-z0-9_]+)`", prose(page)):
            if key.split(".")[0] in sections:
                looked += 1
                if key not in keys:
                    wrong.append(f"{page.name}: {key} is no configuration key of any service")
    halts = re.findall(r'Self::\w+ => "([a-z_]+)",', HALTS.read_text())
    page = FOLDER / "CouponPartitionHalted.md"
    if not page.exists():
        return looked, [*wrong, f"{page.name} is missing"]
    rows = re.findall(r"^\| `(\w+)` \|", page.read_text(), re.M)
    wrong += [f"{page.name}: the halt reason {reason} is not explained" for reason in halts if reason not in rows]
    wrong += [f"{page.name}: {reason} is no halt reason" for reason in rows if reason not in halts]
    return looked + len(halts), wrong
