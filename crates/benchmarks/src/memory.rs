//! Resident memory, as the kernel counts it.

use anyhow::{Context, Result};
use serde::Serialize;

/// What a process held at the end of a phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Resident {
    /// The phase.
    pub phase: String,
    /// The service.
    pub service: String,
    /// Resident now, in MiB.
    pub mib: f64,
    /// The most that was resident so far, in MiB.
    pub peak_mib: f64,
}

impl Resident {
    /// Of the process with this pid.
    pub(crate) fn of(pid: u32, phase: &str, service: &str) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let mib = |field| {
            kib(&status, field).map(|kib| f64::from(kib) / 1024.0).with_context(|| format!("{path}: {field}"))
        };
        Ok(Self {
            phase: phase.to_owned(),
            service: service.to_owned(),
            mib: mib("VmRSS:")?,
            peak_mib: mib("VmHWM:")?,
        })
    }
}

/// A field of `/proc/<pid>/status` or `/proc/meminfo`, in KiB.
pub(crate) fn kib(status: &str, field: &str) -> Option<u32> {
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_is_something_and_at_most_the_peak() {
        let resident = Resident::of(std::process::id(), "test", "benchmarks").unwrap();
        assert!(resident.mib > 1.0 && resident.mib <= resident.peak_mib, "{resident:?}");
    }

    #[test]
    fn a_field_is_found_by_its_name() {
        assert_eq!(kib("VmHWM:\t  300 kB\nVmRSS:\t    42 kB\n", "VmRSS:"), Some(42));
        assert_eq!(kib("VmRSS:\tmuch\n", "VmRSS:"), None);
    }
}
