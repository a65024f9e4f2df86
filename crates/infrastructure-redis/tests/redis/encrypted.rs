//! A Redis that speaks TLS alone. Who is refused for what is a scenario of e2e-tests; here is what only some servers ask for.

use coupon_domain::ClaimCode;
use infrastructure_redis::{RedisSection, ViewMaintenance};
use infrastructure_tls::TlsFiles;
use local_stack::{ExternalServers, Servers, ServersOptions};

use crate::installation::{Installation, answer, claim, counts, written};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_our_certificate_gets_it() {
    let nobody = || Some("nobody-is-asked".to_owned());
    let external =
        ExternalServers { kafka_bootstrap: nobody(), database_url: nobody(), ..Default::default() };
    let redis_settings = vec![("tls-auth-clients".to_owned(), "yes".to_owned())];
    let options = ServersOptions { external, encrypted: true, redis_settings, ..ServersOptions::default() };
    let servers = Servers::start(options).unwrap();
    let encryption = servers.encryption().unwrap();
    let section = RedisSection {
        url: Some(servers.redis_url().to_owned()),
        tls: TlsFiles {
            ca_file: Some(encryption.ca_file()),
            certificate_file: Some(encryption.certificate_file()),
            key_file: Some(encryption.key_file()),
        },
        read_timeout_ms: 5_000,
        write_timeout_ms: 20_000,
        ..RedisSection::default()
    };
    assert_eq!(section.problems(true), []);

    let view = Installation::at(section.clone());
    view.maintenance.ping().await.unwrap();
    let coupon = counts();
    let ann = claim(&coupon, 1);
    let granted = answer(ann, ClaimCode::Granted, 4);
    assert_eq!(view.write(coupon, None, 5, &[granted]).await, written());
    assert_eq!(view.reader.claim(&ann).await.unwrap(), Some(granted));

    let unknown = TlsFiles { certificate_file: None, key_file: None, ..section.tls.clone() };
    let stranger = ViewMaintenance::new(&RedisSection { tls: unknown, ..section }).unwrap();
    let refused = stranger.ping().await.unwrap_err().to_string();
    assert!(refused.contains("redis.tls.certificate_file"), "{refused}");
}
