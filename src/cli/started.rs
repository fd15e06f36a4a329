//! The lines that say where the server listens and what it writes to: one with one sink, else one more for each sink.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::Map;
use tracing::Level;

use super::logging::json_line;
use crate::config::{Config, LogFormat};

/// What the server writes to, as a person would write it from here.
struct Started {
    address: SocketAddr,
    /// What is accepted there.
    protocols: String,
    /// `None`: there is no log.
    log: Option<String>,
    /// Name, and output if it has one.
    sinks: Vec<(String, Option<String>)>,
}

/// The lines in the format of the log, each with its end.
pub(super) fn lines(address: SocketAddr, config: &Config) -> String {
    // As a person would write it from here.
    let here = std::env::current_dir().ok();
    let near = |path: &Path| {
        let relative = here.as_ref().and_then(|here| path.strip_prefix(here).ok());
        relative.unwrap_or(path).display().to_string()
    };
    let sinks = config.sinks.iter().map(|sink| {
        let output = sink.config.output().map(|output| near(Path::new(&output.to_string())));
        (sink.name.clone(), output)
    });
    let log = config.wal.enabled.then(|| near(&config.data_dir.join("wal")));
    let mut protocols = "frames, HTTP".to_owned();
    let accepted = [
        (config.tls.cert_file.is_some(), ", TLS"),
        (config.syslog.enabled, ", syslog"),
        (config.syslog.enabled && config.syslog.udp, ", syslog over UDP"),
    ];
    accepted.iter().filter(|(is_accepted, _)| *is_accepted).for_each(|(_, name)| protocols.push_str(name));
    let started = Started { address, protocols, log, sinks: sinks.collect() };
    match config.log.format {
        LogFormat::Text => started.text(),
        LogFormat::Json => started.json(),
    }
}

impl Started {
    fn text(&self) -> String {
        let log = match &self.log {
            Some(log) => format!("log {log}"),
            None => "no log: acknowledges `received`".to_owned(),
        };
        let mut text = format!("listening on {} ({}) · {log}", self.address, self.protocols);
        let separator = if self.sinks.len() == 1 { " · " } else { "\n" };
        for (name, output) in &self.sinks {
            // Writing into a String cannot fail.
            let _ = write!(text, "{separator}sink {name}");
            if let Some(output) = output {
                let _ = write!(text, " {output}");
            }
        }
        text.push('\n');
        text
    }

    fn json(&self) -> String {
        let mut fields = Map::new();
        fields.insert("address".to_owned(), self.address.to_string().into());
        fields.insert("log".to_owned(), self.log.clone().into());
        let message = format!("listening on {} ({})", self.address, self.protocols);
        let mut lines = json_line(Level::INFO, &message, fields);
        for (name, output) in &self.sinks {
            let mut fields = Map::new();
            fields.insert("sink".to_owned(), name.clone().into());
            fields.insert("output".to_owned(), output.clone().into());
            lines += &json_line(Level::INFO, "sink", fields);
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(sinks: &[(&str, Option<&str>)]) -> Started {
        let sinks = sinks.iter().map(|(name, output)| ((*name).to_owned(), output.map(str::to_owned)));
        let address = "127.0.0.1:4640".parse().unwrap();
        Started { address, protocols: "frames, HTTP".to_owned(), log: Some("d/wal".to_owned()), sinks: sinks.collect() }
    }

    #[test]
    fn one_sink_is_in_the_line_and_several_have_lines_of_their_own() {
        let one = started(&[("sqlite", Some("d/events.db"))]);
        assert_eq!(one.text(), "listening on 127.0.0.1:4640 (frames, HTTP) · log d/wal · sink sqlite d/events.db\n");
        let two = started(&[("sqlite", Some("d/events.db")), ("off", None)]);
        let expected = "listening on 127.0.0.1:4640 (frames, HTTP) · log d/wal\nsink sqlite d/events.db\nsink off\n";
        assert_eq!(two.text(), expected);
        let tls = Started { protocols: "frames, HTTP, TLS".to_owned(), ..started(&[]) };
        assert!(tls.text().starts_with("listening on 127.0.0.1:4640 (frames, HTTP, TLS) · "));
        let none = Started { log: None, ..started(&[("out", Some("standard output"))]) };
        let expected =
            "listening on 127.0.0.1:4640 (frames, HTTP) · no log: acknowledges `received` · sink out standard output\n";
        assert_eq!(none.text(), expected);
    }

    #[test]
    fn json_has_a_line_for_the_address_and_one_for_each_sink() {
        let lines = started(&[("sqlite", Some("d/events.db")), ("off", None)]).json();
        let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["message"], "listening on 127.0.0.1:4640 (frames, HTTP)");
        assert_eq!((&lines[0]["address"], &lines[0]["log"]), (&"127.0.0.1:4640".into(), &"d/wal".into()));
        assert_eq!((&lines[1]["sink"], &lines[1]["output"]), (&"sqlite".into(), &"d/events.db".into()));
        assert_eq!((&lines[2]["sink"], &lines[2]["output"]), (&"off".into(), &serde_json::Value::Null));
        assert!(lines.iter().all(|line| line["level"] == "INFO" && line["timestamp"].is_string()));
    }
}
