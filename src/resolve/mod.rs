//! Host names to addresses, and a connection to the first address that answers.
//!
//! `localhost` and the names below `.localhost` are this machine, whatever the system's resolver says ([RFC 6761], 6.3): an empty
//! root, which has no `/etc/hosts`, knows them too. Every other name is looked up by the system, within its own timeouts.
//!
//! [RFC 6761]: https://www.rfc-editor.org/rfc/rfc6761#section-6.3

#[cfg(feature = "server")]
pub mod http;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// What `localhost` stands for, in the order in which it is tried: a server listens on IPv4 by default.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Whether the name means this machine by definition. A final dot and upper case do not matter.
pub fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}

/// The address of a name that is [this machine](is_localhost) and that the system does not know, for clients that look up names
/// themselves: they are given this address in place of the name. `None`: they can look it up.
pub fn unknown_localhost(host: &str) -> Option<IpAddr> {
    (is_localhost(host) && (host, 0).to_socket_addrs().is_err()).then_some(LOOPBACK[0])
}

/// All addresses of a host (a name, or an address without brackets), at least one.
///
/// # Errors
/// The resolver's error, or [`io::ErrorKind::NotFound`] if the name has no address.
pub fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if is_localhost(host) {
        return Ok(LOOPBACK.map(|address| SocketAddr::new(address, port)).to_vec());
    }
    let found: Vec<_> = (host, port).to_socket_addrs()?.collect();
    if found.is_empty() { Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")) } else { Ok(found) }
}

/// Connects to `host:port`, where an IPv6 address has brackets; see [`connect`].
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] without a port; else as [`connect`].
pub fn connect_to(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let (host, port) = parts(address)?;
    connect(host, port, timeout)
}

/// Host and port of `host:port`; an IPv6 address is without its brackets.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] without a port.
pub fn parts(address: &str) -> io::Result<(&str, u16)> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let Some((host, port)) = parts else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an address: expected HOST:PORT"));
    };
    Ok((host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port))
}

/// Connects to the first address of a host that accepts; each is given `timeout`.
///
/// # Errors
/// As [`addresses`]; else the first address's error: of `localhost` it is the one that says whether somebody listens, where
/// the machine has no IPv6.
pub fn connect(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    connect_first(&addresses(host, port)?, timeout)
}

fn connect_first(addresses: &[SocketAddr], timeout: Duration) -> io::Result<TcpStream> {
    let mut first = None;
    for address in addresses {
        match TcpStream::connect_timeout(address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => _ = first.get_or_insert(error),
        }
    }
    Err(first.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn localhost_and_names_below_it_are_this_machine_and_no_others() {
        for host in ["localhost", "LocalHost", "localhost.", "telemetryx.localhost", "a.b.localhost."] {
            let found = addresses(host, 4640).unwrap();
            assert_eq!(found, ["127.0.0.1:4640".parse().unwrap(), "[::1]:4640".parse().unwrap()], "{host}");
        }
        for host in ["", ".", "mylocalhost", "localhost.example.com", "localhost4", "127.0.0.1", "::1"] {
            assert!(!is_localhost(host), "{host}");
        }
    }

    #[test]
    fn an_address_needs_no_resolver() {
        assert_eq!(addresses("192.0.2.1", 1).unwrap(), ["192.0.2.1:1".parse().unwrap()]);
        assert_eq!(addresses("2001:db8::1", 1).unwrap(), ["[2001:db8::1]:1".parse().unwrap()]);
    }

    #[test]
    fn the_first_address_that_accepts_is_connected() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = connect("localhost", port, Duration::from_secs(5)).unwrap();
        assert_eq!(stream.peer_addr().unwrap().port(), port);
        assert!(connect_to(&format!("localhost:{port}"), Duration::from_secs(5)).is_ok());
        assert!(connect_to(&format!("127.0.0.1:{port}"), Duration::from_secs(5)).is_ok());
        for address in ["localhost", "localhost:", "localhost:http", "localhost:65536"] {
            let error = connect_to(address, Duration::from_secs(5)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{address}");
        }
        drop(listener);
        let refused = connect("localhost", port, Duration::from_secs(5)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn where_no_address_accepts_the_first_ones_error_is_reported() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // Nobody listens at the one, and the other fails in its own way on every machine: no TCP over broadcast.
        let [refused, unreachable] = [[127, 0, 0, 1], [255; 4]].map(|ip| SocketAddr::from((ip, port)));
        let error = |addresses: [SocketAddr; 2]| connect_first(&addresses, Duration::from_secs(5)).unwrap_err().kind();
        assert_eq!(error([refused, unreachable]), io::ErrorKind::ConnectionRefused);
        assert_ne!(error([unreachable, refused]), io::ErrorKind::ConnectionRefused);
    }
}
