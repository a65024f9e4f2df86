#!/usr/bin/env bash
# The demo: a crowd of 10,000 claims 1,000 coupons within two seconds, everybody is told, and the audit and the oracle recompute who had to win. The coupon
# opens a second into the stampede: whoever came too early stands in the log as "not open", and presses again.
# Needs a running stack; bin/ holds local-stack, couponctl and loadgen. Usage: deploy/demo.sh BIN
set -euo pipefail
cd "$(dirname "$0")/.."

readonly bin=$1
readonly users=10000 quantity=1000 rehearsal=8000
# From creating the coupon to its opening, in s: the crowd's tokens are made meanwhile.
readonly opens_in_s=6
# A crowd behind an ingress shares its connections; on one machine ten thousand of their own would mostly show what connecting costs, and one
# thread is enough to play them: the services need the cores.
readonly connections_max=300
# How often the audit is asked for a system at rest: stores may be a moment behind what users were told.
readonly looks_max=20

say() { if [[ -t 1 ]]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }
field() { python3 -c 'import json, sys; value = json.load(sys.stdin)
for key in sys.argv[1:]: value = value[key]
print(value)' "$@"; }

eval "$("$bin/local-stack" env | sed 's/^/export /')"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A coupon that is on offer: its quantity, and in how many seconds it opens.
publish() {
    local opens_at
    opens_at=$(python3 -c 'import datetime, sys
opening = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=int(sys.argv[1]))
print(opening.strftime("%Y-%m-%dT%H:%M:%SZ"))' "$2")
    "$bin/couponctl" coupon create --name "Fried chicken" --quantity "$1" --opens-at "$opens_at" --publish --output json |
        field coupon_id
}

say "A rehearsal: $rehearsal users, so that the JVM under Kafka has compiled what the crowd will need"
"$bin/loadgen" "$(publish "$rehearsal" 0)" --users "$rehearsal" --within-ms 2000 --connections-max "$connections_max" \
    >"$work/rehearsal.log" || { cat "$work/rehearsal.log"; exit 1; }

coupon=$(publish "$quantity" "$opens_in_s")
say "$users users within two seconds for $quantity of $coupon, which opens after the first"
echo "one in ten presses twice, one in twenty loses the answer and presses again"
"$bin/loadgen" "$coupon" --users "$users" --within-ms 2000 --before-opening-ms 1000 --duplicates 0.10 --retries 0.05 \
    --connections-max "$connections_max" --threads 1 --expect-sold-out --json "$work/crowd.json"

say "The audit: the log folded again, every store compared with it"
for ((look = 1; look <= looks_max; look++)); do
    verdict=0
    "$bin/couponctl" audit --quiet --coupon "$coupon" >"$work/audit.log" 2>&1 || verdict=$?
    if ((verdict != 5)); then break; fi
    sleep 0.5
done
cat "$work/audit.log"
((verdict == 0)) || exit "$verdict"

say "The oracle: recomputed from a dump, by a program that shares no code with the services"
"$bin/couponctl" dump --out "$work/dump" >"$work/dump.log"
python3 crates/couponctl/oracle/oracle.py "$work/dump" --quiet --coupon "$coupon" || exit 5

say "The stack is left running"
printf '  %-14s %s\n' "user API" "$API_URL" "admin API" "$ADMIN_URL" "notifier" "$NOTIFIER_URL" \
    "Kafka" "$KAFKA_BOOTSTRAP" "PostgreSQL" "$DATABASE_URL" "Redis" "$REDIS_URL"
echo
echo "  make status   what runs and answers"
echo "  make down     stop it all"
