//! TLS on the port of the server, with real clients.

mod clients;
mod files;
mod handshakes;
mod syslog;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use telemetryx::client::{Connector, ConnectorFiles, Options};
use telemetryx::event::proto::Event;

use crate::support::agent::named;
use crate::support::server::wait_until;
use crate::support::tls::TlsServer;

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&TLS12, &TLS13];
const TIMEOUT: Duration = Duration::from_secs(60);

fn run(command: &mut Command) -> (String, Output) {
    let output = command.stdin(Stdio::null()).output().expect("the program is installed");
    (format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)), output)
}

fn telemetryx(arguments: &[&str]) -> (String, Output) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.args(arguments).env_remove("TELEMETRYX_CONFIG").current_dir(std::env::temp_dir());
    run(&mut command)
}

fn options(server: &TlsServer, own: Option<(&Path, &Path)>) -> Options {
    let ca_file = server.file("ca.pem");
    let files = ConnectorFiles { ca_file: Some(&ca_file), certificate: own };
    let patience = Some(TIMEOUT);
    Options { tls: Some(Connector::new(files).unwrap()), patience, ..Options::new(server.address().to_string()) }
}

fn wait_for_rows(directory: &Path, rows: i64, timeout: Duration) {
    let stored = || {
        let database = rusqlite::Connection::open(directory.join("events.db")).unwrap();
        database.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i64>(0)).unwrap_or(0)
    };
    let there = wait_until(timeout, || stored() >= rows);
    assert_eq!(stored(), rows, "complete: {there}");
}

fn events(count: usize) -> Vec<Event> {
    (0..count).map(|number| named(&format!("event-{number}"))).collect()
}
