//! CPU profiles: who may have them, and how their answers come later.

use super::*;
use crate::limits::{PROFILE_NAMES_TIMEOUT, PROFILE_SECONDS_MAX};
use crate::profiling::{Format, NotBegun, Order};

const PROFILE: &str = "/debug/pprof/profile";
const FLAMEGRAPH: &str = "/debug/pprof/flamegraph";
const TOKEN: &str = "Authorization: Bearer secret\r\n";

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
}

fn takes_profiles(ingress: &mut FakeIngress) {
    ingress.token = Some(b"secret");
    ingress.profiles = Some(Ok(()));
}

/// A connection to a server that takes profiles, on which this was sent.
fn asked(input: &str) -> Peer {
    let mut peer = Peer::new();
    takes_profiles(&mut peer.ingress);
    peer.send(input);
    peer
}

impl Peer {
    fn look_at_profile(&mut self) -> String {
        self.connection.look_at_profile(self.now, &mut self.ingress, &mut self.out);
        self.written.append(&mut self.out);
        self.answer()
    }

    fn finish_profile(&mut self, outcome: Result<&[u8], &str>) -> String {
        let (_, task) = self.ingress.tasks.pop().expect("a profile is being taken");
        task.finish(outcome.map(<[u8]>::to_vec).map_err(str::to_owned));
        self.look_at_profile()
    }
}

#[test]
fn a_server_that_takes_no_profiles_names_the_feature_to_whoever_asks() {
    for path in [PROFILE, FLAMEGRAPH] {
        let got = exchange(get(path, ""));
        assert_eq!(got.statuses, [404], "{path}");
        assert!(got.answers.contains("build it with `--features profiling`"), "{}", got.answers);
    }
    let got = exchange(get("/debug/pprof/heap", ""));
    assert_eq!(got.statuses, [404]);
    assert!(got.answers.contains(FLAMEGRAPH), "{}", got.answers);
}

#[test]
fn a_profile_needs_the_pages_token_also_where_pages_need_none() {
    for path in [PROFILE, FLAMEGRAPH] {
        let got = exchange_with(get(path, TOKEN), |ingress| ingress.profiles = Some(Ok(())));
        assert_eq!(got.statuses, [403], "{path}");
        assert!(got.answers.contains("server.pages_token_file, and none is set: set it"), "{}", got.answers);
        for fields in ["", "Authorization: Bearer other\r\n"] {
            assert_eq!(exchange_with(get(path, fields), takes_profiles).statuses, [401], "{path} {fields}");
        }
        let elsewhere = get(path, TOKEN).replace("localhost", "evil.example");
        assert_eq!(exchange_with(elsewhere, takes_profiles).statuses, [421], "{path}");
    }
}

#[test]
fn seconds_are_a_number_up_to_a_minute() {
    for (query, seconds) in [("", 10), ("?", 10), ("?seconds=1", 1), ("?seconds=60", PROFILE_SECONDS_MAX)] {
        let peer = asked(&get(&format!("{PROFILE}{query}"), TOKEN));
        let order = Order { format: Format::Protobuf, time: Duration::from_secs(seconds) };
        assert_eq!(peer.ingress.tasks.iter().map(|(order, _)| *order).collect::<Vec<_>>(), [order], "{query}");
        assert!(peer.connection.waits_for_profile() && peer.ingress.statuses.is_empty());
    }
    for query in ["seconds=0", "seconds=61", "seconds=-1", "seconds=1.5", "seconds=", "seconds", "seconds=1&seconds=1"]
    {
        let got = exchange_with(get(&format!("{FLAMEGRAPH}?{query}"), TOKEN), takes_profiles);
        assert_eq!(got.statuses, [400], "{query}");
    }
    let got = exchange_with(get(&format!("{PROFILE}?second=3"), TOKEN), takes_profiles);
    assert!(got.answers.contains("the query may have the parameter `seconds`, once"), "{}", got.answers);
}

#[test]
fn only_get_takes_a_profile() {
    for method in ["HEAD", "POST", "DELETE"] {
        let got = exchange_with(get(PROFILE, TOKEN).replacen("GET", method, 1), takes_profiles);
        assert_eq!(got.statuses, [405], "{method}");
        assert!(got.answers.contains("\r\nAllow: GET\r\n"), "{}", got.answers);
    }
}

#[test]
fn there_is_one_profile_at_a_time_and_the_answer_says_when_to_ask_again() {
    let refused = |why: NotBegun| {
        exchange_with(get(PROFILE, TOKEN), |ingress| {
            takes_profiles(ingress);
            ingress.profiles = Some(Err(why.clone()));
        })
    };
    let got = refused(NotBegun::Busy { wait: Duration::from_millis(6_200) });
    assert_eq!(got.statuses, [429]);
    assert!(got.answers.contains("\r\nRetry-After: 7\r\n"), "{}", got.answers);
    let got = refused(NotBegun::Failed("no thread".to_owned()));
    assert_eq!(got.statuses, [503]);
    assert!(got.answers.contains("no thread") && got.closing, "{}", got.answers);
}

#[test]
fn a_profile_is_answered_once_it_is_taken_and_is_not_cached() {
    for (path, content_type) in [(PROFILE, "application/octet-stream"), (FLAMEGRAPH, "image/svg+xml")] {
        let mut peer = asked(&[get(path, TOKEN), get("/health", "")].concat());
        assert_eq!((peer.look_at_profile(), peer.statuses()), (String::new(), vec![]), "it is not taken yet");
        let answer = peer.finish_profile(Ok(b"profile"));
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nprofile"), "{answer}");
        for field in [&*format!("Content-Type: {content_type}"), "Content-Length: 7", "Cache-Control: no-store"] {
            assert!(answer.contains(&format!("\r\n{field}\r\n")), "{field} is missing: {answer}");
        }
        assert!(!peer.connection.waits_for_profile() && !peer.connection.closing());
        // The request that was sent meanwhile comes next.
        peer.turn();
        assert_eq!(peer.statuses(), [200, 200], "{path}");
    }
    let mut peer = asked(&get(FLAMEGRAPH, &format!("{TOKEN}Connection: close\r\n")));
    let answer = peer.finish_profile(Ok(b"<svg/>"));
    assert!(
        answer.contains("\r\nContent-Security-Policy: default-src 'none'; ") && peer.connection.closing(),
        "{answer}"
    );
}

#[test]
fn a_profile_that_fails_is_an_error_with_its_reason() {
    let mut peer = asked(&get(PROFILE, TOKEN));
    let answer = peer.finish_profile(Err("no directory for its file"));
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("no directory for its file"), "{answer}");
    let mut peer = asked(&get(PROFILE, TOKEN));
    peer.ingress.tasks.clear();
    assert!(peer.look_at_profile().starts_with("HTTP/1.1 503 "), "its thread is gone");
}

#[test]
fn a_profile_that_does_not_become_ready_is_given_up_and_ends() {
    let mut peer = asked(&get(&format!("{PROFILE}?seconds=5"), TOKEN));
    peer.later(Duration::from_secs(4) + PROFILE_NAMES_TIMEOUT);
    assert_eq!(peer.statuses(), [0_u16; 0]);
    peer.later(Duration::from_secs(1));
    assert_eq!(peer.statuses(), [504]);
    let (_, task) = peer.ingress.tasks.pop().unwrap();
    assert!(!task.wait(Duration::from_secs(3_600)), "nobody waits for it");
}

#[test]
fn a_profile_ends_with_its_connection_and_when_the_server_drains() {
    let mut peer = asked(&get(PROFILE, TOKEN));
    let (_, task) = peer.ingress.tasks.pop().unwrap();
    peer.connection = Connection::new(SETTINGS, peer.now);
    assert!(!task.wait(Duration::from_secs(3_600)), "its client is gone");

    for fails in [false, true] {
        let mut peer = asked(&get(PROFILE, TOKEN));
        peer.ingress.draining = true;
        let (now, ingress, out) = (peer.now, &mut peer.ingress, &mut peer.out);
        if fails {
            peer.connection.log_failed(now, ingress, out);
        }
        peer.connection.drain(now, ingress, out);
        assert_eq!((peer.statuses(), peer.connection.closing()), (vec![503], true));
        let (_, task) = peer.ingress.tasks.pop().unwrap();
        assert!(!task.wait(Duration::from_secs(3_600)), "the server ends");
    }
    let late = exchange_with(get(PROFILE, TOKEN), |ingress| {
        takes_profiles(ingress);
        ingress.draining = true;
    });
    assert_eq!((late.statuses, late.closing), (vec![503], true));
}
