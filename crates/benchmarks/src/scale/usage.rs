//! What processes use, as the kernel counts it.

use anyhow::{Context, Result, ensure};
use e2e_tests::World;
use local_stack::Supervised;

/// Ticks of a second in `/proc/<pid>/stat`: the same on every Linux that we run on.
const TICKS: f64 = 100.0;

/// A process' CPU time so far, in s, its own and that of children it has waited for.
pub(crate) fn cpu_s(pid: u32) -> Result<f64> {
    let fields = stat(pid)?;
    let ticks = fields.iter().skip(11).take(4).map(|field| field.parse::<f64>()).sum::<Result<f64, _>>()?;
    Ok(ticks / TICKS)
}

/// The same of a process and those of its children that still run: PostgreSQL has one for each connection.
pub(crate) fn cpu_with_children_s(pid: u32) -> Result<f64> {
    let mut sum = cpu_s(pid)?;
    for child in children(pid)? {
        // It may have ended meanwhile.
        sum += cpu_s(child).unwrap_or(0.0);
    }
    Ok(sum)
}

/// The processes that this one has started.
pub(crate) fn children(pid: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(child) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let parent = stat(child).ok().and_then(|fields| fields.get(1)?.parse::<u32>().ok());
        if parent == Some(pid) {
            found.push(child);
        }
    }
    Ok(found)
}

/// How many threads a process has.
pub(crate) fn threads(pid: u32) -> Result<u32> {
    Ok(u32::try_from(std::fs::read_dir(format!("/proc/{pid}/task"))?.count())?)
}

/// How many sockets a process has open.
pub(crate) fn sockets(pid: u32) -> Result<u32> {
    let is_socket = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    Ok(u32::try_from(open.filter(is_socket).count())?)
}

/// The fields of `/proc/<pid>/stat` behind the name: state, parent, …
fn stat(pid: u32) -> Result<Vec<String>> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let (_, fields) = text.rsplit_once(") ").with_context(|| path.clone())?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

/// The pid of a service of the world.
pub(crate) fn pid_of(world: &World, name: &str) -> Result<u32> {
    world.service(name)?.pid().with_context(|| format!("{name} does not run"))
}

/// The sum of a metric's series that have this label.
pub(crate) fn sum_of(metrics: &str, name: &str, label: &str) -> f64 {
    let values =
        metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once("} "));
    values
        .filter(|(labels, _)| labels.contains(label))
        .filter_map(|(_, value)| value.parse::<f64>().ok())
        .sum()
}

/// How long the stock-consumer has read checkpoints since it started, in s.
pub(crate) async fn load_seconds(world: &World) -> Result<f64> {
    let metrics = world.metrics("stock-consumer").await?;
    let seconds = sum_of(&metrics, "coupon_postgres_seconds_sum", r#"operation="load_checkpoint""#);
    ensure!(seconds > 0.0, "the stock-consumer says nothing of its checkpoint");
    Ok(seconds)
}

/// CPU time of everybody who takes part, in s.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) stock_consumer: f64,
    pub(crate) db_writer: f64,
    pub(crate) redis: f64,
    pub(crate) all: f64,
}

impl Cpu {
    /// So far. Servers of somebody else's are not counted.
    pub(crate) fn of(world: &World) -> Result<Self> {
        let service = |name| pid_of(world, name).and_then(cpu_s);
        let server = |server: Result<&local_stack::Server, local_stack::Error>| {
            server.ok().and_then(Supervised::pid).map_or(Ok(0.0), cpu_with_children_s)
        };
        let (stock_consumer, db_writer) = (service("stock-consumer")?, service("db-writer")?);
        let servers = world.servers();
        let redis = server(servers.redis())?;
        let all = stock_consumer + db_writer + redis + server(servers.kafka())? + server(servers.postgres())?;
        Ok(Self { stock_consumer, db_writer, redis, all })
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            stock_consumer: self.stock_consumer - before.stock_consumer,
            db_writer: self.db_writer - before.db_writer,
            redis: self.redis - before.redis,
            all: self.all - before.all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_threads_and_uses_cpu() {
        let own = std::process::id();
        assert!(threads(own).unwrap() >= 1);
        let began = cpu_s(own).unwrap();
        let mut number = 0_u64;
        while cpu_s(own).unwrap() <= began {
            number = std::hint::black_box(number + 1);
        }
        assert!(cpu_with_children_s(own).unwrap() >= cpu_s(own).unwrap() - 1.0);
        let _listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(sockets(own).unwrap() >= 1);
    }
}
