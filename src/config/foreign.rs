//! What other programs call our keys, for the messages of unknown keys. Nothing here is looked at before a key is unknown.

const LOG_LEVEL: &str = "log.filter";
const ADDRESS: &str = "server.address";
const TOKENS: &str = "server.tokens_file";
const CERT: &str = "tls.cert_file";
const KEY: &str = "tls.key_file";
const CLIENT_CA: &str = "tls.client_ca_file";
const URL: &str = "url";
const PATH: &str = "path";

/// Without `_` and `-`, which do not count, nor does case.
const KEYS: &[(&str, &str)] = &[
    ("level", LOG_LEVEL),
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
    ("data", "data_dir"),
    ("server.datadir", "data_dir"),
    ("storage", "data_dir"),
];

const KEYS_OF_SINKS: &[(&str, &str)] = &[
    ("address", URL),
    ("connectionstring", URL),
    ("dsn", URL),
    ("endpoint", URL),
    ("host", URL),
    ("uri", URL),
    ("file", PATH),
    ("filename", PATH),
];

/// Returns the key that an unknown `key` stands for: of a sink, or of the whole settings.
pub(super) fn meant(key: &str, of_sink: bool) -> Option<&'static str> {
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
            assert!(known.iter().any(|known| known == meant), "{meant}");
        }
        for (foreign, meant) in KEYS_OF_SINKS {
            assert_eq!(super::meant(foreign, true), Some(*meant), "{foreign}");
        }
        for key in &known {
            assert_eq!(meant(key, false), None, "{key}");
        }
    }
}
