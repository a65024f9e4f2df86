//! The keys of those who sign tokens: kept up to date while the process runs.

use infrastructure_http::auth::{AuthSection, IssuerKeys, KeyMetrics};
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec};

use crate::boot::Context;
use crate::catalogue;
use crate::config::ServiceConfig;
use crate::exit::Ended;

/// Whose tokens a service takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokensOf {
    /// Users' alone.
    Users,
    /// Operators', too.
    UsersAndOperators,
}

/// Who signs tokens.
pub struct Issuers {
    /// Users' issuer.
    pub users: IssuerKeys,
    /// Operators' own; none where they share the users'.
    pub operators: Option<IssuerKeys>,
}

impl Issuers {
    /// Begins to read their keys, and does so for as long as the process runs, at once where it is told to read its files again. The process is not ready before
    /// there are keys.
    ///
    /// # Errors
    /// [`Ended::Configuration`]: a file of keys cannot be used (any more), or the section's `tls` files.
    pub fn start<C: ServiceConfig>(
        context: &Context<C>,
        section: &AuthSection,
        tokens_of: TokensOf,
    ) -> Result<Self, Ended> {
        let collectors = Collectors {
            keys: context.metrics.int_gauges(&catalogue::AUTH_KEYS),
            read_at: context.metrics.gauges(&catalogue::AUTH_KEYS_TIMESTAMP_SECONDS),
            readings: context.metrics.counters(&catalogue::AUTH_KEY_READINGS_TOTAL),
        };
        let users = IssuerKeys::of_users(section, collectors.of("users")).map_err(Ended::Configuration)?;
        keep(context, "users", &users);
        let mut operators = None;
        if tokens_of == TokensOf::UsersAndOperators {
            let has_own = section.admin.issuer.is_some();
            if has_own {
                let metrics = collectors.of("operators");
                operators = IssuerKeys::of_operators(section, metrics).map_err(Ended::Configuration)?;
            }
            if !has_own && context.config.runtime().profile.is_production() {
                tracing::warn!(
                    "users and operators share an issuer: whoever it lets be an operator changes coupons; auth.admin.issuer gives operators their own"
                );
            }
        }
        if let Some(operators) = &operators {
            keep(context, "operators", operators);
        }
        Ok(Self { users, operators })
    }
}

struct Collectors {
    keys: IntGaugeVec,
    read_at: GaugeVec,
    readings: IntCounterVec,
}

impl Collectors {
    fn of(&self, whose: &str) -> KeyMetrics {
        KeyMetrics {
            keys: self.keys.with_label_values(&[whose]),
            read_at: self.read_at.with_label_values(&[whose]),
            read: self.readings.with_label_values(&[whose, "read"]),
            failed: self.readings.with_label_values(&[whose, "failed"]),
        }
    }
}

fn keep<C: ServiceConfig>(context: &Context<C>, whose: &'static str, keys: &IssuerKeys) {
    let condition = context.health.ready_condition(
        &format!("keys-of-{whose}"),
        "the issuer's keys could not be read yet: the log says why",
    );
    let (known, again, mut reloads) = (keys.clone(), keys.clone(), context.reloads.subscribe());
    context.tasks.spawn("know-issuer-keys", async move {
        known.known().await;
        condition.met();
    });
    context.tasks.spawn("reload-issuer-keys", async move {
        while reloads.changed().await.is_ok() {
            again.read_again();
        }
    });
    context.tasks.spawn("read-issuer-keys", keys.clone().keep_reading());
}
