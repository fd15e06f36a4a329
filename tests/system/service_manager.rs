//! What systemd sees of the server: messages on its socket, and signals.
#![cfg(feature = "redis")] // a sink that does not answer

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::http::{get, metric};
use crate::support::server::{Process, Server, own_address};
use crate::support::strace::Strace;

const DEADLINE: Duration = Duration::from_secs(60);
/// A message is due each quarter of it.
const WATCHDOG: Duration = Duration::from_millis(400);

/// The socket of a service manager.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn new(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, path: path.to_str().unwrap().to_owned() }
    }

    fn launch(&self, data_dir: &Path, settings: &[&str], watchdog: Option<Duration>) -> Process {
        let micros = watchdog.map(|time| time.as_micros().to_string());
        let mut environment = vec![("NOTIFY_SOCKET", self.path.as_str())];
        environment.extend(micros.as_deref().map(|micros| ("WATCHDOG_USEC", micros)));
        Server::launch_with(data_dir, settings, &environment)
    }

    /// The next message, `None` if there is none within `time`.
    fn message_within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut message = [0; 512];
        match self.socket.recv(&mut message) {
            Ok(length) => Some(String::from_utf8(message[..length].to_vec()).unwrap()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn message(&self) -> String {
        self.message_within(DEADLINE).expect("the server sends a message")
    }

    /// Discards what has arrived.
    fn discard(&self) {
        while self.message_within(Duration::from_millis(1)).is_some() {}
    }

    /// Messages until one begins with `text`, and that one.
    fn until(&self, text: &str) -> Vec<String> {
        let deadline = Instant::now() + DEADLINE;
        let mut messages = vec![self.message()];
        while !messages.last().unwrap().starts_with(text) {
            assert!(Instant::now() < deadline, "no {text}: {messages:?}");
            messages.push(self.message());
        }
        messages
    }
}

const DISCARD: &str = "sinks.none.kind=discard";

#[test]
fn the_service_is_ready_when_the_port_answers_and_stopping_when_the_drain_begins() {
    let directory = tempfile::tempdir().unwrap();
    let manager = Manager::new(directory.path());
    // It accepts connections and does not answer: the port of the server opens after three seconds.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("sinks.silent.url=redis://{}", silent.local_addr().unwrap());
    let address = own_address();
    let settings = [&format!("server.address={address}"), "sinks.silent.kind=redis", &url, DISCARD];
    let mut process = manager.launch(directory.path(), &settings, None);
    let mut tried = 0;
    let ready = loop {
        if let Some(message) = manager.message_within(Duration::from_millis(50)) {
            break message;
        }
        tried += 1;
        assert!(tried < 1_200, "not ready:\n{}", process.log());
    };
    // At once: whoever waits for the service connects without trying again.
    TcpStream::connect(address).expect("the port is open");
    assert_eq!(ready, format!("READY=1\nSTATUS=Listening on {address}"));
    assert_eq!(get(address, "/health").0, 200);
    assert!(manager.message_within(Duration::from_millis(100)).is_none(), "it is not watched");

    process.signal("TERM");
    assert_eq!(manager.message(), "STOPPING=1\nSTATUS=Shutting down");
    assert!(process.wait(DEADLINE).success());
    assert!(manager.message_within(Duration::from_millis(1)).is_none(), "one message for all event loops");
}

#[test]
fn a_reload_is_reported_with_its_time_and_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let manager = Manager::new(directory.path());
    // Long enough that no loop seems to hang because the machine is busy.
    let mut process = manager.launch(directory.path(), &[DISCARD], Some(Duration::from_secs(20)));
    let ready = manager.until("READY=1").pop().unwrap();
    let now = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
    };
    for signal in ["HUP", "USR1", "HUP"] {
        let before = now();
        process.signal(signal);
        let reloading = manager.until("RELOADING=1").pop().unwrap();
        let time = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
        assert!((before..=now()).contains(&time.parse().unwrap()), "{before}: {reloading}");
        assert_eq!(manager.until("READY=1").pop().unwrap(), ready);
    }
    process.signal("TERM");
    manager.until("STOPPING=1");
    assert!(process.wait(DEADLINE).success());
    assert!(!process.log().contains("an event loop hangs"), "{}", process.log());
}

#[test]
fn a_server_that_waits_reports_again_and_again_that_it_is_alive() {
    let directory = tempfile::tempdir().unwrap();
    let manager = Manager::new(directory.path());
    let mut process = manager.launch(directory.path(), &[DISCARD, "server.event_loops=2"], Some(WATCHDOG));
    assert_eq!(manager.until("READY=1").len(), 1, "nothing comes before");
    for _ in 0..10 {
        assert_eq!(manager.message(), "WATCHDOG=1");
    }
    process.signal("TERM");
    let last = manager.until("STOPPING=1");
    assert!(last.iter().rev().skip(1).all(|message| message == "WATCHDOG=1"), "{last:?}");
    assert!(process.wait(DEADLINE).success());
}

#[test]
fn an_event_loop_that_hangs_stops_the_watchdog_messages() {
    const HANGS: Duration = Duration::from_secs(4);
    let directory = tempfile::tempdir().unwrap();
    let manager = Manager::new(directory.path());
    let settings = [DISCARD, "server.event_loops=2"];
    let server = manager.launch(directory.path(), &settings, Some(WATCHDOG)).listening();
    let fault = format!("accept4:delay_enter={}:when=1", HANGS.as_micros());
    let strace = match Strace::inject_everywhere(server.pid(), &fault) {
        Ok(strace) => strace,
        Err(reason) => {
            println!("SKIPPED: {reason}");
            return;
        }
    };
    manager.discard();
    assert_eq!(manager.message(), "WATCHDOG=1");
    // One of the two loops accepts, and hangs; the other one has nothing to do.
    let _connection = TcpStream::connect(server.address()).unwrap();
    let (begin, mut silence) = (Instant::now(), Duration::ZERO);
    while silence < HANGS / 2 {
        let last = Instant::now();
        assert!(begin.elapsed() < DEADLINE, "the longest silence was {silence:?}");
        assert_eq!(manager.message(), "WATCHDOG=1");
        silence = silence.max(last.elapsed());
    }
    assert!(server.log().contains("an event loop hangs"), "{}", server.log());
    drop(strace);
    assert_eq!(get(server.address(), "/health").0, 200);
}

#[test]
fn a_service_manager_that_is_gone_does_not_affect_the_server() {
    let directory = tempfile::tempdir().unwrap();
    for (variable, log) in [
        (directory.path().join("nobody").to_str().unwrap().to_owned(), "the service manager cannot be notified"),
        ("vsock:2:1".to_owned(), "the service manager is not notified"),
    ] {
        let environment = [("NOTIFY_SOCKET", variable.as_str()), ("WATCHDOG_USEC", "100000")];
        let mut server = Server::launch_with(directory.path(), &[DISCARD], &environment).listening();
        server.log_with(log);
        assert_eq!(get(server.address(), "/health").0, 200);
        server.terminate();
        assert!(server.wait(DEADLINE).success());
        assert_eq!(server.log().matches(log).count(), 1, "once for all messages: {}", server.log());
    }
}

#[test]
fn user_signals_do_not_end_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &[DISCARD]);
    for signal in ["USR1", "USR2", "USR1", "USR2"] {
        server.signal(signal);
        assert_eq!(get(server.address(), "/health").0, 200, "after SIG{signal}");
    }
    server.terminate();
    assert!(server.wait(DEADLINE).success());
    assert!(server.log().contains("everything delivered"), "{}", server.log());
}

/// The unit has `ProcSubset=pid`: there is no /proc/stat.
#[test]
fn the_start_time_is_right_where_proc_has_processes_only() {
    let directory = tempfile::tempdir().unwrap();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let before = now();
    let Some(server) = Server::start_with_proc_of_processes(directory.path(), &[DISCARD]) else {
        println!("SKIPPED: another /proc cannot be mounted here");
        return;
    };
    let value = |name| metric(server.address(), name).unwrap();
    let started = value("process_start_time_seconds");
    assert!((before - 2.0..=now() + 2.0).contains(&started), "started at {started}, after {before}");
    assert!(value("process_resident_memory_bytes") > 0.0 && value("process_open_fds") > 3.0);
}
