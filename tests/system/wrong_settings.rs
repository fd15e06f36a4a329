//! What is wrong in a file, a variable or an argument is named in one line, with its place and what to write instead.
#![cfg(all(feature = "postgres", feature = "redis", feature = "grpc", feature = "http-sink"))]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// A settings file `t.toml`, and the message.
const FILES: &[(&str, &str)] = &[
    (
        "server.address = 0.0.0.0:4640",
        "t.toml:1: invalid TOML: invalid float, expected nothing; put text in quotes, as in key = \"text\"",
    ),
    (
        "[server]\naddress = \"localhost:4640\"",
        "t.toml:2: server.address = \"localhost:4640\": expected an IP address and port, such as \"127.0.0.1:4640\"",
    ),
    (
        "[server]\naddress = \":4640\"",
        "t.toml:2: server.address = \":4640\": expected an IP address and port, such as \"127.0.0.1:4640\"",
    ),
    (
        "[server]\naddress = 4640",
        "t.toml:2: server.address = 4640: expected an IP address and port, such as \"127.0.0.1:4640\"",
    ),
    ("[server]\nport = 4640", "t.toml:2: unknown key `server.port`: did you mean `server.address`?"),
    ("[server]\nadress = \"127.0.0.1:4640\"", "t.toml:2: unknown key `server.adress`: did you mean `server.address`?"),
    (
        "[server]\nack = \"sync\"",
        "t.toml:2: server.ack = \"sync\": expected \"received\" or \"written\" or \"synced\" or \"delivered\"",
    ),
    (
        "[server]\nmax_frame_bytes = \"1MB\"",
        "t.toml:2: server.max_frame_bytes = \"1MB\": expected a size from 256KiB to 16MiB, such as \"1MiB\" (a whole number; units are B, KiB, MiB, GiB and TiB, each 1,024 of the one before)",
    ),
    (
        "[server]\nbuffer_bytes = -1",
        "t.toml:2: server.buffer_bytes = -1: expected a size from 2MiB to 64GiB, such as \"64MiB\"",
    ),
    ("[server]\nevent_loops = 65", "t.toml:2: server.event_loops = 65: expected a whole number from 0 to 64"),
    (
        "[server]\nmax_connections = 0",
        "t.toml:2: server.max_connections = 0: expected a whole number from 1 to 1048576",
    ),
    (
        "[server]\nhttp_idle_timeout = \"75\"",
        "t.toml:2: server.http_idle_timeout = \"75\": expected a time from 1s to 1h, such as \"75s\" (a whole number; units are ms, s, m, h and d)",
    ),
    (
        "[server]\nhttp_idle_timeout = 75",
        "t.toml:2: server.http_idle_timeout = 75: expected a time from 1s to 1h, such as \"75s\" (a whole number; units are ms, s, m, h and d)",
    ),
    (
        "[server]\nallow_plaintext_tokens = \"yes\"",
        "t.toml:2: server.allow_plaintext_tokens = \"yes\": expected true or false",
    ),
    ("[server]\ntokens_file = [\"a\"]", "t.toml:2: server.tokens_file = a list: expected a path"),
    ("[server]\naddress = \"a\"\naddress = \"b\"", "t.toml:3: invalid TOML: duplicate key"),
    ("[sever]\naddress = \"0.0.0.0:4640\"", "t.toml:2: unknown key `sever.address`: did you mean `server.address`?"),
    ("data_dir = \"\"", "t.toml:1: data_dir = \"\": expected a path"),
    (
        "[tls]\ncert_file = \"cert.pem\"",
        "t.toml:2: tls.cert_file = \"cert.pem\": needs tls.key_file, the private key of the certificate",
    ),
    (
        "[tls]\nkey_file = \"key.pem\"",
        "t.toml:2: tls.key_file = \"key.pem\": needs tls.cert_file, the certificate of the key",
    ),
    ("[tls]\ncert = \"cert.pem\"", "t.toml:2: unknown key `tls.cert`: did you mean `tls.cert_file`?"),
    (
        "[tls]\ncert_file = \"c\"\nkey_file = \"k\"\nclient_auth = \"optional\"",
        "t.toml:4: tls.client_auth = \"optional\": expected \"off\" or \"request\" or \"require\"",
    ),
    (
        "[tls]\nclient_auth = \"require\"",
        "t.toml:2: tls.client_auth = \"require\": needs TLS: set tls.cert_file and tls.key_file",
    ),
    (
        "[tls]\nclient_ca_file = \"ca\"",
        "t.toml:2: tls.client_ca_file = \"ca\": has no effect: set tls.client_auth to \"request\" or \"require\"",
    ),
    (
        "[tls]\nplaintext = \"refuse\"",
        "t.toml:2: tls.plaintext = \"refuse\": needs TLS: set tls.cert_file and tls.key_file",
    ),
    (
        "[limits]\nevents_per_second = 1.5",
        "t.toml:2: limits.events_per_second = a decimal number: expected a whole number from 0 to 1000000000",
    ),
    (
        "[limits]\nevents_per_second = \"1000/s\"",
        "t.toml:2: limits.events_per_second = \"1000/s\": expected a whole number from 0 to 1000000000",
    ),
    (
        "[limits]\nburst = \"100ms\"",
        "t.toml:2: limits.burst = \"100ms\": expected a time from 1s to 1h, such as \"2s\"",
    ),
    (
        "[http]\nunknown_keys = \"ignore\"",
        "t.toml:2: http.unknown_keys = \"ignore\": expected \"reject\" or \"attributes\"",
    ),
    ("[syslog]\nudp = true", "t.toml:2: syslog.udp = true: syslog.enabled (false, default) must be true for it"),
    (
        "[syslog]\nenabled = true\nallow = \"10.0.0.0/33\"",
        "t.toml:3: syslog.allow = \"10.0.0.0/33\": expected addresses and networks, such as [\"10.0.0.0/8\", \"::1\"]",
    ),
    (
        "[syslog]\nenabled = true\nallow = \"example.org\"",
        "t.toml:3: syslog.allow = \"example.org\": expected addresses and networks, such as [\"10.0.0.0/8\", \"::1\"]",
    ),
    ("[syslog]\nport = 514", "t.toml:2: unknown key `syslog.port`: [syslog] has enabled, udp, allow"),
    (
        "[wal]\nmax_bytes = \"100MiB\"",
        "t.toml:2: wal.max_bytes = \"100MiB\": must be at least twice wal.segment_bytes (\"128MiB\", default)",
    ),
    (
        "[wal]\nkeep = \"1 day\"",
        "t.toml:2: wal.keep = \"1 day\": expected a time from 0s to 365d, such as \"1m\" (a whole number; units are ms, s, m, h and d)",
    ),
    (
        "[wal]\nenabled = false\n[server]\nack = \"synced\"",
        "t.toml:4: server.ack = \"synced\": without a log, wal.enabled (false, t.toml:2), only \"received\" can be promised",
    ),
    ("[batch]\nmax_events = 0", "t.toml:2: batch.max_events = 0: expected a whole number from 1 to 1000000"),
    ("[batch]\nmax_age = \"5m\"", "t.toml:2: batch.max_age = \"5m\": expected a time from 0s to 1m, such as \"50ms\""),
    (
        "[batch]\nmax_bytes = \"32MiB\"",
        "t.toml:2: batch.max_bytes of sink sqlite = \"32MiB\": must be at most a quarter of server.buffer_bytes (\"64MiB\", default)",
    ),
    ("[log]\nformat = \"xml\"", "t.toml:2: log.format = \"xml\": expected \"text\" or \"json\""),
    ("[otlp]\nenabled = true", "t.toml:2: unknown key `otlp.enabled`: `telemetryx config --defaults` prints all keys"),
    ("[[clients]]\nevents_per_second = 5", "t.toml:1: this client needs a name"),
    (
        "[[clients]]\nname = \"a\"",
        "t.toml:2: clients.a needs token_sha256, the SHA-256 of its token, or token_file, or certificate_name",
    ),
    (
        "[[clients]]\nname = \"a\"\ntoken = \"secret\"",
        "t.toml:3: unknown key `clients.a.token`: a client has token_sha256_file, token_sha256, token_file, certificate_name, events_per_second, bytes_per_second, burst",
    ),
    (
        "[[clients]]\nname = \"a\"\ntoken_sha256 = \"abc\"",
        "t.toml:3: clients.a.token_sha256 = ***: expected 64 hexadecimal digits, the SHA-256 of the token: printf %s TOKEN | sha256sum",
    ),
    (
        "[[clients]]\nname = \"a b\"\ntoken_file = \"x\"",
        "t.toml:2: `a b` is not a name for a client: use 1 to 64 letters, digits, - and _, but not __",
    ),
    (
        "[[clients]]\nname = \"a\"\ntoken_file = \"x\"\n[[clients]]\nname = \"a\"\ntoken_file = \"y\"",
        "t.toml:5: client `a` has the name of client `a` (t.toml:2)",
    ),
    ("[clients]\nname = \"a\"", "t.toml:1: clients are written as [[clients]], each with its name"),
    (
        "[[clients]]\nname = \"a\"\ncertificate_name = \"a.example.org\"",
        "t.toml:3: clients.a.certificate_name: clients are not asked for certificates; set tls.client_auth",
    ),
    (
        "[[sinks]]\nname = \"x\"",
        "t.toml:2: sinks.x needs a kind, one of sqlite, postgres, redis, grpc, http, file, stdout, discard",
    ),
    (
        "[[sinks]]\nkind = \"mysql\"",
        "t.toml:2: sinks.mysql.kind = \"mysql\": expected one of sqlite, postgres, redis, grpc, http, file, stdout, discard",
    ),
    (
        "[[sinks]]\nkind = \"postgresql\"",
        "t.toml:2: sinks.postgresql.kind = \"postgresql\": expected one of sqlite, postgres, redis, grpc, http, file, stdout, discard; did you mean \"postgres\"?",
    ),
    ("[sinks]\nkind = \"file\"", "t.toml:1: sinks are written as [[sinks]], each with its name"),
    (
        "[[sinks]]\nname = \"ingest\"\nkind = \"file\"",
        "t.toml:2: `ingest` is reserved, events rejected on receipt are kept under this name: choose another one",
    ),
    (
        "[[sinks]]\nname = \"a/b\"\nkind = \"file\"",
        "t.toml:2: `a/b` is not a name for a sink: use 1 to 64 letters, digits, - and _, but not __",
    ),
    ("[[sinks]]\nkind = \"sqlite\"\npath = 5", "t.toml:3: sinks.sqlite.path = 5: expected a path"),
    (
        "[[sinks]]\nkind = \"sqlite\"\nurl = \"x\"",
        "t.toml:3: unknown key `sinks.sqlite.url`: this sink has required, on_full, include, exclude, sample, redact, collapse, aggregate, path, keep, indexes, batch",
    ),
    (
        "[[sinks]]\nkind = \"sqlite\"\nkeep = \"30\"",
        "t.toml:3: sinks.sqlite.keep = \"30\": expected \"forever\" or a time from 1s to 36500d, such as \"30d\" (a whole number; units are ms, s, m, h and d)",
    ),
    (
        "[[sinks]]\nkind = \"sqlite\"\nindexes = \"brin\"",
        "t.toml:3: sinks.sqlite.indexes = \"brin\": expected \"none\" or \"time\"",
    ),
    (
        "[[sinks]]\nkind = \"sqlite\"\nindexes = [\"time\"]",
        "t.toml:3: sinks.sqlite.indexes = a list: expected \"none\" or \"time\"",
    ),
    (
        "[[sinks]]\nkind = \"postgres\"\nurl = \"postgres://h\"",
        "t.toml:3: sinks.postgres.url = \"postgres://h\": names no database: write it after the host, as in postgres://user@host:5432/database",
    ),
    (
        "[[sinks]]\nkind = \"postgres\"\ntable = \"Events\"",
        "t.toml:3: sinks.postgres.table = \"Events\": expected a name such as events or schema.events: lower-case letters, digits and _",
    ),
    (
        "[[sinks]]\nkind = \"postgres\"\ntls = \"on\"",
        "t.toml:3: sinks.postgres.tls = \"on\": expected \"off\" or \"prefer\" or \"require\" or \"verify\"",
    ),
    (
        "[[sinks]]\nkind = \"postgres\"\nurl = \"postgres://u@h/d\"\nurl_file = \"x\"",
        "t.toml:4: sinks.postgres.url_file: sinks.postgres.url is given too (t.toml:3); keep one",
    ),
    (
        "[[sinks]]\nkind = \"postgres\"\nurl_file = \"missing\"",
        "t.toml:3: sinks.postgres.url_file: missing cannot be read: No such file or directory (os error 2)",
    ),
    (
        "[[sinks]]\nkind = \"postgres\"\nurl = \"postgres://u:${PW}@h/d\"",
        "t.toml:3: url: the variable PW is not set; set it, or write ${PW:-default}",
    ),
    (
        "[[sinks]]\nkind = \"redis\"\nurl = \"redis:6379\"",
        "t.toml:3: sinks.redis.url = \"***\": has no scheme, the part before ://: expected redis://user:password@host:6379/database, rediss:// or unix:///path",
    ),
    (
        "[[sinks]]\nkind = \"redis\"\nshards = 2000",
        "t.toml:3: sinks.redis.shards = 2000: expected a whole number from 0 to 1024",
    ),
    (
        "[[sinks]]\nkind = \"redis\"\nstream = \"\"",
        "t.toml:3: sinks.redis.stream = \"\": expected 1 to 200 bytes without { and }, which name the slot on a Cluster",
    ),
    (
        "[[sinks]]\nkind = \"grpc\"\nurl = \"h:50051\"",
        "t.toml:3: sinks.grpc.url = \"***\": has no scheme, the part before ://: expected http://host:port or https://host:port",
    ),
    (
        "[[sinks]]\nkind = \"grpc\"\nin_flight = 0",
        "t.toml:3: sinks.grpc.in_flight = 0: expected a whole number from 1 to 64",
    ),
    (
        "[[sinks]]\nkind = \"grpc\"\ntoken = \"a b\\nc\"",
        "t.toml:3: sinks.grpc.token = \"***\": expected visible ASCII characters without a space",
    ),
    (
        "[[sinks]]\nkind = \"http\"\nformat = \"xml\"",
        "t.toml:3: sinks.http.format = \"xml\": expected \"json\" or \"ndjson\" or \"protobuf\"",
    ),
    (
        "[[sinks]]\nkind = \"http\"\nheaders = { \"Content-Type\" = \"x\" }",
        "t.toml:3: sinks.http.headers.Content-Type = \"***\": is a header that the sink sets itself",
    ),
    (
        "[[sinks]]\nkind = \"http\"\nheaders = { \"a b\" = \"x\" }",
        "t.toml:3: sinks.http.headers.a b = \"***\": is not a name of a header: letters, digits and - are",
    ),
    (
        "[[sinks]]\nkind = \"http\"\nurl = \"ftp://h/\"",
        "t.toml:3: sinks.http.url = \"***\": has a scheme that is not supported: expected http:// or https://, a host, and a path with %XX for other signs",
    ),
    (
        "[[sinks]]\nkind = \"file\"\nrotate_bytes = \"1G\"",
        "t.toml:3: sinks.file.rotate_bytes = \"1G\": expected a size from 0B to 1TiB, such as \"256MiB\" (a whole number; units are B, KiB, MiB, GiB and TiB, each 1,024 of the one before)",
    ),
    ("[[sinks]]\nkind = \"file\"\nrequired = \"no\"", "t.toml:3: sinks.file.required = \"no\": expected true or false"),
    (
        "[[sinks]]\nkind = \"file\"\non_full = \"drop\"",
        "t.toml:3: sinks.file.on_full = \"drop\": expected \"block\" or \"drop_oldest\"",
    ),
    (
        "[[sinks]]\nkind = \"file\"\non_full = \"drop_oldest\"",
        "t.toml:3: sinks.file.on_full = \"drop_oldest\": a required sink may not lose events; set its required = false",
    ),
    (
        "[[sinks]]\nkind = \"file\"\ninclude = [{ kind = \"log\" }]",
        "t.toml:3: sinks.file.include: condition 1: unknown key `kind`: did you mean `kinds`?",
    ),
    (
        "[[sinks]]\nkind = \"file\"\ninclude = [{ kinds = [\"logs\"] }]",
        "t.toml:3: sinks.file.include: condition 1: kinds: expected \"log\" or \"gauge\" or \"counter\" or \"span\" or \"histogram\" or \"summary\", not \"logs\"; did you mean \"log\"?",
    ),
    (
        "[[sinks]]\nkind = \"file\"\ninclude = [{ severity = \"warning\" }]",
        "t.toml:3: sinks.file.include: condition 1: severity: expected \"trace\", \"debug\", \"info\", \"warn\", \"error\", \"fatal\", or 1 to 24, not \"warning\"; did you mean \"warn\"?",
    ),
    (
        "[[sinks]]\nkind = \"file\"\nexclude = \"x\"",
        "t.toml:3: sinks.file.exclude: expected a list of conditions, such as [{ kinds = [\"log\"], severity = \"warn\" }]",
    ),
    (
        "[[sinks]]\nkind = \"file\"\nsample.keep = \"10%\"",
        "t.toml:3: sinks.file.sample.keep: expected 1/n with n from 1 to 1000000, such as \"1/10\"",
    ),
    (
        "[[sinks]]\nkind = \"file\"\nsample.keep = 0.1",
        "t.toml:3: sinks.file.sample.keep: expected 1/n with n from 1 to 1000000, not a decimal number",
    ),
    (
        "[[sinks]]\nkind = \"file\"\nsample.by = \"user\"",
        "t.toml:3: sinks.file.sample.by: expected \"trace_id\", \"source\", \"name\", \"attributes.KEY\" or \"event\"",
    ),
    (
        "[[sinks]]\nkind = \"file\"\nsample.keep = \"1/10\"\nsample.by = \"user\"",
        "t.toml:4: sinks.file.sample.by: expected \"trace_id\", \"source\", \"name\", \"attributes.KEY\" or \"event\"",
    ),
    (
        "[[sinks]]\nkind = \"file\"\nredact = [{ attributes = [\"a\"], action = \"drop\" }]",
        "t.toml:3: sinks.file.redact: rule 1: action: expected \"remove\", \"hash\" or \"mask\", not \"drop\"",
    ),
    (
        "[[sinks]]\nkind = \"file\"\nredact = [{ pattern = \"(\" , action = \"mask\" }]",
        "t.toml:3: sinks.file.redact: rule 1: pattern: not a regular expression: unclosed group",
    ),
    ("[[sinks]]\nkind = \"file\"\ncollapse = 1", "t.toml:3: sinks.file.collapse = 1: expected true or false"),
    (
        "[[sinks]]\nkind = \"file\"\naggregate.interval = \"48h\"",
        "t.toml:3: sinks.file.aggregate.interval: expected a time from 1s to 24h, such as \"10s\"",
    ),
    (
        "[[sinks]]\nkind = \"file\"\naggregate.gauges = [\"sum\"]\naggregate.interval = \"10s\"",
        "t.toml:3: sinks.file.aggregate.gauges: expected \"last\", \"min\", \"max\", \"avg\" or \"count\", not \"sum\"",
    ),
    (
        "[[sinks]]\nkind = \"file\"\naggregate.max_series = 5",
        "t.toml:3: sinks.file.aggregate.max_series: has no effect without aggregate.interval",
    ),
    (
        "[[sinks]]\nkind = \"file\"\nbatch.max_age = \"2h\"",
        "t.toml:3: sinks.file.batch.max_age = \"2h\": expected a time from 0s to 1m, such as \"50ms\"",
    ),
    (
        "[[sinks]]\nkind = \"file\"\nbatch = 5",
        "t.toml:3: sinks.file.batch = 5: expected a table, such as batch = { max_events = 10000 }",
    ),
    (
        "[[sinks]]\nkind = \"file\"\nsample = \"1/10\"",
        "t.toml:3: sinks.file.sample = \"1/10\": expected a table, such as sample = { keep = \"1/10\" }",
    ),
    (
        "[[sinks]]\nkind = \"file\"\naggregate = \"10s\"",
        "t.toml:3: sinks.file.aggregate = \"10s\": expected a table, such as aggregate = { interval = \"10s\" }",
    ),
    (
        "[[sinks]]\nname = \"a\"\nkind = \"file\"\n[sinks.a.sample]\nkeep = \"1/10\"",
        "t.toml:5: unknown key `sinks.a.a.sample.keep`: write sample.keep = …, or [sinks.sample], without the name of the sink",
    ),
    (
        "[[sinks]]\nkind = \"file\"\nsample.by = \"source\"",
        "t.toml:3: sinks.file.sample.by: has no effect without sample.keep",
    ),
    (
        "[[sinks]]\nkind = \"file\"\naggregate.interval = \"10s\"\naggregate.by = \"source\"",
        "t.toml:4: sinks.file.aggregate.by: expected a list of `source`, `name`, `attributes`, `attributes.KEY`, such as [\"source\", \"name\"]",
    ),
    (
        "[[sinks]]\nkind = \"file\"\nredact = [{ fields = [\"a\"], action = \"remove\" }]",
        "t.toml:3: sinks.file.redact: rule 1: unknown key `fields`: a rule has attributes, body, pattern, action, key_file",
    ),
    (
        "[[sinks]]\nkind = \"file\"\ninclude = [{ trace_id = \"1\" }]",
        "t.toml:3: sinks.file.include: condition 1: unknown key `trace_id`: a condition has kinds, severity, source, name, attributes",
    ),
    (
        "[[sinks]]\nkind = \"file\"\ninclude = [{ source = [\"api-?\"] }]",
        "t.toml:3: sinks.file.include: condition 1: source: '?' has no meaning in a pattern, where only * stands for any characters: write \\? for the character; give several patterns as a list",
    ),
    (
        "[[sinks]]\nkind = \"file\"\nfilter = []",
        "t.toml:3: unknown key `sinks.file.filter`: this sink has required, on_full, include, exclude, sample, redact, collapse, aggregate, path, rotate_bytes, rotate_age, batch",
    ),
    ("adress = \"127.0.0.1:4640\"", "t.toml:1: unknown key `adress`: did you mean `server.address`?"),
    ("[wall]\nx = 5", "t.toml:2: unknown key `wall.x`: [wal] has enabled, segment_bytes, max_bytes, keep"),
    (
        "[[sinks]]\nkind = \"file\"\ncollapse = 1\n[server]\nevent_loops = 65\n[log]\nformat = \"xml\"",
        "t.toml:3: sinks.file.collapse = 1: expected true or false\nt.toml:5: server.event_loops = 65: expected a whole number from 0 to 64\nt.toml:7: log.format = \"xml\": expected \"text\" or \"json\"",
    ),
];

/// Arguments, and the message.
const ARGUMENTS: &[(&[&str], &str)] = &[
    (&["--set", "server.adress=x"], "--set: unknown key `server.adress`: did you mean `server.address`?"),
    (
        &["--set", "sinks.a.path=x"],
        "--set: sinks.a needs a kind, one of sqlite, postgres, redis, grpc, http, file, stdout, discard",
    ),
    (
        &["--set", "clients.a.burst=5s"],
        "--set: clients.a needs token_sha256, the SHA-256 of its token, or token_file, or certificate_name",
    ),
    (&["--config", "missing.toml"], "missing.toml: cannot be read: No such file or directory (os error 2)"),
    (&["--config", "."], ".: cannot be read: Is a directory (os error 21)"),
    (
        &["--set", "sinks.file.kind=file", "--set", "sinks.file.sample=1/10"],
        "--set: sinks.file.sample = \"1/10\": expected a key of it, such as sinks.file.sample.keep = \"1/10\"",
    ),
    (
        &["--set", "sinks.file.kind=file", "--set", "sinks.file.include=severity=error"],
        "--set: sinks.file.include: expected a list of conditions, such as [{ kinds = [\"log\"], severity = \"warn\" }]",
    ),
    (&["--set", "server=5"], "--set: server = \"5\": expected a section, [server]"),
    (&["--set", "wal.enabled=maybe"], "--set: wal.enabled = \"maybe\": expected true or false"),
    (
        &["--set", "server.address=127.0.0.1:99999"],
        "--set: server.address = \"127.0.0.1:99999\": expected an IP address and port, such as \"127.0.0.1:4640\"",
    ),
];

/// A variable of the environment, its value, and the message.
const VARIABLES: &[(&str, &str, &str)] = &[
    (
        "TELEMETRYX__SERVER__ADDRESS",
        "x",
        "TELEMETRYX__SERVER__ADDRESS: server.address = \"x\": expected an IP address and port, such as \"127.0.0.1:4640\"",
    ),
    (
        "TELEMETRYX__SERVER__ADRESS",
        "x",
        "TELEMETRYX__SERVER__ADRESS: unknown key `server.adress`: did you mean `TELEMETRYX__SERVER__ADDRESS`?",
    ),
    (
        "TELEMETRYX_LOG",
        "loud",
        "TELEMETRYX_LOG: unknown level or target \"loud\" (expected a level (error, warn, info, debug, trace, off) or targets with levels, such as \"warn,telemetryx::net=debug\")",
    ),
    (
        "TELEMETRYX_CONFIG",
        "missing.toml",
        "TELEMETRYX_CONFIG: missing.toml: cannot be read: No such file or directory (os error 2)",
    ),
    (
        "TELEMETRYX__SINKS__PG__URL",
        "postgres://h",
        "TELEMETRYX__SINKS__PG__URL: sinks.pg needs a kind, one of sqlite, postgres, redis, grpc, http, file, stdout, discard",
    ),
    ("TELEMETRYX__WAL", "x", "TELEMETRYX__WAL: wal = \"x\": expected a section, [wal]"),
    ("TELEMETRYX__", "x", "TELEMETRYX__: unknown key ``: `telemetryx config --defaults` prints all keys"),
    (
        "TELEMETRYX__CLIENTS__A__BURST",
        "x",
        "TELEMETRYX__CLIENTS__A__BURST: clients.a.burst = \"x\": expected a time from 1s to 1h, such as \"2s\"",
    ),
];

#[track_caller]
fn reports(folder: &Path, arguments: &[&str], variable: Option<(&str, &str)>, message: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.arg("check").args(arguments).current_dir(folder).env_clear().envs(variable).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        message.lines().map(|line| format!("telemetryx: {line}\n")).collect::<String>(),
        "{arguments:?} {variable:?}"
    );
    assert_eq!((output.status.code(), output.stdout.len()), (Some(78), 0));
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_its_line() {
    for (text, message) in FILES {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("t.toml"), format!("{text}\n")).unwrap();
        assert!(message.starts_with("t.toml:"), "no line: {message}");
        reports(folder.path(), &["--config", "t.toml"], None, message);
    }
    assert!(FILES.len() + ARGUMENTS.len() + VARIABLES.len() >= 40);
}

#[test]
fn what_is_wrong_in_arguments_and_variables_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, message) in ARGUMENTS {
        reports(folder.path(), arguments, None, message);
    }
    for (variable, value, message) in VARIABLES {
        assert!(message.starts_with(variable), "{message}");
        reports(folder.path(), &[], Some((variable, value)), message);
    }
}
