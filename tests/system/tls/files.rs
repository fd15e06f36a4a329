//! Certificates and keys of the server: replaced while it runs, checked before, and their expiry.

use std::io::Write;
use std::time::Instant;

use telemetryx::client::Client;

use super::{BOTH, TIMEOUT, events, options, telemetryx, wait_for_rows};
use crate::support::http::metric;
use crate::support::server::wait_until;
use crate::support::tls::{TlsServer, TlsStream};

#[test]
fn a_pair_that_is_replaced_under_load_drops_no_connection() {
    // 100 for a measurement: each takes up to a second to be noticed.
    let replacements: u64 =
        std::env::var("TELEMETRYX_TEST_REPLACEMENTS").ok().and_then(|number| number.parse().ok()).unwrap_or(4);
    let server = TlsServer::start(&[]);
    let mut steady = Client::connect(options(&server, None)).unwrap();
    let config = server.client(None, BOTH);
    let mut sent = 0;
    for number in 0..replacements {
        let next = server.issue("next", &["localhost", "127.0.0.1"], 100 + number);
        // One after the other, as programs do that renew certificates.
        std::fs::rename(server.file("next.pem"), server.file("server.pem")).unwrap();
        for _ in 0..20 {
            let mut stream = server.connect(&config);
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            assert!(stream.read_to_end().unwrap().ends_with(b"{\"status\":\"ok\"}"), "no handshake fails meanwhile");
        }
        std::fs::rename(server.file("next.key"), server.file("server.key")).unwrap();
        let shows_next = || {
            steady.send(&events(100)).unwrap();
            sent += 100;
            let mut stream = TlsStream::connect(server.address(), &server.client(None, BOTH)).unwrap();
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            stream.read_to_end().unwrap();
            stream.tls.peer_certificates().unwrap()[0].as_ref() == &next.der[..]
        };
        assert!(wait_until(TIMEOUT, shows_next), "the pair takes effect");
    }
    let progress = steady.close(Some(Instant::now() + TIMEOUT)).unwrap();
    assert_eq!((progress.acknowledged_events, progress.connections), (sent, 1));
    wait_for_rows(server.directory.path(), sent.cast_signed(), TIMEOUT);
    assert!(server.server.log_with("TLS certificate replaced").contains("valid_until=\"2120-01-01T00:00:00Z\""));
    // The error is logged once, and nothing changes.
    std::fs::write(server.file("server.key"), "nothing").unwrap();
    server.server.log_with("contains no private key in PEM");
    let mut stream = server.connect(&config);
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert!(stream.read_to_end().is_ok());
}

#[test]
fn check_names_the_expiry_and_what_is_wrong_with_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let authority = crate::support::certificates::Authority::new("of a test");
    let soon = {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        // The first of a month that begins within the next 30 days may not exist: any day of the next ten does.
        let days = (now / 86_400 + 10) as i64;
        civil(days)
    };
    for (name, day) in [("far", (2120, 1, 1)), ("soon", soon), ("over", (2020, 1, 1))] {
        let issued = authority.issue(&["localhost"], 1, day);
        crate::support::tls::write(path, &format!("{name}.pem"), &issued.pem);
        crate::support::tls::write(path, &format!("{name}.key"), &issued.key);
    }
    let check = |cert: &str, key: &str| {
        let [cert, key] = [
            format!("tls.cert_file={}/{cert}.pem", path.display()),
            format!("tls.key_file={}/{key}.key", path.display()),
        ];
        telemetryx(&["check", "--set", &cert, "--set", &key])
    };
    let (text, output) = check("far", "far");
    assert!(output.status.success() && text.contains("far.pem: valid until 2120-01-01T00:00:00Z\n"), "{text}");
    let (text, output) = check("soon", "soon");
    assert!(
        output.status.success() && text.contains("warning: valid until ") && text.contains("9 days: renew it"),
        "{text}"
    );
    let (text, output) = check("over", "over");
    assert!(output.status.code() == Some(1) && text.contains("expired at 2020-01-01T00:00:00Z"), "{text}");
    let (text, output) = check("far", "soon");
    assert!(output.status.code() == Some(78) && text.contains("is not the key of the first certificate"), "{text}");
    let (text, output) = telemetryx(&["check", "--set", "tls.cert_file=x.pem"]);
    assert!(output.status.code() == Some(78) && text.contains("needs tls.key_file"), "{text}");
}

/// Year, month and day of a day after 1970.
fn civil(days: i64) -> (i32, u8, u8) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    ((year + era * 400 + i64::from(month <= 2)) as i32, month as u8, day as u8)
}

#[test]
fn the_expiry_is_a_metric_and_an_expired_certificate_is_warned_about() {
    let server = TlsServer::start(&[]);
    let expiry = "telemetryx_tls_certificate_expiry_seconds";
    assert_eq!(metric(server.address(), expiry), Some(4_733_510_400.0));
    let over = server.authority.issue(&["localhost"], 2, (2020, 1, 1));
    crate::support::tls::write(server.directory.path(), "server.pem", &over.pem);
    crate::support::tls::write(server.directory.path(), "server.key", &over.key);
    assert!(wait_until(TIMEOUT, || metric(server.address(), expiry) == Some(1_577_836_800.0)));
    let log = server.server.log_with("has expired");
    assert!(log.contains("expired_at=\"2020-01-01T00:00:00Z\""), "{log}");
    let plain = tempfile::tempdir().unwrap();
    let plain = crate::support::server::Server::start(plain.path(), &[]);
    assert_eq!(metric(plain.address(), expiry), None, "there is no certificate");
}
