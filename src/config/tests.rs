//! What users see of the settings: which layer wins, the message for each mistake, what is shown.

use super::*;
use crate::settings::{Applies, Form, Raw, Setting, Value};
use crate::sink::{self, SinkConfig, file, sqlite};

/// The layers of one test.
fn layers(file: &str, environment: &[(&str, &str)], set: &[(&str, &str)]) -> Layers {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    Layers {
        file: (!file.is_empty()).then(|| ("t.toml".to_owned(), file.to_owned())),
        environment: environment.iter().map(own).collect(),
        set: set.iter().map(own).collect(),
    }
}

fn resolve(file: &str, environment: &[(&str, &str)], set: &[(&str, &str)]) -> Config {
    layers(file, environment, set).resolve().unwrap_or_else(|error| panic!("{error}")).config
}

#[track_caller]
fn refused(file: &str, environment: &[(&str, &str)], set: &[(&str, &str)], problems: &[&str]) {
    let error = layers(file, environment, set).resolve().expect_err("these settings are wrong");
    assert_eq!(error.problems, problems, "file: {file} environment: {environment:?} set: {set:?}");
}

/// One mistake in a file, and what its user is told.
#[track_caller]
fn file_refused(file: &str, problem: &str) {
    refused(file, &[], &[], &[problem]);
}

#[test]
fn defaults_are_the_ones_of_the_design() {
    let config = resolve("", &[], &[]);
    assert_eq!(config.data_dir, Path::new("telemetryx-data"));
    let expected = Server {
        address: "127.0.0.1:4640".parse().unwrap(),
        ack: AckLevel::Synced,
        max_frame_bytes: 1 << 20,
        max_body_bytes: 4 << 20,
        buffer_bytes: 64 << 20,
        event_loops: 0,
        max_connections: 16_384,
        max_unauthenticated: 1_024,
        http_idle_timeout: Duration::from_secs(75),
        max_agents: 100_000,
        dedupe_retention: Duration::from_secs(24 * 3600),
        drain_timeout: Duration::from_secs(10),
        tokens_file: None,
        allow_plaintext_tokens: false,
        pages_token_file: None,
    };
    assert_eq!(config.server, expected);
    let batch = BatchSettings { max_events: 10_000, max_bytes: 4 << 20, max_age: Duration::from_millis(50) };
    assert_eq!(config.batch, batch);
    assert_eq!(config.log, Log { format: LogFormat::Text, filter: "info".to_owned(), agents: String::new() });
    assert_eq!(config.sinks.len(), 1);
    assert_eq!((config.sinks[0].name.as_str(), config.sinks[0].required), ("sqlite", true));
    assert_eq!(config.sinks[0].batch, batch);
    assert_is(&config.sinks[0], &sqlite("telemetryx-data/events.db"));
}

fn sqlite(path: &str) -> sqlite::SqliteSettings {
    sqlite::SqliteSettings { path: path.into(), keep: None, indexes: sqlite::Indexes::None }
}

/// Fails where the settings of the sink's kind are others.
#[track_caller]
fn assert_is(sink: &SinkSettings, expected: &dyn SinkConfig) {
    assert_eq!(format!("{:?}", sink.config), format!("{expected:?}"));
}

/// All values, also secrets.
fn values(resolved: &Resolved) -> Vec<(String, Value)> {
    let of_sinks = resolved.sinks.iter().flat_map(|sink| {
        let entry =
            |key: &str, value: &Value| (format!("sinks.{} ({}).{key}", sink.name, sink.kind.name), value.clone());
        sink.entries.iter().map(move |other| entry(&other.key, &other.value))
    });
    resolved.entries.iter().map(|entry| (entry.key.clone(), entry.value.clone())).chain(of_sinks).collect()
}

#[test]
fn every_default_passes_its_own_row() {
    let kinds = sink::KINDS.iter().flat_map(|kind| kind.settings);
    let sections = table::SECTIONS.iter().flat_map(|section| section.settings);
    for row in sections.chain(table::SINK).chain(table::CLIENT).chain(kinds) {
        let raw = match &row.default {
            Value::Flag(flag) => Raw::Flag(*flag),
            Value::Text(text) => Raw::Text(text.clone().into_owned()),
            Value::Empty => Raw::Table,
            number => Raw::Text(number.to_string().trim_matches('"').to_owned()),
        };
        assert_eq!(row.parse(&raw), Ok(row.default.clone()), "{}", row.key);
        assert!(row.doc.ends_with('.'), "{}: its doc is no sentence", row.key);
    }
}

#[test]
fn every_kind_of_sink_resolves_with_its_defaults() {
    for kind in sink::KINDS {
        let config = resolve("", &[], &[("sinks.a.kind", kind.name)]);
        assert_eq!(config.sinks.len(), 1);
        assert_eq!(config.sinks[0].name, "a");
    }
}

#[test]
fn a_later_layer_wins_key_by_key() {
    let file = "[server]\nmax_agents = 1\nmax_connections = 1\ndrain_timeout = \"1s\"\nmax_body_bytes = 65536";
    let environment = [("TELEMETRYX__SERVER__MAX_AGENTS", "2"), ("TELEMETRYX__SERVER__MAX_CONNECTIONS", "2")];
    let set = [("server.max_agents", "3"), ("server.max_agents", "4")];
    let server = resolve(file, &environment, &set).server;
    assert_eq!((server.max_agents, server.max_connections), (4, 2));
    assert_eq!((server.drain_timeout, server.max_body_bytes), (Duration::from_secs(1), 65536));
    assert_eq!(server.buffer_bytes, 64 << 20);
}

#[test]
fn a_bad_value_that_is_overridden_does_no_harm() {
    let config = resolve("[server]\nmax_agents = -1", &[], &[("server.max_agents", "5")]);
    assert_eq!(config.server.max_agents, 5);
}

#[test]
fn top_level_keys_have_variables_too() {
    let config = resolve("", &[("TELEMETRYX__DATA_DIR", "/d"), ("TELEMETRYX_LOG", "debug"), ("PATH", "/bin")], &[]);
    assert_eq!(config.data_dir, Path::new("/d"));
}

#[test]
fn the_default_sink_follows_data_dir() {
    for (set, path) in [
        (&[("data_dir", "/var/t/")][..], "/var/t/events.db"),
        (&[("data_dir", "/")], "/events.db"),
        (&[("data_dir", "/var/t"), ("sinks.sqlite.path", "x.db")], "x.db"),
    ] {
        assert_is(&resolve("", &[], set).sinks[0], &sqlite(path));
    }
}

#[test]
fn a_named_sink_replaces_the_default_one() {
    let names = |file: &str, environment: &[(&str, &str)], set: &[(&str, &str)]| {
        let config = resolve(file, environment, set);
        config.sinks.into_iter().map(|sink| sink.name).collect::<Vec<_>>()
    };
    let file = "[[sinks]]\nname = \"My-Lines\"\nkind = \"file\"";
    assert_eq!(names(file, &[], &[]), ["My-Lines"]);
    assert_eq!(names("", &[("TELEMETRYX__SINKS__OUT__KIND", "stdout")], &[]), ["out"]);
    assert_eq!(names("", &[], &[("sinks.stdout.required", "false")]), ["stdout"]);
    assert_eq!(names(file, &[("TELEMETRYX__SINKS__MY_LINES__REQUIRED", "false")], &[]), ["My-Lines"]);
    assert_eq!(names(file, &[], &[("sinks.more.kind", "discard")]), ["My-Lines", "more"]);
    assert_eq!(names("[[sinks]]\nkind = \"discard\"", &[], &[]), ["discard"]);
    assert_eq!(names("sinks = []", &[], &[]), ["sqlite"]);
}

#[test]
fn a_sink_is_set_by_name_in_every_layer() {
    let file = "[[sinks]]\nname = \"a\"\nkind = \"file\"\nrotate_bytes = \"1MiB\"\nbatch.max_events = 7\n\
                [sinks.batch]\n"
        .replace("batch.max_events = 7\n[sinks.batch]\n", "[sinks.batch]\nmax_events = 7\n");
    let environment = [("TELEMETRYX__SINKS__A__BATCH__MAX_AGE", "1s"), ("TELEMETRYX__SINKS__A__REQUIRED", "false")];
    let config = resolve(&file, &environment, &[("sinks.a.path", "p"), ("batch.max_bytes", "1MiB")]);
    let sink = &config.sinks[0];
    assert!(!sink.required);
    let batch = BatchSettings { max_events: 7, max_bytes: 1 << 20, max_age: Duration::from_secs(1) };
    assert_eq!(sink.batch, batch);
    let rotate_age = Duration::from_secs(24 * 3600);
    assert_is(sink, &file::FileSettings { path: "p".into(), rotate_bytes: 1_048_576, rotate_age });
}

#[test]
fn variables_in_text_are_replaced_before_the_value_is_checked() {
    let file = "data_dir = \"${DIR}/x\"\n[server]\nmax_agents = \"${AGENTS:-7}\"\naddress = \"${IP:-[::1]}:1\"";
    let config = resolve(file, &[("DIR", "/d")], &[]);
    assert_eq!(config.data_dir, Path::new("/d/x"));
    assert_eq!(config.server.max_agents, 7);
    assert_eq!(config.server.address, "[::1]:1".parse().unwrap());
    file_refused(file, "t.toml:1: data_dir: the variable DIR is not set; set it, or write ${DIR:-default}");
}

#[test]
fn unknown_keys_are_named_with_line_and_nearest_name() {
    file_refused("[server]\n\nadress = 1", "t.toml:3: unknown key `server.adress`: did you mean `server.address`?");
    file_refused("[sever]\naddress = 1", "t.toml:2: unknown key `sever.address`: did you mean `server.address`?");
    file_refused("colour = 1", "t.toml:1: unknown key `colour`: `telemetryx config --defaults` prints all keys");
    file_refused("[colours]", "t.toml:1: unknown key `colours`: `telemetryx config --defaults` prints all keys");
    file_refused(
        "[[sinks]]\nkind = \"file\"\npaht = \"x\"",
        "t.toml:3: unknown key `sinks.file.paht`: did you mean `sinks.file.path`?",
    );
    // `path` is a key of files, not of this kind.
    file_refused(
        "[[sinks]]\nkind = \"stdout\"\npath = \"x\"",
        "t.toml:3: unknown key `sinks.stdout.path`: this sink has required, on_full, include, exclude, sample, redact, collapse, \
         aggregate, batch",
    );
    let variable = "TELEMETRYX__SERVER__ADDRES";
    let problem =
        "TELEMETRYX__SERVER__ADDRES: unknown key `server.addres`: did you mean `TELEMETRYX__SERVER__ADDRESS`?";
    refused("", &[(variable, "x")], &[], &[problem]);
    refused(
        "",
        &[],
        &[("server.Address", "x")],
        &["--set: unknown key `server.Address`: did you mean `server.address`?"],
    );
    refused(
        "",
        &[("TELEMETRYX__", "x")],
        &[],
        &["TELEMETRYX__: unknown key ``: `telemetryx config --defaults` prints all keys"],
    );
}

#[test]
fn bad_values_are_named_with_key_layer_and_expected_form() {
    for (file, problem) in [
        (
            "[server]\nmax_frame_bytes = \"1MB\"",
            "t.toml:2: server.max_frame_bytes = \"1MB\": expected a size from 256KiB to 16MiB, such as \"1MiB\" (a whole \
             number; units are B, KiB, MiB, GiB and TiB, each 1,024 of the one before)",
        ),
        (
            "[server]\ndrain_timeout = 10",
            "t.toml:2: server.drain_timeout = 10: expected a time from 0s to 1h, such as \"10s\" (a whole number; units are \
             ms, s, m, h and d)",
        ),
        (
            "[server]\nmax_connections = 0",
            "t.toml:2: server.max_connections = 0: expected a whole number from 1 to 1048576",
        ),
        (
            "[server]\naddress = \":4640\"",
            "t.toml:2: server.address = \":4640\": expected an IP address and port, such as \"127.0.0.1:4640\"",
        ),
        (
            "[server]\nallow_plaintext_tokens = \"yes\"",
            "t.toml:2: server.allow_plaintext_tokens = \"yes\": expected true or false",
        ),
        ("data_dir = \"\"", "t.toml:1: data_dir = \"\": expected a path"),
        (
            "[[sinks]]\nkind = \"sqlite\"\npath = \":memory:\"",
            "t.toml:3: sinks.sqlite.path = \":memory:\": expected a path: \":memory:\" and URIs are not supported \
             (put \"./\" before it if a file has this name)",
        ),
        ("[[sinks]]\nkind = \"sqlite\"\npath = \"\"", "t.toml:3: sinks.sqlite.path = \"\": expected a path"),
        (
            "[[sinks]]\nkind = \"sqlite\"\npath = \"file:events.db?mode=ro\"",
            "t.toml:3: sinks.sqlite.path = \"file:events.db?mode=ro\": expected a path: \":memory:\" and URIs are not \
             supported (put \"./\" before it if a file has this name)",
        ),
        (
            "data_dir = \"FILE:///var/lib\"",
            "t.toml:1: data_dir = \"***\": expected a path: \":memory:\" and URIs are not supported \
             (put \"./\" before it if a file has this name)",
        ),
        ("data_dir = [1]", "t.toml:1: data_dir = a list: expected a path"),
        ("data_dir = 1.5", "t.toml:1: data_dir = a decimal number: expected a path"),
        ("server = 5", "t.toml:1: server = 5: expected a section, [server]"),
        (
            "[server]\nack = \"delivered\"\n[[sinks]]\nname = \"stdout\"\naggregate.interval = \"1m\"",
            "t.toml:5: sinks.stdout gathers for \"1m\", and with server.ack = \"delivered\" each POST would wait for that and end with \
         504 after 30 s: set its required = false, or a batch.max_age below 15 s",
        ),
        ("[log]\nformat = \"xml\"", "t.toml:2: log.format = \"xml\": expected \"text\" or \"json\""),
        (
            "[[sinks]]\nkind = \"file\"\n[sinks.batch]\nmax_events = \"many\"",
            "t.toml:4: sinks.file.batch.max_events = \"many\": expected a whole number from 1 to 1000000",
        ),
    ] {
        file_refused(file, problem);
    }
    refused(
        "",
        &[("TELEMETRYX__SERVER__ACK", "maybe")],
        &[("batch.max_age", "1")],
        &[
            "TELEMETRYX__SERVER__ACK: server.ack = \"maybe\": \
             expected \"received\" or \"written\" or \"synced\" or \"delivered\"",
            "--set: batch.max_age = \"1\": expected a time from 0s to 1m, such as \"50ms\" (a whole number; units are ms, s, m, \
             h and d)",
        ],
    );
}

#[test]
fn a_file_that_is_no_toml_names_the_line_without_quoting_it() {
    let error = layers("[server]\npassword = secret\n", &[], &[]).resolve().unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    assert!(error.problems[0].starts_with("t.toml:2: invalid TOML: "), "{error}");
    assert!(!error.to_string().contains("= secret"), "{error}");
}

#[test]
fn acknowledgements_promise_no_more_than_the_log_and_the_sinks_can_keep() {
    let ack = |text: &str| resolve(text, &[], &[]).server.ack;
    assert_eq!((ack(""), ack("[wal]\nenabled = false")), (AckLevel::Synced, AckLevel::Received));
    file_refused(
        "[wal]\nenabled = false\n[server]\nack = \"written\"",
        "t.toml:4: server.ack = \"written\": without a log, wal.enabled (false, t.toml:2), only \"received\" can be \
         promised",
    );
    file_refused(
        "[server]\nack = \"delivered\"\n[[sinks]]\nname = \"stdout\"\nrequired = false",
        "t.toml:2: server.ack = \"delivered\": no sink is required, so it would promise nothing",
    );
    file_refused(
        "[[sinks]]\nname = \"stdout\"\non_full = \"drop_oldest\"",
        "t.toml:3: sinks.stdout.on_full = \"drop_oldest\": a required sink may not lose events; set its required = false",
    );
    file_refused(
        "[wal]\nmax_bytes = \"200MiB\"",
        "t.toml:2: wal.max_bytes = \"200MiB\": must be at least twice wal.segment_bytes (\"128MiB\", default)",
    );
}

#[test]
fn related_values_are_checked_against_each_other() {
    refused(
        "[server]\nmax_frame_bytes = \"4MiB\"",
        &[("TELEMETRYX__SERVER__BUFFER_BYTES", "16MiB")],
        &[],
        &["TELEMETRYX__SERVER__BUFFER_BYTES: server.buffer_bytes = \"16MiB\": \
           must be at least 8 times server.max_frame_bytes (\"4MiB\", t.toml:2)"],
    );
    refused(
        "",
        &[],
        &[("server.max_body_bytes", "32MiB"), ("sinks.sqlite.batch.max_bytes", "17MiB")],
        &[
            "--set: server.max_body_bytes = \"32MiB\": with server.max_frame_bytes (\"1MiB\", default), at least 112300KiB \
             of server.buffer_bytes (\"64MiB\", default) are needed",
            "--set: batch.max_bytes of sink sqlite = \"17MiB\": must be at most a quarter of \
             server.buffer_bytes (\"64MiB\", default)",
        ],
    );
}

/// The smallest pools that are accepted are those in which every admitted body can finish beside agents; see
/// `batch/shares.rs`.
#[test]
fn a_pool_that_is_too_small_for_the_largest_body_is_an_error() {
    for (buffer, body, frame, is_enough) in [
        ("16MiB", "4MiB", "1MiB", true),
        ("15MiB", "4MiB", "1MiB", false),
        ("8MiB", "1MiB", "1MiB", true),
        ("8MiB", "2MiB", "1MiB", false),
        ("8MiB", "1536KiB", "512KiB", true),
        ("2MiB", "512KiB", "256KiB", false),
        ("2MiB", "192KiB", "256KiB", true),
        ("64MiB", "16MiB", "1MiB", true),
        ("64MiB", "16MiB", "8MiB", false),
        ("64GiB", "1GiB", "16MiB", true),
    ] {
        let text = format!(
            "[server]\nbuffer_bytes = \"{buffer}\"\nmax_body_bytes = \"{body}\"\nmax_frame_bytes = \"{frame}\"\n\
             [batch]\nmax_bytes = \"512KiB\""
        );
        match (layers(&text, &[], &[]).resolve(), is_enough) {
            (Ok(_), true) => {}
            (Err(error), false) => assert!(error.to_string().contains("are needed"), "{error}"),
            (result, _) => panic!("{text}: {:?}", result.map(|_| ()).map_err(|error| error.to_string())),
        }
    }
}

#[test]
fn two_sinks_may_not_share_a_name_or_a_file() {
    let twice = |a: &str, b: &str| {
        format!("[[sinks]]\nname = \"{a}\"\nkind = \"stdout\"\n[[sinks]]\nname = \"{b}\"\nkind = \"discard\"")
    };
    file_refused(&twice("a", "a"), "t.toml:5: sink `a` has the name of sink `a` (t.toml:2)");
    file_refused(
        &twice("a-b", "A_b"),
        "t.toml:5: sink `A_b` has the name of sink `a-b` (t.toml:2): names must differ in more than case, - and _",
    );
    let x = std::path::absolute("x").unwrap();
    file_refused(
        "[[sinks]]\nname = \"a\"\nkind = \"sqlite\"\npath = \"x\"\n[[sinks]]\nname = \"b\"\nkind = \"file\"\npath = \"./x\"",
        &format!("t.toml:6: sinks.b writes to {}, where sinks.a (t.toml:2) writes too; give each its own", x.display()),
    );
    refused(
        "",
        &[("TELEMETRYX__SINKS__A__KIND", "stdout")],
        &[("sinks.b.kind", "stdout"), ("sinks.c.kind", "discard"), ("sinks.d.kind", "discard")],
        &["--set: sinks.b writes to standard output, where sinks.a (TELEMETRYX__SINKS__A__KIND) writes too; \
           give each its own"],
    );
}

#[test]
fn a_sink_needs_a_name_and_a_kind() {
    let kinds = sink::KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
    refused("", &[], &[("sinks.a.path", "x")], &[&format!("--set: sinks.a needs a kind, one of {kinds}")]);
    file_refused(
        "\n[[sinks]]\nname = \"a\"\nkind = \"kafka\"",
        &format!("t.toml:4: sinks.a.kind = \"kafka\": expected one of {kinds}"),
    );
    file_refused("\n[[sinks]]\npath = \"a\"", "t.toml:2: this sink needs a kind, such as kind = \"file\", and a name");
    file_refused("[sinks.a]\nkind = \"file\"", "t.toml:1: sinks are written as [[sinks]], each with its name");
    file_refused("sinks = [1]", "t.toml:1: sinks are written as [[sinks]], each with its name");
    file_refused("[[sinks]]\nname = 1\nkind = \"file\"", "t.toml:2: name = 1: expected text");
    let bad = |name: &str| {
        format!("t.toml:2: `{name}` is not a name for a sink: use 1 to 64 letters, digits, - and _, but not __")
    };
    for name in ["", "a/b", "a.b", "a__b", "ä"] {
        file_refused(&format!("[[sinks]]\nname = \"{name}\"\nkind = \"file\""), &bad(name));
    }
    file_refused(
        "[[sinks]]\nname = \"ingest\"\nkind = \"file\"",
        "t.toml:2: `ingest` is reserved, events rejected on receipt are kept under this name: choose another one",
    );
    refused(
        "",
        &[],
        &[("sinks.a", "x")],
        &["--set: a sink's setting is named sinks.NAME.KEY, such as sinks.sqlite.path"],
    );
}

#[test]
fn all_problems_are_reported_together() {
    let error = layers("a = 1\nb = 2\n[server]\nack = 3", &[], &[("c", "4")]).resolve().unwrap_err();
    assert_eq!(error.problems.len(), 4, "{error}");
}

#[test]
fn a_named_file_that_cannot_be_read_is_an_error() {
    let error = load(Some(Path::new("/nonexistent/t.toml")), Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "/nonexistent/t.toml: cannot be read: No such file or directory (os error 2)");
}

/// No built-in sink has a secret yet; the rows of this one do.
const PASSWORD: Setting = Setting {
    key: "password",
    applies: Applies::OnRestart,
    default: Value::text(""),
    form: Form::Secret,
    doc: "A secret.",
};

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    use super::layers::{Given, Keys, Origin};
    use super::resolve::{Row, check_keys};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    std::fs::write(&path, "hunter2\n").unwrap();
    let path = path.to_str().unwrap();
    let file = |line| Origin::File { name: "t.toml".to_owned(), line };
    let variable = || Origin::Environment("V".to_owned());
    let check = |given: &[(&str, Raw, Origin)]| {
        let keys = given
            .iter()
            .map(|(key, raw, origin)| ((*key).to_owned(), Given { raw: raw.clone(), origin: origin.clone() }))
            .collect::<Keys>();
        let mut problems = Vec::new();
        let entries = check_keys("sinks.a.", vec![Row::new("password".to_owned(), &PASSWORD)], keys, &mut problems);
        (entries, problems)
    };
    let text = |text: &str| Raw::Text(text.to_owned());

    let (entries, problems) = check(&[("password_file", text(path), file(1))]);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(entries[0].value, Value::Text("hunter2".into()));
    assert_eq!(entries[0].shown(), "\"***\"");
    assert!(!format!("{entries:?}").contains("hunter2"), "{entries:?}");

    // The higher layer wins, in either form.
    let (entries, _) = check(&[("password_file", text(path), file(1)), ("password", text("x"), variable())]);
    assert_eq!(entries[0].value, Value::Text("x".into()));
    let (entries, _) = check(&[("password_file", text(path), variable()), ("password", text("x"), file(1))]);
    assert_eq!(entries[0].value, Value::Text("hunter2".into()));

    let problems = |given: &[(&str, Raw, Origin)]| check(given).1;
    assert_eq!(
        problems(&[("password_file", text(path), file(1)), ("password", text("x"), file(2))]),
        ["t.toml:1: sinks.a.password_file: sinks.a.password is given too (t.toml:2); keep one"]
    );
    assert_eq!(
        problems(&[("password_file", text("/nonexistent"), file(1))]),
        ["t.toml:1: sinks.a.password_file: /nonexistent cannot be read: No such file or directory (os error 2)"]
    );
    assert_eq!(
        problems(&[("password", Raw::Integer(1234), file(1))]),
        ["t.toml:1: sinks.a.password = ***: expected text"]
    );
}

#[cfg(feature = "http-sink")]
#[test]
fn a_table_of_secrets_comes_from_every_layer_and_is_never_shown() {
    let file =
        "[[sinks]]\nkind = \"http\"\nheaders = { X-Api-Key = \"${KEY}\", \"x.y\" = \"hunter1\", kept = \"hunter3\" }";
    let environment = [
        ("KEY", "hunter2"),
        ("TELEMETRYX__SINKS__HTTP__HEADERS__X_TENANT", "hunter4"),
        ("TELEMETRYX__SINKS__HTTP__HEADERS__KEPT", "hunter5"),
    ];
    let set = [("sinks.http.headers.KEPT", "hunter6")];
    let resolved = layers(file, &environment, &set).resolve().unwrap();
    let mut headers = values(&resolved);
    headers.retain(|(key, _)| key.contains("headers"));
    headers.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    let expected = [("KEPT", "hunter6"), ("X-Api-Key", "hunter2"), ("x-tenant", "hunter4"), ("x.y", "hunter1")];
    let expected = expected.map(|(name, value)| (format!("sinks.http (http).headers.{name}"), Value::text(value)));
    assert_eq!(headers, expected);
    let shown = resolved.to_string();
    for line in [
        "headers.X-Api-Key = \"***\" # t.toml:3",
        "headers.x-tenant = \"***\" # TELEMETRYX__SINKS__HTTP__HEADERS__X_TENANT",
        "headers.KEPT = \"***\" # --set",
        "headers.\"x.y\" = \"***\" # t.toml:3",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in:\n{shown}");
    }
    assert!(!shown.contains("hunter") && !format!("{resolved:?}").contains("hunter"), "{shown}");
    // What stands for a header is not taken for one.
    let again = shown.replace("\"***\"", "\"hunter7\"");
    assert!(layers(&again, &[], &[]).resolve().is_ok(), "{shown}");
    assert_eq!(layers(&shown, &[], &[]).resolve().unwrap_err().problems.len(), 4, "{shown}");
    assert!(
        layers("", &[], &[("sinks.http.url", "http://h/")]).resolve().unwrap().to_string().contains("headers = {}\n")
    );

    let sink = |keys: &str| format!("[[sinks]]\nkind = \"http\"\n{keys}");
    file_refused(&sink("headers = \"hunter2\""), "t.toml:3: sinks.http.headers = ***: expected a table of texts");
    file_refused(&sink("headers.a = 5"), "t.toml:3: sinks.http.headers.a = ***: expected text");
    file_refused(
        &sink("headers.x-a = \"hunter2\"\nheaders.X_A = \"hunter2\""),
        "t.toml:3: sinks.http.headers.x-a = ***: expected it once, and headers.X_A (t.toml:4) is given too",
    );
    file_refused(
        &sink("headrs.a = \"b\""),
        "t.toml:3: unknown key `sinks.http.headrs.a`: did you mean `sinks.http.headers`?",
    );
    file_refused(
        &sink("headers.Host-Name = \"a\"\nheaders.TE = \"hunter2\""),
        "t.toml:4: sinks.http.headers.TE = \"***\": is a header that the sink sets itself",
    );
}

#[cfg(feature = "http-sink")]
#[test]
fn two_http_sinks_may_differ_in_what_is_not_shown_of_their_urls() {
    let url = |a: &str, b: &str| {
        layers("", &[], &[("sinks.a.kind", "http"), ("sinks.b.kind", "http"), ("sinks.a.url", a), ("sinks.b.url", b)])
            .resolve()
            .map_err(|error| error.problems)
    };
    assert!(url("http://h/?stream=a", "http://h/?stream=b").is_ok());
    let problem =
        "--set: sinks.b writes to http http://h/?***, where sinks.a (--set) writes too; give each its own".to_owned();
    assert_eq!(url("http://h/?stream=a", "http://h/?stream=a").unwrap_err(), [problem]);
}

#[test]
fn the_documented_file_gives_the_defaults() {
    let text = document::default_file();
    let of_file = |text: &str| values(&layers(text, &[], &[]).resolve().unwrap());
    assert_eq!(of_file(&text), of_file(""));
    // Each key is there, if only as a comment.
    let kinds = sink::KINDS.iter().flat_map(|kind| kind.settings);
    for row in table::SECTIONS.iter().flat_map(|section| section.settings).chain(table::SINK).chain(kinds) {
        assert!(text.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{} = ", row.key))));
    }
    // With its comments taken off, every sink in it is sound too.
    let all = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(code) if code.starts_with("[[") || code.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => {
            code
        }
        _ => line,
    });
    let all = resolve(&all.collect::<Vec<_>>().join("\n"), &[], &[]);
    assert_eq!((all.sinks.len(), all.clients.len()), (sink::KINDS.len(), 1));
}

#[test]
fn the_settings_in_force_read_back_as_the_same() {
    let file = "[server]\naddress = \"0.0.0.0:1\"\n[[sinks]]\nname = \"a\"\nkind = \"file\"\npath = \"a \\\"b\\\"\"";
    let resolved =
        layers(file, &[("TELEMETRYX__BATCH__MAX_AGE", "1s")], &[("server.max_agents", "9")]).resolve().unwrap();
    let shown = resolved.to_string();
    assert_eq!(values(&layers(&shown, &[], &[]).resolve().unwrap()), values(&resolved), "{shown}");
    for line in [
        "address = \"0.0.0.0:1\" # t.toml:2",
        "max_agents = 9 # --set",
        "max_age = \"1s\" # TELEMETRYX__BATCH__MAX_AGE",
        "batch.max_age = \"1s\" # TELEMETRYX__BATCH__MAX_AGE",
        "max_connections = 16384",
        "name = \"a\" # t.toml:4",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in:\n{shown}");
    }
}

/// `UPDATE_DOCS=1` writes the part that is made from the table.
#[test]
fn the_reference_is_in_step_with_the_table() {
    const MARK: &str = "<!-- generated: do not edit below this line -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let committed = std::fs::read_to_string(&path).unwrap();
    let (prose, generated) = committed.split_once(MARK).expect("the page has its mark");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{prose}{MARK}{}", document::reference())).unwrap();
    } else {
        assert!(generated == document::reference(), "run UPDATE_DOCS=1 cargo test --lib config:: and commit");
    }
}

#[test]
fn names_of_pages_are_host_names() {
    let config = resolve("[http]\nhosts = [\"Telemetry.Example\", \"b\"]", &[], &[]);
    assert_eq!(config.http.hosts.0, ["telemetry.example", "b"]);
    assert_eq!(resolve("", &[], &[("http.hosts", "a, b")]).http.hosts.0, ["a", "b"]);
    file_refused(
        "[http]\nhosts = \"a:4640\"",
        "t.toml:2: http.hosts = \"a:4640\": expected host names without a port, such as [\"telemetry.example\"]",
    );
}

#[test]
fn syslog_settings_are_checked() {
    let config = resolve("[syslog]\nenabled = true\nudp = true\nallow = [\"10.0.0.0/8\", \"::1\"]", &[], &[]);
    assert!(config.syslog.allow.contain("10.9.9.9".parse().unwrap()));
    assert!(!config.syslog.allow.contain("127.0.0.1".parse().unwrap()));
    let default = resolve("", &[], &[]).syslog;
    assert!(!default.enabled && !default.udp && default.allow.contain("127.0.0.1".parse().unwrap()));
    file_refused(
        "[syslog]\nudp = true",
        "t.toml:2: syslog.udp = true: syslog.enabled (false, default) must be true for it",
    );
    file_refused(
        "[syslog]\nallow = \"10.0.0.0/33\"",
        "t.toml:2: syslog.allow = \"10.0.0.0/33\": expected addresses and networks, such as [\"10.0.0.0/8\", \"::1\"]",
    );
    file_refused(
        "[http]\nunknown_keys = \"drop\"",
        "t.toml:2: http.unknown_keys = \"drop\": expected \"reject\" or \"attributes\"",
    );
}
