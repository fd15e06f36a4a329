//! Secrets with every sign that a URL gives a meaning, in every place where a person may write one, for every kind of
//! sink: nothing that is printed, logged or shown holds a piece of them.

use super::*;
use crate::sink::Identity;

/// What stands around the sign in a secret. A letter's case may change where it is taken for a host.
const PIECES: [&str; 2] = ["hunter", "zebra"];

const SIGNS: [&str; 21] = [
    "", "@", ":", "/", "?", "#", "%", "%40", "%3A", "%2F", "%3F", "%23", "%25", ",", "&", "=", "\\", "[", "]", " ",
    "://",
];

const SCHEMES: [(&str, &[&str]); 4] = [
    ("postgres", &["postgres", "postgresql", "redis", "x"]),
    ("redis", &["redis", "rediss", "unix", "http"]),
    ("http", &["http", "https", "HTTP", "ftp"]),
    ("grpc", &["http", "https", "grpc"]),
];

/// `$` is the secret. Nobody listens on these ports.
const URLS: [&str; 18] = [
    "$",
    "u:$@127.0.0.1:1",
    "host=127.0.0.1 port=1 password='$'",
    "s://u:$@127.0.0.1:1/7",
    "s://$:p@127.0.0.1:1/7",
    "s://:$@127.0.0.1:1",
    "s://$@127.0.0.1:1",
    "s://$:@[::1]:1/",
    "s://u:$@",
    "s://$@",
    "s://u:$@127.0.0.1:1,[::1]:1/d",
    "s://u:$@127.0.0.1:x/d",
    "s://127.0.0.1:1/?password=$",
    "s://u@127.0.0.1:1/7?sslmode=disable&password=$",
    "s://127.0.0.1:1?sslpassword=$&sslmode=$",
    "s://127.0.0.1:1?token=$&api_key=$",
    "s:///run/x?user=$&pass=$&db=$",
    "s://u:$@127.0.0.1:1/#x",
];

/// Fails where `text` has a piece of the secret.
fn look(text: &str, what: &str, value: &str) {
    let text = text.to_ascii_lowercase();
    assert!(PIECES.iter().all(|piece| !text.contains(piece)), "{what} of {value} shows {text}");
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{what} of {value} shows {text:?}");
}

/// Everything that is said of these settings, by every command and the server.
fn say_everything(set: &[(String, String)], value: &str) -> bool {
    let layers = Layers { set: set.to_vec(), ..Layers::default() };
    let resolved = match layers.resolve() {
        Ok(resolved) => resolved,
        Err(error) => {
            look(&error.to_string(), "the error", value);
            look(&format!("{error:?}"), "the error", value);
            return false;
        }
    };
    look(&resolved.to_string(), "config", value);
    look(&format!("{resolved:?}"), "debug", value);
    look(&resolved.summary(), "check", value);
    let settings = &resolved.config.sinks[0];
    look(&settings.config.output().unwrap().to_string(), "output", value);
    let identity = Identity { server_id: [1; 16], owner: [2; 16], log_end: u64::MAX };
    let mut sink = settings.open(&identity);
    if let Err(unavailable) = sink.connect() {
        look(&unavailable.to_string(), "connect", value);
    }
    if let Err(unavailable) = sink.probe() {
        look(&unavailable.to_string(), "probe", value);
    }
    true
}

#[test]
fn no_part_of_a_secret_in_a_url_is_shown() {
    let mut accepted = 0;
    for (kind, schemes) in SCHEMES {
        for (scheme, url, sign) in schemes
            .iter()
            .flat_map(|scheme| URLS.iter().flat_map(move |url| SIGNS.iter().map(move |sign| (*scheme, *url, *sign))))
        {
            let secret = PIECES.join(sign);
            let value = url.replace('$', &secret).replacen("s://", &format!("{scheme}://"), 1);
            let url_key = |key: &str| vec![(format!("sinks.{kind}.{key}"), value.clone())];
            accepted += u32::from(say_everything(&url_key("url"), &value));
            if kind == "redis" && url.starts_with("s://") {
                // A list: where one is not a URL, nobody knows where it ends.
                let two = format!("redis://127.0.0.1:1,{value}");
                say_everything(&[("sinks.redis.urls".to_owned(), two)], &value);
            }
        }
    }
    assert!(accepted > 200, "only {accepted} URLs were right");
}

#[test]
fn no_part_of_a_token_or_header_is_shown() {
    for sign in SIGNS.iter().copied().chain(["\n", "\r\n", "\0", "é", "\u{1b}[31m", "\u{85}"]) {
        let secret = PIECES.join(sign);
        for (kind, key) in [
            ("http", "token"),
            ("http", "headers.Authorization"),
            ("http", "headers.X-Key"),
            ("http", "headers.TE"),
            ("http", "headers"),
            ("grpc", "token"),
        ] {
            let url = (format!("sinks.{kind}.url"), "http://127.0.0.1:1".to_owned());
            for value in [secret.clone(), format!("Bearer {secret}")] {
                say_everything(&[url.clone(), (format!("sinks.{kind}.{key}"), value.clone())], &value);
            }
        }
    }
}

#[test]
fn a_url_in_a_wrong_place_is_not_shown() {
    let url = "postgres://u:hunter@h/zebra";
    for key in [
        "sinks.postgres",
        "sinks.x.kind",
        "sinks.postgres.url_file",
        "sinks.postgres.table",
        "sinks.postgres.tls",
        "sinks.postgres.urll",
        "sinks.postgres.batch",
        "server.address",
        "log.format",
        "wal",
    ] {
        assert!(!say_everything(&[(key.to_owned(), url.to_owned())], key), "{key} is accepted");
    }
    for file in [
        format!("[[sinks]]\nname = \"{url}\"\nkind = \"postgres\""),
        format!("[[sinks]]\nkind = \"postgres\"\nurl = [\"{url}\"]"),
        format!("[[sinks]]\nkind = \"postgres\"\nurl = {url}"),
    ] {
        let layers = Layers { file: Some(("t.toml".to_owned(), file.clone())), ..Layers::default() };
        look(&layers.resolve().unwrap_err().to_string(), "the error", &file);
    }
}
