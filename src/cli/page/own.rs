//! The server of the settings, asked over TLS. Its certificate is trusted because it is the one in its settings, whatever names it has:
//! a container asks for itself at 127.0.0.1.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

use crate::cli::address::Address;
use crate::limits::HEALTH_TIMEOUT;
use crate::tls::{Connector, Session};

/// The name that is sent to the server; it is not compared with those of the certificate.
const NAME: &str = "localhost";
const READ_BYTES: usize = 4 * 1024;

/// Status and body of the page at `address` and `target`.
///
/// # Errors
/// The text is for people.
pub(super) fn get(
    (address, target): (&Address, &str),
    cert_file: &Path,
    token: Option<&[u8]>,
    max_bytes: u64,
) -> Result<(u16, Vec<u8>), String> {
    let connector = Connector::exactly(cert_file)?;
    let until = Instant::now() + HEALTH_TIMEOUT;
    let addresses = address.resolve().map_err(|failure| failure.to_string())?;
    let mut stream = connect(&addresses)?;
    let session = connector.connect(NAME, &stream, until.saturating_duration_since(Instant::now()));
    let session = session.map_err(|error| {
        let hint = "; the certificate is not that of tls.cert_file: it was replaced a moment ago, or another server listens there";
        format!("{error}{}", if is_certificate(&error) { hint } else { "" })
    })?;
    let mut request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n").into_bytes();
    if let Some(token) = token {
        request.extend([b"Authorization: Bearer ", token, b"\r\n"].concat());
    }
    request.extend(b"\r\n");
    ask(&session, &mut stream, &request, (until, max_bytes)).map_err(|error| error.to_string())
}

fn connect(addresses: &[std::net::SocketAddr]) -> Result<TcpStream, String> {
    let mut first = None;
    for address in addresses {
        match TcpStream::connect_timeout(address, HEALTH_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => _ = first.get_or_insert(error),
        }
    }
    let error = first.unwrap_or_else(|| ErrorKind::NotFound.into());
    let hint = match error.kind() {
        ErrorKind::ConnectionRefused => "; nothing listens there: start the server, or check server.address",
        _ => "",
    };
    Err(format!("{error}{hint}"))
}

fn is_certificate(error: &io::Error) -> bool {
    error.to_string().contains("certificate")
}

fn ask(
    session: &Session,
    stream: &mut TcpStream,
    request: &[u8],
    (until, max_bytes): (Instant, u64),
) -> io::Result<(u16, Vec<u8>)> {
    stream.set_write_timeout(Some(HEALTH_TIMEOUT))?;
    stream.write_all(&session.seal(request)?)?;
    let (mut buffer, mut answer) = (vec![0; READ_BYTES], Vec::new());
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(ErrorKind::TimedOut, "the server does not answer"));
        }
        stream.set_read_timeout(Some(left))?;
        let count = match stream.read(&mut buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            other => other?,
        };
        let goes_on = session.open(buffer.get(..count).unwrap_or_default(), &mut answer)? && count > 0;
        if let Some(whole) = parse(&answer)? {
            return Ok(whole);
        }
        if !goes_on || answer.len() as u64 > max_bytes {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the answer is incomplete"));
        }
    }
}

/// Status and body, once the answer is whole.
fn parse(answer: &[u8]) -> io::Result<Option<(u16, Vec<u8>)>> {
    let invalid = |why: &str| io::Error::new(ErrorKind::InvalidData, format!("the answer is not of telemetryx: {why}"));
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(answer).map_err(|error| invalid(&error.to_string()))? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let length = length.ok_or_else(|| invalid("it has no Content-Length"))?;
    let body = answer.get(head..head.saturating_add(length));
    Ok(body.map(|body| (response.code.unwrap_or_default(), body.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_the_length_that_it_names() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokmore";
        for length in 0..answer.len() {
            let whole = parse(&answer[..length]).unwrap();
            assert_eq!(whole, (length >= answer.len() - 4).then(|| (200, b"ok".to_vec())), "{length}");
        }
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse(b"\x15\x03\x03\x00\x02\x02\x28").is_err());
    }
}
