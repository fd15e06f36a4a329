//! Unchecked keys against the table: each value against its row, then the relations between values.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::clients::{self, CLIENTS, ResolvedClient};
use super::environment;
use super::file;
use super::foreign;
use super::known::{instead_of, named_again, nearest_key, table_of};
use super::layers::{Given, GivenSink, Keys, Layers, Origin, same_name};
use super::log_filter;
use super::tls::{self, ClientAuth, Plaintext, Tls};
use super::{Config, ConfigError, Http, Log, LogFilter, RateLimits, Server, Syslog, Wal, table};
use crate::batch::shares::Shares;
use crate::event::nearest::nearest;
use crate::limits::{HTTP_ACK_TIMEOUT, SETTINGS_FILE_BYTES_MAX};
use crate::settings::steps::StepSettings;
use crate::settings::url::{is_placeholder, not_a_url};
use crate::settings::{Applies, Form, Problem, Raw, SECRET_ITSELF, Setting, Value, Values, parse_duration};
use crate::sink::{self, BatchSettings, Kind, Output, SinkConfig, SinkSettings};
use crate::small_file;
use crate::wire::AckLevel;

/// The section of which every table is a sink.
const SINKS: &str = "sinks";

/// Checked settings, and where each value came from.
#[derive(Debug)]
pub struct Resolved {
    /// The settings.
    pub config: Config,
    /// The settings file that was read.
    pub file: Option<String>,
    /// Which log lines are written.
    pub log_filter: LogFilter,
    /// In the order of the table.
    pub(super) entries: Vec<Entry>,
    /// In the order in which they were first named.
    pub(super) sinks: Vec<ResolvedSink>,
    /// As the sinks.
    pub(super) clients: Vec<ResolvedClient>,
}

/// A checked sink, and where each of its values came from.
pub(super) struct ResolvedSink {
    /// Name in `[sinks.NAME]`.
    pub name: String,
    /// Its kind.
    pub kind: &'static Kind,
    /// Where the sink was first named.
    pub origin: Origin,
    /// Its values, in the order of the tables of settings.
    pub entries: Vec<Entry>,
}

impl ResolvedSink {
    /// The steps that its values describe, for a store with so many `shards`. The error is the key, and what is wrong.
    fn steps(&self, shards: u64) -> Result<StepSettings, (&'static str, String)> {
        let mut steps = StepSettings::read(|key| match &self.at(key)?.value {
            Value::Text(text) | Value::Nested(text) => Some(text),
            Value::Flag(true) => Some("true"),
            _ => None,
        })?;
        steps.load_files()?;
        match &steps.aggregate {
            // Its shards are told apart by source, also those of rows.
            Some(aggregate) if shards > 1 && !aggregate.by.source => {
                Err(("aggregate.by", "must contain \"source\", by which the shards of this sink are chosen".to_owned()))
            }
            _ => Ok(steps),
        }
    }
}

/// One value in force. `key` is relative to the sink for a sink's entries.
pub(super) struct Entry {
    /// Full key; relative to the sink for a sink's entries.
    pub key: String,
    /// The value in force.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
    /// How it is written and whether it may be shown.
    pub form: Form,
    /// When a change of it takes effect.
    pub applies: Applies,
}

impl Entry {
    /// The value as it may be shown. A default is not a secret.
    pub(super) fn shown(&self) -> String {
        match self.origin {
            Origin::Default => self.value.to_string(),
            _ => self.form.shown(&self.value),
        }
    }
}

/// Not derived: it would show secrets.
impl fmt::Debug for Entry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} = {} ({})", self.key, self.shown(), self.origin)
    }
}

/// A row of the table in its place: full key, and the default that holds here.
pub(super) struct Row<'a> {
    key: String,
    setting: &'a Setting,
    default: (Value, Origin),
}

impl<'a> Row<'a> {
    /// A row whose default is that of the table.
    pub(super) fn new(key: String, setting: &'a Setting) -> Self {
        Self { key, setting, default: (setting.default.clone(), Origin::Default) }
    }
}

impl Layers {
    /// One checked configuration; or the problems of all keys, and if there are none, those between them.
    pub fn resolve(&self) -> Result<Resolved, ConfigError> {
        let mut problems = Vec::new();
        let merged = self.merge(&mut problems);
        let rows = table::SECTIONS
            .iter()
            .flat_map(|section| section.settings.iter().map(|setting| Row::new(section.key(setting), setting)))
            .collect();
        let entries = check_keys("", rows, merged.keys, &mut problems);
        let log_filter = LogFilter::of_entries(&entries, &mut problems);
        log_filter::check_agents(&entries, &mut problems);
        let data_dir = text_of(&entries, "data_dir").to_owned();
        let clients = clients::resolve(merged.clients, &mut problems);
        let mut given_sinks = merged.sinks;
        if given_sinks.is_empty() {
            given_sinks.extend(default_sink());
        }
        let sinks: Vec<ResolvedSink> = given_sinks
            .into_iter()
            .filter_map(|given| resolve_sink(given, &entries, &data_dir, &mut problems))
            .collect();
        if problems.is_empty() {
            match typed(&entries, (&sinks, &clients), &mut problems) {
                Ok(mut config) if problems.is_empty() => {
                    config.clients = clients.iter().map(|client| client.client.clone()).collect();
                    let file = self.file.as_ref().map(|(name, _)| name.clone());
                    return Ok(Resolved { config, file, log_filter, entries, sinks, clients });
                }
                Ok(_) => {}
                Err(bug) => problems.push(bug.why),
            }
        }
        // Those of the file by line, then the others.
        let file = self.file.as_ref().map_or("", |(name, _)| name.as_str());
        problems.sort_by_key(|problem| file::line_of_problem(problem, file).unwrap_or(usize::MAX));
        Err(ConfigError { problems })
    }
}

/// What there is when no sink is named: the first kind, under its own name, with its defaults.
fn default_sink() -> Option<GivenSink> {
    let kind = sink::KINDS.first()?;
    Some(GivenSink { name: kind.name.to_owned(), origin: Origin::Default, keys: Keys::new() })
}

/// As [`Entry`].
impl fmt::Debug for ResolvedSink {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({}): {:?}", self.name, self.kind.name, self.entries)
    }
}

/// Takes the rows' keys out of `keys`, checks them, and complains about what is left. `prefix` is put before keys
/// in messages.
pub(super) fn check_keys(prefix: &str, rows: Vec<Row<'_>>, mut keys: Keys, problems: &mut Vec<String>) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(rows.len());
    let mut known = Vec::with_capacity(rows.len());
    let examples: Vec<_> = rows.iter().map(|row| (row.key.clone(), row.setting.example())).collect();
    for row in rows {
        if row.setting.form == Form::Secrets {
            entries.extend(take_table(prefix, &row, &mut keys, problems));
            known.push(row.key);
            continue;
        }
        let given = keys.remove(&row.key);
        let given = if row.setting.form.is_secret() {
            let file_key = format!("{}_file", row.key);
            let from_file = keys.remove(&file_key);
            let chosen = choose_secret(given, from_file, &format!("{prefix}{}", row.key), problems);
            known.push(file_key);
            chosen
        } else {
            given
        };
        let (value, origin) = match given {
            None => row.default,
            Some(Given { raw, origin }) => match row.setting.parse(&raw) {
                Ok(value) => (value, origin),
                // What is wrong says more than the whole of a nested value.
                Err(why) if matches!(row.setting.form, Form::Step(_)) => {
                    problems.push(format!("{origin}: {prefix}{}: {why}", row.key));
                    row.default
                }
                Err(expected) => {
                    let shown = if row.setting.form.is_secret() { "***".to_owned() } else { raw.to_string() };
                    problems.push(format!("{origin}: {prefix}{} = {shown}: expected {expected}", row.key));
                    row.default
                }
            },
        };
        let (form, applies) = (row.setting.form, row.setting.applies);
        entries.push(Entry { key: row.key.clone(), value, origin, form, applies });
        known.push(row.key);
    }
    for (key, Given { raw, origin }) in keys {
        let section = known.iter().any(|known| known.strip_prefix(&key).is_some_and(|rest| rest.starts_with('.')));
        match (section, &raw) {
            (true, Raw::Table) => {}
            (true, _) => {
                let expected = table_of(prefix, &key, &origin, &examples);
                problems.push(format!("{origin}: {prefix}{key} = {raw}: expected {expected}"));
            }
            (false, _) => {
                let hint = hint_for(prefix, &key, &origin, &known);
                let key = not_a_url(&key);
                problems.push(format!("{origin}: unknown key `{prefix}{key}`{hint}"));
            }
        }
    }
    entries
}

/// What was meant by an unknown key: `: did you mean …?`, or the keys that there are.
fn hint_for(prefix: &str, key: &str, origin: &Origin, known: &[String]) -> String {
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let list = nearest(first, &[SINKS, CLIENTS]).unwrap_or(SINKS);
    let is_of_a_list = prefix.is_empty() && nearest(first, &[SINKS, CLIENTS]).is_some();
    if let Some(hint) = named_again(prefix, key, origin, &names) {
        return hint;
    }
    let meant = match foreign::meant(key, !prefix.is_empty()) {
        // Not every kind of sink has it.
        Some(name) if names.contains(&name) => Some(name.to_owned()),
        _ if is_of_a_list => match (origin, rest) {
            (Origin::File { .. }, _) => return format!(": did you mean `[[{list}]]`?"),
            (_, Some(rest)) => Some(format!("{list}.{rest}")),
            (_, None) => Some(format!("{list}.NAME.KEY")),
        },
        // Of a table's key, as in `headrs.a`, the table may be what is misspelt.
        _ => nearest_key(key, &names).or_else(|| rest.and_then(|_| nearest(first, &names))).map(str::to_owned),
    };
    match (meant, origin) {
        (Some(name), Origin::Environment(_)) => {
            format!(": did you mean `{}`?", environment::variable(&format!("{prefix}{name}")))
        }
        (Some(name), _) => format!(": did you mean `{prefix}{name}`?"),
        (None, _) => instead_of(key, prefix, &names),
    }
}

/// The entries of a table, each with the layer that it is from: of two that differ only in case, - and _ the higher one
/// wins. The row itself where there is none.
fn take_table(prefix: &str, row: &Row<'_>, keys: &mut Keys, problems: &mut Vec<String>) -> Vec<Entry> {
    let mut refuse = |key: &str, origin: &Origin, expected: &str| {
        problems.push(format!("{origin}: {prefix}{key} = ***: expected {expected}"));
    };
    if let Some(Given { raw, origin }) = keys.remove(&row.key)
        && let Err(expected) = row.setting.parse(&raw)
    {
        refuse(&row.key, &origin, &expected);
    }
    let section = format!("{}.", row.key);
    let named: Vec<String> = keys.keys().filter(|key| key.starts_with(&section)).cloned().collect();
    let mut entries: Vec<Entry> = Vec::with_capacity(named.len());
    for key in named {
        let Some(Given { raw, origin }) = keys.remove(&key) else { continue };
        let key = if matches!(origin, Origin::Environment(_)) { key.replace('_', "-") } else { key };
        let Raw::Text(text) = raw else {
            refuse(&key, &origin, "text");
            continue;
        };
        if is_placeholder(&text) {
            refuse(&key, &origin, SECRET_ITSELF);
            continue;
        }
        let applies = row.setting.applies;
        let entry = Entry { key, value: Value::Text(text.into()), origin, form: Form::Secret, applies };
        match entries.iter_mut().find(|other| same_name(&other.key, &entry.key)) {
            None => entries.push(entry),
            Some(other) if other.origin.rank() < entry.origin.rank() => *other = entry,
            Some(other) if other.origin.rank() == entry.origin.rank() => {
                let expected = format!("it once, and {} ({}) is given too", other.key, other.origin);
                refuse(&entry.key, &entry.origin, &expected);
            }
            Some(_) => {}
        }
    }
    if entries.is_empty() {
        let (value, origin) = row.default.clone();
        let (form, applies) = (row.setting.form, row.setting.applies);
        entries.push(Entry { key: row.key.clone(), value, origin, form, applies });
    }
    entries
}

/// A secret is given itself or as the file that holds it; the higher layer wins.
fn choose_secret(
    given: Option<Given>,
    from_file: Option<Given>,
    key: &str,
    problems: &mut Vec<String>,
) -> Option<Given> {
    let Some(file) = from_file else { return given };
    if let Some(given) = given {
        if given.origin.rank() == file.origin.rank() {
            problems.push(format!("{}: {key}_file: {key} is given too ({}); keep one", file.origin, given.origin));
            return None;
        }
        if given.origin.rank() > file.origin.rank() {
            return Some(given);
        }
    }
    let Raw::Text(path) = &file.raw else {
        problems.push(format!("{}: {key}_file = {}: expected a path", file.origin, file.raw));
        return None;
    };
    match small_file::read_text(Path::new(path), SETTINGS_FILE_BYTES_MAX) {
        // An editor's last line end is not part of a secret.
        Ok(secret) => Some(Given { raw: Raw::Text(secret.trim_end_matches(['\r', '\n']).to_owned()), ..file }),
        Err(error) => {
            // Perhaps the secret itself.
            let path = not_a_url(path);
            problems.push(format!("{}: {key}_file: {path} cannot be read: {error}", file.origin));
            None
        }
    }
}

fn resolve_sink(
    mut given: GivenSink,
    top: &[Entry],
    data_dir: &str,
    problems: &mut Vec<String>,
) -> Option<ResolvedSink> {
    let name = given.name;
    let names = || sink::KINDS.iter().map(|kind| kind.name);
    let (kind_name, kind_origin) = match given.keys.remove("kind") {
        Some(Given { raw: Raw::Text(kind), origin }) => (kind, origin),
        Some(Given { raw, origin }) => (raw.to_string(), origin),
        // A sink that is named as a kind is one.
        None if names().any(|kind| kind == name) => (name.clone(), given.origin.clone()),
        None => {
            let kinds = names().collect::<Vec<_>>().join(", ");
            problems.push(format!("{}: sinks.{name} needs a kind, one of {kinds}", given.origin));
            return None;
        }
    };
    let Some(kind) = sink::KINDS.iter().find(|kind| kind.name == kind_name) else {
        let kinds = names().collect::<Vec<_>>().join(", ");
        let kind_name = not_a_url(&kind_name);
        let hint = nearest(kind_name, &names().collect::<Vec<_>>()).map(|kind| format!("; did you mean \"{kind}\"?"));
        let hint = hint.unwrap_or_default();
        problems.push(format!("{kind_origin}: sinks.{name}.kind = \"{kind_name}\": expected one of {kinds}{hint}"));
        return None;
    };
    let mut rows: Vec<Row<'_>> = table::SINK.iter().map(|row| Row::new(row.key.to_owned(), row)).collect();
    rows.extend(kind.settings.iter().map(|row| Row::new(row.key.to_owned(), row)));
    // Deliveries are windows: gathered for as long as the window is.
    let window = given.keys.get("aggregate.interval").and_then(|Given { raw, origin }| match raw {
        Raw::Text(text) => Some((Value::Duration(parse_duration(text)?), origin.clone())),
        _ => None,
    });
    rows.extend(table::BATCH.settings.iter().map(|row| {
        let mut row = Row::new(table::BATCH.key(row), row);
        if row.key == "batch.max_age"
            && let Some(window) = &window
        {
            row.default = window.clone();
        } else if let Some(entry) = top.iter().find(|entry| entry.key == row.key) {
            row.default = (entry.value.clone(), entry.origin.clone());
        }
        row
    }));
    for row in &mut rows {
        row.default.0 = row.default.0.within(data_dir);
    }
    let entries = check_keys(&format!("sinks.{name}."), rows, given.keys, problems);
    Some(ResolvedSink { name, kind, origin: given.origin, entries })
}

/// The values of all sections but those of sinks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Top {
    data_dir: PathBuf,
    server: Server,
    tls: Tls,
    limits: RateLimits,
    http: Http,
    syslog: Syslog,
    wal: Wal,
    batch: BatchSettings,
    log: Log,
}

/// The values as the types of the code. What is wrong with one beside another becomes a problem; the sinks of the result are
/// those without one.
///
/// # Errors
/// Table and types differ, which is a bug.
fn typed(
    entries: &[Entry],
    (sinks, clients): (&[ResolvedSink], &[ResolvedClient]),
    problems: &mut Vec<String>,
) -> Result<Config, Problem> {
    let mut top: Top = values(entries).read()?;
    let default_ack = entries.iter().any(|entry| entry.key == "server.ack" && entry.origin == Origin::Default);
    if !top.wal.enabled && default_ack {
        top.server.ack = AckLevel::Received;
    }
    let given = Written(entries);
    check_acknowledgement(&top, sinks, &given, problems);
    check_memory(&top.server, &given, problems);
    check_syslog(&top.syslog, &top.tls, &given, problems);
    tls::check(&top.tls, clients, &given, problems);
    let mut valid: Vec<(&ResolvedSink, SinkSettings)> = Vec::with_capacity(sinks.len());
    for sink in sinks {
        let batch: BatchSettings = values(&sink.entries).take_table(table::BATCH.name).read()?;
        check_sink(sink, batch, &top.server, &given, problems);
        let config = sink.parse();
        let shards = config.as_ref().map_or(1, |config| config.shards());
        let steps = sink.steps(shards).unwrap_or_else(|(key, why)| {
            let origin = sink.at(key).map_or(&sink.origin, |entry| &entry.origin);
            problems.push(format!("{origin}: sinks.{}.{key}: {why}", sink.name));
            StepSettings::default()
        });
        match config {
            Ok(config) => {
                let (required, drops_oldest) = (sink.is_required(), sink.drops_oldest());
                let name = sink.name.clone();
                valid.push((
                    sink,
                    SinkSettings { name, kind: sink.kind.name, required, drops_oldest, batch, steps, config },
                ));
            }
            Err(problem) => problems.push(sink.describe(&problem)),
        }
    }
    check_windows(&top, &valid, problems);
    check_outputs(&valid, problems);
    let sinks = valid.into_iter().map(|(_, settings)| settings).collect();
    let Top { data_dir, server, tls, limits, http, syslog, wal, batch, log } = top;
    let clients = Vec::new();
    Ok(Config { data_dir, server, tls, limits, clients, http, syslog, wal, batch, sinks, log })
}

pub(super) fn values<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Values {
    let mut values = Values::default();
    entries.into_iter().for_each(|entry| values.insert(&entry.key, entry.form, &entry.value));
    values
}

impl ResolvedSink {
    fn at(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    fn is_required(&self) -> bool {
        self.at("required").is_some_and(|entry| entry.value == Value::Flag(true))
    }

    fn drops_oldest(&self) -> bool {
        self.at("on_full").is_some_and(|entry| entry.value == Value::text("drop_oldest"))
    }

    /// The values of its kind's own rows, as the kind reads them.
    fn parse(&self) -> Result<Box<dyn SinkConfig>, Problem> {
        let of_every_sink = |entry: &Entry| table::SINK.iter().any(|row| row.key == entry.key);
        let mut own = values(self.entries.iter().filter(|entry| !of_every_sink(entry)));
        own.take_table(table::BATCH.name);
        (self.kind.parse)(own)
    }

    fn describe(&self, Problem { key, why }: &Problem) -> String {
        match self.at(key) {
            Some(entry) => format!("{}: sinks.{}.{key} = {}: {why}", entry.origin, self.name, entry.shown()),
            None => format!("{}: sinks.{}: {why}", self.origin, self.name),
        }
    }
}

/// The settings as they were given, for messages.
pub(super) struct Written<'a>(&'a [Entry]);

impl Written<'_> {
    fn at(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key == key)
    }

    /// The setting that a message is about: where it was given, and as what.
    pub(super) fn subject(&self, key: &str) -> String {
        self.at(key).map_or_else(String::new, |entry| format!("{}: {key} = {}", entry.origin, entry.shown()))
    }

    /// Another one that it has to do with.
    fn other(&self, key: &str) -> String {
        self.at(key).map_or_else(String::new, |entry| format!("{key} ({}, {})", entry.shown(), entry.origin))
    }

    /// What limits apply to where there are several loops.
    fn per_loop(&self, server: &Server) -> String {
        match server.event_loops {
            0 | 1 => String::new(),
            _ => format!(" for each of {}", self.other("server.event_loops")),
        }
    }
}

fn check_acknowledgement(top: &Top, sinks: &[ResolvedSink], given: &Written<'_>, problems: &mut Vec<String>) {
    let ack = given.subject("server.ack");
    if top.server.ack > AckLevel::Received && !top.wal.enabled {
        let enabled = given.other("wal.enabled");
        problems.push(format!("{ack}: without a log, {enabled}, only \"received\" can be promised"));
    }
    if top.server.ack == AckLevel::Delivered && !sinks.iter().any(ResolvedSink::is_required) {
        problems.push(format!("{ack}: no sink is required, so it would promise nothing"));
    }
    if top.wal.max_bytes / 2 < top.wal.segment_bytes {
        let segment = given.other("wal.segment_bytes");
        problems.push(format!("{}: must be at least twice {segment}", given.subject("wal.max_bytes")));
    }
}

fn check_syslog(syslog: &Syslog, tls: &Tls, given: &Written<'_>, problems: &mut Vec<String>) {
    let refuses = [
        (tls.plaintext == Plaintext::Refuse, "tls.plaintext"),
        (tls.client_auth == ClientAuth::Require, "tls.client_auth"),
    ];
    if syslog.udp
        && let Some((_, key)) = refuses.iter().find(|(refuses, _)| *refuses)
    {
        let (udp, other) = (given.subject("syslog.udp"), given.other(key));
        problems.push(format!("{udp}: datagrams are not encrypted, and {other} accepts nothing without TLS"));
    }
    if syslog.udp && !syslog.enabled {
        let (udp, enabled) = (given.subject("syslog.udp"), given.other("syslog.enabled"));
        problems.push(format!("{udp}: {enabled} must be true for it"));
    }
}

fn check_memory(server: &Server, given: &Written<'_>, problems: &mut Vec<String>) {
    let per_loop = given.per_loop(server);
    let lowest = Shares::lowest_buffer_bytes(server.max_body_bytes, server.max_frame_bytes);
    let frame = given.other("server.max_frame_bytes");
    if server.part_bytes() / 8 < server.max_frame_bytes {
        let buffer = given.subject("server.buffer_bytes");
        problems.push(format!("{buffer}: must be at least 8 times {frame}{per_loop}"));
    } else if server.part_bytes() < lowest {
        let (body, buffer) = (given.subject("server.max_body_bytes"), given.other("server.buffer_bytes"));
        let lowest = lowest.div_ceil(1024);
        problems.push(format!("{body}: with {frame}, at least {lowest}KiB of {buffer} are needed{per_loop}"));
    }
}

fn check_sink(
    sink: &ResolvedSink,
    batch: BatchSettings,
    server: &Server,
    given: &Written<'_>,
    problems: &mut Vec<String>,
) {
    if sink.drops_oldest()
        && sink.is_required()
        && let Some(entry) = sink.at("on_full")
    {
        problems.push(format!(
            "{}: sinks.{}.on_full = \"drop_oldest\": a required sink may not lose events; set its required = false",
            entry.origin, sink.name
        ));
    }
    // A batch pins the buffers that its events came in: one that cannot fill before the pool is empty never would.
    if batch.max_bytes > server.part_bytes() / 4
        && let Some(entry) = sink.at("batch.max_bytes")
    {
        let (name, buffer) = (&sink.name, given.other("server.buffer_bytes"));
        problems.push(format!(
            "{}: batch.max_bytes of sink {name} = {}: must be at most a quarter of {buffer}{}",
            entry.origin,
            entry.shown(),
            given.per_loop(server)
        ));
    }
}

/// A POST that waits for *delivered* ends after [`HTTP_ACK_TIMEOUT`]: no required sink may gather for as long as that.
fn check_windows(top: &Top, sinks: &[(&ResolvedSink, SinkSettings)], problems: &mut Vec<String>) {
    if top.server.ack != AckLevel::Delivered {
        return;
    }
    let too_long = |settings: &SinkSettings| settings.required && settings.batch.max_age >= HTTP_ACK_TIMEOUT / 2;
    for (sink, _) in sinks.iter().filter(|(_, settings)| too_long(settings)) {
        let Some(entry) = sink.at("batch.max_age") else { continue };
        problems.push(format!(
            "{}: sinks.{} gathers for {}, and with server.ack = \"delivered\" each POST would wait for that and end with 504 after {} s: \
             set its required = false, or a batch.max_age below {} s",
            entry.origin,
            sink.name,
            entry.shown(),
            HTTP_ACK_TIMEOUT.as_secs(),
            HTTP_ACK_TIMEOUT.as_secs() / 2
        ));
    }
}

/// No two sinks write to the same place.
fn check_outputs(sinks: &[(&ResolvedSink, SinkSettings)], problems: &mut Vec<String>) {
    let mut outputs: Vec<(Output, &ResolvedSink)> = Vec::new();
    for (sink, settings) in sinks {
        let Some(output) = settings.config.output() else { continue };
        if let Some((_, first)) = outputs.iter().find(|(taken, _)| *taken == output) {
            problems.push(format!(
                "{}: sinks.{} writes to {output}, where sinks.{} ({}) writes too; give each its own",
                sink.origin, sink.name, first.name, first.origin
            ));
        }
        outputs.push((output, sink));
    }
}

fn text_of<'a>(entries: &'a [Entry], key: &str) -> &'a str {
    match entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value) {
        Some(Value::Text(text)) => text,
        _ => "",
    }
}
