//! What a crowd came to: for people a table, for scripts JSON.

use std::collections::BTreeMap;
use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use coupon_domain::CouponId;
use serde::Serialize;

use crate::arrivals::Arrivals;
use crate::latency::Summary;
use crate::violation::Violation;

/// How often, by code.
pub(crate) type ByCode = BTreeMap<String, u64>;

/// The report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The coupon that was claimed.
    pub coupon_id: CouponId,
    /// Users are named `<prefix>-<number>`.
    pub user_prefix: String,
    /// What fixes every lot that was drawn.
    pub seed: u64,
    /// How arrivals were spread.
    pub arrivals: Arrivals,
    /// Users there were.
    pub users: u64,
    /// Arrivals per second that were achieved, from the first to the last.
    pub arrivals_per_s: f64,
    /// From the first arrival until the last user was told, in s.
    pub told_within_s: f64,
    /// Users with a coupon.
    pub granted: u64,
    /// Users without, by the reason that they were told.
    pub refused: ByCode,
    /// Users who were told nothing.
    pub unresolved: u64,
    /// Presses of the button, and what they were answered with.
    pub pressed: Pressed,
    /// How claims were followed.
    pub followed: Followed,
    /// All counted from the intended moment, however late the client was.
    pub latencies: Latencies,
    /// The coupon after the end; none where it could not be asked for.
    pub coupon: Option<CouponAtEnd>,
    /// Broken promises. None: the run is clean.
    pub violations: Vec<Violation>,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
    /// What whoever reads the numbers should know.
    pub notes: Vec<String>,
}

/// Presses of the button.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pressed {
    /// All.
    pub sent: u64,
    /// 202.
    pub accepted: u64,
    /// 200.
    pub decided: u64,
    /// 409, with a code that says "press again later".
    pub deferred: ByCode,
    /// 409 and 410, for good.
    pub refused: ByCode,
    /// Of the refused, those that were only advice.
    pub advisory: u64,
    /// 408, 429, 503 and other answers that pass.
    pub busy: ByCode,
    /// Connections that broke, answers that did not come in time.
    pub lost: u64,
    /// Given up by the client on purpose.
    pub aborted: u64,
    /// Answers that no client can do anything about.
    pub wrong: u64,
    /// Presses after the first of each user, second clicks not counted.
    pub again: u64,
}

/// How claims were followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Followed {
    /// Streams of events that were opened.
    pub streams: u64,
    /// Streams that ended without an answer, and were opened again or given up for asking.
    pub reconnects: u64,
    /// Streams that the limit of open files did not allow; those claims were asked for.
    pub streams_denied: u64,
    /// GETs of a claim.
    pub asks: u64,
    /// Looks at a claim because a refusal was only advice.
    pub advisory_looks: u64,
    /// Deferrals heard by following.
    pub deferred: u64,
    /// Of a press before the present one: no answer to it.
    pub stale_deferrals: u64,
    /// Granted users who were shown their coupon's code.
    pub codes_shown: u64,
    /// Times that a user had to wait for a connection of the crowd's own.
    pub connection_waits: u64,
}

/// Latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latencies {
    /// From the intended arrival until the client itself began: its own lateness, contained in all the others.
    pub client_late: Summary,
    /// From the intended press to its answer, whatever that was.
    pub press_to_answer: Summary,
    /// From the last press of a user to the end, where the answer to the press was the end.
    pub told_by_press: Summary,
    /// The same, where an event brought it.
    pub told_by_stream: Summary,
    /// The same, where a GET brought it.
    pub told_by_ask: Summary,
    /// From the arrival to the end, with everything between: waiting for the opening, pauses, retries.
    pub arrival_to_told: Summary,
}

/// The coupon after the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CouponAtEnd {
    /// How many there are.
    pub quantity: u64,
    /// How many of them are issued.
    pub issued: u64,
    /// How many of those were issued before the crowd came.
    pub issued_before: u64,
}

impl Report {
    /// True where nothing is wrong and everything could be checked.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.unchecked.is_empty()
    }

    /// Users who were refused.
    #[must_use]
    pub fn refused_users(&self) -> u64 {
        self.refused.values().sum()
    }

    fn counts(&self) -> Table {
        let mut table = plain();
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        let (pressed, followed) = (&self.pressed, &self.followed);
        row("coupon", self.coupon_id.to_string());
        if let Some(CouponAtEnd { quantity, issued, issued_before }) = self.coupon {
            let before = if issued_before == 0 { String::new() } else { format!(", {issued_before} before") };
            row("issued", format!("{issued} of {quantity}{before}"));
        }
        row(
            "users",
            format!(
                "{} ({:.0}/s arrived, all told after {:.1} s)",
                self.users, self.arrivals_per_s, self.told_within_s
            ),
        );
        row("granted", self.granted.to_string());
        row("refused", with_codes(self.refused_users(), &self.refused));
        row("unresolved", self.unresolved.to_string());
        row("presses", format!("{} ({} again later)", pressed.sent, pressed.again));
        row("  202 accepted", pressed.accepted.to_string());
        row("  200 decided", pressed.decided.to_string());
        let refused: u64 = pressed.refused.values().sum();
        let advisory =
            if pressed.advisory == 0 { String::new() } else { format!(", {} advisory", pressed.advisory) };
        row("  409/410 refused", with_codes(refused, &pressed.refused) + &advisory);
        row("  409 deferred", with_codes(pressed.deferred.values().sum(), &pressed.deferred));
        row("  408/429/5xx busy", with_codes(pressed.busy.values().sum(), &pressed.busy));
        row("  no answer", format!("{} lost, {} aborted on purpose", pressed.lost, pressed.aborted));
        if pressed.wrong > 0 {
            row("  other answers", pressed.wrong.to_string());
        }
        row("streams", format!("{} ({} reconnects)", followed.streams, followed.reconnects));
        if followed.streams_denied > 0 {
            row("  denied here", followed.streams_denied.to_string());
        }
        row("asks", format!("{} ({} advisory look-ups)", followed.asks, followed.advisory_looks));
        row("deferred while following", {
            format!("{}, and {} stale", followed.deferred, followed.stale_deferrals)
        });
        row("codes shown", format!("{} of {}", followed.codes_shown, self.granted));
        if followed.connection_waits > 0 {
            row("waits for a connection", followed.connection_waits.to_string());
        }
        table
    }

    fn latency_table(&self) -> Table {
        let mut table = plain();
        table.set_header(["LATENCY (ms)", "COUNT", "P50", "P90", "P99", "P99.9", "MAX"]);
        let latencies = &self.latencies;
        for (name, summary) in [
            ("client late", latencies.client_late),
            ("press to answer", latencies.press_to_answer),
            ("press to told, by the press", latencies.told_by_press),
            ("press to told, by SSE", latencies.told_by_stream),
            ("press to told, by GET", latencies.told_by_ask),
            ("arrival to told", latencies.arrival_to_told),
        ] {
            let Summary { count, p50_ms, p90_ms, p99_ms, p999_ms, max_ms } = summary;
            let mut cells = vec![name.to_owned(), count.to_string()];
            cells.extend(
                [p50_ms, p90_ms, p99_ms, p999_ms, max_ms]
                    .map(|ms| if count == 0 { "-".to_owned() } else { format!("{ms:.1}") }),
            );
            table.add_row(cells);
        }
        for index in 1..=6 {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

fn with_codes(all: u64, codes: &ByCode) -> String {
    let each: Vec<String> = codes.iter().map(|(code, count)| format!("{code} {count}")).collect();
    if each.is_empty() { all.to_string() } else { format!("{all} ({})", each.join(", ")) }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n\n{}\n", self.counts().trim_fmt(), self.latency_table().trim_fmt())?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for unchecked in &self.unchecked {
            writeln!(f, "UNCHECKED {unchecked}")?;
        }
        for violation in &self.violations {
            writeln!(f, "VIOLATION {violation}")?;
        }
        match (self.is_clean(), self.violations.is_empty()) {
            (true, _) => write!(f, "clean: every check held"),
            (false, true) => write!(f, "no violation was seen, but not everything could be checked"),
            (false, false) => write!(f, "{} checks failed", self.violations.len()),
        }
    }
}
