//! The benchmark still measures everything. How fast is no test's business.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

const FIGURES: [&str; 14] = [
    "accepted",
    "refused",
    "refused_without_redis",
    "decided_of_10",
    "view_behind_of_10",
    "stored_of_10",
    "decided_of_250",
    "view_behind_of_250",
    "stored_of_250",
    "through_accepted",
    "through_stored",
    "told_listeners",
    "told_p50",
    "told_p99",
];

#[test]
fn every_phase_gives_its_figures() {
    local_stack::build_services(local_stack::BuildProfile::of_caller()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bench-quick.json");
    let ended = Command::new(env!("CARGO_BIN_EXE_bench-quick"))
        .args(["--smoke", "--out"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();

    let figures = report["figures"].as_array().unwrap();
    let names: Vec<&str> = figures.iter().map(|figure| figure["name"].as_str().unwrap()).collect();
    assert_eq!(names, FIGURES);
    let table = String::from_utf8(ended.stdout).unwrap();
    for figure in figures {
        let name = figure["name"].as_str().unwrap();
        assert!(figure["value"].as_f64().unwrap() > 0.0, "{figure}");
        assert!(!figure["measured"].as_array().unwrap().is_empty(), "{figure}");
        assert!(table.lines().any(|line| line.trim_start().starts_with(name)), "{name} is not in {table}");
        let is_held_against_something =
            ["accepted", "refused", "decided", "stored"].iter().any(|start| name.starts_with(start));
        assert_eq!(
            figure["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0),
            is_held_against_something,
            "{figure}"
        );
        assert_eq!(figure["wanted"]["met"].is_boolean(), is_held_against_something, "{figure}");
    }

    let resident = report["resident"].as_array().unwrap();
    assert!(resident.iter().all(|entry| entry["mib"].as_f64().unwrap() > 1.0), "{resident:?}");
    let services: BTreeSet<&str> = resident.iter().map(|entry| entry["service"].as_str().unwrap()).collect();
    for service in ["api-gateway", "stock-consumer", "db-writer", "notifier"] {
        assert!(services.contains(service), "{services:?}");
    }
    assert!(report["machine"]["cores"].as_u64().unwrap() > 0);
}

#[test]
fn phases_are_chosen_by_name() {
    let wrong =
        Command::new(env!("CARGO_BIN_EXE_bench-quick")).args(["--only", "accept,guess"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    let says = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(says.contains("guess") && says.contains("through"), "{says}");
}
