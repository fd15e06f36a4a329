//! `[[clients]]` and `[limits]`: what is accepted, the message for each mistake, and that no hash is shown.

use super::clients::ClientToken;
use super::*;
use crate::session::tokens::TokenHash;

/// Of the token `abc`.
const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn load(file: &str, environment: &[(&str, &str)], set: &[(&str, &str)]) -> Result<Resolved, ConfigError> {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let file = (!file.is_empty()).then(|| ("t.toml".to_owned(), file.replace("HASH", HASH)));
    Layers { file, environment: environment.iter().map(own).collect(), set: set.iter().map(own).collect() }.resolve()
}

#[track_caller]
fn refused(file: &str, set: &[(&str, &str)], expected: &[&str]) {
    let error = load(file, &[], set).expect_err("these settings are wrong");
    assert_eq!(error.problems, expected, "{file} {set:?}");
    assert!(!error.to_string().contains(HASH), "{error}");
}

#[test]
fn there_are_no_limits_and_no_clients_by_default() {
    let config = load("", &[], &[]).unwrap().config;
    let expected = RateLimits {
        events_per_second: 0,
        bytes_per_second: 0,
        agent_events_per_second: 0,
        agent_bytes_per_second: 0,
        burst: Duration::from_secs(2),
    };
    assert_eq!((config.limits, config.clients.len()), (expected, 0));
}

#[test]
fn clients_are_set_by_name_in_every_layer() {
    let file = "[limits]\nagent_bytes_per_second = \"1MiB\"\n[[clients]]\nname = \"Edge-1\"\ntoken_sha256 = \"HASH\"\n\
                bytes_per_second = \"64KiB\"\n[[clients]]\nname = \"api\"\ntoken_file = \"api.token\"";
    let environment = [("TELEMETRYX__CLIENTS__EDGE_1__BURST", "5s"), ("TELEMETRYX__LIMITS__EVENTS_PER_SECOND", "7")];
    let set = [("clients.api.events_per_second", "1000"), ("clients.more.token_file", "more.token")];
    let config = load(file, &environment, &set).unwrap().config;
    let client = |name: &str, token, events_per_second, bytes_per_second, seconds| Client {
        name: name.to_owned(),
        token: Some(token),
        certificate_name: None,
        events_per_second,
        bytes_per_second,
        burst: Duration::from_secs(seconds),
    };
    let expected = [
        client("Edge-1", ClientToken::Sha256(TokenHash::of(b"abc")), 0, 64 << 10, 5),
        client("api", ClientToken::File("api.token".into()), 1000, 0, 2),
        client("more", ClientToken::File("more.token".into()), 0, 0, 2),
    ];
    assert_eq!(config.clients, expected);
    assert_eq!((config.limits.agent_bytes_per_second, config.limits.events_per_second), (1 << 20, 7));
}

#[test]
fn each_mistake_names_its_place() {
    let token = "64 hexadecimal digits, the SHA-256 of the token: printf %s TOKEN | sha256sum";
    for (lines, expected) in [
        ("", "t.toml:1: this client needs a name"),
        ("name = 7", "t.toml:2: name = 7: expected text"),
        (
            "name = \"a\"",
            "t.toml:2: clients.a needs token_sha256, the SHA-256 of its token, or token_file, or certificate_name",
        ),
        (
            "name = \"a b\"",
            "t.toml:2: `a b` is not a name for a client: use 1 to 64 letters, digits, - and _, but not __",
        ),
        ("name = \"a\"\ntoken_sha256 = \"abc\"", &format!("t.toml:3: clients.a.token_sha256 = ***: expected {token}")),
        (
            "name = \"a\"\ntoken_sha256 = \"HASH\"\ntoken_file = \"x\"",
            "t.toml:4: clients.a.token_file is set, and token_sha256 too (t.toml:3): keep one",
        ),
        (
            "name = \"a\"\ntoken_file = \"x\"\nevents_per_secnd = 1",
            "t.toml:4: unknown key `clients.a.events_per_secnd`: did you mean `clients.a.events_per_second`?",
        ),
        (
            "name = \"a\"\ntoken_file = \"x\"\nburst = \"1ms\"",
            "t.toml:4: clients.a.burst = \"1ms\": expected a time from 1s to 1h, such as \"2s\"",
        ),
    ] {
        refused(&format!("[[clients]]\n{lines}"), &[], &[expected]);
    }
    refused("[clients]\nname = \"a\"", &[], &["t.toml:1: clients are written as [[clients]], each with its name"]);
    refused("clients = [1]", &[], &["t.toml:1: clients are written as [[clients]], each with its name"]);
    refused("client = 1", &[], &["t.toml:1: unknown key `client`: did you mean `[[clients]]`?"]);
    let place = "--set: a client's setting is named clients.NAME.KEY, such as clients.api.token_file";
    refused("", &[("clients.api", "x")], &[place]);
    refused("", &[("clients", "x")], &[place]);
    refused(
        "[limits]\nzzz = 7",
        &[],
        &["t.toml:2: unknown key `limits.zzz`: [limits] has events_per_second, bytes_per_second, \
          agent_events_per_second, agent_bytes_per_second, burst"],
    );
}

#[test]
fn the_name_of_a_certificate_is_one_of_dns() {
    let client = |name: &str| format!("[[clients]]\nname = \"a\"\ntoken_file = \"x\"\ncertificate_name = \"{name}\"");
    for name in ["CN=api", "api.example.org/", "api example", ".example.org", "api.example.org."] {
        let why = format!(
            "t.toml:4: clients.a.certificate_name = {name:?}: expected the first DNS name in the certificate of the client \
             (subjectAltName), such as \"api.example.org\""
        );
        refused(&client(name), &[], &[&why]);
    }
    let tls = "[tls]\ncert_file = \"c\"\nkey_file = \"k\"\nclient_ca_file = \"a\"\nclient_auth = \"require\"\n";
    for name in ["api", "API.example.org", "*.example.org", "a_b-1.x"] {
        load(&format!("{tls}{}", client(name)), &[], &[]).unwrap();
    }
}

#[test]
fn names_differ_in_more_than_case_and_dashes() {
    let two = |other: &str| {
        format!("[[clients]]\nname = \"a-b\"\ntoken_file = \"x\"\n[[clients]]\nname = \"{other}\"\ntoken_file = \"y\"")
    };
    refused(&two("a-b"), &[], &["t.toml:5: client `a-b` has the name of client `a-b` (t.toml:2)"]);
    let why = "names must differ in more than case, - and _";
    refused(&two("A_b"), &[], &[&format!("t.toml:5: client `A_b` has the name of client `a-b` (t.toml:2): {why}")]);
}

#[test]
fn the_settings_in_force_show_clients_without_their_hash_and_can_be_read_again() {
    let file = "[[clients]]\nname = \"a\"\ntoken_sha256 = \"HASH\"\nevents_per_second = 9";
    let resolved = load(file, &[], &[]).unwrap();
    let shown = resolved.to_string();
    assert!(!shown.contains(HASH) && !format!("{resolved:?}").contains(HASH), "{shown}");
    assert!(shown.contains("\n[[clients]]\nname = \"a\" # t.toml:2\ntoken_sha256 = \"***\" # t.toml:3\n"), "{shown}");
    let again = load(&shown.replace("***", "HASH"), &[], &[]).unwrap();
    assert_eq!(again.config.clients, resolved.config.clients);
    let placeholder = load(&shown, &[], &[]).unwrap_err().to_string();
    assert!(placeholder.contains("clients.a.token_sha256 = ***: expected the secret itself"), "{placeholder}");
}
