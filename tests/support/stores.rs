//! Real servers for tests: PostgreSQL, Redis, and services in Python behind gRPC and HTTP as private, throw-away instances
//! on free loopback ports.
//!
//! Nothing of the system's own services is touched. Each instance lives in its own temporary folder and is tied to this
//! process by a pipe: when the process ends, however it ends, a shell stops the instance and removes the folder. A machine
//! without the programs fails the test: `tools/test` installs them.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// For a server to be ready, or to have ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `"$@"` and says its process id. When its own input ends, it ends the program and removes the folder `$0`; after a
/// line of input it leaves the folder there.
const LEASH: &str = r#"
"$@" >&2 & pid=$!
echo $pid
read -r keep; lost=$?
kill -CONT $pid $(cat /proc/$pid/task/$pid/children)
kill -INT $pid
wait $pid
[ $lost = 0 ] || rm -rf "$0"
"#;

/// A program that ends with its value.
struct Leashed {
    shell: Child,
    pid: u32,
    folder: PathBuf,
}

impl Leashed {
    fn start(folder: &Path, program: &[OsString]) -> Self {
        let log = fs::File::create(folder.join("log")).unwrap();
        let mut shell = Command::new("sh")
            .arg("-c")
            .arg(LEASH)
            .arg(folder)
            .args(program)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Signals to the test's group (^C) reach the instance by the end of the pipe, in order.
            .process_group(0)
            .spawn()
            .expect("sh");
        let mut line = String::new();
        BufReader::new(shell.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().unwrap_or_else(|_| panic!("no process id: {line:?}"));
        Self { shell, pid, folder: folder.to_owned() }
    }

    fn ended(&mut self) -> bool {
        // The shell does not ask for its end before it is told to: until then a dead one is there as a zombie.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Ends it; its folder stays.
    fn stop(mut self) {
        let _ = self.shell.stdin.as_mut().expect("piped").write_all(b"keep\n");
    }

    fn signal(&self, signal: &str) {
        signal_process(self.pid, signal);
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// By its number: `STOP`, `CONT`, `KILL` …
pub(crate) fn signal_process(pid: u32, signal: &str) {
    let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().expect("kill");
    assert!(status.success(), "kill -{signal} {pid}");
}

/// One that no outgoing connection is ever given (they begin at 32,768): a server that was killed finds it free again.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const PORTS: std::ops::Range<u32> = 10_240..32_768;
    let first = std::process::id().wrapping_mul(131);
    let mut ports = std::iter::repeat_with(|| {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        (PORTS.start + number % (PORTS.end - PORTS.start)) as u16
    });
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a port is free")
}

/// With such a port; nobody listens on it until a test does.
pub(crate) fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// Process ids of what it has started.
fn children(pid: u32) -> Vec<String> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_whitespace().map(str::to_owned).collect()
}

/// It has not ended, whether its parent has looked or not.
fn is_alive(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} took too long");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn folder(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("telemetryx-{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    fs::create_dir(&path).unwrap();
    path
}

fn run(program: &[OsString], what: &str) -> String {
    let (name, arguments) = program.split_first().unwrap();
    let output =
        Command::new(name).args(arguments).current_dir("/").output().unwrap_or_else(|error| panic!("{what}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{what}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// A PostgreSQL cluster. User `postgres` needs no password; [`Postgres::url`] is for it.
pub(crate) struct Postgres {
    port: u16,
    process: Option<Leashed>,
    folder: PathBuf,
}

impl Postgres {
    /// One for all tests of this process that do not stop or break it. Each uses a database of its own.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// `options`: further settings, such as `ssl=on`.
    pub(crate) fn start(options: &[&str]) -> Self {
        let folder = folder("postgres");
        let data = folder.join("data");
        fs::create_dir(&data).unwrap();
        if is_root() {
            run(&[words(&["chown", "postgres:"]), vec![data.clone().into()]].concat(), "chown");
            run(&[words(&["chmod", "711"]), vec![folder.clone().into()]].concat(), "chmod");
        }
        run(&[words(&["chmod", "700"]), vec![data.clone().into()]].concat(), "chmod");
        let mut initdb = unprivileged();
        initdb.push(program("initdb").into());
        initdb.extend([OsString::from("-D"), data.into()]);
        initdb.extend(words(&["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]));
        initdb.extend(words(&["--no-sync", "--no-instructions", "--wal-segsize=1"]));
        run(&initdb, "initdb");
        let mut postgres = Self { port: free_port(), process: None, folder };
        postgres.go_on(options);
        postgres
    }

    /// Starts it again where it was, after [`Postgres::stop`] or [`Postgres::kill`].
    pub(crate) fn go_on(&mut self, options: &[&str]) {
        let mut command = unprivileged();
        command.push(program("postgres").into());
        command.extend([OsString::from("-D"), self.data().into()]);
        command.extend(words(&["-p", &self.port.to_string(), "-k", "", "-F"]));
        let settings =
            ["listen_addresses=127.0.0.1", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=16MB"];
        command.extend(settings.iter().chain(options).flat_map(|setting| words(&["-c", setting])));
        let mut process = Leashed::start(&self.folder, &command);
        wait_for("PostgreSQL's start", || {
            assert!(!process.ended(), "PostgreSQL ended: {}", process.log());
            self.psql("postgres", "SELECT 1").is_ok()
        });
        self.process = Some(process);
    }

    pub(crate) fn stop(&mut self) {
        self.process.take().expect("it runs").stop();
    }

    /// Kill -9, of it and of every server process of its clients.
    pub(crate) fn kill(&mut self) {
        let process = self.process.take().expect("it runs");
        // Stopped, it has no further children.
        process.signal("STOP");
        let children = children(process.pid);
        process.signal("KILL");
        for child in &children {
            // Some end by themselves when the first is gone.
            let _ = Command::new("kill").args(["-KILL", child]).stderr(Stdio::null()).status();
        }
        process.stop();
        // Their shared memory keeps the next start away.
        wait_for("PostgreSQL's end", || children.iter().all(|child| !is_alive(child)));
    }

    /// `STOP` or `CONT`, to it and every server process of its clients.
    pub(crate) fn signal_all(&self, signal: &str) {
        let pid = self.process.as_ref().expect("it runs").pid;
        for child in children(pid) {
            signal_process(child.parse().unwrap(), signal);
        }
        signal_process(pid, signal);
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes an empty database and returns its name.
    pub(crate) fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name}")).unwrap();
        name
    }

    /// Makes an empty database whose tables are all below `path`, which is made, and returns its name.
    pub(crate) fn database_on(&self, path: &Path) -> String {
        fs::create_dir(path).unwrap();
        if is_root() {
            run(&[words(&["chown", "postgres:"]), vec![path.into()]].concat(), "chown");
        }
        let name = self.database();
        self.psql("postgres", &format!("CREATE TABLESPACE {name} LOCATION '{}'", path.display())).unwrap();
        self.psql("postgres", &format!("ALTER DATABASE {name} SET TABLESPACE {name}")).unwrap();
        name
    }

    /// Runs statements as a user would; returns rows of fields with `|` between them.
    pub(crate) fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = Command::new(program("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database), "-c", sql])
            .env("PGCLIENTENCODING", "UTF8")
            .current_dir("/")
            .output()
            .expect("psql");
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Puts a file into the data folder, as the server's user owns it, and has it read the settings again.
    pub(crate) fn put_file(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        run(&[words(&["chmod", "600"]), vec![path.clone().into()]].concat(), "chmod");
        if is_root() {
            run(&[words(&["chown", "postgres:"]), vec![path.into()]].concat(), "chown");
        }
        if let Some(process) = &self.process {
            process.signal("HUP");
        }
    }
}

/// PgBouncer in front of a PostgreSQL, for user `postgres`.
pub(crate) struct PgBouncer {
    port: u16,
    /// Its folder goes with it.
    _process: Leashed,
}

impl PgBouncer {
    /// `mode`: its `pool_mode`.
    pub(crate) fn start(postgres: &Postgres, mode: &str) -> Self {
        let (port, folder) = (free_port(), folder("pgbouncer"));
        let settings = folder.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\n",
            postgres.port(),
            folder.join("users").display()
        );
        fs::write(&settings, text).unwrap();
        fs::write(folder.join("users"), "\"postgres\" \"\"\n").unwrap();
        if is_root() {
            // It does not run as root either.
            run(&[words(&["chmod", "755"]), vec![folder.clone().into()]].concat(), "chmod");
        }
        let mut command = unprivileged();
        command.extend([OsString::from(pgbouncer()), settings.into()]);
        let mut process = Leashed::start(&folder, &command);
        wait_for("PgBouncer's start", || {
            assert!(!process.ended(), "pgbouncer does not run (install it with tools/test): {}", process.log());
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { port, _process: process }
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

/// Debian has it beside the programs of the system's administrator.
fn pgbouncer() -> &'static str {
    if Path::new("/usr/sbin/pgbouncer").exists() { "/usr/sbin/pgbouncer" } else { "pgbouncer" }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}

/// PostgreSQL does not run as root.
fn unprivileged() -> Vec<OsString> {
    match is_root() {
        true => words(&["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]),
        false => Vec::new(),
    }
}

/// Debian keeps the server's programs out of PATH; the newest version is taken.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = versions
        .map(|entry| entry.path())
        .filter(|path| path.join("bin").join(name).exists())
        .max_by_key(|path| number(path));
    newest
        .unwrap_or_else(|| panic!("PostgreSQL is not installed: run tools/test, or apt-get install postgresql"))
        .join("bin")
        .join(name)
}

/// A Redis server.
pub(crate) struct Redis {
    port: u16,
    process: Option<Leashed>,
    folder: PathBuf,
    options: Vec<String>,
}

impl Redis {
    /// `options` as on its command line. With `--tls-port PORT` among them that is [`Redis::port`].
    pub(crate) fn start(options: &[&str]) -> Self {
        let port = free_port();
        let options = options.iter().map(|option| option.replace("{port}", &port.to_string())).collect();
        let mut redis = Self { port, process: None, folder: folder("redis"), options };
        redis.go_on();
        redis
    }

    /// Starts it again where it was, as docs/operations.md says.
    pub(crate) fn go_on(&mut self) {
        let folder = self.folder.join("data");
        fs::create_dir_all(&folder).unwrap();
        self.repair_append_only_file(&folder);
        let mut command = words(&["redis-server", "--bind", "127.0.0.1", "--protected-mode", "no", "--save", ""]);
        command.extend([OsString::from("--dir"), folder.into()]);
        if !self.options.iter().any(|option| option == "--tls-port") {
            command.extend(words(&["--port", &self.port.to_string()]));
        }
        command.extend(self.options.iter().map(OsString::from));
        let mut process = Leashed::start(&self.folder, &command);
        wait_for("Redis' start", || {
            assert!(!process.ended(), "redis-server does not run (install it with tools/test): {}", process.log());
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
        self.process = Some(process);
    }

    /// Redis itself cuts a torn transaction in its middle, and stores what is left of it at its next start but one.
    fn repair_append_only_file(&self, folder: &Path) {
        let manifest = folder.join("appendonlydir/appendonly.aof.manifest");
        if !manifest.exists() {
            return;
        }
        let mut check = Command::new("redis-check-aof")
            .arg("--fix")
            .arg(&manifest)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-check-aof");
        // It asks only where there is something to repair, and else is gone by now.
        let _ = check.stdin.take().expect("piped").write_all(b"y\n");
        let output = check.wait_with_output().unwrap();
        assert!(output.status.success(), "redis-check-aof: {}", String::from_utf8_lossy(&output.stdout));
    }

    pub(crate) fn stop(&mut self) {
        self.process.take().expect("it runs").stop();
    }

    pub(crate) fn kill(&mut self) {
        let process = self.process.take().expect("it runs");
        process.signal("KILL");
        process.stop();
    }

    pub(crate) fn signal(&self, signal: &str) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs one command as a user would; returns what `redis-cli` prints.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let port = self.port.to_string();
        let mut command = words(&["redis-cli", "-h", "127.0.0.1", "-p", &port]);
        command.extend(words(arguments));
        run(&command, "redis-cli")
    }
}

/// Three primaries that share the slots.
pub(crate) struct RedisCluster {
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    /// `options`: further ones of each node; the later of two holds.
    pub(crate) fn start(options: &[&str]) -> Self {
        let ranges = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
        let bus_ports: Vec<u16> = ranges.iter().map(|_| free_port()).collect();
        let nodes: Vec<Redis> = bus_ports
            .iter()
            .map(|bus| {
                let bus = bus.to_string();
                let cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "10000", "--cluster-port", &bus];
                Redis::start(&[&cluster, options].concat())
            })
            .collect();
        for (index, (node, (first, last))) in nodes.iter().zip(ranges).enumerate() {
            assert_eq!(node.cli(&["cluster", "addslotsrange", first, last]), "OK\n");
            assert_eq!(node.cli(&["cluster", "set-config-epoch", &(index + 1).to_string()]), "OK\n");
        }
        for (node, bus) in nodes.iter().zip(&bus_ports).skip(1) {
            nodes[0].cli(&["cluster", "meet", "127.0.0.1", &node.port().to_string(), &bus.to_string()]);
        }
        wait_for("the Cluster's start", || {
            nodes.iter().all(|node| {
                node.cli(&["cluster", "info"]).contains("cluster_state:ok")
                    && node.cli(&["cluster", "slots"]).matches("127.0.0.1").count() == 3
            })
        });
        Self { nodes }
    }

    pub(crate) fn urls(&self) -> String {
        self.nodes.iter().map(Redis::url).collect::<Vec<_>>().join(",")
    }

    /// The node that serves the key.
    pub(crate) fn node_of(&self, key: &str) -> &Redis {
        let served = |node: &&Redis| !node.cli(&["get", key]).starts_with("MOVED");
        self.nodes.iter().find(served).expect("a node serves it")
    }
}

/// The Python that `tools/test` has put beside what cargo builds, with what tools/python/requirements.txt names.
pub(crate) fn python() -> PathBuf {
    let program = std::env::current_exe().expect("a test knows where it is");
    let folders = program.ancestors().map(|folder| folder.join("python/bin/python3"));
    let found = folders.into_iter().find(|python| python.exists());
    found.unwrap_or_else(|| panic!("there is no Python with grpcio beside {}: run tools/test", program.display()))
}

/// A receiver of the `grpc` sink: `tests/support/grpc_receiver.py`, which is `tools/python/telemetryx_receiver.py` with
/// the example's table in SQLite and with ways to fail.
pub(crate) struct Receiver {
    port: u16,
    process: Option<Leashed>,
    folder: PathBuf,
    options: Vec<String>,
}

impl Receiver {
    /// `options`: `--token TOKEN`, `--tls KEY CERTIFICATE`, `--workers NUMBER`, `--unchecked`.
    pub(crate) fn start(options: &[&str]) -> Self {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let mut receiver = Self { port: free_port(), process: None, folder: folder("grpc"), options };
        receiver.go_on();
        receiver
    }

    pub(crate) fn go_on(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/grpc_receiver.py");
        let mut command =
            vec![python().into(), "-B".into(), script.into(), self.database().into(), self.control_file().into()];
        command.push(format!("127.0.0.1:{}", self.port).into());
        command.extend(self.options.iter().map(OsString::from));
        let mut process = Leashed::start(&self.folder, &command);
        wait_for("the receiver's start", || {
            assert!(!process.ended(), "the receiver ended: {}", process.log());
            // Not a connection: the kit listens for a moment to see whether the address is free, and closes again.
            process.log().lines().any(|line| line == "listening")
        });
        self.process = Some(process);
    }

    pub(crate) fn kill(&mut self) {
        let process = self.process.take().expect("it runs");
        process.signal("KILL");
        process.stop();
    }

    pub(crate) fn signal(&self, signal: &str) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    /// From the next call on it does so: JSON as `grpc_receiver.py` takes it; `{}`: nothing wrong.
    pub(crate) fn control(&self, control: &str) {
        let new = self.folder.join("control.new");
        fs::write(&new, control).unwrap();
        fs::rename(&new, self.control_file()).unwrap();
    }

    /// One line for each call: the number of its events.
    pub(crate) fn calls(&self) -> Vec<usize> {
        let text = fs::read_to_string(self.folder.join("control.calls")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn control_file(&self) -> PathBuf {
        self.folder.join("control")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.folder.join("received.db")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn log(&self) -> String {
        self.process.as_ref().expect("it runs").log()
    }
}

/// A service that takes events over HTTP: `http_service.py` beside this file says what it does.
pub(crate) struct HttpService {
    port: u16,
    process: Leashed,
    kept: PathBuf,
    scheme: &'static str,
}

/// One request that it has kept.
pub(crate) struct Request {
    pub path: String,
    /// Names in lower case.
    pub headers: serde_json::Map<String, serde_json::Value>,
    /// One for each connection.
    pub client_port: u64,
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header; empty: there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.as_str()).unwrap_or_default()
    }
}

impl HttpService {
    /// One for all tests of this process that do not stop it. Each uses a name of its own.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<HttpService> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(None))
    }

    /// One, its name in it, and the settings of a sink `sink` that sends there.
    pub(crate) fn with_sink(sink: &str) -> (Self, String, [String; 2]) {
        let service = Self::start(None);
        let name = service.name();
        let settings = [format!("sinks.{sink}.kind=http"), format!("sinks.{sink}.url={}", service.url(&name))];
        (service, name, settings)
    }

    /// `tls`: files of certificate and key.
    pub(crate) fn start(tls: Option<[&Path; 2]>) -> Self {
        let (port, folder) = (free_port(), folder("http"));
        let kept = folder.join("kept");
        fs::create_dir(&kept).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/http_service.py");
        let mut command = words(&["python3"]);
        command.extend([script.into(), kept.clone().into(), port.to_string().into()]);
        command.extend(tls.into_iter().flatten().map(OsString::from));
        let mut process = Leashed::start(&folder, &command);
        wait_for("the HTTP service's start", || {
            assert!(!process.ended(), "the HTTP service ended: {}", process.log());
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { port, process, kept, scheme: if tls.is_some() { "https" } else { "http" } }
    }

    /// Another name at each call, for [`HttpService::url`] and the rest.
    pub(crate) fn name(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("r{}", NEXT.fetch_add(1, Ordering::Relaxed));
        fs::create_dir(self.kept.join(&name)).unwrap();
        name
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("{}://localhost:{}/{name}/events", self.scheme, self.port)
    }

    /// What to answer from now on: `what` is `answer`, `early`, `poison` or `echo`.
    pub(crate) fn tell(&self, name: &str, what: &str, bytes: &[u8]) {
        let file = self.kept.join(name).join(what);
        fs::write(file.with_extension("part"), bytes).unwrap();
        fs::rename(file.with_extension("part"), file).unwrap();
    }

    /// To keep everything again.
    pub(crate) fn tell_nothing(&self, name: &str) {
        for what in ["answer", "early", "poison", "echo"] {
            let _ = fs::remove_file(self.kept.join(name).join(what));
        }
    }

    /// In the order of their answers.
    pub(crate) fn requests(&self, name: &str) -> Vec<Request> {
        let number = |number: usize| self.kept.join(name).join(format!("{number:06}.json"));
        let heads = (1..).map(number).map_while(|path| Some((fs::read_to_string(&path).ok()?, path)));
        heads
            .map(|(head, path)| {
                let mut head: serde_json::Value = serde_json::from_str(&head).unwrap();
                let Some(serde_json::Value::Object(headers)) = head.get_mut("headers").map(|value| value.take()) else {
                    panic!("{head}")
                };
                assert_eq!(head["method"], "POST");
                Request {
                    path: head["path"].as_str().unwrap().to_owned(),
                    headers,
                    client_port: head["client_port"].as_u64().unwrap(),
                    body: fs::read(path.with_extension("body")).unwrap(),
                }
            })
            .collect()
    }

    pub(crate) fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }
}
