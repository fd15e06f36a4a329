//! HTTP by hand: one request a connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than the 30 s after which the server itself gives up (504).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// Status and body of the answer.
pub(crate) fn request(address: SocketAddr, text: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    // A connection that was cut before the end of the head.
    let (status, (_, body)) = status.zip(answer.split_once("\r\n\r\n")).ok_or(ErrorKind::UnexpectedEof)?;
    Ok((status, body.to_owned()))
}

/// Status and body. Panics without an answer: pages are answered under any load.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let text = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    request(address, &text).expect("the server answers in time")
}

/// Posts JSON; `query` is for instance `?ack=written`. An error: nobody knows whether it was taken.
pub(crate) fn post(address: SocketAddr, query: &str, body: &str) -> io::Result<(u16, String)> {
    let head = format!("POST /v1/events{query} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json");
    let length = body.len();
    request(address, &format!("{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"))
}

/// The value of a metric, with its labels as they are printed: `telemetryx_sink_lag_events{sink="slow"}`.
pub(crate) fn metric(address: SocketAddr, name: &str) -> Option<f64> {
    let (_, page) = get(address, "/metrics");
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// The state of a sink in the answer to `/ready`. Its status must be 200: agents can send while a store cannot be reached.
pub(crate) fn sink_state(address: SocketAddr, sink: &str) -> String {
    let (status, page) = get(address, "/ready");
    assert_eq!(status, 200, "{page}");
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    page["sinks"][sink].as_str().unwrap_or_else(|| panic!("no {sink} in {page}")).to_owned()
}
