//! The address of a server as people write it: `host`, `host:port`, `192.0.2.1`, `[::1]:4640`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Failure, SettingsArgs, reachable};
use crate::limits::PORT_DEFAULT;
use crate::resolve;

/// Longest name of a host in DNS, bytes.
const HOST_BYTES_MAX: usize = 253;

/// A host and a port; the host is not looked up yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

/// Why a text is not an address. The message does not repeat the text: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    #[error("the host is missing: expected HOST or HOST:PORT")]
    NoHost,
    #[error("the port is not a number from 1 to 65535")]
    Port,
    #[error("this is a URL: expected HOST or HOST:PORT, without a scheme and a path")]
    Url,
    #[error("the host contains a character that no host name has")]
    Host,
    #[error("the host is not an IPv6 address: only these are written in brackets")]
    Brackets,
}

impl FromStr for Address {
    type Err = AddressError;

    /// Without a port it is [`PORT_DEFAULT`].
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.contains('/') {
            return Err(AddressError::Url);
        }
        if text.contains('@') {
            return Err(AddressError::Host);
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or(AddressError::Brackets)?;
            if !is_ipv6(host) {
                return Err(AddressError::Brackets);
            }
            match port {
                "" => (host, None),
                port => (host, Some(port.strip_prefix(':').ok_or(AddressError::Brackets)?)),
            }
        } else if is_ipv6(text) {
            (text, None)
        } else {
            let (host, port) = text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            if !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte) || !byte.is_ascii())
                || host.chars().any(|c| c.is_control() || c.is_whitespace())
                || host.len() > HOST_BYTES_MAX
            {
                return Err(AddressError::Host);
            }
            (host, port)
        };
        if host.is_empty() {
            return Err(AddressError::NoHost);
        }
        let port = match port {
            None => PORT_DEFAULT,
            // `parse` takes a sign.
            Some(port) if !port.bytes().all(|byte| byte.is_ascii_digit()) => return Err(AddressError::Port),
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or(AddressError::Port)?,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Whether it is an IPv6 address, perhaps with a zone.
fn is_ipv6(host: &str) -> bool {
    let (address, zone) = host.split_once('%').map_or((host, None), |(address, zone)| (address, Some(zone)));
    let zone_is_plain = |zone: &str| {
        !zone.is_empty() && zone.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    address.parse::<Ipv6Addr>().is_ok() && zone.is_none_or(zone_is_plain)
}

/// `host:port`, IPv6 in brackets: as it is written in a URL.
impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(out, "[{host}]:{port}") } else { write!(out, "{host}:{port}") }
    }
}

impl Address {
    /// The addresses of the host, in the order in which to try them; at least one.
    ///
    /// # Errors
    /// The name does not resolve.
    pub(super) fn resolve(&self) -> Result<Vec<SocketAddr>, Failure> {
        resolve::addresses(&self.host, self.port).map_err(|error| {
            Failure::Failed(format!(
                "cannot resolve host {:?}: {error}; check the name, or use an IP address",
                self.host
            ))
        })
    }

    /// The address that was asked for, else `server.address` of the settings.
    ///
    /// # Errors
    /// The settings are wrong, or leave the port to the system.
    pub(super) fn or_of_settings(asked: Option<&Self>, settings: &SettingsArgs, option: &str) -> Result<Self, Failure> {
        if let Some(asked) = asked {
            return Ok(asked.clone());
        }
        let address = reachable(settings.load()?.config.server.address);
        if address.port() == 0 {
            return Err(Failure::Failed(format!(
                "server.address has port 0, which is a different one at each start: name the port in use, as in \
                 `telemetryx {option} localhost:{PORT_DEFAULT}`"
            )));
        }
        Ok(address.into())
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let host = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => ip.to_string(),
        };
        Self { host, port: address.port() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_port_it_is_the_default_port() {
        for (text, shown) in [
            ("localhost", "localhost:4640"),
            ("localhost:1", "localhost:1"),
            ("log-1.example_x.org", "log-1.example_x.org:4640"),
            ("192.0.2.1", "192.0.2.1:4640"),
            ("192.0.2.1:65535", "192.0.2.1:65535"),
            ("::1", "[::1]:4640"),
            ("[::1]", "[::1]:4640"),
            ("[::1]:5", "[::1]:5"),
            ("fe80::1%eth0", "[fe80::1%eth0]:4640"),
            ("[fe80::1%eth0]:7", "[fe80::1%eth0]:7"),
            ("bücher.example", "bücher.example:4640"),
        ] {
            let address: Address = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(address.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(address), "{text}");
        }
    }

    #[test]
    fn what_is_not_an_address_is_rejected_with_its_reason() {
        for (text, error) in [
            ("", AddressError::NoHost),
            (":4640", AddressError::NoHost),
            ("localhost:", AddressError::Port),
            ("localhost:0", AddressError::Port),
            ("localhost:65536", AddressError::Port),
            ("localhost:+80", AddressError::Port),
            ("localhost:http", AddressError::Port),
            ("http://localhost:4640", AddressError::Url),
            ("localhost:4640/health", AddressError::Url),
            ("user:secret@localhost", AddressError::Host),
            ("local host", AddressError::Host),
            ("a\u{7}b", AddressError::Host),
            ("a,b:1", AddressError::Host),
            ("::1:4640:x", AddressError::Host),
            ("[::1", AddressError::Brackets),
            ("[::1]4640", AddressError::Brackets),
            ("[localhost]:1", AddressError::Brackets),
            ("[fe80::1%]:1", AddressError::Brackets),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_name_that_does_not_resolve_is_named() {
        let address: Address = "no-such-host.invalid".parse().unwrap();
        let error = address.resolve().unwrap_err().to_string();
        assert!(error.starts_with("cannot resolve host \"no-such-host.invalid\": "), "{error}");
        let loopback: Address = "127.0.0.1:9".parse().unwrap();
        assert_eq!(loopback.resolve().unwrap(), ["127.0.0.1:9".parse().unwrap()]);
    }
}
