//! Configuration: defaults < a file < the environment. Everything that is wrong is reported at once, with its path, its
//! source, and the nearest known name.

mod production;
mod tree;

use std::collections::BTreeMap;
use std::path::Path;

use config::Source as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use infrastructure_kafka::Problem;

use crate::sections::RuntimeSections;
use tree::Leaf;

/// Variables that start so are ours; `__` separates the parts: `FIRSTCOME__KAFKA__LINGER_MS`.
pub const ENVIRONMENT_PREFIX: &str = "FIRSTCOME";

/// A service's configuration. Its `Default` names every key; a map that is empty by default takes any key.
pub trait ServiceConfig: Serialize + DeserializeOwned + Default + Send + Sync + 'static {
    /// The parts that the boot path uses.
    fn runtime(&self) -> RuntimeSections<'_>;

    /// Everything that is wrong with the values, apart from the parts that the boot path uses.
    fn problems(&self) -> Vec<Problem>;
}

/// A configuration, and where each value came from.
pub struct Loaded<C> {
    /// The configuration.
    pub config: C,
    effective: Value,
    sources: BTreeMap<String, String>,
}

/// Loads a service's configuration.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load<C: ServiceConfig>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded<C>, Vec<Problem>> {
    let defaults =
        serde_json::to_value(C::default()).map_err(|error| vec![Problem::new("", error.to_string())])?;
    let mut problems = Vec::new();
    let mut leaves = Vec::new();
    if let Some(file) = file {
        match read_file(file) {
            Ok(values) => leaves.extend(values),
            Err(problem) => problems.push(problem),
        }
    }
    leaves.extend(read_environment(environment, &mut problems));

    let (mut effective, mut sources) = (defaults.clone(), BTreeMap::new());
    for leaf in leaves {
        match place::<C>(&defaults, &effective, &leaf) {
            Ok(placed) => {
                effective = placed;
                sources.insert(leaf.path, leaf.source);
            }
            Err(problem) => problems.push(problem),
        }
    }
    read_secret_files(&defaults, &mut effective, &mut sources, &mut problems);

    match serde_json::from_value::<C>(effective.clone()) {
        Err(error) => problems.push(Problem::new("", error.to_string())),
        Ok(config) => {
            let runtime = config.runtime();
            problems.extend(runtime.problems());
            problems.extend(config.problems());
            if runtime.profile.is_production() {
                let found = production::problems(&defaults, &effective, &sources);
                let is_new = |found: &Problem| problems.iter().all(|problem| problem.path != found.path);
                let found: Vec<Problem> = found.into_iter().filter(is_new).collect();
                problems.extend(found);
            }
            if problems.is_empty() {
                return Ok(Loaded { config, effective, sources });
            }
        }
    }
    for problem in &mut problems {
        if let Some(source) = sources.get(&problem.path) {
            problem.problem.push_str(&format!(" (from {source})"));
        }
    }
    Err(problems)
}

fn read_file(file: &Path) -> Result<Vec<Leaf>, Problem> {
    let unreadable = |error: config::ConfigError| Problem::new("", format!("{}: {error}", file.display()));
    let values = config::File::from(file).collect().map_err(unreadable)?;
    let mut leaves = Vec::new();
    for (key, value) in values {
        let value: Value = value.try_deserialize().map_err(unreadable)?;
        tree::leaves(&key, value, &file.display().to_string(), &mut leaves);
    }
    leaves.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(leaves)
}

fn read_environment(
    environment: impl IntoIterator<Item = (String, String)>,
    problems: &mut Vec<Problem>,
) -> Vec<Leaf> {
    let variables =
        environment.into_iter().filter(|(key, _)| key.to_uppercase().starts_with("FIRSTCOME__")).collect();
    let source = config::Environment::with_prefix(ENVIRONMENT_PREFIX)
        .prefix_separator("__")
        .separator("__")
        .source(Some(variables));
    let mut leaves = Vec::new();
    match source.collect() {
        Err(error) => problems.push(Problem::new("", format!("the environment: {error}"))),
        Ok(values) => {
            for (path, value) in values {
                let name = format!("{ENVIRONMENT_PREFIX}__{}", path.replace('.', "__").to_uppercase());
                let text = value.into_string().unwrap_or_default();
                leaves.push(Leaf { path, value: Value::String(text), source: format!("${name}") });
            }
        }
    }
    leaves.sort_by(|left, right| left.path.cmp(&right.path));
    leaves
}

/// The effective tree with one more value in it, if the configuration takes it.
fn place<C: ServiceConfig>(defaults: &Value, effective: &Value, leaf: &Leaf) -> Result<Value, Problem> {
    if !tree::is_known(defaults, &leaf.path) {
        let hint = tree::nearest(defaults, &leaf.path)
            .map_or_else(String::new, |known| format!("; did you mean {known}?"));
        return Err(Problem::new(
            &leaf.path,
            format!("is no key of this service{hint} (from {})", leaf.source),
        ));
    }
    let mut refusal = None;
    for candidate in candidates(leaf) {
        let mut tried = effective.clone();
        tree::set(&mut tried, &leaf.path, candidate);
        match serde_json::from_value::<C>(tried.clone()) {
            Ok(_) => return Ok(tried),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    let reason = refusal.map_or_else(String::new, |error| error.to_string());
    Err(Problem::new(&leaf.path, format!("cannot be read: {reason} (from {})", leaf.source)))
}

/// A value of the environment is a text that may mean a number or a truth value, where the key wants one.
fn candidates(leaf: &Leaf) -> Vec<Value> {
    let mut candidates = vec![leaf.value.clone()];
    if leaf.source.starts_with('$')
        && let Value::String(text) = &leaf.value
    {
        candidates.extend(text.parse::<u64>().ok().map(Value::from));
        candidates.extend(text.parse::<i64>().ok().map(Value::from));
        candidates.extend(text.parse::<f64>().ok().map(Value::from));
        candidates.extend(text.parse::<bool>().ok().map(Value::from));
    }
    candidates
}

/// Reads the files that `…_file` keys name into the keys beside them. Both at once is an error: nobody could tell which counts.
fn read_secret_files(
    defaults: &Value,
    effective: &mut Value,
    sources: &mut BTreeMap<String, String>,
    problems: &mut Vec<Problem>,
) {
    let files: Vec<(String, String)> = tree::texts(effective)
        .into_iter()
        .filter_map(|(path, file)| Some((tree::secret_behind(defaults, &path)?, path, file)))
        .map(|(secret, path, file)| {
            if sources.contains_key(&secret) {
                problems.push(Problem::new(&path, format!("and {secret} are both set: leave one out")));
            }
            (secret, file)
        })
        .collect();
    for (secret, file) in files {
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                tree::set(effective, &secret, Value::String(text.trim_end().to_owned()));
                sources.insert(secret, format!("file {file}"));
            }
            Err(error) => problems.push(Problem::new(&secret, format!("{file} cannot be read: {error}"))),
        }
    }
}

impl<C: ServiceConfig> Loaded<C> {
    /// The effective configuration as TOML, a key a line with its source; secrets as `***`.
    #[must_use]
    pub fn print(&self) -> String {
        let defaults = serde_json::to_value(C::default()).unwrap_or_default();
        let mut text = String::new();
        for (path, value) in tree::all_leaves(&self.effective) {
            let source = self.sources.get(&path).map_or("default", String::as_str);
            if value.is_null() {
                text.push_str(&format!("# {path} is unset\n"));
            } else if tree::is_secret(&defaults, &path) {
                text.push_str(&format!("{path} = \"***\" # {source}\n"));
            } else {
                text.push_str(&format!("{path} = {value} # {source}\n"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests;
