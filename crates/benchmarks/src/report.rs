//! What a run came to: for people a table, for scripts JSON.

use std::fmt;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::figure::Figure;
use crate::machine::Machine;
use crate::memory::Resident;

/// Raised when a field changes its meaning or goes.
const REPORT_VERSION: u32 = 1;

/// The report; docs/benchmarks.md says what each field means.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this form.
    pub v: u32,
    /// Release of the services.
    pub release: &'static str,
    /// How everything was compiled: `release`, or `debug`, whose figures mean nothing.
    pub profile: &'static str,
    /// When the run began, as RFC 3339.
    pub started_at: String,
    /// How long it took, in s.
    pub took_s: f64,
    /// On what it ran.
    pub machine: Machine,
    /// How much was measured.
    pub plan: serde_json::Value,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// What the services held at the end of each phase.
    pub resident: Vec<Resident>,
    /// What whoever reads the figures should know.
    pub notes: Vec<String>,
}

/// What the phases found.
#[derive(Default)]
pub(crate) struct Findings {
    figures: Vec<Figure>,
    resident: Vec<Resident>,
    notes: Vec<String>,
}

impl Findings {
    pub(crate) fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    pub(crate) fn resident(&mut self, resident: Vec<Resident>) {
        self.resident.extend(resident);
    }

    pub(crate) fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }

    pub(crate) fn into_report(
        self,
        plan: &impl Serialize,
        started_at: String,
        took: Duration,
    ) -> anyhow::Result<Report> {
        let plan = serde_json::to_value(plan)?;
        let Self { figures, resident, notes } = self;
        Ok(Report {
            v: REPORT_VERSION,
            release: service_runtime::RELEASE,
            profile: if cfg!(debug_assertions) { "debug" } else { "release" },
            started_at,
            took_s: took.as_secs_f64(),
            machine: Machine::this(),
            plan,
            figures,
            resident,
            notes,
        })
    }
}

impl Report {
    /// True where every ratio that is wanted was reached.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.figures.iter().all(Figure::is_met)
    }

    fn figures_table(&self) -> Table {
        let mut table = plain(["FIGURE", "MEASURED", "", "REFERENCE", "RATIO", "WANTED", "", "AGAINST"]);
        for figure in &self.figures {
            let number = |value: Option<f64>| value.map(readable).unwrap_or_default();
            let ratio = |value: Option<f64>| value.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            let wanted = figure.wanted.map(|wanted| format!("≥ {:.2}", wanted.ratio)).unwrap_or_default();
            table.add_row([
                figure.name.clone(),
                readable(figure.value),
                figure.unit.to_owned(),
                number(figure.reference),
                ratio(figure.ratio),
                wanted,
                if figure.is_met() { "" } else { "BELOW" }.to_owned(),
                figure.against.unwrap_or_default().to_owned(),
            ]);
        }
        right(&mut table, [1, 3, 4, 5]);
        table
    }

    fn memory_table(&self) -> Table {
        let mut table = plain(["RESIDENT AFTER", "SERVICE", "MiB", "PEAK"]);
        for Resident { phase, service, mib, peak_mib } in &self.resident {
            table.add_row([phase.clone(), service.clone(), format!("{mib:.0}"), format!("{peak_mib:.0}")]);
        }
        right(&mut table, [2, 3]);
        table
    }
}

fn plain<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    table
}

fn right<const COLUMNS: usize>(table: &mut Table, columns: [usize; COLUMNS]) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Rates without, times with two digits behind the point.
fn readable(value: f64) -> String {
    if value >= 1_000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { release, profile, machine, started_at, took_s, .. } = self;
        writeln!(f, "{started_at}, {took_s:.0} s, release {release} ({profile} build), {machine}\n")?;
        writeln!(f, "{}\n\n{}", self.figures_table().trim_fmt(), self.memory_table().trim_fmt())?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(wanted: f64) -> Report {
        let mut findings = Findings::default();
        findings.add(Figure::alone("accepted", "claims/s", vec![40_000.0]).against(
            "bare",
            &[80_000.0],
            wanted,
        ));
        findings.add(Figure::alone("told_p99", "ms", vec![12.345]));
        findings.resident(vec![Resident {
            phase: "accept".to_owned(),
            service: "api-gateway".to_owned(),
            mib: 61.4,
            peak_mib: 70.0,
        }]);
        let plan = crate::plan::Plan::smoke();
        findings.into_report(&plan, "2026-01-01T00:00:00Z".to_owned(), Duration::from_secs(7)).unwrap()
    }

    #[test]
    fn the_table_shows_each_figure_its_reference_and_what_is_below() {
        let text = report(0.6).to_string();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        let found = |start: &str| {
            lines
                .iter()
                .find(|line| line.trim_start().starts_with(start))
                .unwrap()
                .split_whitespace()
                .collect::<Vec<_>>()
        };
        assert_eq!(
            found("accepted"),
            ["accepted", "40000", "claims/s", "80000", "0.50", "≥", "0.60", "BELOW", "bare"]
        );
        assert_eq!(found("told_p99"), ["told_p99", "12.35", "ms"]);
        assert!(
            lines.iter().any(|line| line.split_whitespace().eq(["accept", "api-gateway", "61", "70"])),
            "{text}"
        );
        assert!(!report(0.5).to_string().contains("BELOW"));
    }

    #[test]
    fn the_run_is_met_where_every_ratio_is() {
        assert!(report(0.5).is_met());
        assert!(!report(0.51).is_met());
    }
}
