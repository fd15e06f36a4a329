//! Settings that are read again by a running server: what takes effect, what does not, and what is refused.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::support::agent::{ANSWER_TIMEOUT, RawAgent, batch, data, hello, hello_bytes, log_line};
use crate::support::certificates::Authority;
use crate::support::http::metric;
use crate::support::server::{Server, wait_until};
use crate::support::tls::{self, FAR, TlsStream};
use telemetryx::wire::{Decoded, FrameKind, GoawayCode, Hello, PayloadCaps, decode};

const DEADLINE: Duration = Duration::from_secs(60);

/// A server with a settings file that is written anew.
struct Reloaded {
    directory: tempfile::TempDir,
    server: Server,
}

impl Reloaded {
    fn start(settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("settings.toml");
        fs::write(&file, settings).unwrap();
        let environment = [("TELEMETRYX_CONFIG", file.to_str().unwrap())];
        let server = Server::launch_with(directory.path(), &[], &environment).listening();
        Self { directory, server }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Runs the command for the server's data directory.
    fn reload(&self) -> Output {
        reload(self.directory.path())
    }

    /// Writes the settings and has the server read them; what it prints.
    #[track_caller]
    fn applied(&self, settings: &str) -> String {
        self.write("settings.toml", settings);
        let output = self.reload();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same where the settings are refused; what it prints.
    #[track_caller]
    fn refused(&self, settings: &str) -> String {
        self.write("settings.toml", settings);
        let output = self.reload();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b""[..]), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }
}

fn reload(data_dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.arg("reload").arg("--data-dir").arg(data_dir).env_remove("TELEMETRYX_CONFIG").output().unwrap()
}

fn agent(address: SocketAddr, id: u8, token: &str) -> RawAgent {
    RawAgent::greeted(address, Hello { token: token.as_bytes(), ..hello([id; 16], 0) }).0
}

fn send(agent: &mut RawAgent, seq: u64) {
    agent.send(&data(seq, &batch(vec![log_line(seq)])));
    agent.acknowledged(seq);
}

/// A connection for several requests.
struct Requests(TcpStream);

impl Requests {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        Self(stream)
    }

    /// Posts an event; the status.
    fn post(&mut self, token: &str, events: usize) -> u16 {
        let body = vec!["{\"name\":\"e\"}"; events].join("\n");
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {token}\r\ncontent-type: application/x-ndjson\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        self.ask(&(head + &body))
    }

    /// Asks for `/status.json`; the status.
    fn status_page(&mut self, token: &str) -> u16 {
        self.ask(&format!("GET /status.json HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n"))
    }

    /// Sends a request and reads its answer; the status.
    fn ask(&mut self, request: &str) -> u16 {
        self.0.write_all(request.as_bytes()).unwrap();
        let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, rest)) = text.split_once("\r\n\r\n") {
                let length = head
                    .to_lowercase()
                    .split("content-length: ")
                    .nth(1)
                    .and_then(|rest| rest.split("\r\n").next()?.trim().parse::<usize>().ok());
                if rest.len() >= length.unwrap_or(0) {
                    return head.split(' ').nth(1).unwrap().parse().unwrap();
                }
            }
            let bytes = self.0.read(&mut chunk).unwrap();
            assert!(bytes > 0, "the connection has ended: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&chunk[..bytes]);
        }
    }
}

const TOKENS: &str = "[server]\ntokens_file = \"tokens\"\n";

#[test]
fn a_revoked_token_closes_its_connections_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, "kept\nrevoked\n").unwrap();
    let client = |name: &str, token: &str| {
        let path = directory.path().join(name);
        fs::write(&path, token).unwrap();
        format!("[[clients]]\nname = \"{name}\"\ntoken_file = {path:?}\n")
    };
    let (api, edge) = (client("api", "of-api"), client("edge", "of-edge"));
    let file = format!("[server]\ntokens_file = {tokens:?}\nevent_loops = 2\n");
    let server = Reloaded::start(&(file.clone() + &api + &edge));
    let names = ["kept", "revoked", "of-api", "of-edge"];
    let mut agents: Vec<_> = names.iter().zip(1..).map(|(name, id)| agent(server.address(), id, name)).collect();
    let mut requests: Vec<_> = names.iter().map(|_| Requests::connect(server.address())).collect();
    agents.iter_mut().for_each(|agent| send(agent, 1));
    for (requests, name) in requests.iter_mut().zip(names) {
        assert_eq!(requests.post(name, 1), 200, "{name}");
    }

    fs::write(&tokens, "kept\nnew\n").unwrap();
    let printed = server.applied(&(file.clone() + &client("third", "of-third") + &edge));
    assert_eq!(printed, "settings reloaded: clients.third, clients.api (removed)\n");
    for (index, is_closed) in [false, true, true, false].into_iter().enumerate() {
        if is_closed {
            let answer = agents[index].answer(FrameKind::Goaway);
            assert_eq!(answer.goaway(), Some(GoawayCode::Auth));
            assert!(agents[index].next().unwrap().is_none(), "closed");
        } else {
            send(&mut agents[index], 2);
        }
        let status = requests[index].post(names[index], 1);
        assert_eq!(status, if is_closed { 401 } else { 200 }, "{}", names[index]);
    }
    // The agent of a client that is gone may come with the token of another one.
    let mut moved = agent(server.address(), 3, "of-third");
    send(&mut moved, 1);
    let closed = || metric(server.address(), "telemetryx_connections_closed_total{reason=\"AUTH\"}");
    assert!(wait_until(DEADLINE, || closed() == Some(2.0)), "{:?}", closed());
    assert_eq!(metric(server.address(), "telemetryx_reloads_total{result=\"applied\"}"), Some(1.0));

    // Only the file of tokens is another one.
    fs::write(&tokens, "new\n").unwrap();
    let printed = server.applied(&(file + &client("third", "of-third") + &edge));
    assert_eq!(printed, "settings reloaded: contents of the files of tokens\n");
    assert_eq!(agents[0].answer(FrameKind::Goaway).goaway(), Some(GoawayCode::Auth));
    send(&mut agents[3], 3);
    let events = |client| metric(server.address(), &format!("telemetryx_client_events_total{{client=\"{client}\"}}"));
    assert_eq!((events("edge"), events("third"), events("api")), (Some(5.0), Some(1.0), Some(2.0)));
}

/// Asks each connection for the page that only the pages token opens; the statuses.
fn statuses(connections: &mut [Requests], token: &str) -> Vec<u16> {
    connections.iter_mut().map(|connection| connection.status_page(token)).collect()
}

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("there is a mkfifo command").success());
}

#[test]
fn a_fifo_in_the_place_of_a_file_is_refused_and_the_next_reload_is_not_kept_waiting() {
    let server = Reloaded::start("");
    let tokens = TOKENS.replace("\"tokens\"", &format!("{:?}", server.path("tokens")));
    server.write("tokens", "secret\n");
    server.applied(&tokens);
    fs::remove_file(server.path("tokens")).unwrap();
    make_fifo(&server.path("tokens"));
    let printed = server.refused(&tokens);
    assert!(printed.contains("tokens cannot be read: it is a FIFO; a regular file is needed"), "{printed}");
    send(&mut agent(server.address(), 1, "secret"), 1);
    fs::remove_file(server.path("tokens")).unwrap();
    server.write("tokens", "other\n");
    assert_eq!(server.applied(&tokens), "settings reloaded: contents of the files of tokens\n");
    send(&mut agent(server.address(), 2, "other"), 1);
}

#[test]
fn another_pages_token_opens_the_pages_at_once_and_the_earlier_one_does_not() {
    let server = Reloaded::start("[server]\nevent_loops = 2\n");
    let pages = |name: &str| format!("[server]\nevent_loops = 2\npages_token_file = {:?}\n", server.path(name));
    // Of both loops, opened before the first reload and kept.
    let mut open: Vec<_> = (0..4).map(|_| Requests::connect(server.address())).collect();
    assert_eq!(statuses(&mut open, "any"), [200; 4], "nobody needs a token");
    server.write("pages", "first\n");
    assert_eq!(server.applied(&pages("pages")), "settings reloaded: server.pages_token_file\n");
    assert_eq!((statuses(&mut open, "any"), statuses(&mut open, "first")), (vec![401; 4], vec![200; 4]));

    server.write("pages", "second\n");
    assert_eq!(server.applied(&pages("pages")), "settings reloaded: contents of server.pages_token_file\n");
    assert_eq!((statuses(&mut open, "first"), statuses(&mut open, "second")), (vec![401; 4], vec![200; 4]));
    assert_eq!(server.applied(&pages("pages")), "settings reloaded: nothing that a reload applies has changed\n");

    for (text, why) in [("\n", "contains no token"), ("second\nthird\n", "has more than one line")] {
        server.write("pages", text);
        let printed = server.refused(&pages("pages"));
        assert!(printed.contains("server.pages_token_file: ") && printed.contains(why), "{printed}");
        assert!(!printed.contains("third"), "{printed}");
    }
    let printed = server.refused(&pages("missing"));
    assert!(printed.contains("server.pages_token_file: ") && printed.contains("cannot be read"), "{printed}");
    let printed = server.refused("[server]\nevent_loops = 2\n");
    let expected = "server.pages_token_file: the new settings would open the pages to everybody; restart the server if";
    assert!(printed.contains(expected), "{printed}");
    assert_eq!((statuses(&mut open, "third"), statuses(&mut open, "second")), (vec![401; 4], vec![200; 4]));

    server.write("others", "third\n");
    assert_eq!(server.applied(&pages("others")), "settings reloaded: server.pages_token_file\n");
    assert_eq!((statuses(&mut open, "second"), statuses(&mut open, "third")), (vec![401; 4], vec![200; 4]));
    let log = server.server.log();
    assert!(["first", "second", "third"].iter().all(|token| !log.contains(token)), "{log}");
}

#[test]
fn pages_that_nobody_may_read_get_a_token_without_a_restart() {
    let server = Reloaded::start("");
    for (name, text) in [("tokens", "of-senders\n"), ("pages", "of-pages\n")] {
        server.write(name, text);
    }
    let senders = format!("[server]\ntokens_file = {:?}\n", server.path("tokens"));
    let both = format!("{senders}pages_token_file = {:?}\n", server.path("pages"));
    assert_eq!(server.applied(&senders), "settings reloaded: server.tokens_file\n");
    let mut connection = Requests::connect(server.address());
    let mut ask = |token| connection.status_page(token);
    assert_eq!((ask("of-senders"), ask("of-pages")), (403, 403));
    server.applied(&both);
    assert_eq!((ask("of-senders"), ask("of-pages")), (401, 200));
    // A key that was named says nothing of the contents of the other file.
    server.write("tokens", "of-others\n");
    let printed = server.applied(&senders);
    assert_eq!(
        printed, "settings reloaded: server.pages_token_file, contents of the files of tokens\n",
        "it opens the pages to nobody"
    );
    assert_eq!((ask("of-senders"), ask("of-pages")), (403, 403));
}

#[test]
fn a_limit_that_is_raised_lets_those_who_wait_go_on_and_a_lower_one_is_in_force_at_once() {
    let limit = |per_second: u64| format!("[limits]\nagent_events_per_second = {per_second}\nburst = \"1s\"\n");
    let server = Reloaded::start(&limit(1));
    let mut agent = agent(server.address(), 1, "");
    // An hour's worth: the next frame is not read before.
    agent.send(&data(1, &batch((0..3_600).map(log_line).collect())));
    agent.acknowledged(1);
    agent.send(&data(2, &batch(vec![log_line(1)])));
    let post = |events| Requests::connect(server.address()).post("", events);
    assert_eq!((post(100), post(1)), (200, 429));
    let limited = || metric(server.address(), "telemetryx_events_limited_total{scope=\"address\"}");
    // Another loop may answer this than counted that.
    assert!(wait_until(DEADLINE, || limited() == Some(1.0)), "{:?}", limited());

    assert_eq!(server.applied(&limit(1_000_000)), "settings reloaded: limits.agent_events_per_second\n");
    agent.acknowledged(2);
    assert_eq!(post(1), 200);

    server.applied(&limit(1));
    assert_eq!((post(100), post(1)), (200, 429));
    agent.send(&data(3, &batch((0..3_600).map(log_line).collect())));
    agent.acknowledged(3);
    agent.send(&data(4, &batch(vec![log_line(1)])));
    // Without limits the window is as large as before.
    server.applied("");
    agent.acknowledged(4);
    let begin = Instant::now();
    for seq in 5..50 {
        send(&mut agent, seq);
        assert!(begin.elapsed() < DEADLINE);
    }
}

#[test]
fn what_is_refused_changes_nothing_and_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, "secret\n").unwrap();
    let good = format!("[server]\ntokens_file = {tokens:?}\n");
    let server = Reloaded::start(&good);
    let mut agent = agent(server.address(), 1, "secret");
    let file = server.path("settings.toml");
    let file = file.to_str().unwrap();
    const EARLIER: &str = "telemetryx: settings not reloaded, the earlier ones stay in force\n";

    let printed = server.refused(&format!("{good}[limits]\nburst = \"5\"\n[log]\nfilter = \"warning\"\n"));
    let lines: Vec<_> = printed.lines().collect();
    assert!(lines[0].starts_with(&format!("telemetryx: {file}:4: limits.burst = \"5\": expected a time")), "{printed}");
    let filter =
        format!("telemetryx: {file}:6: log.filter: unknown level or target \"warning\": did you mean \"warn\"?");
    assert!(lines[1].starts_with(&filter), "{printed}");
    assert!(printed.ends_with(EARLIER), "{printed}");
    send(&mut agent, 1);

    let printed = server.refused("[server]\n");
    assert!(printed.contains("the new settings would turn authentication off; restart the server"), "{printed}");
    fs::write(&tokens, "\n").unwrap();
    let printed = server.refused(&good);
    assert!(printed.contains("server.tokens_file: ") && printed.contains("contains no token"), "{printed}");
    let printed = server.refused(&format!("{good}[tls]\ncert_file = \"none.pem\"\nkey_file = \"none.pem\"\n"));
    assert!(printed.contains("contains no token"), "{printed}");
    fs::write(&tokens, "secret\n").unwrap();
    let printed = server.refused(&format!("{good}[tls]\ncert_file = \"none.pem\"\nkey_file = \"none.pem\"\n"));
    assert!(printed.contains("tls.cert_file: none.pem"), "{printed}");
    fs::remove_file(file).unwrap();
    let output = server.reload();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && printed.contains("settings.toml: cannot be read"), "{printed}");

    send(&mut agent, 2);
    let reloads = |result| metric(server.address(), &format!("telemetryx_reloads_total{{result=\"{result}\"}}"));
    assert_eq!((reloads("applied"), reloads("refused")), (Some(0.0), Some(6.0)));
    let log = server.server.log_with("settings.toml: cannot be read");
    assert_eq!(log.matches("settings not reloaded, the earlier ones stay in force").count(), 7, "{log}");
    assert!(!log.contains("secret"), "{log}");

    server.write("settings.toml", &good);
    assert!(server.reload().status.success());
    send(&mut agent, 3);
}

#[test]
fn what_needs_a_restart_is_named_and_nothing_else_of_it_happens() {
    let sink = |more: &str| format!("[[sinks]]\nname = \"out\"\nkind = \"file\"\npath = \"out.ndjson\"\n{more}");
    let server = Reloaded::start(&sink(""));
    let changed = format!(
        "[server]\nmax_agents = 7\n[limits]\nburst = \"3s\"\n{}[[sinks]]\nname = \"more\"\nkind = \"discard\"\n",
        sink("exclude = [{ name = [\"e\"] }]\n")
    );
    let expected = "settings reloaded: limits.burst, sinks.out.exclude\n\
                    a restart is needed for: server.max_agents, sinks.more (added)\n";
    assert_eq!(server.applied(&changed), expected);
    let log = server.server.log_with("settings reloaded, but some changes take effect with a restart only");
    assert!(log.contains(
        "applied=\"limits.burst, sinks.out.exclude\" needs_restart=\"server.max_agents, sinks.more (added)\""
    ));
    let expected = "settings reloaded: nothing that a reload applies has changed\n\
                    a restart is needed for: server.max_agents, sinks.more (added)\n";
    assert_eq!(server.applied(&changed), expected, "until there is a restart");
    // The steps are in force.
    assert_eq!(Requests::connect(server.address()).post("", 5), 200);
    let filtered = || metric(server.address(), "telemetryx_events_filtered_total{sink=\"out\",step=\"exclude\"}");
    assert!(wait_until(DEADLINE, || filtered() == Some(5.0)), "{:?}", filtered());
    assert_eq!(server.applied(&sink("")), "settings reloaded: limits.burst, sinks.out.exclude\n");
    assert_eq!(Requests::connect(server.address()).post("", 3), 200);
    let lines = || fs::read_to_string(server.path("out.ndjson")).unwrap_or_default().lines().count();
    assert!(wait_until(DEADLINE, || lines() == 3), "{}", lines());
}

#[test]
fn the_log_filter_changes_by_hangup_while_the_server_runs() {
    let server = Reloaded::start("[log]\nfilter = \"warn\"\n");
    let connect = || drop(agent(server.address(), 1, ""));
    connect();
    server.write("settings.toml", "[log]\nfilter = \"warn,telemetryx::net=debug\"\n");
    server.server.signal("HUP");
    let applied = || metric(server.address(), "telemetryx_reloads_total{result=\"applied\"}");
    assert!(wait_until(DEADLINE, || applied() == Some(1.0)));
    connect();
    let log = server.server.log_with("agent connected");
    assert_eq!(log.matches("agent connected").count(), 1, "{log}");
    assert!(server.applied("[log]\nfilter = \"error\"\n").contains("log.filter"));
    let before = server.server.log().len();
    connect();
    assert!(server.applied("[log]\nfilter = \"info\"\n").contains("log.filter"));
    let log = server.server.log_with("applied=\"log.filter\"");
    assert!(!log[before..].contains("agent connected"), "{}", &log[before..]);
}

#[test]
fn the_frames_of_one_agent_are_logged_for_a_while() {
    let server = Reloaded::start("");
    let connect = |name, id| RawAgent::greeted(server.address(), Hello { name, ..hello([id; 16], 0) }).0;
    let (mut one, mut other) = (connect("web-1\u{1b}", 1), connect("db-1", 2));
    send(&mut one, 1);
    assert_eq!(server.applied("[log]\nagents = \"mail, web-*\"\n"), "settings reloaded: log.agents\n");
    send(&mut one, 2);
    send(&mut other, 1);
    let mut late = connect("web-2", 3);
    send(&mut late, 1);
    assert!(server.applied("").contains("log.agents"));
    send(&mut one, 3);
    let log = server.server.log_with("settings reloaded applied=\"log.agents\"");
    let about = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!((about("frames received"), about("frames acknowledged")), (2, 2), "{log}");
    assert!(
        log.contains(r#"frames acknowledged agent="web-1\u{1b}" seq=2"#)
            || log.contains(r#"agent="web-1\u001B" seq=2"#),
        "{log}"
    );
    assert!(log.contains("agent=\"web-2\" events=1 accepted=1 bytes="), "{log}");
}

#[test]
fn without_a_server_there_is_nothing_to_reload() {
    let directory = tempfile::tempdir().unwrap();
    let says = |output: Output, text: &str| {
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && printed.contains(text), "{printed}");
    };
    says(reload(directory.path()), "no server runs with the data directory");
    let mut server = Server::start(directory.path(), &["sinks.none.kind=discard"]);
    assert!(reload(directory.path()).status.success());
    server.terminate();
    server.wait(DEADLINE);
    says(reload(directory.path()), "no server runs with the data directory");
    // Of a server that was killed the process id is left.
    let mut server = Server::start(directory.path(), &["sinks.none.kind=discard"]);
    server.kill();
    says(reload(directory.path()), "no server runs with the data directory");
    // By the settings, as any other command; and these may be wrong.
    let command = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
        command.arg("reload").args(arguments).current_dir(directory.path()).env_remove("TELEMETRYX_CONFIG");
        command.output().unwrap()
    };
    says(command(&["--set", "data_dir=."]), "no server runs with the data directory .");
    assert_eq!(command(&["--set", "server.ack=no"]).status.code(), Some(78));
}

#[test]
fn signals_that_ask_for_a_reload_do_not_end_a_server_that_starts() {
    let directory = tempfile::tempdir().unwrap();
    // It waits at the position of a sink that was removed, whose file never ends as long as this is open.
    let position = directory.path().join("positions/removed");
    fs::create_dir(position.parent().unwrap()).unwrap();
    make_fifo(&position);
    let writer = fs::File::options().read(true).write(true).open(&position).unwrap();
    let mut process = Server::launch_with(directory.path(), &["sinks.none.kind=discard"], &[]);
    let waits = |pid| {
        let links =
            fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|link| fs::read_link(link.ok()?.path()).ok());
        links.into_iter().any(|link| link == position)
    };
    assert!(wait_until(DEADLINE, || waits(process.pid())));
    for signal in ["USR1", "HUP"] {
        process.signal(signal);
    }
    drop(writer);
    let started = wait_until(DEADLINE, || process.listens() || !process.is_running());
    assert!(started && process.is_running(), "a signal has ended it");
    process.kill();
}

#[test]
fn a_terminal_that_is_closed_ends_the_server_and_the_command_still_reloads() {
    let directory = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_telemetryx");
    // A shell gives a process in the background no terminal unless it is told to.
    let line = format!(
        "{program} --set data_dir=. --set server.address=127.0.0.1:0 --set sinks.none.kind=discard < /dev/tty & server=$!; \
         (sleep 100; kill -9 $server) 2> /dev/null & \
         i=0; until {program} reload --data-dir .; do i=$((i+1)); [ $i -lt 300 ] || break; sleep 0.1; done; \
         kill -HUP $server; wait $server; echo \"ended with $?\"; kill $!"
    );
    let (printed, _) = crate::support::terminal::run(directory.path(), 200, &line);
    assert!(printed.contains("settings reloaded: nothing that a reload applies has changed"), "{printed}");
    assert!(printed.contains("shut down, everything delivered") && printed.contains("ended with 0"), "{printed}");
}

#[test]
fn tokens_that_are_set_for_the_first_time_close_who_has_none() {
    let server = Reloaded::start("");
    let mut with = agent(server.address(), 1, "secret");
    let mut without = agent(server.address(), 2, "");
    send(&mut with, 1);
    send(&mut without, 1);
    let tokens = server.path("tokens");
    server.write("tokens", "secret\n");
    let printed = server.applied(&TOKENS.replace("\"tokens\"", &format!("{tokens:?}")));
    assert_eq!(printed, "settings reloaded: server.tokens_file\n");
    assert_eq!(without.answer(FrameKind::Goaway).goaway(), Some(GoawayCode::Auth));
    send(&mut with, 2);
    let mut late = RawAgent::connect(server.address());
    late.send(&hello_bytes(hello([3; 16], 0)));
    assert_eq!(late.answer(FrameKind::Goaway).goaway(), Some(GoawayCode::Auth));
}

#[test]
fn certificates_their_clients_and_what_is_accepted_without_tls_change() {
    let authority = Authority::new("of a test");
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        format!("{path:?}")
    };
    let server_certificate = |serial| {
        let issued = authority.issue(&["localhost", "127.0.0.1"], serial, FAR);
        (write("server.pem", &issued.pem), write("server.key", &issued.key), issued.der)
    };
    let (cert, key, first) = server_certificate(1);
    let ca = write("ca.pem", &authority.pem);
    let tls =
        format!("[tls]\ncert_file = {cert}\nkey_file = {key}\nclient_ca_file = {ca}\nclient_auth = \"request\"\n");
    let client = |name: &str| format!("[[clients]]\nname = \"{name}\"\ncertificate_name = \"{name}.example\"\n");
    let server = Reloaded::start(&(tls.clone() + &client("edge") + &client("other")));
    let config = |name: Option<&str>| {
        let own = name.map(|name| authority.issue(&[&format!("{name}.example")], 7, FAR));
        tls::client(&authority, own.as_ref(), &[&rustls::version::TLS13])
    };
    let connect = |name| {
        let mut stream = TlsStream::connect(server.address(), &config(Some(name))).unwrap();
        stream.write_all(&hello_bytes(hello([name.len() as u8; 16], 0))).unwrap();
        assert_eq!(answer(&mut stream), FrameKind::Welcome, "{name}");
        stream
    };
    let (mut edge, mut other) = (connect("edge"), connect("other"));

    // Other files with the same names.
    let (.., second) = server_certificate(2);
    // The server may have found them by itself a moment before.
    let printed = String::from_utf8(server.reload().stdout).unwrap();
    assert!(printed.contains("contents of the files of [tls]") || printed.contains("nothing"), "{printed}");
    let mut stream = TlsStream::connect(server.address(), &config(None)).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").unwrap();
    stream.read_to_end().unwrap();
    let shown = stream.tls.peer_certificates().unwrap()[0].to_vec();
    assert!(shown == second && shown != first);

    // A client whose certificate stands for nobody any more.
    let without = tls.clone() + &client("other");
    assert_eq!(server.applied(&without), "settings reloaded: clients.edge (removed)\n");
    assert_eq!(answer(&mut edge), FrameKind::Goaway);
    other.write_all(&data(1, &batch(vec![log_line(1)]))).unwrap();
    assert_eq!(answer(&mut other), FrameKind::Ack);

    let token = write("token", "secret\n");
    let plain = format!("{without}[[clients]]\nname = \"plain\"\ntoken_file = {token}\n");
    server.applied(&plain);
    let mut agent = agent(server.address(), 9, "secret");
    let refusing = plain.replace("client_auth", "plaintext = \"refuse\"\nclient_auth");
    assert_eq!(server.applied(&refusing), "settings reloaded: tls.plaintext\n");
    assert_eq!(agent.answer(FrameKind::Goaway).goaway(), Some(GoawayCode::Auth));
    other.write_all(&data(2, &batch(vec![log_line(2)]))).unwrap();
    assert_eq!(answer(&mut other), FrameKind::Ack);
}

#[test]
fn what_is_shown_of_the_certificate_is_that_of_the_one_in_force() {
    let authority = Authority::new("of a test");
    let directory = tempfile::tempdir().unwrap();
    let issued = authority.issue(&["localhost"], 1, FAR);
    let (cert, key) = (directory.path().join("server.pem"), directory.path().join("server.key"));
    fs::write(&cert, &issued.pem).unwrap();
    fs::write(&key, &issued.key).unwrap();
    let tls = format!("[tls]\ncert_file = {cert:?}\nkey_file = {key:?}\n");
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, "secret\n").unwrap();
    let with_tokens = format!("[server]\ntokens_file = {tokens:?}\n");
    let server = Reloaded::start(&with_tokens);
    let expiry = || metric(server.address(), "telemetryx_tls_certificate_expiry_seconds");
    assert!(server.refused(&tls).contains("would turn authentication off"));
    assert_eq!(expiry(), None, "the certificate of settings that are refused");

    server.applied(&format!("{with_tokens}{tls}"));
    let shown = expiry();
    assert!(shown.is_some_and(|seconds| seconds > 0.0), "{shown:?}");
    // Another acceptor with the same certificate.
    let ca = directory.path().join("ca.pem");
    fs::write(&ca, &authority.pem).unwrap();
    server.applied(&format!("{with_tokens}{tls}client_ca_file = {ca:?}\nclient_auth = \"request\"\n"));
    // The file of the first one is not looked at any more.
    let threads = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", server.server.pid())).unwrap();
        let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.trim() == "tls files").count()
    };
    assert!(wait_until(DEADLINE, || threads() == 1), "{}", threads());
    assert_eq!(expiry(), shown);

    server.applied(&with_tokens);
    assert!(wait_until(DEADLINE, || expiry().is_none()), "TLS is not offered any more");
}

#[test]
fn a_certificate_is_replaced_without_tickets_as_long_as_syslog_runs() {
    let authority = Authority::new("of a test");
    let directory = tempfile::tempdir().unwrap();
    let settings = |serial: u64, more: &str| {
        let issued = authority.issue(&["localhost"], serial, FAR);
        let name = |end: &str| directory.path().join(format!("{serial}.{end}"));
        fs::write(name("pem"), &issued.pem).unwrap();
        fs::write(name("key"), &issued.key).unwrap();
        format!("[tls]\ncert_file = {:?}\nkey_file = {:?}\n{more}", name("pem"), name("key"))
    };
    let server = Reloaded::start(&settings(1, "[syslog]\nenabled = true\n"));
    let printed = server.applied(&settings(2, ""));
    assert_eq!(printed, "settings reloaded: tls.cert_file, tls.key_file\na restart is needed for: syslog.enabled\n");
    let config = tls::client(&authority, None, &[&rustls::version::TLS13]);
    let mut stream = TlsStream::connect(server.address(), &config).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").unwrap();
    stream.read_to_end().unwrap();
    assert_eq!(stream.tls.tls13_tickets_received(), 0, "a sender of syslog never reads them");
}

/// The kind of the next frame.
fn answer(stream: &mut TlsStream) -> FrameKind {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 1]);
    loop {
        if let Ok(Decoded::Frame { header, .. }) = decode(&bytes, PayloadCaps { data: 1 << 20 }) {
            return header.kind;
        }
        assert_eq!(stream.read(&mut chunk).unwrap(), 1, "the connection has ended");
        bytes.extend_from_slice(&chunk);
    }
}
