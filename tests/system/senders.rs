//! The settings of docs/senders.md, with the programs that they are for.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::node::node;
use crate::support::server::{Server, wait_until};
use crate::support::stores::python;
use crate::support::syslogd::Daemon;
use crate::support::tls::TlsServer;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(240);
/// Records of one request of curl: with more it would be too large.
const RECORDS_PER_REQUEST: usize = 10_000;

/// Records of one sender: `TELEMETRYX_SENDER_RECORDS`, else a few.
fn records() -> usize {
    std::env::var("TELEMETRYX_SENDER_RECORDS").map_or(100, |records| records.parse().expect("a number"))
}

/// The code blocks below a heading of the page, the port replaced.
fn blocks(heading: &str, server: SocketAddr) -> Vec<String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/senders.md")).unwrap();
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let section = rest.split("\n## ").next().unwrap();
    let blocks = section.split("```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| Some(block.split_once('\n')?.1.replace("4640", &server.port().to_string())));
    blocks.collect()
}

/// Source, severity, body and attributes of every event, once there are so many.
#[track_caller]
fn events(data_dir: &Path, expected: usize) -> Vec<(String, i64, Option<String>, Value)> {
    let open = || Connection::open_with_flags(data_dir.join("events.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).ok();
    let count =
        |database: Connection| database.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i64>(0)).ok();
    let arrived = wait_until(TIMEOUT, || open().and_then(count).unwrap_or(0) as usize >= expected);
    assert!(arrived, "{:?} of {expected} events", open().and_then(count));
    let database = open().unwrap();
    let mut query = database
        .prepare("SELECT source, coalesce(severity, 0), body, coalesce(attributes, '{}') FROM events ORDER BY position")
        .unwrap();
    let row = |row: &rusqlite::Row<'_>| {
        let attributes = row.get::<_, String>(3)?;
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, serde_json::from_str(&attributes).unwrap()))
    };
    query.query_map([], row).unwrap().map(Result::unwrap).collect()
}

/// `telemetryx send` with this input.
fn send(server: SocketAddr, arguments: &[&str], input: &[u8]) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_telemetryx"))
        .args(["send", "--to", &server.to_string(), "--source", "here"])
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    assert!(child.wait().unwrap().success());
}

fn python_output(program: &str) -> Vec<u8> {
    let output = Command::new(python()).args(["-c", program]).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{program}");
    output.stdout
}

#[test]
fn python_logging() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let settings = blocks("Python logging", server.address()).remove(0);
    let program = format!(
        "{settings}\nlog = logging.getLogger('api')\nlog.setLevel(1)\n\
         for number in range({}): log.warning('größer %d', number, extra={{'user': {{'id': number}}}})\n",
        records()
    );
    send(server.address(), &["--map", "vector"], &python_output(&program));
    let events = events(data.path(), records());
    assert_eq!(events.len(), records());
    for (number, (source, severity, body, attributes)) in events.into_iter().enumerate() {
        assert_eq!((source.as_str(), severity, body), ("here", 13, Some(format!("größer {number}"))));
        assert_eq!((&attributes["user.id"], &attributes["name"]), (&Value::from(number), &Value::from("api")));
    }
}

#[test]
fn structlog_and_the_elastic_common_schema() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let structlog = "import structlog\n\
        p = structlog.processors\n\
        structlog.configure(processors=[p.add_log_level, p.TimeStamper(fmt='iso'), p.JSONRenderer()])\n\
        structlog.get_logger().error('failed', user=5)\n";
    send(server.address(), &["--map", "vector"], &python_output(structlog));
    let ecs = "import logging, sys, ecs_logging\n\
        handler = logging.StreamHandler(sys.stdout)\n\
        handler.setFormatter(ecs_logging.StdlibFormatter())\n\
        logging.getLogger().addHandler(handler)\n\
        logging.error('failed', extra={'http.request.method': 'GET'})\n";
    send(server.address(), &["--map", "ecs"], &python_output(ecs));
    let events = events(data.path(), 2);
    for (_, severity, body, _) in &events {
        assert_eq!((*severity, body.as_deref()), (17, Some("failed")));
    }
    assert_eq!(events[0].3["user"], 5);
    assert_eq!(events[1].3["http.request.method"], "GET");
}

#[test]
fn pino() {
    let Some(mut node) = node() else { return };
    let program = format!(
        "const log = require('pino')({{name: 'api'}}); for (let i = 0; i < {}; i++) log.warn({{i}}, 'größer'); \
         log.error(new Error('boom'));",
        records()
    );
    let output = node.args(["-e", &program]).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    send(server.address(), &["--map", "pino"], &output.stdout);
    let events = events(data.path(), records() + 1);
    assert_eq!(events.len(), records() + 1);
    for (number, (source, severity, body, attributes)) in events.iter().take(records()).enumerate() {
        assert_eq!((source.as_str(), *severity, body.as_deref()), ("api", 13, Some("größer")));
        assert_eq!(attributes["i"], number);
    }
    let (_, severity, body, attributes) = &events[records()];
    assert_eq!((*severity, body.as_deref()), (17, Some("boom")));
    assert!(attributes["err.stack"].is_string());
}

/// The command of the page, with files that Docker 20.10 has written: of two containers, and one with a line that Docker has split.
#[test]
fn docker() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let time = "2026-11-27T19:11:02.357313214Z";
    let line = |text: &str| format!("{{\"log\":\"{text}\",\"stream\":\"stdout\",\"time\":\"{time}\"}}\n");
    let (long, texts) = ("x".repeat(16 << 10), |of: &str| -> Vec<String> {
        (0..records()).map(|number| format!("größer {of} {number}")).collect()
    });
    for container in ["a1", "b2"] {
        let directory = data.path().join("containers").join(container);
        fs::create_dir_all(&directory).unwrap();
        let mut lines: String = texts(container).iter().map(|text| line(&format!("{text}\\n"))).collect();
        lines.push_str(&(line(&long) + &line("rest\\n") + &line("no end")));
        fs::write(directory.join(format!("{container}-json.log")), lines).unwrap();
    }
    let [command, ..] = &blocks("Docker", server.address())[..] else { panic!("a command") };
    // Without -F it ends.
    let command = command.replace("/var/lib/docker/containers", "containers").replace(" -F ", " ");
    let command = command.replace("telemetryx send", &format!("$TELEMETRYX send --to {}", server.address()));
    let mut shell = Command::new("sh");
    shell.args(["-c", &command]).current_dir(data.path()).env("TELEMETRYX", env!("CARGO_BIN_EXE_telemetryx"));
    assert!(shell.status().unwrap().success(), "{command}");
    let events = events(data.path(), 2 * (records() + 3));
    let expected = ["a1", "b2"].into_iter().flat_map(|container| {
        texts(container).into_iter().chain([long.clone(), "rest".to_owned(), "no end".to_owned()])
    });
    assert!(events.iter().map(|(_, _, body, _)| body.clone().unwrap()).eq(expected));
    assert!(events.iter().all(|(.., attributes)| *attributes == serde_json::json!({"stream": "stdout"})));
}

/// Where Go and Debian's package of zap are installed.
#[test]
fn zap() {
    let packages = Path::new("/usr/share/gocode");
    let go = Command::new("go").arg("version").stdout(Stdio::null()).status();
    if !packages.join("src/go.uber.org/zap").is_dir() || !go.is_ok_and(|status| status.success()) {
        println!("not run: install Go and golang-go.uber-zap-dev");
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let source = r#"
        package main
        import ("errors"; "fmt"; "os"; "strconv"; "go.uber.org/zap")
        func main() {
            count, _ := strconv.Atoi(os.Args[1])
            settings := zap.NewProductionConfig()
            settings.Sampling = nil
            log, _ := settings.Build()
            fmt.Println("starting")
            for i := 0; i < count; i++ { log.Warn("größer", zap.Int("i", i), zap.Namespace("req"), zap.String("path", "/x")) }
            log.Error("failed", zap.Error(errors.New("boom")))
            log.DPanic("dpanic")
            log.Fatal("fatal")
        }"#;
    fs::write(files.path().join("app.go"), source).unwrap();
    let mut build = Command::new("go");
    build.args(["build", "-o", "app", "app.go"]).current_dir(files.path()).env("GO111MODULE", "off");
    build.env("GOPATH", packages).env("GOCACHE", files.path().join("cache")).env("GOFLAGS", "");
    assert!(build.status().unwrap().success());
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let [command, ..] = &blocks("zap", server.address())[..] else { panic!("a command") };
    let command = command.replace("./app", &format!("./app {}", records()));
    let command =
        command.replace("telemetryx send", &format!("$TELEMETRYX send --source here --to {}", server.address()));
    let mut shell = Command::new("sh");
    shell.args(["-c", &command]).current_dir(files.path()).env("TELEMETRYX", env!("CARGO_BIN_EXE_telemetryx"));
    assert!(shell.status().unwrap().success(), "{command}");
    let events = events(data.path(), records() + 4);
    let (banner, events) = events.split_first().unwrap();
    assert_eq!((banner.1, banner.2.as_deref()), (0, Some("starting")), "what is not JSON is text");
    for (number, (source, severity, body, attributes)) in events.iter().take(records()).enumerate() {
        assert_eq!((source.as_str(), *severity, body.as_deref()), ("here", 13, Some("größer")));
        assert_eq!((&attributes["i"], &attributes["req.path"]), (&Value::from(number), &Value::from("/x")));
    }
    let last: Vec<_> = events[records()..].iter().map(|(_, severity, body, _)| (*severity, body.as_deref())).collect();
    assert_eq!(last, [(17, Some("failed")), (18, Some("dpanic")), (21, Some("fatal"))]);
    assert_eq!(events[records()].3["error"], "boom");
}

/// The program of a Collector: `TELEMETRYX_OTELCOL`, else `otelcol` or `otelcol-contrib` where it is installed.
fn collector() -> Option<Command> {
    let named = std::env::var_os("TELEMETRYX_OTELCOL").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|directory| ["otelcol", "otelcol-contrib"].map(|name| directory.join(name)))
        .find(|program| program.is_file());
    let program = named.or(found);
    if program.is_none() {
        println!("not run: there is no otelcol; install an OpenTelemetry Collector, or set TELEMETRYX_OTELCOL to one");
    }
    program.map(Command::new)
}

/// Ends when it is dropped.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill(); // fails only if it has ended
        let _ = self.0.wait();
    }
}

#[test]
fn opentelemetry_collector() {
    let Some(mut collector) = collector() else { return };
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path(), &[]);
    let log = files.path().join("app.log");
    fs::write(&log, (0..records()).map(|number| format!("größer {number}\n")).collect::<String>()).unwrap();
    let [exporter, batch] = &blocks("OpenTelemetry Collector", server.address())[..] else { panic!("two blocks") };
    let settings = format!(
        "receivers:\n  filelog:\n    include: [{}]\n    start_at: beginning\n{exporter}{batch}\
         service:\n  telemetry: {{ metrics: {{ level: none }} }}\n  pipelines:\n    \
         logs: {{ receivers: [filelog], processors: [batch], exporters: [otlphttp] }}\n",
        log.display()
    );
    let file = files.path().join("collector.yaml");
    fs::write(&file, settings).unwrap();
    collector.arg("--config").arg(&file).current_dir(files.path()).env("NO_PROXY", "*").stdin(Stdio::null());
    let mut child = Child(collector.spawn().expect("the Collector starts"));
    let events = events(data.path(), records());
    assert!(child.0.try_wait().unwrap().is_none(), "the Collector has ended");
    assert_eq!(events.len(), records());
    let mut bodies: Vec<_> = events.iter().map(|(_, _, body, _)| body.clone().unwrap()).collect();
    // It sends batches side by side.
    bodies.sort_by_key(|body| body.strip_prefix("größer ").and_then(|number| number.parse::<usize>().ok()));
    assert!(bodies.iter().enumerate().all(|(number, body)| *body == format!("größer {number}")));
    for (source, severity, _, attributes) in &events {
        assert_eq!((source.as_str(), *severity), ("127.0.0.1", 0));
        assert_eq!(*attributes, serde_json::json!({"log.file.name": "app.log"}));
    }
}

#[test]
fn rsyslog_and_syslog_ng() {
    for heading in ["rsyslog", "syslog-ng"] {
        let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let server = Server::start(data.path(), &["syslog.enabled=true"]);
        let file: PathBuf = files.path().join("app.log");
        fs::write(&file, "one\ntwo\n").unwrap();
        let settings = blocks(heading, server.address()).remove(0);
        let _daemon = match heading {
            "rsyslog" => Daemon::rsyslogd_with(&file, &settings),
            _ => Daemon::syslog_ng_with(&file, &settings),
        };
        let events = events(data.path(), 2);
        let bodies: Vec<_> = events.iter().filter_map(|(_, _, body, _)| body.as_deref()).collect();
        assert_eq!(bodies, ["one", "two"], "{heading}");
        assert!(
            events.iter().all(|(source, severity, ..)| source == "app" && *severity == 13),
            "{heading}: {events:?}"
        );
    }
}

/// What they have sent is stored also where they end at once: they never read.
#[test]
fn rsyslog_and_syslog_ng_over_tls() {
    for heading in ["rsyslog", "syslog-ng"] {
        let files = tempfile::tempdir().unwrap();
        let server = TlsServer::start(&["syslog.enabled=true"]);
        let file: PathBuf = files.path().join("app.log");
        fs::write(&file, (0..records()).map(|number| format!("line {number}\n")).collect::<String>()).unwrap();
        let settings = blocks(heading, server.address()).remove(1);
        let settings = settings.replace("/etc/telemetryx/ca.pem", server.file("ca.pem").to_str().unwrap());
        let settings = settings.replace("logs.example.org", "localhost");
        let _daemon = match heading {
            "rsyslog" => Daemon::rsyslogd_with(&file, &settings),
            _ => Daemon::syslog_ng_with(&file, &settings),
        };
        let events = events(server.directory.path(), records());
        assert_eq!(events.len(), records(), "{heading}");
        for (number, (source, severity, body, attributes)) in events.iter().enumerate() {
            let expected = format!("line {number}");
            assert_eq!(
                (source.as_str(), *severity, body.as_deref()),
                ("app", 13, Some(expected.as_str())),
                "{heading}"
            );
            assert_eq!(attributes["syslog.facility"], 19, "{heading}");
        }
    }
}

#[test]
fn curl() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let run = |command: &str| {
        let output = Command::new("sh").args(["-c", command]).current_dir(data.path()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let blocks = blocks("curl", server.address());
    let [events_of_ours, otlp] = &blocks[..] else { panic!("{blocks:?}") };
    let (one, file) = events_of_ours.trim_end().split_once('\n').expect("two commands");
    let answer = run(one);
    assert!(answer.starts_with("{\"accepted\":1"), "{answer}");
    assert_eq!(run(otlp), "{}");
    for first in (0..records()).step_by(RECORDS_PER_REQUEST) {
        let numbers = first..records().min(first + RECORDS_PER_REQUEST);
        let line =
            |n: usize| format!("{{\"level\":30,\"time\":1795771426124,\"msg\":\"größer {n}\",\"name\":\"api\"}}\n");
        fs::write(data.path().join("app.log"), numbers.clone().map(line).collect::<String>()).unwrap();
        let answer = run(file);
        assert!(answer.starts_with(&format!("{{\"accepted\":{}", numbers.len())), "{answer}");
    }
    let events = events(data.path(), 2 + records());
    assert_eq!(events.len(), 2 + records());
    assert_eq!(events[0].2.as_deref(), Some("hello"));
    assert_eq!((events[1].0.as_str(), events[1].1, events[1].2.as_deref()), ("shop", 9, Some("hello")));
    for (number, (source, severity, body, _)) in events.iter().skip(2).enumerate() {
        assert_eq!((source.as_str(), *severity, body.clone()), ("api", 9, Some(format!("größer {number}"))));
    }
}
