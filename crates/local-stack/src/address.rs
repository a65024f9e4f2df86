//! Where a listener binds and where its clients find it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The address that clients use for a listener on `bind`: a wildcard is reached through loopback.
///
/// Whoever serves other machines binds the very address that they know, not a wildcard: Kafka tells its clients where to go.
pub(crate) fn reachable(bind: IpAddr) -> IpAddr {
    match bind {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

/// The same for a listener with its port; it displays as URLs want it, IPv6 in brackets.
pub(crate) fn endpoint(bind: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(reachable(bind), port)
}
