//! A server that nobody sends to: how often its threads wake up, and what those who look at it add.
#![cfg(feature = "sqlite")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use support::server::{Server, wait_until};

/// How long wake-ups are counted.
const WINDOW: Duration = Duration::from_secs(3);
/// Private memory of an idle server; the pages of the executable come on top of it.
const ANONYMOUS_BYTES_MAX: u64 = 6 * 1024 * 1024;

/// How often each thread of a process has begun to wait, by its number and name.
fn waits(pid: u32) -> BTreeMap<String, u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let of_task = |task: std::path::PathBuf| {
        let status = fs::read_to_string(task.join("status")).ok()?;
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        let name = fs::read_to_string(task.join("comm")).ok()?;
        Some((format!("{} {}", task.file_name()?.to_str()?, name.trim()), count.trim().parse().ok()?))
    };
    tasks.filter_map(of_task).collect()
}

/// Wake-ups of each thread while `look` is called once per second, and the seconds that this took.
fn wake_ups(pid: u32, mut look: impl FnMut()) -> (BTreeMap<String, u64>, f64) {
    let (before, started) = (waits(pid), Instant::now());
    while started.elapsed() < WINDOW {
        look();
        thread::sleep(Duration::from_secs(1));
    }
    let after = waits(pid);
    let between = after.into_iter().map(|(thread, count)| {
        let before = before.get(&thread).copied().unwrap_or(0);
        (thread, count - before)
    });
    (between.collect(), started.elapsed().as_secs_f64())
}

/// Whether a look is good twice in a row, in so many windows.
fn twice_in_a_row(mut look: impl FnMut() -> bool) -> bool {
    let mut last = false;
    wait_until(20 * WINDOW, || {
        let before = std::mem::replace(&mut last, look());
        before && last
    })
}

/// Asks for a page over a connection that stays open. The request is one write: parts of it could wake the server up one by one.
fn ask(connection: &mut BufReader<TcpStream>, page: &str) {
    let request = format!("GET {page} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    connection.get_mut().write_all(request.as_bytes()).unwrap();
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        connection.read_line(&mut line).unwrap();
        if let Some(bytes) = line.strip_prefix("Content-Length: ") {
            length = bytes.trim().parse().unwrap();
        }
    }
    connection.read_exact(&mut vec![0; length]).unwrap();
}

#[test]
fn an_idle_server_wakes_up_once_a_second_also_while_it_is_watched() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["server.event_loops=2"]);
    let pid = server.pid();
    // Other work on the machine makes threads wait for their memory, too: in some windows it does not. Two of these in a row
    // are no chance.
    let is_idle = || {
        let (counts, seconds) = wake_ups(pid, || ());
        println!("nobody: {counts:?} in {seconds:.1} s");
        assert!(counts.len() >= 4, "log, router and two loops: {counts:?}");
        counts.values().all(|count| *count as f64 <= seconds + 1.0)
    };
    assert!(twice_in_a_row(is_idle), "a thread wakes up more than once a second");

    let mut connection = BufReader::new(TcpStream::connect(server.address()).unwrap());
    let is_cheap = || {
        let mut requests = 0;
        let (counts, seconds) = wake_ups(pid, || {
            for page in ["/status.json", "/metrics"] {
                ask(&mut connection, page);
            }
            requests += 2;
        });
        println!("page and metrics: {counts:?} in {seconds:.1} s");
        // One wake-up of one loop for each request, beside those of an idle server.
        let all: u64 = counts.values().sum();
        all as f64 <= requests as f64 + 3.0 * (seconds + 1.0)
    };
    assert!(twice_in_a_row(is_cheap), "a page costs more than one wake-up");

    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let bytes = anonymous.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
    println!("{bytes} bytes of private memory");
    assert!(bytes <= ANONYMOUS_BYTES_MAX, "{bytes}");
}
