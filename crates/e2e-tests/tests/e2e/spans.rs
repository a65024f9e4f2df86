use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, eventually, oracle};
use local_stack::{Role, Supervised};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// With a collector, the spans of a press arrive there as one trace: the gateway's a child of the caller's, the consumer's of the gateway's, and db-writer's
/// linked to the consumer's. Who is not recorded by their sender is recorded by nobody, and a collector that is away holds nothing up.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let collector = Collector::start()?;
        let mut world = World::prepare(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let endpoint = format!("http://127.0.0.1:{}", collector.port);
        let traced =
            [("FIRSTCOME__TRACE__ENDPOINT", endpoint.as_str()), ("FIRSTCOME__TRACE__SAMPLE_RATIO", "0")];
        for role in [Role::StockConsumer, Role::DbWriter, Role::Notifier, Role::ApiGateway] {
            world.add_with(role, role.name(), &traced)?;
        }
        for role in Role::ALL {
            world.wait_ready(role.name())?;
        }
        let coupon_id = world.publish(&CouponSpec::of(20)).await?;
        let nobody_records = TRACEPARENT.replace("-01", "-00");
        world.user("bob")?.press_with(&coupon_id, &[("traceparent", &nobody_records)]).await?;
        world.user("carol")?.press(&coupon_id).await?;
        world.user("ann")?.press_with(&coupon_id, &[("traceparent", TRACEPARENT)]).await?;
        let spans = eventually("all three spans have arrived", async || {
            let spans = collector.spans.lock().expect("nobody panics with it").clone();
            Ok(["api-gateway", "stock-consumer", "db-writer"]
                .iter()
                .all(|service| spans.iter().any(|span| span.service == *service))
                .then_some(spans))
        })
        .await?;
        let of = |service: &str| spans.iter().find(|span| span.service == service).context("it has arrived");
        let (gateway, consumer, writer) = (of("api-gateway")?, of("stock-consumer")?, of("db-writer")?);
        let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
        ensure!(gateway.trace_id == trace_id && gateway.parent == "00f067aa0ba902b7", "{gateway:?}");
        ensure!(consumer.trace_id == trace_id && consumer.parent == gateway.span_id, "{consumer:?}");
        ensure!(writer.links == [(trace_id.to_owned(), consumer.span_id.clone())], "{writer:?}");
        ensure!(spans.len() == 3, "only one press is recorded: {spans:?}");

        // Nobody waits for the collector.
        drop(collector);
        let dave = world.user("dave")?;
        let pressed = dave.press_with(&coupon_id, &[("traceparent", TRACEPARENT)]).await?;
        ensure!(dave.answer(pressed.text("claim_id")).await?.code() == "granted");
        world.wait_until_quiet().await?;
        oracle::verify(&world).await?;
        for role in Role::ALL {
            world.stop(role.name())?;
            let log = std::fs::read_to_string(world.service(role.name())?.log())?;
            ensure!(!log.contains("panicked"), "{}", role.name());
        }
        Ok(())
    })
}

#[derive(Clone, Debug)]
struct Span {
    service: String,
    trace_id: String,
    span_id: String,
    parent: String,
    links: Vec<(String, String)>,
}

/// Takes spans over HTTP, as a collector does.
struct Collector {
    port: u16,
    spans: Arc<Mutex<Vec<Span>>>,
    /// Dropped, the next connection is the last.
    open: Arc<()>,
}

impl Collector {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let (spans, open) = (Arc::<Mutex<Vec<Span>>>::default(), Arc::new(()));
        let (taken, still_open) = (Arc::clone(&spans), Arc::downgrade(&open));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if still_open.strong_count() == 0 {
                    return;
                }
                let request = stream.map_err(anyhow::Error::from).and_then(answer);
                taken.lock().expect("nobody panics with it").extend(request.expect("a request of spans"));
            }
        });
        Ok(Self { port, spans, open })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.open = Arc::new(());
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

/// Reads one request, which must be one of spans, and thanks for it.
fn answer(stream: TcpStream) -> Result<Vec<Span>> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "the head breaks off: {head}");
    }
    ensure!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    let head = head.to_lowercase();
    ensure!(head.contains("content-type: application/x-protobuf"), "{head}");
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let mut body = vec![0; length.context("a length")?.parse()?];
    reader.read_exact(&mut body)?;
    reader.into_inner().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let mut spans = Vec::new();
    for of_service in ExportTraceServiceRequest::decode(body.as_slice())?.resource_spans {
        let attributes = of_service.resource.context("a resource")?.attributes;
        let name = attributes.iter().find(|attribute| attribute.key == "service.name");
        let service = format!("{:?}", name.context("a name")?.value);
        let service = ["api-gateway", "stock-consumer", "db-writer", "notifier"]
            .into_iter()
            .find(|known| service.contains(known))
            .context("a service of ours")?;
        for span in of_service.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                service: service.to_owned(),
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
            });
        }
    }
    Ok(spans)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
