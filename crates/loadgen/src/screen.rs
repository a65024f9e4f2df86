//! What people see: a bar on a terminal, plain lines elsewhere, and the report.

use std::io::{ErrorKind, IsTerminal, Write as _};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use crate::progress::Progress;
use crate::task;

const REDRAW_INTERVAL: Duration = Duration::from_millis(100);
const LINE_INTERVAL: Duration = Duration::from_secs(1);
const BAR: &str = "{bar:30} {pos}/{len} told  {msg}  {elapsed}";

/// Says it on standard output, or, where that cannot be written, on standard error; a reader who has read enough is no failure.
pub(crate) fn say(text: &str) {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => complain(text),
        _ => {}
    }
}

#[expect(clippy::print_stderr, reason = "a command line complains on standard error")]
pub(crate) fn complain(text: &str) {
    eprintln!("{text}");
}

/// Shows progress on standard error until it is stopped.
pub(crate) struct Watch(JoinHandle<()>, Option<ProgressBar>);

impl Watch {
    pub(crate) fn start(progress: &Arc<Progress>) -> Self {
        let progress = Arc::clone(progress);
        if !std::io::stderr().is_terminal() {
            return Self(task::spawn(lines(progress)), None);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style);
        }
        Self(task::spawn(redraw(progress, bar.clone())), Some(bar))
    }

    pub(crate) fn stop(self) {
        self.0.abort();
        if let Some(bar) = self.1 {
            bar.finish_and_clear();
        }
    }
}

async fn redraw(progress: Arc<Progress>, bar: ProgressBar) {
    loop {
        tokio::time::sleep(REDRAW_INTERVAL).await;
        bar.set_length(progress.total());
        bar.set_position(progress.told());
        bar.set_message(rest(&progress));
    }
}

async fn lines(progress: Arc<Progress>) {
    loop {
        tokio::time::sleep(LINE_INTERVAL).await;
        if progress.total() > 0 {
            complain(&format!("{}/{} told  {}", progress.told(), progress.total(), rest(&progress)));
        }
    }
}

fn rest(progress: &Progress) -> String {
    let (granted, refused, in_flight) = (progress.granted(), progress.refused(), progress.in_flight());
    format!("{granted} granted  {refused} refused  {in_flight} in flight")
}
