//! Redis: Debian's `redis-server`. It is a view in this system, so it keeps nothing on disk unless told to.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use crate::account::Account;
use crate::address;
use crate::encryption::{Encryption, USER};
use crate::environment;
use crate::error::Error;
use crate::install;
use crate::launch::Launch;
use crate::ports::PortLease;
use crate::server::{Hosting, Server, connect, exchange, write_file};
use crate::stop_request::StopRequest;

const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// The users that services are in production.
const USERS: &str = include_str!("../../../deploy/redis/users.acl");
/// Their password there.
const PASSWORD_THERE: &str = ">firstcome-for-dev";
/// Their keys there; here every namespace has a prefix of its own.
const KEYS_THERE: &str = "~coupon:{*";

/// Starts a Redis and waits until it answers PING.
pub(crate) fn start(hosting: &Hosting) -> Result<Server, Error> {
    let program =
        environment::find_program("redis-server").ok_or_else(|| install::missing("redis-server"))?;
    let lease = PortLease::take(hosting.bind, hosting.port)?;
    let address = address::endpoint(hosting.bind, lease.port());
    let folder = hosting.folder("redis")?;
    let configuration = folder.join("redis.conf");
    write_file(&configuration, &settings(hosting, lease.port(), &folder.display().to_string()))?;

    let password = hosting.url_password().map(str::to_owned);
    let encryption = hosting.encryption.clone();
    let endpoint = match (&password, &encryption) {
        (Some(password), Some(_)) => format!("rediss://{USER}:{password}@{address}"),
        (Some(password), None) => format!("redis://:{password}@{address}"),
        (None, _) => format!("redis://{address}"),
    };
    let launch = Launch {
        name: "redis".to_owned(),
        program,
        arguments: vec![configuration.into_os_string()],
        environment: Vec::new(),
        account: Account::Own,
        lifetime: hosting.lifetime.clone(),
        log: hosting.log.clone(),
        stop_request: StopRequest::Terminate,
    };
    let ready = Box::new(move || ping(address, password.as_deref(), encryption.as_ref()));
    Server::start(endpoint, vec![lease], launch, STOP_DEADLINE, ready)
}

/// A later line wins over an earlier one, so ours come first.
fn settings(hosting: &Hosting, port: u16, folder: &str) -> String {
    let mut text = match &hosting.encryption {
        None => format!("port {port}\n"),
        Some(encryption) => tls_settings(encryption, port, &hosting.password),
    };
    let _ = write!(
        text,
        "bind {}\n\
         dir \"{folder}\"\n\
         daemonize no\n\
         save \"\"\n\
         appendonly no\n\
         maxmemory-policy noeviction\n",
        hosting.bind
    );
    // Redis refuses other machines as long as it has no password.
    if let (Some(password), None) = (hosting.url_password(), &hosting.encryption) {
        let _ = writeln!(text, "requirepass {password}");
    }
    let password =
        hosting.url_password().map_or_else(|| "nopass".to_owned(), |password| format!(">{password}"));
    for user in USERS.lines().filter(|user| !user.starts_with("user default ")) {
        let _ = writeln!(text, "{}", user.replace(PASSWORD_THERE, &password).replace(KEYS_THERE, "~*"));
    }
    for (name, value) in &hosting.extra {
        let _ = writeln!(text, "{name} {value}");
    }
    text
}

/// One port, through TLS, for one user.
fn tls_settings(encryption: &Encryption, port: u16, password: &str) -> String {
    format!(
        "port 0\n\
         tls-port {port}\n\
         tls-cert-file \"{}\"\n\
         tls-key-file \"{}\"\n\
         tls-ca-cert-file \"{}\"\n\
         tls-auth-clients no\n\
         user default off\n\
         user {USER} on >{password} ~* &* +@all\n",
        encryption.certificate_file().display(),
        encryption.key_file().display(),
        encryption.ca_file().display(),
    )
}

/// While it loads its data, Redis accepts connections and answers `-LOADING`.
pub(crate) fn ping(
    address: SocketAddr,
    password: Option<&str>,
    encryption: Option<&Encryption>,
) -> Result<(), String> {
    let mut connection = connect(address)?;
    match (password, encryption) {
        (password, None) => ping_as(&mut connection, password.map(str::to_owned)),
        (password, Some(encryption)) => {
            let login = password.map(|password| format!("{USER} {password}"));
            ping_as(&mut encryption.over(connection, address)?, login)
        }
    }
}

fn ping_as(connection: &mut (impl Read + Write), login: Option<String>) -> Result<(), String> {
    if let Some(login) = login {
        let answer: [u8; 5] = exchange(connection, format!("AUTH {login}\r\n").as_bytes())?;
        expect(answer, b"+OK\r\n")?;
    }
    expect(exchange(connection, b"PING\r\n")?, b"+PONG")
}

fn expect<const N: usize>(answer: [u8; N], wanted: &[u8; N]) -> Result<(), String> {
    if &answer == wanted { Ok(()) } else { Err(format!("{:?}", String::from_utf8_lossy(&answer))) }
}
