//! Against real servers, alone and as a Cluster of three. What XRANGE shows is what counts.

mod missing;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::settings::RedisSection;
use super::*;
use crate::event::proto::Event;
use crate::settings::{Url, Urls};
use crate::sink::stores;
use crate::sink::testing::{
    self, KeepsPositions, Row, Store, batch_of, delivery, delivery_of, down, identity, named, retry,
};
use ::redis::Value;

impl RedisSection {
    fn valid(&self) -> RedisSettings {
        self.clone().validate().unwrap()
    }
}

fn settings(url: &str) -> RedisSection {
    RedisSection {
        url: Url::new(url),
        urls: Urls::new(""),
        ca_file: None,
        stream: "events".into(),
        maxlen: 0,
        shards: 0,
        timeout: Duration::from_secs(20),
    }
}

fn server(url: &str) -> Server {
    settings(url).valid().servers.remove(0)
}

/// One server and what is on it.
struct Alone {
    server: stores::Redis,
    shards: u64,
}

impl Alone {
    fn new(shards: u64) -> Self {
        Self { server: stores::Redis::start(&[]), shards }
    }

    fn settings(&self) -> RedisSection {
        RedisSection { shards: self.shards, ..settings(&self.server.url()) }
    }

    fn redis(&self, owner: u8) -> Redis {
        Redis::new("main", &self.settings().valid(), &identity(owner))
    }

    fn connected(&self, owner: u8) -> Redis {
        let mut sink = self.redis(owner);
        sink.connect().unwrap();
        sink
    }
}

impl Store for Alone {
    const EXACTLY_ONCE: bool = true;
    const KEEPS_POSITIONS: bool = true;
    const REPLAYS: Option<bool> = Some(false);

    fn sink(&self, owner: u8) -> Box<dyn Sink> {
        Box::new(self.redis(owner))
    }

    fn stored(&self) -> Option<Vec<Row>> {
        Some(stored(&[&self.server], self.shards))
    }

    fn address(&self) -> Option<SocketAddr> {
        Some(([127, 0, 0, 1], self.server.port()).into())
    }

    fn sink_through(&self, address: SocketAddr, owner: u8) -> Box<dyn Sink> {
        let settings = RedisSection { url: Url::new(format!("redis://{address}")), ..self.settings() };
        Box::new(Redis::new("main", &settings.valid(), &identity(owner)))
    }
}

impl KeepsPositions for Alone {
    fn sink_of(&self, name: &str, identity: &Identity) -> Box<dyn Sink> {
        Box::new(Redis::new(name, &self.settings().valid(), identity))
    }

    fn is_untouched(&self) -> bool {
        self.server.cli(&["dbsize"]).trim() == "0"
    }

    fn set_positions(&self, position: u64) {
        for key in self.server.cli(&["keys", "*:position:*"]).lines() {
            let written = self.server.cli(&["get", key]);
            let (_, rest) = written.trim().split_once(' ').unwrap();
            self.server.cli(&["set", key, &format!("{position} {rest}")]);
        }
    }

    fn remove_positions(&self) {
        for key in self.server.cli(&["keys", "*:position:*"]).lines() {
            self.server.cli(&["del", key]);
        }
    }

    fn remove_events(&self) {
        self.server.cli(&["del", "events:{0}"]);
    }

    fn run(&self, statement: &str) {
        let (key, value) = statement.strip_prefix("SET ").unwrap().split_once(' ').unwrap();
        assert_eq!(self.server.cli(&["set", key, value.trim_matches('"')]), "OK\n");
    }
}

/// A cluster that all tests may use, each with a stream of its own.
struct Clustered {
    stream: String,
}

fn cluster() -> &'static stores::RedisCluster {
    static SHARED: std::sync::OnceLock<stores::RedisCluster> = std::sync::OnceLock::new();
    SHARED.get_or_init(|| stores::RedisCluster::start(&[]))
}

impl Clustered {
    fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        cluster();
        Self { stream: format!("s{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) }
    }

    fn settings(&self) -> RedisSection {
        RedisSection { urls: Urls::new(&cluster().urls()), stream: self.stream.clone(), ..settings("") }
    }

    fn redis(&self, owner: u8) -> Redis {
        Redis::new("main", &self.settings().valid(), &identity(owner))
    }
}

impl Store for Clustered {
    const EXACTLY_ONCE: bool = true;
    const KEEPS_POSITIONS: bool = true;
    const REPLAYS: Option<bool> = Some(false);

    fn sink(&self, owner: u8) -> Box<dyn Sink> {
        Box::new(self.redis(owner))
    }

    fn stored(&self) -> Option<Vec<Row>> {
        let nodes: Vec<&stores::Redis> = cluster().nodes.iter().collect();
        Some(stored_in(&nodes, &self.stream, 16))
    }
}

fn stored(nodes: &[&stores::Redis], shards: u64) -> Vec<Row> {
    stored_in(nodes, "events", shards.max(1))
}

/// All entries of all shards by position; each stream is in order by itself.
fn stored_in(nodes: &[&stores::Redis], stream: &str, shards: u64) -> Vec<Row> {
    let mut rows = BTreeMap::new();
    for shard in 0..shards {
        let mut last = 0;
        for fields in entries(nodes, &format!("{stream}:{{{shard}}}")) {
            let row = row(fields);
            let position = row["position"].as_u64().unwrap();
            assert!(position > last, "{position} after {last}");
            last = position;
            assert!(rows.insert(position, row).is_none(), "{position} is in two streams");
        }
    }
    rows.into_values().collect()
}

/// The fields of each entry, asked of the node that serves the stream.
fn entries(nodes: &[&stores::Redis], stream: &str) -> Vec<Vec<(String, String)>> {
    let mut range = Commands::default();
    range.command(&[b"XRANGE", stream.as_bytes(), b"-", b"+"]);
    let deadline = Instant::now() + Duration::from_secs(30);
    let answers = loop {
        let answers = nodes.iter().find_map(|node| {
            let mut connection = Connection::open(&server(&node.url()), None, Duration::from_secs(20)).unwrap();
            connection.ask_all(&range).ok()
        });
        match answers {
            Some(answers) => break answers,
            // One that was just started is still loading.
            None => assert!(Instant::now() < deadline, "no node serves the stream"),
        }
    };
    let text = |value: &Value| match value {
        Value::BulkString(text) => String::from_utf8(text.clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    let list = |value: &Value| match value {
        Value::Array(values) => values.clone(),
        other => panic!("{other:?}"),
    };
    let entries = list(&answers[0]);
    let fields = |entry: &Value| {
        let fields = list(&list(entry)[1]);
        fields.chunks(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
    };
    entries.iter().map(fields).collect()
}

/// As the suite compares it: all values are text.
fn row(fields: Vec<(String, String)>) -> Row {
    let value = |name: &str, text: String| match name {
        "attributes" => serde_json::from_str(&text).unwrap(),
        "position" | "severity" | "duration_nano" => text.parse::<u64>().unwrap().into(),
        "value" => testing::number(text.parse::<f64>().unwrap()),
        _ => serde_json::Value::from(text),
    };
    fields.into_iter().map(|(name, text)| (name.clone(), value(&name, text))).collect()
}

/// Events of many sources.
fn spread(positions: std::ops::RangeInclusive<u64>) -> Delivery {
    let event = |position: u64| Event { source: format!("host-{}", position % 97), ..named(format!("e{position}")) };
    delivery_of(batch_of(*positions.start(), vec![positions.map(event).collect()]))
}

/// Connects and delivers as a router does, until it is stored.
fn persist(sink: &mut Redis, delivery: &Delivery) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let stored = match sink.connect() {
            Ok(Some(position)) if position >= delivery.last_position() => return,
            Ok(_) => sink.deliver(delivery),
            Err(unavailable) => Err(unavailable.into()),
        };
        match stored {
            Ok(()) => return,
            Err(failure) => assert!(Instant::now() < deadline, "{failure:?}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn passes_the_conformance_suite() {
    testing::conformance(|| Alone::new(0));
}

#[test]
fn passes_the_suite_of_positions() {
    testing::keeps_positions(|| Alone::new(0));
}

#[test]
fn passes_the_conformance_suite_with_shards() {
    testing::conformance(|| Alone::new(3));
}

#[test]
fn passes_the_conformance_suite_on_a_cluster() {
    testing::conformance(Clustered::new);
}

// ---- shards ----

#[test]
fn a_source_stays_in_its_shard_and_all_shards_are_used() {
    let store = Clustered::new();
    let mut sink = store.redis(1);
    assert_eq!(sink.connect(), Ok(Some(0)));
    assert!(sink.nodes.len() == 3, "a connection to each node");
    sink.deliver(&spread(1..=5_000)).unwrap();
    sink.deliver(&spread(5_001..=10_000)).unwrap();
    assert_eq!(store.positions(), (1..=10_000).collect::<Vec<_>>());
    let nodes: Vec<&stores::Redis> = cluster().nodes.iter().collect();
    let mut shard_of = BTreeMap::new();
    for shard in 0..16 {
        let entries = entries(&nodes, &format!("{}:{{{shard}}}", store.stream));
        assert!(!entries.is_empty(), "shard {shard}");
        for fields in entries {
            let source = row(fields)["source"].as_str().unwrap().to_owned();
            assert_eq!(crc32fast::hash(source.as_bytes()) % 16, shard);
            assert_eq!(*shard_of.entry(source).or_insert(shard), shard);
        }
    }
}

#[test]
fn shards_that_are_ahead_skip_what_they_have() {
    let store = Alone::new(4);
    let mut sink = store.connected(1);
    sink.deliver(&spread(1..=100)).unwrap();
    // The next delivery reached shards 0 and 1, then the server went away.
    let ahead = spread(101..=200);
    sink.encode(&ahead);
    for index in 0..2 {
        sink.at_its_node(index, |sink, connection, asking| sink.store(index, 200, connection, asking)).unwrap();
    }
    let mut sink = store.redis(2);
    assert_eq!(sink.connect(), Ok(Some(100)), "the lowest");
    // Cut otherwise this time, and over the end of what some have.
    for positions in [101..=130, 131..=199, 200..=300] {
        sink.deliver(&spread(positions)).unwrap();
    }
    assert_eq!(store.positions(), (1..=300).collect::<Vec<_>>());
    assert_eq!(store.redis(3).connect(), Ok(Some(300)));
}

#[test]
fn one_shard_that_has_seen_more_than_the_log_keeps_an_older_copy_away() {
    let store = Alone::new(4);
    let mut sink = store.connected(1);
    sink.deliver(&spread(1..=100)).unwrap();
    sink.encode(&spread(101..=200));
    sink.at_its_node(2, |sink, connection, asking| sink.store(2, 200, connection, asking)).unwrap();
    // It would go on behind 100 and shard 2 would pass over what now gets the positions up to 200.
    let older = Identity { log_end: 150, ..identity(2) };
    assert_eq!(Redis::new("main", &store.settings().valid(), &older).connect(), Ok(Some(200)));
    sink.deliver(&spread(101..=200)).unwrap();
    assert_eq!(store.positions(), (1..=200).collect::<Vec<_>>());
}

#[test]
fn another_number_of_shards_is_down_with_what_to_do() {
    let store = Alone::new(4);
    store.connected(1).deliver(&spread(1..=10)).unwrap();
    for shards in [2, 8] {
        let settings = RedisSection { shards, ..store.settings() };
        let reason = down(Redis::new("main", &settings.valid(), &identity(2)).connect());
        assert!(reason.contains("written with 4 shards so far") && reason.contains("set shards = 4"), "{reason}");
    }
}

#[test]
fn a_stream_keeps_about_maxlen_entries() {
    let store = Alone::new(0);
    let settings = RedisSection { maxlen: 1_000, ..store.settings() };
    let mut sink = Redis::new("main", &settings.valid(), &identity(1));
    sink.connect().unwrap();
    for first in (1..10_000).step_by(500) {
        sink.deliver(&delivery(first..=first + 499)).unwrap();
    }
    let positions = store.positions();
    assert!((1_000..1_300).contains(&positions.len()), "{}", positions.len());
    assert_eq!(positions.last(), Some(&10_000));
}

// ---- positions ----

#[test]
fn the_newest_owner_of_several_shards_wins() {
    let store = Alone::new(3);
    let (mut old, mut new) = (store.connected(1), store.redis(2));
    old.deliver(&spread(1..=50)).unwrap();
    assert_eq!(new.connect(), Ok(Some(50)));
    assert!(down(old.deliver(&spread(51..=60))).contains("fenced at position 50"));
    assert!(down(old.connect()).contains("fenced"));
    new.deliver(&spread(51..=60)).unwrap();
    assert_eq!(store.positions(), (1..=60).collect::<Vec<_>>());
}

#[test]
fn the_lowest_of_several_positions_is_read_from_outside() {
    let store = Alone::new(4);
    let read = || store.redis(9).stored_position();
    assert_eq!(read(), Ok(Some(0)));
    assert!(store.is_untouched());
    store.connected(1).deliver(&spread(1..=70)).unwrap();
    assert_eq!(read(), Ok(Some(70)));
}

#[test]
fn owners_that_meet_halfway_agree_on_one() {
    let store = Alone::new(4);
    let (mut first, mut second) = (store.connected(1), store.connected(2));
    // The second has shard 0; the first comes back late and takes the others.
    let mut late = store.redis(1);
    late.open().unwrap();
    for index in 1..4 {
        late.at_its_node(index, |sink, connection, asking| sink.take(index, connection, asking)).unwrap();
    }
    retry(second.deliver(&spread(1..=50)));
    persist(&mut second, &spread(1..=50));
    assert!(down(first.deliver(&spread(1..=50))).contains("fenced"));
    assert_eq!(store.positions(), (1..=50).collect::<Vec<_>>());
}

#[test]
fn a_position_that_is_not_one_is_down() {
    let store = Alone::new(0);
    let mut sink = store.connected(1);
    sink.deliver(&delivery(1..=3)).unwrap();
    let key = String::from_utf8(sink.shards[0].position_key.clone()).unwrap();
    store.server.cli(&["set", &key, "nonsense"]);
    assert!(down(sink.connect()).contains("is not what this sink wrote there"));
    // All was removed: from the beginning.
    store.server.cli(&["flushall"]);
    assert_eq!(sink.connect(), Ok(Some(0)));
    sink.deliver(&delivery(4..=5)).unwrap();
    assert_eq!(store.positions(), [4, 5]);
}

#[test]
fn a_position_that_moves_between_watch_and_exec_stops_the_transaction() {
    let store = Alone::new(0);
    let mut sink = store.connected(1);
    sink.encode(&delivery(1..=3));
    let key = String::from_utf8(sink.shards[0].position_key.clone()).unwrap();
    let result = sink.at_its_node(0, |sink, connection, asking| {
        sink.look(0, connection, asking)?;
        store.server.cli(&["set", &key, "7 somebody 1"]);
        sink.commit(0, Some(3), connection, asking)
    });
    assert!(retry(result).contains("position of this sink was changed"));
    assert!(store.positions().is_empty());
}

#[test]
fn without_multi_nothing_is_written() {
    let store = Alone { server: stores::Redis::start(&["--rename-command", "MULTI", ""]), shards: 0 };
    let reason = down(store.redis(1).connect());
    assert!(reason.contains("unknown command 'MULTI'") && reason.contains("as they are named by default"), "{reason}");
    down(store.redis(1).replay(&delivery(1..=2)));
    assert_eq!(store.server.cli(&["dbsize"]).trim(), "0");
}

#[test]
fn a_key_of_the_wrong_type_is_down() {
    let store = Alone::new(0);
    store.server.cli(&["rpush", "events:{0}", "x"]);
    let reason = down(store.redis(1).connect());
    assert!(reason.contains("WRONGTYPE the key events:{0} is a list"), "{reason}");
    store.server.cli(&["del", "events:{0}"]);
    let mut sink = store.connected(1);
    store.server.cli(&["rpush", "events:{0}", "x"]);
    assert!(down(sink.deliver(&delivery(1..=2))).contains("WRONGTYPE"));
    store.server.cli(&["del", "events:{0}"]);
    let key = String::from_utf8(sink.shards[0].position_key.clone()).unwrap();
    store.server.cli(&["del", &key]);
    store.server.cli(&["rpush", &key, "x"]);
    assert!(down(sink.connect()).contains("WRONGTYPE"));
}

#[test]
fn entries_refused_inside_a_transaction_are_not_passed() {
    let store = Alone::new(0);
    let mut sink = store.connected(1);
    sink.encode(&delivery(1..=3));
    // Somebody puts a list there after the look.
    let result = sink.at_its_node(0, |sink, connection, asking| {
        sink.look(0, connection, asking)?;
        store.server.cli(&["rpush", "events:{0}", "x"]);
        sink.commit(0, Some(3), connection, asking)
    });
    assert!(down(result).contains("WRONGTYPE"));
    store.server.cli(&["del", "events:{0}"]);
    assert_eq!(sink.connect(), Ok(Some(0)), "moved back");
    sink.deliver(&delivery(1..=3)).unwrap();
    assert_eq!(store.positions(), [1, 2, 3]);
}

// ---- servers in trouble ----

#[test]
fn a_server_that_is_not_there_is_tried_again() {
    let reason = retry(Redis::new("main", &settings("redis://u:secret@127.0.0.1:1").valid(), &identity(1)).connect());
    assert!(reason.contains("127.0.0.1:1") && reason.contains("refused"), "{reason}");
    assert!(!reason.contains("secret"), "{reason}");
}

#[test]
fn out_of_memory_passes() {
    let store = Alone::new(0);
    let mut sink = store.connected(1);
    sink.deliver(&delivery(1..=2)).unwrap();
    store.server.cli(&["config", "set", "maxmemory", "1"]);
    let reason = retry(sink.deliver(&delivery(3..=4)));
    assert!(reason.contains("OOM") && reason.contains("raise maxmemory"), "{reason}");
    assert!(retry(sink.connect()).contains("OOM"));
    store.server.cli(&["config", "set", "maxmemory", "0"]);
    persist(&mut sink, &delivery(3..=4));
    assert_eq!(store.positions(), [1, 2, 3, 4]);
}

#[test]
fn a_replica_is_waited_for_to_become_the_primary() {
    let (primary, store) = (stores::Redis::start(&[]), Alone::new(0));
    let mut sink = store.connected(1);
    sink.deliver(&delivery(1..=2)).unwrap();
    let position = String::from_utf8(sink.shards[0].position_key.clone()).unwrap();
    store.server.cli(&["replicaof", "127.0.0.1", "1"]);
    let reason = retry(sink.deliver(&delivery(3..=4)));
    assert!(reason.contains("READONLY") && reason.contains("replica"), "{reason}");
    store.server.cli(&["replicaof", "no", "one"]);
    assert!(store.server.cli(&["get", &position]).starts_with("2 "));
    persist(&mut sink, &delivery(3..=4));
    assert_eq!(store.positions(), [1, 2, 3, 4]);
    drop(primary);
}

#[test]
fn a_stopped_server_is_noticed_and_found_again() {
    let store = Alone::new(0);
    let settings = RedisSection { timeout: Duration::from_secs(1), ..store.settings() };
    let mut sink = Redis::new("main", &settings.valid(), &identity(1));
    sink.connect().unwrap();
    sink.deliver(&delivery(1..=2)).unwrap();
    store.server.signal("STOP");
    let begun = Instant::now();
    retry(sink.deliver(&delivery(3..=4)));
    retry(sink.connect());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    store.server.signal("CONT");
    persist(&mut sink, &delivery(3..=4));
    assert_eq!(store.positions(), [1, 2, 3, 4]);
}

#[test]
fn a_crash_of_a_server_that_syncs_loses_and_doubles_nothing() {
    let mut server = stores::Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut sink = Redis::new("main", &settings(&server.url()).valid(), &identity(1));
    let mut next = 1;
    for _ in 0..3 {
        persist(&mut sink, &delivery(next..=next + 999));
        next += 1_000;
        server.kill();
        retry(sink.deliver(&delivery(next..=next)));
        server.go_on();
    }
    let positions: Vec<u64> = stored(&[&server], 1).iter().map(|row| row["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, (1..next).collect::<Vec<_>>());
}

#[test]
fn a_store_that_lost_its_last_entries_says_where_it_is() {
    // What a failover to a replica that was behind looks like: the same server without persistence, started again.
    let mut store = Alone::new(0);
    let mut sink = store.connected(1);
    sink.deliver(&delivery(1..=3)).unwrap();
    store.server.kill();
    store.server.go_on();
    retry(sink.deliver(&delivery(4..=5)));
    assert_eq!(sink.connect(), Ok(Some(0)));
    sink.deliver(&delivery(1..=5)).unwrap();
    assert_eq!(store.positions(), [1, 2, 3, 4, 5]);
}

// ---- passwords ----

#[test]
fn passwords_and_rights_are_asked_for() {
    let server = stores::Redis::start(&[]);
    server.cli(&["acl", "setuser", "app", "on", ">r@ight/", "~events:*", "+@all", "-xadd"]);
    server.cli(&["acl", "setuser", "default", ">root"]);
    let connect = |login: &str| {
        let mut sink =
            Redis::new("main", &settings(&format!("redis://{login}127.0.0.1:{}", server.port())).valid(), &identity(1));
        let result = sink.connect();
        (sink, result)
    };
    assert!(down(connect("").1).contains("NOAUTH"));
    let reason = down(connect("app:wrong@").1);
    assert!(reason.contains("WRONGPASS") && reason.contains("check user and password"), "{reason}");
    let (mut sink, result) = connect("app:r@ight%2F@");
    assert_eq!(result, Ok(Some(0)));
    let reason = down(sink.deliver(&delivery(1..=1)));
    assert!(reason.contains("NOPERM") && reason.contains("XADD"), "{reason}");
    let (mut sink, result) = connect(":root@");
    assert_eq!(result, Ok(Some(0)));
    sink.deliver(&delivery(1..=1)).unwrap();
}

// ---- Cluster ----

#[test]
fn a_node_of_a_cluster_is_no_server_alone_and_the_other_way_round() {
    let reason =
        down(Redis::new("main", &settings(&cluster().nodes[0].url()).valid(), &identity(1)).connect().and_then(|_| {
            Redis::new(
                "other",
                &RedisSection { stream: "b".into(), ..settings(&cluster().nodes[1].url()) }.valid(),
                &identity(1),
            )
            .connect()
        }));
    assert!(reason.contains("MOVED") && reason.contains("name its nodes in urls"), "{reason}");
    let alone = Alone::new(0);
    let settings = RedisSection { urls: Urls::new(&alone.server.url()), ..settings("") };
    let reason = down(Redis::new("main", &settings.valid(), &identity(1)).connect());
    assert!(reason.contains("this is not a Cluster"), "{reason}");
}

#[test]
fn a_seed_that_is_away_is_passed_over() {
    let store = Clustered::new();
    let urls = format!("redis://127.0.0.1:1,{}", cluster().nodes[2].url());
    let settings = RedisSection { urls: Urls::new(&urls), ..store.settings() };
    let mut sink = Redis::new("main", &settings.valid(), &identity(1));
    assert_eq!(sink.connect(), Ok(Some(0)));
    sink.deliver(&spread(1..=100)).unwrap();
    assert_eq!(store.positions().len(), 100);
}

/// Moves the slot of a stream to another node, step by step; `during` runs after each.
fn move_slot(cluster: &stores::RedisCluster, stream: &str, mut during: impl FnMut(&str)) {
    let source = cluster.node_of(stream);
    let target = cluster.nodes.iter().find(|node| node.port() != source.port()).unwrap();
    let slot = source.cli(&["cluster", "keyslot", stream]).trim().to_owned();
    let id = |node: &stores::Redis| node.cli(&["cluster", "myid"]).trim().to_owned();
    target.cli(&["cluster", "setslot", &slot, "importing", &id(source)]);
    source.cli(&["cluster", "setslot", &slot, "migrating", &id(target)]);
    during("begun");
    let keys = source.cli(&["cluster", "getkeysinslot", &slot, "100"]);
    for key in keys.lines() {
        let moved = source.cli(&["migrate", "127.0.0.1", &target.port().to_string(), key, "0", "5000"]);
        assert_eq!(moved, "OK\n", "{key}");
        during(&format!("moved {key}"));
    }
    for node in [target, source].into_iter().chain(&cluster.nodes) {
        node.cli(&["cluster", "setslot", &slot, "node", &id(target)]);
    }
    during("ended");
}

#[test]
fn a_slot_that_moves_takes_its_events_along() {
    // Its own cluster: others have streams in the slot as well.
    let cluster = stores::RedisCluster::start(&[]);
    let settings = RedisSection { urls: Urls::new(&cluster.urls()), ..settings("") };
    let mut sink = Redis::new("main", &settings.valid(), &identity(1));
    sink.connect().unwrap();
    sink.deliver(&spread(1..=100)).unwrap();
    let (mut next, mut seen) = (101, Vec::new());
    for shard in [0, 5] {
        move_slot(&cluster, &format!("events:{{{shard}}}"), |step| {
            let delivery = spread(next..=next + 99);
            match sink.deliver(&delivery) {
                Ok(()) => next += 100,
                Err(Failure::Unavailable(Unavailable::Retry { reason, .. })) => {
                    seen.push(format!("{step}: {reason}"));
                    // Between the move of the position and that of the stream nothing can be stored.
                    if step == "begun" || step == "ended" {
                        persist(&mut sink, &delivery);
                        next += 100;
                    } else if let Ok(position) = sink.connect() {
                        assert_eq!(position, Some(next - 1), "{step}");
                    }
                }
                other => panic!("{step}: {other:?}"),
            }
        });
        persist(&mut sink, &spread(next..=next + 99));
        next += 100;
    }
    println!("{seen:#?}");
    let nodes: Vec<&stores::Redis> = cluster.nodes.iter().collect();
    let positions: Vec<u64> =
        stored_in(&nodes, "events", 16).iter().map(|row| row["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, (1..next).collect::<Vec<_>>());
    assert!(seen.iter().any(|reason| reason.contains("is being moved")), "{seen:#?}");
    assert!(seen.iter().any(|reason| reason.contains("MOVED")), "{seen:#?}");
}

#[test]
fn a_cluster_that_is_down_is_waited_for() {
    let cluster = stores::RedisCluster::start(&["--cluster-node-timeout", "2000"]);
    let settings = RedisSection { urls: Urls::new(&cluster.urls()), timeout: Duration::from_secs(1), ..settings("") };
    let mut sink = Redis::new("main", &settings.valid(), &identity(1));
    sink.connect().unwrap();
    sink.deliver(&spread(1..=100)).unwrap();
    let node = cluster.node_of("events:{3}");
    node.signal("STOP");
    retry(sink.deliver(&spread(101..=200)));
    // Its neighbours notice after a while, and serve nothing then.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !retry(sink.connect()).contains("CLUSTERDOWN") {
        assert!(Instant::now() < deadline, "the Cluster goes on");
    }
    node.signal("CONT");
    persist(&mut sink, &spread(101..=200));
    let nodes: Vec<&stores::Redis> = cluster.nodes.iter().collect();
    let positions: Vec<u64> =
        stored_in(&nodes, "events", 16).iter().map(|row| row["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, (1..=200).collect::<Vec<_>>());
}
