//! Host names: under which the server shows its pages.

use std::str::FromStr;

use serde::Deserialize;

use crate::limits::HTTP_HOSTS_MAX;

/// Bytes of a name in DNS.
const NAME_BYTES_MAX: usize = 253;

/// Names in lower case, as a list with commas. Empty: none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Hosts(pub Vec<String>);

/// A text is not a list of host names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a list of host names")]
pub struct NotHosts;

impl FromStr for Hosts {
    type Err = NotHosts;

    fn from_str(text: &str) -> Result<Self, NotHosts> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let names: Vec<String> = names.map(str::to_ascii_lowercase).collect();
        let is_name = |name: &String| {
            name.len() <= NAME_BYTES_MAX
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        if names.len() > HTTP_HOSTS_MAX || !names.iter().all(is_name) {
            return Err(NotHosts);
        }
        Ok(Self(names))
    }
}

impl TryFrom<String> for Hosts {
    type Error = NotHosts;

    fn try_from(text: String) -> Result<Self, NotHosts> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_lower_case_and_nothing_else_is() {
        assert_eq!("".parse(), Ok(Hosts(Vec::new())));
        let names = Hosts(vec!["telemetry.example".to_owned(), "a_b-c".to_owned()]);
        assert_eq!(" Telemetry.Example, a_b-c,".parse(), Ok(names));
        for wrong in ["a:80", "http://a", "a b", "*", "a/b", "é", &"a".repeat(254), &"a,".repeat(65)] {
            assert_eq!(wrong.parse::<Hosts>(), Err(NotHosts), "{wrong}");
        }
    }
}
