//! The generated types in `src/event/proto.rs` are those of `proto/events.proto`, byte for byte. They are committed, so
//! that an agent builds the library without a protobuf compiler. So are those of OTLP, which only tests use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const GENERATED: &str = "src/event/proto.rs";

fn at_root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The Rust types of a contract, in pure Rust: no `protoc` is needed.
fn generate(directory: &Path) -> String {
    let mut compiler = protox::Compiler::new([directory]).unwrap();
    compiler.include_source_info(true).open_file("events.proto").unwrap();
    let out = tempfile::tempdir().unwrap();
    prost_build::Config::new().out_dir(out.path()).compile_fds(compiler.file_descriptor_set()).unwrap();
    fs::read_to_string(out.path().join("telemetryx.v1.rs")).unwrap()
}

/// An error if the committed types are not the generated ones.
fn compare(committed: &str, generated: &str) -> Result<(), String> {
    if committed == generated {
        return Ok(());
    }
    let differs = committed.lines().zip(generated.lines()).take_while(|(before, now)| before == now).count() + 1;
    Err(format!(
        "{GENERATED} is not what proto/events.proto gives; first difference in line {differs} (run \"make proto\" and \
         commit the file)"
    ))
}

#[test]
fn the_committed_types_are_those_of_the_contract() {
    let generated = generate(&at_root("proto"));
    if std::env::var_os("UPDATE_PROTO").is_some() {
        fs::write(at_root(GENERATED), generated).unwrap();
        return;
    }
    let committed = fs::read_to_string(at_root(GENERATED)).unwrap();
    compare(&committed, &generated).unwrap_or_else(|message| panic!("{message}"));
}

#[test]
fn a_changed_contract_is_noticed() {
    let contract = fs::read_to_string(at_root("proto/events.proto")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let changed = contract.replace("string source = 4;", "string origin = 4;");
    assert_ne!(changed, contract);
    fs::write(directory.path().join("events.proto"), changed).unwrap();
    let committed = fs::read_to_string(at_root(GENERATED)).unwrap();
    let message = compare(&committed, &generate(directory.path())).unwrap_err();
    assert!(message.contains("make proto"), "{message}");
}

/// The packages of OTLP, and where their types are.
const OTLP: [(&str, &str); 8] = [
    ("common", "common/v1/common.proto"),
    ("resource", "resource/v1/resource.proto"),
    ("logs", "logs/v1/logs.proto"),
    ("trace", "trace/v1/trace.proto"),
    ("metrics", "metrics/v1/metrics.proto"),
    ("collector/logs", "collector/logs/v1/logs_service.proto"),
    ("collector/trace", "collector/trace/v1/trace_service.proto"),
    ("collector/metrics", "collector/metrics/v1/metrics_service.proto"),
];

fn otlp() -> protox::Compiler {
    let mut compiler = protox::Compiler::new([at_root("tests/proto")]).unwrap();
    let files = OTLP.map(|(_, file)| format!("opentelemetry/proto/{file}"));
    compiler.include_source_info(true).open_files(files).unwrap();
    compiler
}

#[test]
fn the_types_of_otlp_are_those_of_the_official_files() {
    let out = tempfile::tempdir().unwrap();
    let mut config = prost_build::Config::new();
    config.disable_comments(["."]).out_dir(out.path());
    config.compile_fds(otlp().file_descriptor_set()).unwrap();
    for (package, _) in OTLP {
        let name = format!("opentelemetry.proto.{}.v1.rs", package.replace('/', "."));
        let generated = fs::read_to_string(out.path().join(name)).unwrap();
        let path = at_root(&format!("src/event/otlp/reference/{package}/v1.rs"));
        if std::env::var_os("UPDATE_PROTO").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, generated).unwrap();
        } else {
            assert!(fs::read_to_string(&path).unwrap() == generated, "{}: run \"make proto\"", path.display());
        }
    }
}

/// The fields of a message: number, name, type, and whether it is repeated.
type Fields = BTreeSet<(i32, String, String, bool)>;

/// The messages of OTLP by the official files. Those around many requests, and answers, are not read by the server.
fn official() -> BTreeMap<String, Fields> {
    /// The name without its package.
    fn short(full: &str) -> String {
        full.rsplit("v1.").next().unwrap().to_owned()
    }
    let mut messages = BTreeMap::new();
    for message in otlp().descriptor_pool().all_messages() {
        let fields = message.fields().map(|field| {
            let kind = field.kind();
            let kind = match (kind.as_message(), kind.as_enum()) {
                (Some(message), _) => short(message.full_name()),
                (_, Some(_)) => "enum".to_owned(),
                _ => format!("{kind:?}").to_lowercase(),
            };
            (field.number() as i32, field.name().to_owned(), kind, field.is_list())
        });
        messages.insert(short(message.full_name()), fields.collect());
    }
    let is_read =
        |name: &str| !(name.ends_with("Data") || name.ends_with("Response") || name.ends_with("PartialSuccess"));
    messages.retain(|name, _| is_read(name));
    messages
}

#[test]
fn the_tables_of_otlp_are_those_of_the_official_files() {
    let mut ours: BTreeMap<String, Fields> = BTreeMap::new();
    for (message, number, name, kind, repeated) in telemetryx::event::otlp::fuzz::fields() {
        let field = (number as i32, name.to_owned(), kind, repeated);
        ours.entry(message.to_owned()).or_default().insert(field);
    }
    assert_eq!(ours, official());
}

/// docs/otlp.md has a table for each message that is mapped, and in it each of its fields.
#[test]
fn every_field_of_otlp_is_in_the_document() {
    let page = fs::read_to_string(at_root("docs/otlp.md")).unwrap();
    let tables: BTreeMap<&str, BTreeSet<&str>> = page
        .split("\n### `")
        .skip(1)
        .map(|section| {
            let (name, text) = section.split_once("`\n").unwrap();
            let rows = text.split("\n## ").next().unwrap().lines().filter_map(|line| line.strip_prefix("| `"));
            (name, rows.filter_map(|row| row.split('`').next()).collect())
        })
        .collect();
    for (message, fields) in official() {
        let names: BTreeSet<&str> = fields.iter().map(|(_, name, _, _)| name.as_str()).collect();
        match tables.get(message.as_str()) {
            Some(rows) => assert_eq!(rows, &names, "{message}"),
            // What is around records, and what has nothing of its own, is in the text.
            None => assert!(
                message.starts_with("Export")
                    || message.starts_with("Resource")
                    || message.starts_with("Scope")
                    || ["ArrayValue", "KeyValueList", "EntityRef"].contains(&message.as_str()),
                "{message} has no table in docs/otlp.md"
            ),
        }
    }
}
