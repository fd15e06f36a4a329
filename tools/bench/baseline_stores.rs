//! What `make bench-sinks` measures the sinks against: loops that put the same rows into the same store, made beforehand,
//! and do nothing else. No log to read, no event to look at, no position to keep.
//!
//! ```text
//!  baseline_stores sqlite FILE SECONDS       prepared INSERTs of rows that are decoded already
//!  baseline_stores postgres URL SECONDS      COPY BINARY of rows that are encoded already
//!  baseline_stores redis PORT SECONDS        pipelined XADDs that are encoded already, in MULTI and EXEC
//! ```
//!
//! A transaction has as many rows as a delivery. The tables must be there. After a second of warm-up each prints rows a
//! second.

use std::error::Error;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use prost::Message;
use redis::{Parser, Value};
use rusqlite::params;
use telemetryx::cli::bench::sample::Sample;
use telemetryx::event::{EventRef, rfc3339, write_attributes_json};
use telemetryx::limits::COPY_CHUNK_BYTES;

/// The default of `batch.max_events`.
const ROWS: usize = 10_000;
const SERVER_ID: &str = "0d4f7a52-6e0b-4f2c-9d5e-3b8a1c7f6e90";
const AGENT: &str = "bench";
/// 2026-09-21T14:13:20Z.
const RECEIVED_UNIX_NANO: u64 = 1_790_000_000_000_000_000;
const WARM_UP: Duration = Duration::from_secs(1);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["sqlite", file, seconds] => sqlite(file, seconds),
        ["postgres", url, seconds] => postgres(url, seconds),
        ["redis", port, seconds] => redis(port, seconds),
        _ => Err("usage: baseline_stores sqlite FILE SECONDS | postgres URL SECONDS | redis PORT SECONDS".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("baseline_stores: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `transaction`, which is given its first position, again and again.
fn measure(seconds: &str, mut transaction: impl FnMut(u64) -> Outcome<()>) -> Outcome<()> {
    let seconds = Duration::from_secs(seconds.parse()?);
    let mut position = 1;
    let mut run = |time| -> Outcome<f64> {
        let (begin, first) = (Instant::now(), position);
        while begin.elapsed() < time {
            transaction(position)?;
            position += ROWS as u64;
        }
        Ok((position - first) as f64 / begin.elapsed().as_secs_f64())
    };
    run(WARM_UP)?;
    println!("{}", run(seconds)?);
    Ok(())
}

/// What of a sample event is not the same in all or unset, as the stores take it.
struct Row {
    time_unix_nano: u64,
    time: String,
    kind: &'static str,
    severity: u8,
    source: String,
    name: String,
    body: String,
    attributes: String,
}

fn rows() -> Vec<Row> {
    let mut sample = Sample::new(220);
    let row = |_| {
        let bytes = sample.event().encode_to_vec();
        let event = EventRef::accepted(&bytes);
        let mut attributes = Vec::new();
        write_attributes_json(&event, &mut attributes);
        Row {
            time_unix_nano: event.time_unix_nano(),
            time: String::from_utf8_lossy(&rfc3339::format(event.time_unix_nano())).into_owned(),
            kind: event.kind().name(),
            severity: event.severity(),
            source: event.source().to_owned(),
            name: event.name().to_owned(),
            body: event.body().to_owned(),
            attributes: String::from_utf8_lossy(&attributes).into_owned(),
        }
    };
    (0..ROWS).map(row).collect()
}

fn received_at() -> String {
    String::from_utf8_lossy(&rfc3339::format(RECEIVED_UNIX_NANO)).into_owned()
}

// ---- SQLite ----

fn sqlite(file: &str, seconds: &str) -> Outcome<()> {
    const INSERT: &str = "
        INSERT INTO events (server_id, position, received_at, time, kind, severity, source, name, body, value,
            duration_nano, trace_id, span_id, parent_span_id, agent, attributes)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
    let unset = None::<&str>;
    let (rows, received_at) = (rows(), received_at());
    let mut connection = rusqlite::Connection::open(file)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "temp_store", "memory")?;
    measure(seconds, |first| {
        let transaction = connection.transaction()?;
        let mut statement = transaction.prepare_cached(INSERT)?;
        for (position, row) in (first..).zip(&rows) {
            statement.execute(params![
                SERVER_ID,
                position.cast_signed(),
                received_at,
                row.time,
                row.kind,
                row.severity,
                row.source,
                row.name,
                row.body,
                unset,
                unset,
                unset,
                unset,
                unset,
                AGENT,
                row.attributes,
            ])?;
        }
        drop(statement);
        Ok(transaction.commit()?)
    })
}

// ---- PostgreSQL ----

fn postgres(url: &str, seconds: &str) -> Outcome<()> {
    const COPY: &str =
        "COPY events (server_id, position, received_at, time, time_unix_nano, kind, severity, source, name,
        body, value, duration_nano, trace_id, span_id, parent_span_id, agent, attributes) FROM STDIN BINARY";
    let mut copy = Copy::of(&rows());
    let mut client = ::postgres::Client::connect(url, ::postgres::NoTls)?;
    measure(seconds, |first| {
        copy.number_from(first);
        let mut transaction = client.transaction()?;
        let mut writer = transaction.copy_in(COPY)?;
        for chunk in copy.bytes.chunks(COPY_CHUNK_BYTES) {
            writer.write_all(chunk)?;
        }
        writer.finish()?;
        Ok(transaction.commit()?)
    })
}

/// All bytes of one COPY; only the positions change.
struct Copy {
    bytes: Vec<u8>,
    positions: Vec<Range<usize>>,
}

impl Copy {
    fn of(rows: &[Row]) -> Self {
        let mut copy = Self { bytes: b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec(), positions: Vec::new() };
        let server_id = u128::from_str_radix(&SERVER_ID.replace('-', ""), 16).unwrap_or(0).to_be_bytes();
        for row in rows {
            copy.bytes.extend(17i16.to_be_bytes());
            copy.field(&server_id);
            copy.field(&[0; 8]);
            copy.positions.push(copy.bytes.len() - 8..copy.bytes.len());
            copy.field(&timestamp(RECEIVED_UNIX_NANO));
            copy.field(&timestamp(row.time_unix_nano));
            copy.field(&row.time_unix_nano.to_be_bytes());
            copy.field(row.kind.as_bytes());
            copy.field(&i16::from(row.severity).to_be_bytes());
            for text in [&row.source, &row.name, &row.body] {
                copy.field(text.as_bytes());
            }
            for _unset in 0..5 {
                copy.bytes.extend((-1i32).to_be_bytes());
            }
            copy.field(AGENT.as_bytes());
            copy.field(&[b"\x01", row.attributes.as_bytes()].concat());
        }
        copy.bytes.extend((-1i16).to_be_bytes());
        copy
    }

    fn field(&mut self, value: &[u8]) {
        self.bytes.extend((value.len() as i32).to_be_bytes());
        self.bytes.extend(value);
    }

    fn number_from(&mut self, first: u64) {
        for (position, range) in (first..).zip(&self.positions) {
            self.bytes[range.clone()].copy_from_slice(&position.to_be_bytes());
        }
    }
}

/// Microseconds from 2000-01-01T00:00:00Z.
fn timestamp(unix_nano: u64) -> [u8; 8] {
    ((unix_nano / 1_000).cast_signed() - 946_684_800_000_000).to_be_bytes()
}

// ---- Redis ----

fn redis(port: &str, seconds: &str) -> Outcome<()> {
    let rows = rows();
    let received_at = received_at();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse()?))?;
    stream.set_nodelay(true)?;
    let mut parser = Parser::new();
    let mut bytes = Vec::new();
    // All but the position, which comes last here.
    let encoded: Vec<_> = rows.iter().map(|row| entry(row, &received_at)).collect();
    measure(seconds, |first| {
        bytes.clear();
        bytes.extend_from_slice(b"MULTI\r\n");
        for (position, entry) in (first..).zip(&encoded) {
            bytes.extend_from_slice(entry);
            argument(&mut bytes, &position.to_string());
        }
        bytes.extend_from_slice(b"EXEC\r\n");
        stream.write_all(&bytes)?;
        for _ok_and_queued in 0..=ROWS {
            parser.parse_value(&mut stream)?;
        }
        match parser.parse_value(&mut stream)? {
            Value::Array(ids) if ids.len() == ROWS => Ok(()),
            other => Err(format!("EXEC: {other:?}").into()),
        }
    })
}

/// The command without its last argument.
fn entry(row: &Row, received_at: &str) -> Vec<u8> {
    let severity = row.severity.to_string();
    // As the sink's, whose default is `maxlen = 1000000`.
    let mut words = vec!["XADD", "events:{0}", "MAXLEN", "~", "1000000", "*"];
    for (name, value) in [
        ("server_id", SERVER_ID),
        ("received_at", received_at),
        ("time", &row.time),
        ("kind", row.kind),
        ("severity", &severity),
        ("source", &row.source),
        ("name", &row.name),
        ("body", &row.body),
        ("agent", AGENT),
        ("attributes", &row.attributes),
    ] {
        words.extend([name, value]);
    }
    words.push("position");
    let mut bytes = format!("*{}\r\n", words.len() + 1).into_bytes();
    for word in words {
        argument(&mut bytes, word);
    }
    bytes
}

fn argument(bytes: &mut Vec<u8>, argument: &str) {
    // Writing into a Vec cannot fail.
    let _ = write!(bytes, "${}\r\n{argument}\r\n", argument.len());
}
