//! Networks in CIDR notation: whose syslog is accepted.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;

/// Networks, as a list with commas. Empty: none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Networks(Vec<(IpAddr, u8)>);

/// A text is not a list of networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address or a network like 10.0.0.0/8")]
pub struct NotNetworks;

impl Networks {
    /// Whether one of them has this address. An IPv4 address within IPv6 counts as IPv4.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = bits(address.to_canonical());
        self.0.iter().any(|(network, prefix)| {
            let (network, width) = bits(*network);
            let (address, address_width) = address;
            width == address_width && (network ^ address).checked_shr(width - u32::from(*prefix)).unwrap_or(0) == 0
        })
    }
}

/// The bits of an address, and their number.
fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

impl FromStr for Networks {
    type Err = NotNetworks;

    fn from_str(text: &str) -> Result<Self, NotNetworks> {
        let networks = text.split(',').map(str::trim).filter(|network| !network.is_empty()).map(|network| {
            let (address, prefix) =
                network.split_once('/').map_or((network, None), |(address, prefix)| (address, Some(prefix)));
            let address: IpAddr = address.parse().map_err(|_| NotNetworks)?;
            let width = bits(address).1 as u8;
            let prefix = match prefix {
                Some(prefix) => prefix.parse().ok().filter(|prefix| *prefix <= width).ok_or(NotNetworks)?,
                None => width,
            };
            Ok((address, prefix))
        });
        networks.collect::<Result<_, _>>().map(Self)
    }
}

impl TryFrom<String> for Networks {
    type Error = NotNetworks;

    fn try_from(text: String) -> Result<Self, NotNetworks> {
        text.parse()
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (address, prefix)) in self.0.iter().enumerate() {
            write!(f, "{}{address}/{prefix}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_their_networks() {
        let networks: Networks = "127.0.0.0/8, ::1,10.1.2.0/23, fe80::/10, 192.0.2.7".parse().unwrap();
        for (address, expected) in [
            ("127.0.0.1", true),
            ("127.255.0.9", true),
            ("128.0.0.1", false),
            ("::1", true),
            ("::2", false),
            ("::ffff:127.0.0.1", true),
            ("::ffff:8.8.8.8", false),
            ("10.1.3.255", true),
            ("10.1.4.0", false),
            ("fe80::1", true),
            ("fec0::1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
        ] {
            assert_eq!(networks.contain(address.parse().unwrap()), expected, "{address}");
        }
        let all: Networks = "0.0.0.0/0,::/0".parse().unwrap();
        assert!(all.contain("8.8.8.8".parse().unwrap()) && all.contain("2001:db8::1".parse().unwrap()));
        assert!(!Networks::default().contain("127.0.0.1".parse().unwrap()));
        for wrong in ["10.0.0.0/33", "::/129", "localhost", "10.0.0", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/8/8"] {
            assert_eq!(wrong.parse::<Networks>(), Err(NotNetworks), "{wrong}");
        }
    }
}
