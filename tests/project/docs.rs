//! The documents say what the code does: vectors, codes and metrics are read from the pages and compared, and links
//! lead somewhere.
#![cfg(feature = "server")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use telemetryx::event::JsonDecoder;
use telemetryx::metrics::{LocalMetrics, Metrics};
use telemetryx::wire::header::FrameKind;
use telemetryx::wire::{
    AckLevel, Decoded, FrameError, Goaway, GoawayCode, Header, Hello, NackCode, PayloadCaps, Welcome, answer, decode,
};

const CAPS: PayloadCaps = PayloadCaps { data: 1 << 20 };

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The vectors in the block that begins with ```` ```<tag> ````: title, and the bytes of the indented hex below it.
fn vectors(page: &str, tag: &str) -> Vec<(String, Vec<u8>)> {
    let (_, rest) = page.split_once(&format!("\n```{tag}\n")).unwrap_or_else(|| panic!("no block `{tag}`"));
    let (block, _) = rest.split_once("\n```").expect("the block ends");
    let mut found: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("  "), found.last_mut()) {
            (Some(hex), Some((_, digits))) => digits.extend(hex.split_whitespace()),
            _ => found.push((line.to_owned(), String::new())),
        }
    }
    found.into_iter().map(|(title, digits)| (title, unhex(&digits))).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    assert!(digits.is_ascii() && digits.len().is_multiple_of(2), "{digits}");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect(digits)).collect()
}

fn data(seq: u64, payload: &[u8]) -> Vec<u8> {
    [&Header::data(seq, payload).encode()[..], payload].concat()
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// What the titles in the page say, made by the code.
fn expected() -> Vec<(&'static str, Vec<u8>)> {
    let hello = Hello {
        min_version: 1,
        max_version: 1,
        codecs: 1,
        ack: Ok(None),
        agent_id: std::array::from_fn(|index| index as u8),
        epoch: 0,
        oldest_seq: 1,
        token: b"",
        name: "api",
    };
    let resuming = Hello { ack: Ok(Some(AckLevel::Received)), epoch: 42, oldest_seq: 8, token: b"secret", ..hello };
    let welcome = Welcome {
        version: 1,
        ack: AckLevel::Received,
        codecs: 1,
        max_frame: 1 << 20,
        max_raw: 1 << 20,
        window_bytes: 4 << 20,
        window_frames: 64,
        keepalive_seconds: 30,
        resumed: true,
        epoch: 42,
        last_seq: 7,
        server_id: std::array::from_fn(|index| 0xF0 | index as u8),
    };
    let goaway = Goaway { code: Ok(GoawayCode::Shutdown), retry_ms: 1500, text: "bye" };
    let skippable = Header { codec: 1, ..Header::of_payload(FrameKind::Skippable(0x99), 5, 1, b"later") };
    vec![
        ("DATA of \"0a03616263\", framing only:", data(1, b"\x0a\x03abc")),
        ("DATA of one event {name: \"hello\"}:", data(1, b"\x0a\x07\x2a\x05hello")),
        ("DATA without events, seq 2:", data(2, b"")),
        ("ACK seq 1, window 1 MiB:", written(|out| answer::ack(1, 1 << 20, out))),
        ("NACK seq 1, MALFORMED \"no batch\":", written(|out| answer::nack(1, NackCode::Malformed, "no batch", out))),
        ("PING 77:", written(|out| answer::ping(77, out))),
        ("PONG 77:", written(|out| answer::pong(77, out))),
        ("BYE:", written(answer::bye)),
        ("GOAWAY seq 7, SHUTDOWN, 1500 ms, \"bye\":", written(|out| goaway.encode(7, out))),
        ("HELLO id 00..0f, new epoch, name \"api\":", written(|out| hello.encode(out))),
        (
            "HELLO id 00..0f, received, epoch 42, oldest_seq 8, token \"secret\", name \"api\":",
            written(|out| resuming.encode(out)),
        ),
        (
            "WELCOME received, 1 MiB, 1 MiB, 4 MiB, 64, 30 s, resumed, epoch 42, last_seq 7, server_id f0..ff:",
            written(|out| welcome.encode(out)),
        ),
        ("type 0x99, to be skipped:", [&skippable.encode()[..], b"later"].concat()),
    ]
}

/// The frame again, from what was decoded of it.
fn encoded_again(header: &Header, payload: &[u8]) -> Vec<u8> {
    written(|out| match header.kind {
        FrameKind::Hello => Hello::decode(payload).unwrap().encode(out),
        FrameKind::Welcome => Welcome::decode(payload).unwrap().encode(out),
        FrameKind::Ack => answer::ack(header.seq, header.arg, out),
        FrameKind::Nack => {
            let code = NackCode::from_wire(header.arg).unwrap();
            answer::nack(header.seq, code, std::str::from_utf8(payload).unwrap(), out);
        }
        FrameKind::Ping => answer::ping(header.seq, out),
        FrameKind::Pong => answer::pong(header.seq, out),
        FrameKind::Bye => answer::bye(out),
        FrameKind::Goaway => Goaway::decode(payload).unwrap().encode(header.seq, out),
        FrameKind::Data | FrameKind::Skippable(_) => {
            out.extend_from_slice(&header.encode());
            out.extend_from_slice(payload);
        }
    })
}

#[test]
fn golden_vectors_of_the_page_are_what_the_code_writes_and_reads() {
    let vectors = vectors(&page("docs/protocol.md"), "golden");
    let titles: Vec<_> = vectors.iter().map(|(title, _)| title.as_str()).collect();
    assert_eq!(titles, expected().iter().map(|(title, _)| *title).collect::<Vec<_>>());
    for ((title, bytes), (_, code)) in vectors.iter().zip(expected()) {
        assert_eq!(*bytes, code, "{title}");
        match decode(bytes, CAPS) {
            Ok(Decoded::Frame { header, payload }) => assert_eq!(encoded_again(&header, payload), *bytes, "{title}"),
            other => panic!("{title} {other:?}"),
        }
    }
}

#[test]
fn refused_vectors_of_the_page_are_refused_with_their_code() {
    let vectors = vectors(&page("docs/protocol.md"), "refused");
    assert!(vectors.len() >= 10);
    for (title, bytes) in vectors {
        let (_, code) = title.split_once(" => ").unwrap_or_else(|| panic!("{title}"));
        let found = match decode(&bytes, CAPS) {
            Err(FrameError::Version(_)) => GoawayCode::Version,
            Err(_) => GoawayCode::Protocol,
            Ok(decoded) => panic!("{title}: {decoded:?}"),
        };
        assert_eq!(found.name(), code, "{title}");
    }
}

/// `1 NAME` for each row of the table whose head begins with `| head |`; a cell may hold several, with commas.
fn codes(page: &str, head: &str) -> BTreeSet<String> {
    let rows = page.lines().skip_while(|line| !line.starts_with(&format!("| {head} |"))).skip(2);
    let cells = rows.take_while(|line| line.starts_with('|')).filter_map(|row| row.split('|').nth(1));
    cells.flat_map(|cell| cell.split(',')).map(|code| code.trim().to_owned()).collect()
}

#[test]
fn every_code_stands_in_the_page_and_no_other() {
    let page = page("docs/protocol.md");
    let goaways = GoawayCode::ALL.map(|code| format!("{} {}", code as u32, code.name()));
    assert_eq!(codes(&page, "GOAWAY code"), BTreeSet::from(goaways));
    let nacks = NackCode::ALL.map(|code| format!("{} {}", code as u32, code.name()));
    assert_eq!(codes(&page, "NACK code"), BTreeSet::from(nacks));
    for code in GoawayCode::ALL {
        let row = page.lines().find(|line| line.starts_with(&format!("| {} {} ", code as u32, code.name()))).unwrap();
        let retry = row.split('|').nth(3).unwrap().trim();
        assert_eq!(retry.starts_with("yes"), code.retry(), "{row}");
    }
    for level in AckLevel::ALL {
        assert!(page.contains(&format!("\n| {} | {} | ", level as u32, level.name())), "{level:?}");
    }
}

const METRIC_PREFIXES: [&str; 2] = ["telemetryx_", "process_"];

/// Words of a text that begin as metrics do.
fn metric_names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| METRIC_PREFIXES.iter().any(|prefix| word.starts_with(prefix) && word != prefix))
        .map(str::to_owned)
        .collect()
}

/// Name and type of every metric.
fn metrics() -> BTreeSet<(String, String)> {
    let metrics = Metrics::new().unwrap();
    // Families appear with their first label.
    metrics.sink("sqlite");
    metrics.show_sink("sqlite", true, 0.0);
    metrics.show_loop(0, 0.0, 0);
    metrics.show_certificate(1);
    LocalMetrics::new(&metrics, &["api".to_owned()]);
    metrics.show_sink_state("sqlite", "ok");
    metrics.show_not_ready(&[]);
    let text = String::from_utf8(metrics.text()).unwrap();
    let types: BTreeSet<(String, String)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    assert!(types.len() >= 20, "{text}");
    types
}

#[test]
fn every_metric_stands_in_the_page_and_no_other() {
    let types = metrics();
    let page = page("docs/operations.md");
    let table: BTreeSet<(String, String)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter(|(name, _)| METRIC_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .filter_map(|(name, rest)| Some((name.to_owned(), rest.split(" |").next()?.to_owned())))
        .collect();
    assert_eq!(table, types);
    let mut mentioned = metric_names(&page);
    for table in ["telemetryx_positions", "telemetryx_holds"] {
        assert!(mentioned.remove(table), "the page mentions the table {table}");
    }
    assert_eq!(mentioned, types.into_iter().map(|(name, _)| name).collect());
}

/// Names without the suffixes that Prometheus gives to the series of a histogram.
#[test]
fn alerts_and_dashboards_name_metrics_that_exist() {
    let names: BTreeSet<String> = metrics().into_iter().map(|(name, _)| name).collect();
    let text = String::from_utf8(Metrics::new().unwrap().text()).unwrap();
    for file in ["tools/prometheus/alerts.yaml", "tools/prometheus/alerts_test.yaml", "tools/grafana/dashboard.json"] {
        let named = metric_names(&page(file));
        assert!(named.len() > 10, "{file} names only {named:?}");
        for name in named {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            assert!(names.contains(family.unwrap_or(&name)), "{file} names {name}, which does not exist");
        }
        for bound in page(file).split("le=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(text.contains(&format!("le=\"{bound}\"")), "{file}: no histogram has the bound {bound}");
        }
    }
}

/// The values that a label of a metric has on the page of a new server, without those of other labels.
fn label_values(name: &str, label: &str) -> BTreeSet<String> {
    let metrics = Metrics::new().unwrap();
    metrics.sink("sqlite");
    metrics.show_sink_state("sqlite", "ok");
    metrics.show_not_ready(&["log_full"]);
    let text = String::from_utf8(metrics.text()).unwrap();
    let labels = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once('}'));
    let (key, mut values) = (format!("{label}=\""), BTreeSet::new());
    for (labels, value) in labels {
        let (_, rest) = labels.split_once(&key).unwrap_or_else(|| panic!("{name}{{{labels}}} has no {label}"));
        let is_set = ["ok", "log_full"].iter().any(|set| rest.starts_with(set)) && !name.ends_with("_total");
        assert_eq!(value.trim(), if is_set { "1" } else { "0" }, "{name}{{{labels}}}");
        values.insert(rest.split('"').next().unwrap().to_owned());
    }
    values
}

/// The words in backticks of a row's cell.
fn coded(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// `increase()` of Prometheus does not see the first count of a series that begins with it.
#[test]
fn counters_have_every_value_of_their_labels_from_the_start_and_the_page_names_them() {
    let page = page("docs/operations.md");
    let of_table = |heading: &str| -> BTreeSet<String> {
        let (_, rest) = page.split_once(heading).unwrap_or_else(|| panic!("no `{heading}`"));
        let rows = rest.lines().skip(2).take_while(|line| line.starts_with('|'));
        rows.filter_map(|row| row.split('|').nth(1)).flat_map(coded).collect()
    };
    let closed = of_table("| `reason` of closed connections | |");
    assert_eq!(label_values("telemetryx_connections_closed_total", "reason"), closed);
    let mut not_ready = of_table("| reason | |");
    assert!(not_ready.remove("draining"));
    assert_eq!(label_values("telemetryx_not_ready", "reason"), not_ready);
    assert_eq!(label_values("telemetryx_sink_state", "state"), of_table("| state | `telemetryx_sink_up` | |"));
    for (name, label) in [
        ("telemetryx_connections_cut_total", "reason"),
        ("telemetryx_syslog_dropped_total", "reason"),
        ("telemetryx_events_dropped_total", "reason"),
        ("telemetryx_events_rejected_total", "reason"),
        ("telemetryx_events_limited_total", "scope"),
        ("telemetryx_events_received_total", "protocol"),
    ] {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap();
        let named: BTreeSet<String> = coded(row).collect();
        let values = label_values(name, label);
        assert!(values.len() >= 3 && values.is_subset(&named), "{name}: {values:?} are not all in {row}");
    }
    assert!(label_values("telemetryx_http_responses_total", "status").contains("503"));
}

/// With several servers, a name that does not have the server's would belong to several lines.
#[test]
fn every_line_of_the_dashboard_is_of_one_server_or_a_sum_of_all() {
    let dashboard: serde_json::Value = serde_json::from_str(&page("tools/grafana/dashboard.json")).unwrap();
    let mut lines = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        let mut ids = BTreeSet::new();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let [query, legend] = ["expr", "legendFormat"].map(|key| target[key].as_str().unwrap());
            let sums_all =
                query.starts_with("sum by (") && !query.contains("instance,") && !query.contains("(instance");
            assert_eq!(legend.contains("{{instance}}"), !sums_all, "{}: {legend}: {query}", panel["title"]);
            assert!(ids.insert(target["refId"].as_str().unwrap()), "{}: {target}", panel["title"]);
            lines += 1;
        }
    }
    assert!(lines > 20, "{lines}");
}

#[test]
fn every_alert_stands_in_the_page_with_its_severity_and_no_other() {
    let rules = page("tools/prometheus/alerts.yaml");
    let rules = rules.split("- alert: ").skip(1).map(|rule| {
        let (_, severity) = rule.split_once("severity: ").unwrap();
        format!("{} {}", rule.lines().next().unwrap(), severity.split(' ').next().unwrap())
    });
    let rows = table(&page("docs/operations.md"), "as in `tools/prometheus/prometheus.yaml`.");
    let rows = rows.iter().map(|row| format!("{} {}", row[0], row[1]));
    assert_eq!(rows.collect::<Vec<_>>(), rules.collect::<Vec<_>>());
}

fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs
        .chain(["README.md", "CONTRIBUTING.md", "SECURITY.md", "tools/python/README.md"].map(|page| root().join(page)));
    pages.filter(|path| path.extension().is_some_and(|extension| extension == "md") && path.exists()).collect()
}

/// The targets of `[text](target)` outside of code blocks.
fn links(page: &str) -> Vec<String> {
    let prose = page.split("\n```").step_by(2);
    let targets = prose.flat_map(|part| part.split("](").skip(1)).filter_map(|rest| rest.split(')').next());
    targets.map(str::to_owned).collect()
}

/// What a heading is called in a link: lower case, spaces become `-`, other signs go.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.split("\n```").step_by(2).flat_map(str::lines).filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let kept = line.trim_start_matches('#').trim().to_lowercase();
            kept.chars()
                .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

#[test]
fn relative_links_lead_to_a_file_and_a_heading() {
    let mut checked = 0;
    for path in pages() {
        let text = fs::read_to_string(&path).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link} leads nowhere", path.display());
            if !anchor.is_empty() {
                let headings = anchors(&fs::read_to_string(&target).unwrap());
                assert!(headings.contains(anchor), "{}: {link}: no such heading in {headings:?}", path.display());
            }
            checked += 1;
        }
    }
    assert!(checked >= 10, "only {checked} links found");
}

/// The cells of the rows of the first table after `heading`, without the backticks of their code.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, rest) = page.split_once(heading).unwrap_or_else(|| panic!("no `{heading}`"));
    let rows = rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2);
    let cell = |cell: &str| cell.trim().trim_matches('`').trim().to_owned();
    rows.map(|row| row.trim_matches('|').split(" | ").map(cell).collect()).collect()
}

/// What a sender of this document reads.
fn json_message(document: &str) -> String {
    match JsonDecoder::new().document(document.as_bytes(), |_| Ok::<(), String>(())) {
        Ok(decoded) => decoded.rejected.named.into_iter().next().expect(document).error,
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_messages_about_json_are_those_of_the_code() {
    let page = page("docs/json.md");
    let rows = table(&page, "### Messages");
    assert!(rows.len() >= 7);
    for row in rows {
        let [document, message] = row.as_slice() else { panic!("{row:?}") };
        assert_eq!(json_message(document), *message, "{document}");
    }
    let rows = table(&page, "The keys that other agents use");
    assert!(rows.len() >= 8);
    for row in rows {
        let [keys, advice] = row.as_slice() else { panic!("{row:?}") };
        for key in keys.split('`').filter(|key| !key.trim_matches([',', ' ']).is_empty()) {
            let message = json_message(&format!("{{\"name\":\"a\",\"{key}\":1}}"));
            assert!(message.replace('`', "").contains(&advice.replace('`', "")), "{key}: {message}");
        }
    }
}
