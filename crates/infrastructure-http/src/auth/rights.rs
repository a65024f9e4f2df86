//! What an operator may do, from whatever claims the identity provider writes it into.

use serde_json::{Map, Value};

use super::section::AdminAuthSection;

/// What an operator may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Look at coupons, claims and the dead letters.
    ReadCoupons,
    /// Make and change coupons.
    WriteCoupons,
}

impl Scope {
    /// The word in the token, where `auth.admin` gives it no other name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadCoupons => "coupons:read",
            Self::WriteCoupons => "coupons:write",
        }
    }
}

/// The rights that a token gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rights {
    reads: bool,
    writes: bool,
}

impl Rights {
    /// Those that these claims give.
    pub(super) fn of(claims: &Map<String, Value>, section: &AdminAuthSection) -> Self {
        let mut rights = Self::default();
        for value in section.rights_claims.iter().filter_map(|path| claim_at(claims, path)) {
            let mut note = |word: &str| {
                rights.reads |= section.read_names.contains(word);
                rights.writes |= section.write_names.contains(word);
            };
            match value {
                Value::String(text) => text.split(' ').for_each(&mut note),
                Value::Array(list) => list.iter().filter_map(Value::as_str).for_each(&mut note),
                // Zitadel: the names of roles, each with the organisations that gave it.
                Value::Object(members) => members.keys().for_each(|word| note(word)),
                _ => {}
            }
        }
        rights
    }

    pub(super) fn include(self, scope: Scope) -> bool {
        match scope {
            Scope::ReadCoupons => self.reads,
            Scope::WriteCoupons => self.writes,
        }
    }
}

/// The claim of this name, or, along the dots in it, within objects. Names may have dots of their own, as those that begin with an address.
pub(super) fn claim_at<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    path.match_indices('.').find_map(|(at, _)| {
        let (name, rest) = (path.get(..at)?, path.get(at + 1..)?);
        claim_at(claims.get(name)?.as_object()?, rest)
    })
}
