//! A world: real servers, a namespace in them, our services as child processes, and clients.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use coupon_domain::ClaimId;
use coupon_domain::view_buckets::bucket_of;
use couponctl::api::{Answer, Client};
use infrastructure_http::TokenMint;
use infrastructure_http::time::to_rfc3339;
use infrastructure_kafka::config::{SaslMechanism, SecurityProtocol};
use infrastructure_kafka::{
    Connection, Entry, KafkaSection, LogBounds, LogCursor, NewRecord, Producer, ProducerPurpose, Reader,
    Topic, TopicLayout,
};
use local_stack::{Deployment, Namespace, Role, Servers, ServersOptions, Service, ServiceSpec, Supervised};
use reqwest::StatusCode;
use serde_json::{Value, json};
use service_runtime::{Clock, Metrics, catalogue, metrics};

use crate::user::User;
use crate::waiting::{GENEROUS, eventually};

/// A scenario that waits for what never comes fails after this time.
const SCENARIO_MAX: Duration = Duration::from_secs(300);
/// Tokens of scenarios are valid for an hour.
const TOKEN_MS: i64 = 3_600_000;

/// What a world consists of.
#[derive(Clone)]
pub struct WorldSpec {
    /// How many lines are decided in parallel.
    pub partitions: u32,
    /// Further settings by service, as environment variables.
    pub settings: Vec<(Role, &'static str, String)>,
    /// Servers of its own, because the scenario breaks them.
    pub own_servers: bool,
}

impl Default for WorldSpec {
    fn default() -> Self {
        Self { partitions: 2, settings: Vec::new(), own_servers: false }
    }
}

enum Home {
    Shared(&'static Servers),
    Own(Arc<Servers>),
}

impl Home {
    fn servers(&self) -> &Servers {
        match self {
            Self::Shared(servers) => servers,
            Self::Own(servers) => servers,
        }
    }
}

/// A running installation.
pub struct World {
    home: Home,
    spec: WorldSpec,
    /// Where the services belong.
    pub deployment: Deployment,
    services: BTreeMap<String, Service>,
    tokens: TokenMint,
    clock: Clock,
    kafka: Connection,
    layout: TopicLayout,
    /// Appends anything, past the gateway.
    producer: Producer,
}

/// Makes users' tokens.
#[derive(Clone)]
pub struct UserMint {
    tokens: TokenMint,
    audience: String,
    clock: Clock,
}

impl UserMint {
    /// A user's token.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn mint(&self, name: &str) -> Result<String> {
        let expires_at = self.clock.now().plus_ms(TOKEN_MS);
        self.tokens.mint(name, &self.audience, None, expires_at).map_err(anyhow::Error::msg)
    }
}

/// A coupon to be published.
#[derive(Clone, Debug)]
pub struct CouponSpec {
    /// How many there are.
    pub quantity: u32,
    /// How many one user may hold.
    pub per_user_limit: u16,
    /// When it opens, from now.
    pub opens_in_ms: i64,
    /// When it closes, from now.
    pub closes_in_ms: i64,
    /// When what was won can no longer be redeemed, from now, and not before it closes; none: never.
    pub expires_in_ms: Option<i64>,
}

impl Default for CouponSpec {
    fn default() -> Self {
        Self {
            quantity: 1,
            per_user_limit: 1,
            opens_in_ms: -60_000,
            closes_in_ms: 3_600_000,
            expires_in_ms: None,
        }
    }
}

impl CouponSpec {
    /// So many of a coupon that is open now.
    #[must_use]
    pub fn of(quantity: u32) -> Self {
        Self { quantity, ..Self::default() }
    }
}

impl World {
    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    /// Something did not start; the message has the end of its log.
    pub fn start(spec: WorldSpec) -> Result<Self> {
        let world = Self::prepare(spec)?;
        let mut world = world;
        for role in [Role::StockConsumer, Role::DbWriter, Role::Notifier, Role::ApiGateway] {
            world.add(role, role.name())?;
        }
        for service in world.services.values() {
            service.wait_ready(GENEROUS)?;
        }
        Ok(world)
    }

    /// Servers, schema and topics, but no services yet.
    ///
    /// # Errors
    /// Something did not start.
    pub fn prepare(spec: WorldSpec) -> Result<Self> {
        let home = if spec.own_servers {
            let options = ServersOptions { die_with_parent: true, sync: false, ..ServersOptions::default() };
            Home::Own(Arc::new(Servers::start(options)?))
        } else {
            Home::Shared(local_stack::servers_for_tests())
        };
        Self::prepare_in(home, spec)
    }

    /// Schema and topics on servers that the caller has started, but no services yet.
    ///
    /// # Errors
    /// Something did not start.
    pub fn prepare_on(servers: Arc<Servers>, spec: WorldSpec) -> Result<Self> {
        Self::prepare_in(Home::Own(servers), spec)
    }

    fn prepare_in(home: Home, spec: WorldSpec) -> Result<Self> {
        let servers = home.servers();
        let namespace = local_stack::namespace(servers, spec.partitions)?;
        let (kafka, layout) = connect(servers, &namespace)?;
        let deployment = Deployment::new(servers, namespace);
        deployment.prepare()?;
        let credentials = &deployment.credentials;
        Ok(Self {
            tokens: TokenMint::new(&credentials.jwt_secret, &credentials.jwt_issuer),
            producer: Producer::new(&kafka, ProducerPurpose::Outcomes)?,
            services: BTreeMap::new(),
            clock: Clock::system(),
            home,
            spec,
            deployment,
            kafka,
            layout,
        })
    }

    /// Starts one more service under this name; does not wait until it is ready.
    ///
    /// # Errors
    /// It did not start.
    pub fn add(&mut self, role: Role, name: &str) -> Result<()> {
        let mut spec = ServiceSpec::new(role).instance(name);
        if role == Role::ApiGateway
            && let Some(url) = self.services.get(Role::Notifier.name()).and_then(Service::api_url)
        {
            spec = spec.notifier_url(url);
        }
        // A view that nothing happens to is compared every ten seconds; scenarios wait for it.
        if role == Role::StockConsumer {
            spec = spec.env("FIRSTCOME__DECIDE__REFRESH_INTERVAL_MS", "1000");
        }
        // Crowds of one machine come from few users' worth of addresses: the limits of one user are a scenario of their own.
        if role == Role::ApiGateway {
            spec = spec.env("FIRSTCOME__CLAIMS__USER_REQUESTS_BURST", "1000");
        }
        self.add_spec(spec)
    }

    /// Starts one more service with further settings; does not wait until it is ready.
    ///
    /// # Errors
    /// It did not start.
    pub fn add_with(&mut self, role: Role, name: &str, settings: &[(&'static str, &str)]) -> Result<()> {
        let mut spec = ServiceSpec::new(role).instance(name);
        for (key, value) in settings {
            spec = spec.env(*key, (*value).to_owned());
        }
        self.add_spec(spec)
    }

    /// Starts one more service as it is described, under its instance's name; does not wait until it is ready.
    ///
    /// # Errors
    /// It did not start.
    pub fn add_spec(&mut self, mut spec: ServiceSpec) -> Result<()> {
        let (role, name) = (spec.role, spec.instance.clone());
        for (role_of_setting, key, value) in &self.spec.settings {
            if *role_of_setting == role {
                spec = spec.env(*key, value.clone());
            }
        }
        let service = self.deployment.start(&spec)?;
        self.services.insert(name, service);
        Ok(())
    }

    /// The servers.
    #[must_use]
    pub fn servers(&self) -> &Servers {
        self.home.servers()
    }

    /// A service by its name; the first of each role has the role's.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn service(&self, name: &str) -> Result<&Service> {
        self.services.get(name).with_context(|| format!("there is no service {name}"))
    }

    /// Waits until a service is ready.
    ///
    /// # Errors
    /// It is not, after a while.
    pub fn wait_ready(&self, name: &str) -> Result<()> {
        Ok(self.service(name)?.wait_ready(GENEROUS)?)
    }

    /// Waits until a service says on `/readyz` that it is not ready for this reason; all that it says.
    ///
    /// # Errors
    /// It does not, after a while.
    pub async fn wait_until_unready(&self, name: &str, reason: &str) -> Result<String> {
        let url = format!("{}/readyz", self.service(name)?.ops_url());
        eventually(reason, async || {
            // It may not listen yet.
            let Ok(response) = reqwest::get(&url).await else { return Ok(None) };
            let text = response.text().await?;
            Ok(text.contains(reason).then_some(text))
        })
        .await
    }

    /// Stops a service in order; its exit code must be 0.
    ///
    /// # Errors
    /// It did not end, or not with 0.
    pub fn stop(&self, name: &str) -> Result<()> {
        let status = self.service(name)?.terminate()?;
        ensure!(status.code() == Some(0), "{name} ended with {status}: {}", self.service(name)?.log_tail(30));
        Ok(())
    }

    /// A user of the first gateway.
    ///
    /// # Errors
    /// There is no gateway.
    pub fn user(&self, name: &str) -> Result<User> {
        self.user_at(name, Role::ApiGateway.name())
    }

    /// Where a claim's answer is found, as gateways are told: at the notifier.
    ///
    /// # Errors
    /// There is no notifier.
    pub fn claim_url(&self, claim_id: &str) -> Result<String> {
        let notifier = self.service(Role::Notifier.name())?.api_url().context("a notifier has an API")?;
        Ok(format!("{notifier}/v1/claims/{claim_id}"))
    }

    /// A user of this gateway.
    ///
    /// # Errors
    /// There is no such gateway.
    pub fn user_at(&self, name: &str, gateway: &str) -> Result<User> {
        let audience = &self.deployment.credentials.jwt_audience;
        let token = self.token(name, audience, None)?;
        self.user_with(name, &token, gateway, Role::Notifier.name())
    }

    /// A user with this token, of this gateway and notifier.
    ///
    /// # Errors
    /// There are no such services.
    pub fn user_with(&self, name: &str, token: &str, gateway: &str, notifier: &str) -> Result<User> {
        let gateway = self.service(gateway)?.api_url().context("a gateway has a user API")?;
        let notifier = self.service(notifier)?.api_url().context("a notifier has an API")?;
        Ok(User {
            name: name.to_owned(),
            gateway: Client::new(&gateway, token)?,
            notifier: Client::new(&notifier, token)?,
            token: token.to_owned(),
        })
    }

    /// An operator at the first gateway.
    ///
    /// # Errors
    /// There is no gateway.
    pub fn operator(&self) -> Result<Client> {
        self.operator_at(Role::ApiGateway.name())
    }

    /// An operator at this gateway.
    ///
    /// # Errors
    /// There is no such gateway.
    pub fn operator_at(&self, gateway: &str) -> Result<Client> {
        let audience = &self.deployment.credentials.admin_jwt_audience;
        let token = self.token("operator", audience, Some("coupons:read coupons:write"))?;
        let url = self.service(gateway)?.admin_url().context("a gateway has an admin API")?;
        Ok(Client::new(&url, &token)?)
    }

    /// A token.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn token(&self, sub: &str, audience: &str, scope: Option<&str>) -> Result<String> {
        let expires_at = self.clock.now().plus_ms(TOKEN_MS);
        self.tokens.mint(sub, audience, scope, expires_at).map_err(anyhow::Error::msg)
    }

    /// A coupon's ledger, as the first gateway counts it.
    ///
    /// # Errors
    /// It does not.
    pub async fn ledger(&self, coupon_id: &str) -> Result<Value> {
        let answer = self.operator()?.get(&format!("/admin/v1/coupons/{coupon_id}/ledger"), &[]).await?;
        ensure!(answer.status == StatusCode::OK, "the ledger of {coupon_id} was answered {answer:?}");
        Ok(answer.body)
    }

    /// Makes users' tokens, for tasks that outlive a borrow of the world.
    #[must_use]
    pub fn user_mint(&self) -> UserMint {
        UserMint {
            tokens: self.tokens.clone(),
            audience: self.deployment.credentials.jwt_audience.clone(),
            clock: self.clock.clone(),
        }
    }

    /// Makes a draft.
    ///
    /// # Errors
    /// The gateway says no.
    pub async fn draft(&self, spec: &CouponSpec) -> Result<String> {
        let now = self.clock.now();
        let body = json!({
            "name": "Fried chicken",
            "quantity": spec.quantity,
            "per_user_limit": spec.per_user_limit,
            "opens_at": to_rfc3339(now.plus_ms(spec.opens_in_ms)),
            "closes_at": to_rfc3339(now.plus_ms(spec.closes_in_ms)),
            "expires_at": spec.expires_in_ms.map(|ms| to_rfc3339(now.plus_ms(ms))),
        });
        let answer = self.operator()?.post("/admin/v1/coupons", &[key(&random())], Some(&body)).await?;
        ensure!(answer.status == StatusCode::CREATED, "the draft was answered {answer:?}");
        Ok(answer.text("coupon_id").to_owned())
    }

    /// Publishes a coupon, and waits until the gateways know it.
    ///
    /// # Errors
    /// The log says no.
    pub async fn publish(&self, spec: &CouponSpec) -> Result<String> {
        let coupon_id = self.draft(spec).await?;
        self.command(&coupon_id, "publish", None).await?;
        for name in self.services.keys().filter(|name| name.starts_with(Role::ApiGateway.name())) {
            let user = self.user_at("somebody", name)?;
            let path = format!("/v1/coupons/{coupon_id}");
            eventually("the gateway knows the coupon", async || {
                let answer = user.gateway.get(&path, &[]).await?;
                Ok((answer.status == StatusCode::OK).then_some(()))
            })
            .await?;
        }
        Ok(coupon_id)
    }

    /// Carries out a command, which must be applied.
    ///
    /// # Errors
    /// It was not.
    pub async fn command(&self, coupon_id: &str, command: &str, body: Option<Value>) -> Result<Answer> {
        let answer = self.try_command(coupon_id, command, body, &random()).await?;
        ensure!(answer.code() == "applied", "{command} was answered {answer:?}");
        Ok(answer)
    }

    /// Sends a command and waits for its answer, whatever it is.
    ///
    /// # Errors
    /// No answer at all.
    pub async fn try_command(
        &self,
        coupon_id: &str,
        command: &str,
        body: Option<Value>,
        idempotency_key: &str,
    ) -> Result<Answer> {
        let path = format!("/admin/v1/coupons/{coupon_id}/{command}");
        let headers = [key(idempotency_key), ("Prefer", "wait=30")];
        Ok(self.operator()?.post(&path, &headers, body.as_ref()).await?)
    }

    /// The topics.
    #[must_use]
    pub fn layout(&self) -> &TopicLayout {
        &self.layout
    }

    /// The connection to Kafka.
    #[must_use]
    pub fn kafka(&self) -> &Connection {
        &self.kafka
    }

    /// Appends bytes to a topic, past everything.
    ///
    /// # Errors
    /// They were not acknowledged.
    pub async fn append(&self, topic: Topic, partition: i32, key: &str, payload: &[u8]) -> Result<i64> {
        self.append_with(topic, partition, key, payload, &[]).await
    }

    /// The same with headers.
    ///
    /// # Errors
    /// They were not acknowledged.
    pub async fn append_with(
        &self,
        topic: Topic,
        partition: i32,
        key: &str,
        payload: &[u8],
        headers: &[(&str, &[u8])],
    ) -> Result<i64> {
        let name = self.layout.name(topic);
        let record =
            NewRecord { topic: &name, partition, key: key.as_bytes(), payload: Some(payload), headers };
        let acknowledged = self.producer.append(record).await?;
        acknowledged.offset.context("the broker gave no offset")
    }

    /// The bounds of a topic's partition.
    ///
    /// # Errors
    /// Kafka does not answer.
    pub fn bounds(&self, topic: Topic, partition: i32) -> Result<LogBounds> {
        Ok(Reader::new(&self.kafka, &self.layout.name(topic), "test")?.bounds(partition)?)
    }

    /// The values of a topic's partition, as JSON.
    ///
    /// # Errors
    /// Kafka does not answer.
    pub fn records(&self, topic: Topic, partition: i32) -> Result<Vec<Value>> {
        let reader = Reader::new(&self.kafka, &self.layout.name(topic), "test")?;
        let bounds = reader.bounds(partition)?;
        let (mut records, mut next) = (Vec::new(), bounds.start);
        if bounds.start < bounds.end {
            reader.assign(&[(partition, bounds.start)])?;
        }
        while next < bounds.end {
            reader.drain(10_000, GENEROUS, |record| {
                next = record.offset() + 1;
                records.push(
                    serde_json::from_slice(record.payload().unwrap_or_default()).unwrap_or(Value::Null),
                );
                ControlFlow::Continue(())
            })?;
        }
        Ok(records)
    }

    /// Reads a topic's partition from its start to the end that it has now.
    ///
    /// # Errors
    /// Kafka does not answer.
    pub fn read(
        &self,
        topic: Topic,
        partition: i32,
        mut take: impl FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<()> {
        let reader = Reader::new(&self.kafka, &self.layout.name(topic), "test")?;
        let bounds = reader.bounds(partition)?;
        let mut cursor = LogCursor::new(&reader, partition, bounds)?;
        while let Some(entry) = cursor.next()? {
            if take(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Takes the records before this offset away, as retention does.
    ///
    /// # Errors
    /// Kafka does not do it.
    pub fn delete_records(&self, topic: Topic, partition: i32, before: i64) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        let partitions = json!({
            "version": 1,
            "partitions": [{"topic": self.layout.name(topic), "partition": partition, "offset": before}],
        });
        write!(file, "{partitions}")?;
        let path = file.path().to_str().context("a temporary file has a plain name")?;
        let class = "org.apache.kafka.tools.DeleteRecordsCommand";
        self.servers().kafka_tool(class, &["--offset-json-file", path])?;
        ensure!(self.bounds(topic, partition)?.start == before, "the records are still there");
        Ok(())
    }

    /// Appends a copy of everything that a topic's partition holds, byte for byte.
    ///
    /// # Errors
    /// Kafka does not answer.
    pub async fn append_copies(&self, topic: Topic, partition: i32) -> Result<usize> {
        let name = self.layout.name(topic);
        let reader = Reader::new(&self.kafka, &name, "test")?;
        reader.assign_within(&[(partition, reader.bounds(partition)?)])?;
        let mut copies = Vec::new();
        while !reader.is_at_end() {
            reader.drain(10_000, GENEROUS, |record| {
                copies.push((record.key().map(<[u8]>::to_vec), record.payload().map(<[u8]>::to_vec)));
                ControlFlow::Continue(())
            })?;
        }
        for (key, payload) in &copies {
            let key = key.as_deref().unwrap_or_default();
            let record =
                NewRecord { topic: &name, partition, key, payload: payload.as_deref(), headers: &[] };
            self.producer.append(record).await?;
        }
        Ok(copies.len())
    }

    /// How many claims of a partition have no outcome yet.
    ///
    /// # Errors
    /// Kafka does not answer.
    pub fn undecided(&self, partition: i32) -> Result<i64> {
        let outcomes = self.records(Topic::Outcomes, partition)?;
        let said = outcomes.iter().filter_map(|outcome| outcome.get("src_offset")?.as_i64()).max();
        Ok(self.bounds(Topic::Claims, partition)?.end - said.map_or(0, |last| last + 1))
    }

    /// What a query gives, in psql's unaligned form.
    ///
    /// # Errors
    /// PostgreSQL does not answer.
    pub fn sql(&self, query: &str) -> Result<String> {
        Ok(self.servers().run_sql(&self.deployment.namespace.database_url, query)?.trim().to_owned())
    }

    /// A command to Redis, and its reply where that is one value.
    ///
    /// # Errors
    /// Redis does not answer, or says no.
    pub async fn redis(&self, words: &[&str]) -> Result<Option<String>> {
        crate::redis::command(self.servers().redis_url(), words).await
    }

    /// The bucket of the view that a claim's answer lies in, while the view has its present size.
    ///
    /// # Errors
    /// Redis does not answer, or the coupon has no view.
    pub async fn bucket_key(&self, claim_id: &str) -> Result<String> {
        let claim_id: ClaimId = claim_id.parse()?;
        let prefix = &self.deployment.namespace.redis_key_prefix;
        let hash = format!("{prefix}coupon:{{{}}}", claim_id.coupon_id);
        let count = self.redis(&["HGET", &hash, "buckets"]).await?.context("the coupon has no view")?;
        Ok(format!("{hash}:{}", bucket_of(&claim_id.mac, count.parse()?)))
    }

    /// A claim's answer in the view, in hexadecimal digits.
    ///
    /// # Errors
    /// Redis does not answer, or the coupon has no view.
    pub async fn answer_in_view(&self, claim_id: &str) -> Result<Option<String>> {
        const GET: &str = "local function bytes(hex) return (hex:gsub('..', function(byte) return string.char(tonumber(byte, 16)) end)) end \
            local value = redis.call('HGET', KEYS[1], bytes(ARGV[1])) \
            return value and (value:gsub('.', function(byte) return string.format('%02x', string.byte(byte)) end))";
        let (bucket, mac) = (self.bucket_key(claim_id).await?, mac_of(claim_id));
        self.redis(&["EVAL", GET, "1", &bucket, mac]).await
    }

    /// Puts other bytes in place of a claim's answer in the view, or none.
    ///
    /// # Errors
    /// Redis does not answer, or the coupon has no view.
    pub async fn change_answer_in_view(&self, claim_id: &str, value: Option<&str>) -> Result<()> {
        const SET: &str = "local function bytes(hex) return (hex:gsub('..', function(byte) return string.char(tonumber(byte, 16)) end)) end \
            if ARGV[2] == '' then return redis.call('HDEL', KEYS[1], bytes(ARGV[1])) end \
            return redis.call('HSET', KEYS[1], bytes(ARGV[1]), bytes(ARGV[2]))";
        let (bucket, mac) = (self.bucket_key(claim_id).await?, mac_of(claim_id));
        self.redis(&["EVAL", SET, "1", &bucket, mac, value.unwrap_or_default()]).await?;
        Ok(())
    }

    /// Waits until PostgreSQL and the view reflect everything that was appended.
    ///
    /// # Errors
    /// They do not, after a while.
    pub async fn wait_until_quiet(&self) -> Result<()> {
        self.wait_until_stored().await?;
        for partition in 0..i32::try_from(self.spec.partitions)? {
            let series = format!(
                r#"coupon_watermark_offset{{partition="{partition}",service="stock-consumer",store="redis"}} "#
            );
            eventually("the view reflects the whole log", async || {
                let end = self.bounds(Topic::Claims, partition)?.end;
                let metrics = self.metrics(Role::StockConsumer.name()).await?;
                let found = metrics.lines().find_map(|line| line.strip_prefix(&series));
                // A partition without a coupon has no view.
                Ok(found.is_none_or(|found| found == end.to_string()).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until the stock-consumer has pushed so many views whole.
    ///
    /// # Errors
    /// It has not, after a while.
    pub async fn wait_for_full_pushes(&self, least: u32) -> Result<()> {
        let series = r#"coupon_view_refreshes_total{kind="full",service="stock-consumer"} "#;
        eventually("a lost view is pushed again", async || {
            let metrics = self.metrics(Role::StockConsumer.name()).await?;
            let pushes = metrics.lines().find_map(|line| line.strip_prefix(series)).unwrap_or("0");
            Ok((pushes.parse::<u32>()? >= least).then_some(()))
        })
        .await
    }

    /// Waits until so many streams are open at the notifier.
    ///
    /// # Errors
    /// They are not, after a while.
    pub async fn wait_for_streams(&self, count: u32) -> Result<()> {
        let series = format!(r#"coupon_queue_depth{{queue="sse_streams",service="notifier"}} {count}"#);
        eventually("streams are open", async || {
            let metrics = self.metrics(Role::Notifier.name()).await?;
            Ok(metrics.lines().any(|line| line == series).then_some(()))
        })
        .await
    }

    /// A service's metrics.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metrics(&self, name: &str) -> Result<String> {
        let url = format!("{}/metrics", self.service(name)?.ops_url());
        Ok(reqwest::get(url).await?.text().await?)
    }

    /// Waits until PostgreSQL reflects everything that was appended.
    ///
    /// # Errors
    /// It does not, after a while.
    pub async fn wait_until_stored(&self) -> Result<()> {
        for partition in 0..i32::try_from(self.spec.partitions)? {
            eventually("PostgreSQL reflects the whole log", async || {
                let end = self.bounds(Topic::Claims, partition)?.end;
                let query = format!(
                    "select coalesce((select next_src from partition_progress where partition = {partition}), 0)"
                );
                Ok((self.sql(&query)? == end.to_string()).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// The wall clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}

fn connect(servers: &Servers, namespace: &Namespace) -> Result<(Connection, TopicLayout)> {
    let mut section = KafkaSection {
        bootstrap_servers: servers.kafka_bootstrap().to_owned(),
        topic_prefix: namespace.topic_prefix.clone(),
        group_prefix: namespace.group_prefix.clone(),
        partitions: u16::try_from(namespace.partitions)?,
        ..KafkaSection::default()
    };
    if let Some(encryption) = servers.encryption() {
        section.security_protocol = SecurityProtocol::SaslSsl;
        section.ssl_ca_file = Some(encryption.ca_file());
        section.sasl_mechanism = Some(SaslMechanism::ScramSha512);
        section.sasl_username = Some(encryption.kafka_user().to_owned());
        section.sasl_password = Some(std::fs::read_to_string(encryption.password_file())?);
    }
    let layout = section.layout(false);
    let unwatched = Metrics::new("e2e");
    let collectors = metrics::kafka(&unwatched, &unwatched.int_gauges(&catalogue::DEPENDENCY_UP));
    Ok((Connection::new(section, "e2e", collectors), layout))
}

fn key(value: &str) -> (&str, &str) {
    ("Idempotency-Key", value)
}

/// A name that nobody else has.
#[must_use]
pub fn random() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Runs a scenario's future on a runtime of its own, for five minutes at most.
///
/// # Errors
/// The scenario's.
pub fn run(scenario: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        tokio::time::timeout(SCENARIO_MAX, scenario)
            .await
            .unwrap_or_else(|_| bail!("the scenario has not ended after {SCENARIO_MAX:?}"))
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

/// The last part of a claim's id.
fn mac_of(claim_id: &str) -> &str {
    claim_id.rsplit('.').next().unwrap_or_default()
}
