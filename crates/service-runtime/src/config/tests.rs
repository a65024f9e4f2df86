use std::io::Write;

use serde::Deserialize;

use super::*;
use crate::sections::{KeysSection, LogSection, OpsSection, Profile};

#[derive(Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Sample {
    profile: Profile,
    ops: OpsSection,
    log: LogSection,
    keys: KeysSection,
    store: Store,
}

#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Store {
    url: Option<String>,
    url_file: Option<String>,
    timeout_ms: u32,
    copies: Option<u16>,
    rows_max: u32,
    fast: bool,
    prefix: String,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            timeout_ms: 50,
            copies: None,
            rows_max: 9,
            fast: false,
            prefix: String::new(),
        }
    }
}

impl ServiceConfig for Sample {
    fn runtime(&self) -> RuntimeSections<'_> {
        RuntimeSections { profile: self.profile, ops: &self.ops, log: &self.log, trace: None }
    }

    fn problems(&self) -> Vec<Problem> {
        if self.store.timeout_ms == 0 {
            return vec![Problem::new("store.timeout_ms", "must be 1 or more")];
        }
        Vec::new()
    }
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn file(extension: &str, content: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(extension).tempfile().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

fn problems(file: Option<&Path>, pairs: &[(&str, &str)]) -> Vec<Problem> {
    match load::<Sample>(file, environment(pairs)) {
        Ok(_) => Vec::new(),
        Err(problems) => problems,
    }
}

#[test]
fn the_environment_goes_over_the_file_and_the_file_over_the_defaults() {
    let file = file(".toml", "profile = \"dev\"\n[store]\ntimeout_ms = 70\nprefix = \"f\"\n");
    let pairs = [
        ("FIRSTCOME__STORE__PREFIX", "7"),
        ("FIRSTCOME__STORE__COPIES", "3"),
        ("FIRSTCOME__STORE__FAST", "true"),
        ("FIRSTCOME__KEYS__SECRETS__K1", "0123456789"),
        ("OTHER", "x"),
    ];
    let loaded = load::<Sample>(Some(file.path()), environment(&pairs)).ok().unwrap();
    let store = &loaded.config.store;
    assert_eq!((store.timeout_ms, store.prefix.as_str(), store.copies, store.fast), (70, "7", Some(3), true));
    assert_eq!(loaded.config.keys.secrets["k1"], "0123456789");
}

#[test]
fn json_files_are_read_too() {
    let file = file(".json", r#"{"profile": "dev", "store": {"timeout_ms": 71}}"#);
    let loaded = load::<Sample>(Some(file.path()), environment(&[])).ok().unwrap();
    assert_eq!(loaded.config.store.timeout_ms, 71);
}

#[test]
fn everything_that_is_wrong_is_reported_at_once_with_path_source_and_hint() {
    let file = file(".toml", "[store]\ntimeout = 70\nfast = \"very\"\n[shop]\nx = 1\n");
    let found = problems(
        Some(file.path()),
        &[
            ("FIRSTCOME__STORE__COPIES", "-1"),
            ("FIRSTCOME__OPS__LISTN", "x"),
            ("FIRSTCOME__LOG__FILTER", "a=b=c"),
        ],
    );
    let report: Vec<String> =
        found.iter().map(|problem| format!("{} {}", problem.path, problem.problem)).collect();
    let has = |path: &str, text: &str| {
        assert!(
            report.iter().any(|line| line.starts_with(path) && line.contains(text)),
            "{path}: {report:#?}"
        );
    };
    has("store.timeout", "did you mean store.timeout_ms?");
    has("store.fast", "cannot be read");
    has("shop.x", "is no key of this service");
    has("store.copies", "$FIRSTCOME__STORE__COPIES");
    has("ops.listn", "did you mean ops.listen?");
    has("log.filter", "cannot be read");
    assert_eq!(report.len(), 6);
}

#[test]
fn a_wrong_value_names_its_source() {
    let found = problems(None, &[("FIRSTCOME__STORE__TIMEOUT_MS", "0")]);
    assert_eq!(found.len(), 1);
    assert!(found[0].problem.contains("must be 1 or more (from $FIRSTCOME__STORE__TIMEOUT_MS)"));
}

#[test]
fn secrets_are_read_from_files_and_never_printed() {
    let secret = file("", "postgres://u:hidden@h/d\n");
    let key = file("", &"kfr7-Wq2".repeat(5));
    let pairs = [
        ("FIRSTCOME__STORE__URL_FILE", secret.path().to_str().unwrap()),
        ("FIRSTCOME__KEYS__SECRET_FILES__K1", key.path().to_str().unwrap()),
    ];
    let loaded =
        load::<Sample>(None, environment(&pairs)).map_err(|problems| panic!("{problems:?}")).unwrap();
    assert_eq!(loaded.config.store.url.as_deref(), Some("postgres://u:hidden@h/d"));
    assert_eq!(loaded.config.keys.secrets["k1"], "kfr7-Wq2".repeat(5));
    let printed = loaded.print();
    assert!(printed.contains("store.url = \"***\" # file "), "{printed}");
    assert!(printed.contains("keys.secrets.k1 = \"***\" # file "), "{printed}");
    assert!(printed.contains("store.timeout_ms = 50 # default"), "{printed}");
    assert!(!printed.contains("hidden") && !printed.contains("kfr7"));
}

#[test]
fn a_secret_in_two_places_or_in_the_open_in_prod_is_refused() {
    let secret = file("", "x");
    let path = secret.path().to_str().unwrap();
    let both =
        [("FIRSTCOME__STORE__URL_FILE", path), ("FIRSTCOME__STORE__URL", "y"), ("FIRSTCOME__PROFILE", "dev")];
    let found = problems(None, &both);
    assert_eq!(found.len(), 1);
    assert!(found[0].problem.contains("are both set"), "{found:?}");

    let inline = [("FIRSTCOME__STORE__URL", "y"), ("FIRSTCOME__KEYS__SECRETS__K1", "z")];
    let paths: Vec<_> = problems(None, &inline).into_iter().map(|problem| problem.path).collect();
    assert_eq!(paths, ["keys.secrets.k1", "store.url"]);

    let missing = [("FIRSTCOME__STORE__URL_FILE", "/nowhere/at/all")];
    assert!(problems(None, &missing)[0].problem.contains("/nowhere/at/all cannot be read"));
}

#[test]
fn prod_refuses_known_secrets_and_limits_of_zero_and_dev_does_not() {
    let (url, key) = (file("", "postgres://u:postgres@h/d"), file("", &"k".repeat(40)));
    let mut pairs = vec![
        ("FIRSTCOME__STORE__URL_FILE", url.path().to_str().unwrap()),
        ("FIRSTCOME__KEYS__SECRET_FILES__K1", key.path().to_str().unwrap()),
        ("FIRSTCOME__STORE__ROWS_MAX", "0"),
    ];
    let paths: Vec<_> = problems(None, &pairs).into_iter().map(|problem| problem.path).collect();
    assert_eq!(paths, ["keys.secrets.k1", "store.rows_max", "store.url"]);
    pairs.push(("FIRSTCOME__PROFILE", "dev"));
    assert_eq!(problems(None, &pairs), Vec::new());
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let found = problems(Some(Path::new("/nowhere/config.toml")), &[]);
    assert!(found[0].problem.contains("/nowhere/config.toml"));
}
