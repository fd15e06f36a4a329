//! TLS, where only one side speaks it, and servers that say nothing.

use std::time::{Duration, Instant};

use super::*;
use crate::sink::stores;
use crate::sink::testing::{delivery, down, identity, retry};

/// A server that speaks TLS only, and the folder with its files `crt` (for `localhost`) and `key`.
fn tls_server(asks_clients: &str) -> (tempfile::TempDir, stores::Redis) {
    let dir = tempfile::tempdir().unwrap();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("crt"), certificate.cert.pem()).unwrap();
    std::fs::write(path("key"), certificate.signing_key.serialize_pem()).unwrap();
    let files = [("cert", "crt"), ("key", "key"), ("ca-cert", "crt")];
    let files = files.map(|(option, name)| (format!("--tls-{option}-file"), path(name)));
    let mut options = vec!["--port", "0", "--tls-port", "{port}", "--tls-auth-clients", asks_clients];
    options.extend(files.iter().flat_map(|(option, file)| [option.as_str(), file]));
    let server = stores::Redis::start(&options);
    (dir, server)
}

#[test]
fn tls_is_verified() {
    let (dir, server) = tls_server("no");
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let connect = |host: &str, ca_file: Option<String>| {
        let url = format!("rediss://{host}:{}", server.port());
        let settings = RedisSection { ca_file: ca_file.map(Into::into), ..settings(&url) };
        let mut sink = Redis::new("main", &settings.valid(), &identity(1));
        sink.connect()?;
        sink.deliver(&delivery(1..=1_000))
    };
    assert_eq!(connect("localhost", Some(path("crt"))), Ok(()));
    assert!(down(connect("127.0.0.1", Some(path("crt")))).contains("check the server's certificate"));
    assert!(down(connect("localhost", None)).contains("UnknownIssuer"));
    assert!(down(connect("localhost", Some("/nonexistent".into()))).contains("ca_file /nonexistent"));
}

#[test]
fn tls_on_one_side_only_is_down_at_once_with_what_to_write() {
    let plain = stores::Redis::start(&["--databases", "4"]);
    let begun = Instant::now();
    let settings_of = |url: String| RedisSection { timeout: Duration::from_secs(300), ..settings(&url) };
    let reason = down(
        Redis::new("main", &settings_of(plain.url().replace("redis:", "rediss:")).valid(), &identity(1)).connect(),
    );
    assert!(reason.contains("the server does not speak TLS: name it with redis://"), "{reason}");
    let (dir, encrypted) = tls_server("no");
    for url in
        [format!("redis://127.0.0.1:{}", encrypted.port()), format!("redis://:x@localhost:{}/1", encrypted.port())]
    {
        let reason = down(Redis::new("main", &settings_of(url).valid(), &identity(1)).connect());
        assert!(reason.contains("the server speaks TLS only: name it with rediss://"), "{reason}");
    }
    assert!(begun.elapsed() < Duration::from_secs(120), "not after the timeout");
    // With a password that the question does not have.
    plain.cli(&["config", "set", "requirepass", "x"]);
    let url = format!("rediss://:x@127.0.0.1:{}", plain.port());
    assert!(down(Redis::new("main", &settings_of(url).valid(), &identity(1)).connect()).contains("does not speak TLS"));
    let url = format!("redis://:x@127.0.0.1:{}/4", plain.port());
    let reason = down(Redis::new("main", &settings_of(url).valid(), &identity(1)).connect());
    assert!(reason.contains("DB index is out of range") && reason.contains("see `databases`"), "{reason}");
    // A server that asks its clients for certificates.
    drop((dir, encrypted));
    let (dir, strict) = tls_server("yes");
    let settings = RedisSection {
        ca_file: Some(dir.path().join("crt")),
        ..settings_of(format!("rediss://localhost:{}", strict.port()))
    };
    let reason = down(Redis::new("main", &settings.valid(), &identity(1)).connect());
    assert!(reason.contains("client certificate"), "{reason}");
}

#[test]
fn a_server_that_says_nothing_is_named_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for scheme in ["redis", "rediss"] {
        let url = format!("{scheme}://127.0.0.1:{port}");
        let settings = RedisSection { timeout: Duration::from_secs(2), ..settings(&url) };
        let reason = retry(Redis::new("main", &settings.valid(), &identity(1)).connect());
        assert!(reason.contains("no answer within timeout") && !reason.contains("os error"), "{reason}");
    }
}
