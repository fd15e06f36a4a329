//! What other programs call our keys, for the messages of unknown keys. Nothing here is looked at before a key is unknown.

/// What a key of another name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meant {
    /// A key beside it, or of the whole settings where it is in no sink.
    Key(&'static str),
    /// What is not set by a key.
    Advice(&'static str),
}

const LOG_LEVEL: Meant = Meant::Advice("how much is logged is set in the environment, as in TELEMETRYX_LOG=debug");
const ADDRESS: Meant = Meant::Key("server.address");
const TOKENS: Meant = Meant::Key("server.tokens_file");
const CERT: Meant = Meant::Key("tls.cert_file");
const KEY: Meant = Meant::Key("tls.key_file");
const CLIENT_CA: Meant = Meant::Key("tls.client_ca_file");
const URL: Meant = Meant::Key("url");
const PATH: Meant = Meant::Key("path");

/// Without `_` and `-`, which do not count, nor does case.
const KEYS: &[(&str, Meant)] = &[
    ("level", LOG_LEVEL),
    ("log.filter", LOG_LEVEL),
    ("log.level", LOG_LEVEL),
    ("loglevel", LOG_LEVEL),
    ("logging.level", LOG_LEVEL),
    ("server.loglevel", LOG_LEVEL),
    ("address", ADDRESS),
    ("bind", ADDRESS),
    ("host", ADDRESS),
    ("listen", ADDRESS),
    ("port", ADDRESS),
    ("server.bind", ADDRESS),
    ("server.host", ADDRESS),
    ("server.listen", ADDRESS),
    ("server.port", ADDRESS),
    ("server.token", TOKENS),
    ("server.tokens", TOKENS),
    ("token", TOKENS),
    ("tokens", TOKENS),
    ("tokensfile", TOKENS),
    ("server.cert", CERT),
    ("server.certfile", CERT),
    ("server.tls", CERT),
    ("server.key", KEY),
    ("server.keyfile", KEY),
    ("tls.cert", CERT),
    ("tls.certificate", CERT),
    ("tls.enabled", CERT),
    ("tls.key", KEY),
    ("tls.ca", CLIENT_CA),
    ("tls.cafile", CLIENT_CA),
    ("tls.clientca", CLIENT_CA),
    ("data", Meant::Key("data_dir")),
    ("server.datadir", Meant::Key("data_dir")),
    ("storage", Meant::Key("data_dir")),
];

const KEYS_OF_SINKS: &[(&str, Meant)] = &[
    ("address", URL),
    ("connectionstring", URL),
    ("dsn", URL),
    ("endpoint", URL),
    ("host", URL),
    ("uri", URL),
    ("file", PATH),
    ("filename", PATH),
];

/// Returns what an unknown `key` leads to: of a sink, or of the whole settings.
pub(super) fn meant(key: &str, of_sink: bool) -> Option<Meant> {
    let folded: String = key.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect();
    let keys = if of_sink { KEYS_OF_SINKS } else { KEYS };
    keys.iter().find(|(foreign, _)| *foreign == folded).map(|(_, meant)| *meant)
}

#[cfg(test)]
mod tests {
    use super::super::table;
    use super::*;

    #[test]
    fn every_key_that_is_meant_exists_and_none_that_exists_is_foreign() {
        let known: Vec<String> = table::SECTIONS
            .iter()
            .flat_map(|section| section.settings.iter().map(|setting| section.key(setting)))
            .collect();
        for (foreign, meant) in KEYS {
            assert_eq!(super::meant(foreign, false), Some(*meant), "{foreign}");
            let Meant::Key(key) = meant else { continue };
            assert!(known.iter().any(|known| known == key), "{key}");
        }
        for (foreign, meant) in KEYS_OF_SINKS {
            assert_eq!(super::meant(foreign, true), Some(*meant), "{foreign}");
        }
        for key in &known {
            assert_eq!(meant(key, false), None, "{key}");
        }
    }
}
