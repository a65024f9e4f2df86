//! The configuration as a tree of JSON values, addressed by dotted paths.

use serde_json::{Map, Value};

/// A value that somebody gave.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) path: String,
    pub(super) value: Value,
    /// For people: `$VARIABLE`, or the file's name.
    pub(super) source: String,
}

/// Takes a tree apart into its leaves.
pub(super) fn leaves(path: &str, value: Value, source: &str, out: &mut Vec<Leaf>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                leaves(&format!("{path}.{key}"), member, source, out);
            }
        }
        value => out.push(Leaf { path: path.to_owned(), value, source: source.to_owned() }),
    }
}

/// All leaves of a tree by path, in the order of their paths. An empty map is a leaf.
pub(super) fn all_leaves(tree: &Value) -> Vec<(String, Value)> {
    fn walk(path: &str, value: &Value, out: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(members) if !members.is_empty() => {
                for (key, member) in members {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, member, out);
                }
            }
            leaf => out.push((path.to_owned(), leaf.clone())),
        }
    }
    let mut out = Vec::new();
    walk("", tree, &mut out);
    out.sort_by(|left, right| left.0.cmp(&right.0));
    out
}

/// The leaves that are texts.
pub(super) fn texts(tree: &Value) -> Vec<(String, String)> {
    let texts = all_leaves(tree).into_iter().filter_map(|(path, value)| match value {
        Value::String(text) => Some((path, text)),
        _ => None,
    });
    texts.collect()
}

/// True where the defaults have a leaf at this path, or an empty map above it.
pub(super) fn is_known(defaults: &Value, path: &str) -> bool {
    let mut node = defaults;
    for key in path.split('.') {
        match node {
            Value::Object(members) if members.is_empty() => return true,
            Value::Object(members) => match members.get(key) {
                Some(member) => node = member,
                None => return false,
            },
            _ => return false,
        }
    }
    !node.is_object()
}

/// True where the defaults themselves have a leaf at this path.
fn is_declared(defaults: &Value, path: &str) -> bool {
    let leaf = path.split('.').try_fold(defaults, |node, key| node.as_object()?.get(key));
    leaf.is_some_and(|leaf| !leaf.is_object())
}

/// The known path that is spelled most alike, if any is.
pub(super) fn nearest(defaults: &Value, path: &str) -> Option<String> {
    let alike = |known: &str| strsim::jaro_winkler(known, path);
    let mut known: Vec<String> = all_leaves(defaults).into_iter().map(|(path, _)| path).collect();
    known.sort_by(|left, right| alike(right).total_cmp(&alike(left)));
    known.into_iter().next().filter(|known| alike(known) > 0.7)
}

/// Sets the value at a path, making maps on the way.
pub(super) fn set(tree: &mut Value, path: &str, value: Value) {
    let Some((key, rest)) = path.split_once('.') else {
        if let Value::Object(members) = tree {
            members.insert(path.to_owned(), value);
        }
        return;
    };
    if let Value::Object(members) = tree {
        set(members.entry(key).or_insert_with(|| Value::Object(Map::new())), rest, value);
    }
}

/// The path of the secret that the file at `path` holds: `a.b_file` holds `a.b`, `a.b_files.x` holds `a.bs.x`.
pub(super) fn secret_behind(defaults: &Value, path: &str) -> Option<String> {
    let secret = match path.strip_suffix("_file") {
        Some(secret) => return Some(secret.to_owned()).filter(|secret| is_declared(defaults, secret)),
        None => {
            let (map, key) = path.split_once("_files.")?;
            format!("{map}s.{key}")
        }
    };
    if is_known(defaults, &secret) { Some(secret) } else { None }
}

/// True for keys that a `…_file` (or `…_files`) key stands beside.
pub(super) fn is_secret(defaults: &Value, path: &str) -> bool {
    if is_declared(defaults, &format!("{path}_file")) {
        return true;
    }
    path.rsplit_once('.').and_then(|(map, key)| Some((map.strip_suffix('s')?, key))).is_some_and(
        |(map, key)| is_known(defaults, &format!("{map}_files.{key}")) && is_known(defaults, path),
    )
}
