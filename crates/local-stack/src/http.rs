//! One GET of a probe.

use std::time::Duration;

/// A probe answers at once or is of no use.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How much of a refusal is worth showing: the reasons of a 503.
const REASON_CHARS_MAX: usize = 500;

/// Content with 200; anything else is returned as words.
pub(crate) fn get(url: &str) -> Result<(), String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        // A proxy of the user's environment does not know our loopback.
        .proxy(None)
        .build()
        .into();
    let mut response = agent.get(url).call().map_err(|error| error.to_string())?;
    if response.status() == 200 {
        return Ok(());
    }
    let body = response.body_mut().read_to_string().unwrap_or_default();
    let reason: String = body.trim().chars().take(REASON_CHARS_MAX).collect();
    Err(format!("{} {reason}", response.status()))
}
