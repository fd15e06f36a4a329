//! The bodies of the fuzz targets over the small corpus in `fuzz/corpus`, and over that corpus damaged by hand: what
//! `make fuzz` does for longer, on the stable toolchain.

use std::fs;
use std::path::Path;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");
/// A seed is small enough to be read, and to be damaged at many of its bytes.
const SEED_BYTES_MAX: u64 = 2048;

/// The seeds of a target, in the order of their names.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(CORPUS).join(target);
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 10, "{target} has {} seeds", paths.len());
    for path in &paths {
        assert!(fs::metadata(path).unwrap().len() <= SEED_BYTES_MAX, "{} is large for a seed", path.display());
    }
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Gives `body` each seed, each of its prefixes, and each with one byte changed, taken out or doubled; `stride`: only
/// every so many places, other ones in each seed, for bodies that take long.
fn run(target: &str, stride: usize, body: impl Fn(&[u8])) {
    for (index, seed) in seeds(target).into_iter().enumerate() {
        body(&seed);
        for at in (index % stride..seed.len()).step_by(stride) {
            body(&seed[..at]);
            for byte in [0, 0xff, b'\r', b'\n', b' ', b'9', seed[at] ^ 1, seed[at] ^ 0x80] {
                let mut changed = seed.clone();
                changed[at] = byte;
                body(&changed);
            }
            body(&[&seed[..at], &seed[at + 1..]].concat());
            body(&[&seed[..=at], &seed[at..]].concat());
            body(&[&seed[at..], &seed[..at]].concat());
        }
    }
}

#[test]
fn frames() {
    run("frames", 5, telemetryx::session::fuzz::frames);
}

#[test]
fn event() {
    run("event", 1, telemetryx::event::fuzz::compare_with_prost);
}

#[test]
fn http_request() {
    run("http_request", 5, telemetryx::http::fuzz::requests);
}

#[test]
fn chunked_body() {
    run("chunked_body", 1, telemetryx::http::fuzz::chunked);
}

#[test]
fn json() {
    run("json", 3, telemetryx::event::fuzz::json_round_trip);
}

#[test]
fn otlp_protobuf() {
    run("otlp_protobuf", 3, telemetryx::event::otlp::fuzz::compare_with_prost);
}

#[test]
fn otlp_json() {
    run("otlp_json", 3, telemetryx::event::otlp::fuzz::json_body);
}

#[test]
fn steps() {
    run("steps", 1, telemetryx::router::steps::fuzz::settings_and_events);
}

#[test]
fn syslog() {
    run("syslog", 1, telemetryx::event::syslog::fuzz::stream);
}

#[test]
fn redaction() {
    run("redaction", 10, telemetryx::router::steps::redact_fuzz::redaction);
}

/// `make fuzz` runs what `fuzz/Cargo.toml` names: each target has its seeds, and is run above.
#[test]
fn every_target_has_a_corpus() {
    let manifest = fs::read_to_string(Path::new(CORPUS).join("../Cargo.toml")).unwrap();
    let targets: Vec<_> =
        manifest.split("[[bin]]\nname = \"").skip(1).filter_map(|bin| bin.split('"').next()).collect();
    assert_eq!(
        targets,
        [
            "event",
            "json",
            "otlp_protobuf",
            "otlp_json",
            "frames",
            "http_request",
            "chunked_body",
            "steps",
            "syslog",
            "redaction"
        ]
    );
    for target in targets {
        seeds(target);
    }
}
