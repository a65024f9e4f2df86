//! Tables for people, JSON for scripts.

use std::io::{ErrorKind, Write as _};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::Value;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// One JSON document.
    Json,
}

/// Says what was done. It stays done whoever hears of it: a reader who has read enough (`| head`) is no failure, and where standard output cannot be written it is
/// said on standard error.
#[expect(clippy::print_stderr, reason = "what was done is told where it can be")]
fn say(text: &str) {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("{text}\ncouponctl: standard output cannot be written: {error}");
        }
        _ => {}
    }
}

impl Output {
    /// Prints one thing: its members, a line each.
    pub(crate) fn one(self, value: &Value) {
        match (self, value) {
            (Self::Table, Value::Object(members)) => {
                let mut table = plain();
                for (name, member) in members {
                    table.add_row([name.clone(), cell(member)]);
                }
                say(&table.to_string());
            }
            _ => say(&pretty(value)),
        }
    }

    /// Prints several things: these members of each, a column each.
    pub(crate) fn many(self, values: &[Value], columns: &[&str]) {
        match self {
            Self::Json => say(&pretty(&Value::Array(values.to_vec()))),
            Self::Table => {
                let mut table = plain();
                table.set_header(columns.iter().map(|column| column.to_uppercase()));
                for value in values {
                    table.add_row(
                        columns.iter().map(|column| value.get(*column).map_or_else(String::new, cell)),
                    );
                }
                say(&table.to_string());
            }
        }
    }

    /// Prints a line that is only for people.
    pub(crate) fn note(self, text: &str) {
        if self == Self::Table {
            say(text);
        }
    }

    /// Prints a text as it is, for both.
    pub(crate) fn text(text: &str) {
        say(text);
    }
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
