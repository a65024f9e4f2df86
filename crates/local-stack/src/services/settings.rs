//! Which service gets which variable. An unknown `FIRSTCOME__` variable is an error in a service, so each gets only its own.

use super::Role::{self, ApiGateway, DbWriter, Notifier, Reconciler, StockConsumer};
use super::{Listeners, ServiceSpec};
use crate::credentials::KEY_ID;
use crate::deployment::Deployment;
use crate::encryption::Encryption;

/// What values are made from.
pub(super) struct Context<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) spec: &'a ServiceSpec,
    pub(super) listeners: &'a Listeners,
}

type Value = fn(&Context<'_>) -> Option<String>;

const ALL: &[Role] = &[ApiGateway, StockConsumer, DbWriter, Notifier, Reconciler];
const VIEW: &[Role] = &[ApiGateway, StockConsumer, Notifier, Reconciler];
const HTTP: &[Role] = &[ApiGateway, Notifier];
const GATEWAY: &[Role] = &[ApiGateway];

/// Variable (after `FIRSTCOME__`), who gets it, and its value; no value, no variable.
const TABLE: &[(&str, &[Role], Value)] = &[
    ("PROFILE", ALL, |_| Some("dev".to_owned())),
    ("KAFKA__BOOTSTRAP_SERVERS", ALL, |c| Some(c.deployment.kafka_bootstrap.clone())),
    ("KAFKA__TOPIC_PREFIX", ALL, |c| Some(c.deployment.namespace.topic_prefix.clone())),
    ("KAFKA__GROUP_PREFIX", &[StockConsumer, DbWriter], |c| {
        Some(c.deployment.namespace.group_prefix.clone())
    }),
    ("KAFKA__PARTITIONS", ALL, |c| Some(c.deployment.namespace.partitions.to_string())),
    ("REDIS__URL", HTTP, |c| redis_url(c, "reader")),
    ("REDIS__URL", &[StockConsumer], |c| redis_url(c, "writer")),
    ("REDIS__URL", &[Reconciler], |c| redis_url(c, "auditor")),
    ("REDIS__KEY_PREFIX", VIEW, |c| Some(c.deployment.namespace.redis_key_prefix.clone())),
    ("POSTGRES__URL", GATEWAY, |c| database_url(c, "firstcome_gateway")),
    ("POSTGRES__URL", &[DbWriter], |c| database_url(c, "firstcome_writer")),
    ("POSTGRES__URL", &[StockConsumer, Notifier, Reconciler], |c| database_url(c, "firstcome_reader")),
    ("AUTH__HS256_SECRET", HTTP, |c| Some(c.deployment.credentials.jwt_secret.clone())),
    ("AUTH__ISSUER", HTTP, |c| Some(c.deployment.credentials.jwt_issuer.clone())),
    ("AUTH__AUDIENCE", HTTP, |c| Some(c.deployment.credentials.jwt_audience.clone())),
    ("AUTH__ADMIN__AUDIENCE", GATEWAY, |c| Some(c.deployment.credentials.admin_jwt_audience.clone())),
    ("KEYS__ACTIVE_ID", GATEWAY, |_| Some(KEY_ID.to_owned())),
    ("KEYS__SECRETS__K1", &[ApiGateway, DbWriter, Notifier], |c| {
        Some(c.deployment.credentials.key_secret.clone())
    }),
    ("OPS__LISTEN", ALL, |c| Some(c.listeners.ops.to_string())),
    ("HTTP__LISTEN", HTTP, |c| c.listeners.http.map(|address| address.to_string())),
    ("ADMIN__LISTEN", GATEWAY, |c| c.listeners.admin.map(|address| address.to_string())),
    ("CLAIMS__NOTIFIER_URL", GATEWAY, |c| c.spec.notifier_url.clone()),
];

fn database_url(context: &Context<'_>, role: &str) -> Option<String> {
    context.deployment.namespace.database_url_as(role).ok()
}

fn redis_url(context: &Context<'_>, user: &str) -> Option<String> {
    context.deployment.redis_url_as(user).ok()
}

/// The variables of one service, without those that the caller withholds; the caller's own come last and win.
pub(super) fn environment(context: &Context<'_>) -> Vec<(String, String)> {
    let role = context.spec.role;
    let table = TABLE
        .iter()
        .filter(|(_, roles, _)| roles.contains(&role))
        .filter_map(|(name, _, value)| Some((*name, value(context)?)));
    let encryption = context.deployment.encryption.iter().flat_map(Encryption::settings);
    let ours = table
        .chain(encryption.filter(|(name, _)| !name.starts_with("REDIS__") || VIEW.contains(&role)))
        .map(|(name, value)| (format!("FIRSTCOME__{name}"), value))
        .filter(|(name, _)| !context.spec.withheld.contains(name));
    ours.chain(context.spec.extra_environment.iter().cloned()).collect()
}
