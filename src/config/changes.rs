//! What changes when the settings are read again, and what needs a restart.
//!
//! ```text
//!  running ─┐
//!           ├─▶ changes ─▶ Changes { applied, needs_restart } ─▶ Resolved::adopt: what is running from then on
//!  new ─────┘
//! ```
//!
//! Nothing here touches the server: `server/reload.rs` puts in force what is applied. Whether a key can be applied is a column of
//! its row, [`Setting::applies`](crate::settings::Setting).

use super::clients::CLIENTS;
use super::resolve::{Entry, Resolved, ResolvedSink};
use crate::limits::HTTP_ACK_TIMEOUT;
use crate::settings::Applies;
use crate::sink::SinkSettings;
use crate::wire::AckLevel;

/// What differs between the settings that are running and those that were read again.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys whose new values take effect, and `clients.NAME` for each client with a change.
    pub applied: Vec<String>,
    /// Keys whose new values take effect with the next start, and sinks that were added or removed.
    pub needs_restart: Vec<String>,
    /// Sinks of which something is applied.
    pub sinks: Vec<ChangedSink>,
}

/// A sink with new steps or a new `batch.max_age`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedSink {
    /// Its place among the sinks that are running.
    pub running: usize,
    /// Its place among those of the new settings.
    pub new: usize,
}

/// Compares the settings that are running with those that were read again.
pub fn changes(running: &Resolved, new: &Resolved) -> Changes {
    let mut changes = Changes::default();
    for (key, applies) in differing(&running.entries, &new.entries) {
        changes.add(key.to_owned(), applies);
    }
    changes.compare_clients(running, new);
    changes.compare_sinks(running, new);
    changes
}

impl Changes {
    fn add(&mut self, key: String, applies: Applies) {
        match applies {
            Applies::OnReload => self.applied.push(key),
            Applies::OnRestart => self.needs_restart.push(key),
        }
    }

    fn compare_clients(&mut self, running: &Resolved, new: &Resolved) {
        let named = |resolved: &Resolved, name: &str| {
            resolved.clients.iter().position(|client| client.client.name == name).map(|index| index.to_owned())
        };
        for client in &new.clients {
            let name = &client.client.name;
            let before = named(running, name).and_then(|index| running.clients.get(index));
            if before.is_none_or(|before| !differing(&before.entries, &client.entries).is_empty()) {
                self.applied.push(format!("{CLIENTS}.{name}"));
            }
        }
        for client in running.clients.iter().filter(|client| named(new, &client.client.name).is_none()) {
            self.applied.push(format!("{CLIENTS}.{} (removed)", client.client.name));
        }
    }

    fn compare_sinks(&mut self, running: &Resolved, new: &Resolved) {
        for (index, sink) in new.sinks.iter().enumerate() {
            match running.sinks.iter().position(|other| other.name == sink.name) {
                None => self.needs_restart.push(format!("sinks.{} (added)", sink.name)),
                Some(place) => self.compare_sink(running, new, ChangedSink { running: place, new: index }),
            }
        }
        for sink in running.sinks.iter().filter(|sink| new.sinks.iter().all(|other| other.name != sink.name)) {
            self.needs_restart.push(format!("sinks.{} (removed)", sink.name));
        }
    }

    /// Of a sink that needs a restart nothing is applied: its new values were checked beside each other only.
    fn compare_sink(&mut self, running: &Resolved, new: &Resolved, places: ChangedSink) {
        let (Some(before), Some(after)) = (running.sinks.get(places.running), new.sinks.get(places.new)) else {
            return;
        };
        let settings = (running.config.sinks.get(places.running), new.config.sinks.get(places.new));
        let (Some(old), Some(settings)) = settings else { return };
        let mut keys = differing(&before.entries, &after.entries);
        if keys.is_empty() && old.steps != settings.steps {
            // The same file, with another key in it.
            keys.push(("redact", Applies::OnReload));
        }
        let waits = !std::ptr::eq(before.kind, after.kind) || waits_too_long(running, settings);
        let restart = waits || keys.iter().any(|(_, applies)| *applies == Applies::OnRestart);
        if !std::ptr::eq(before.kind, after.kind) {
            self.needs_restart.push(format!("sinks.{}.kind", after.name));
        } else if !keys.is_empty() && !restart {
            self.sinks.push(places);
        }
        for (key, applies) in keys {
            self.add(format!("sinks.{}.{key}", after.name), if restart { Applies::OnRestart } else { applies });
        }
    }
}

/// As `check_windows`, with the acknowledgement that is promised now: it changes with a restart only.
fn waits_too_long(running: &Resolved, sink: &SinkSettings) -> bool {
    running.config.server.ack == AckLevel::Delivered && sink.required && sink.batch.max_age >= HTTP_ACK_TIMEOUT / 2
}

/// Keys that have another value, or are in one of both only.
fn differing<'a>(before: &'a [Entry], after: &'a [Entry]) -> Vec<(&'a str, Applies)> {
    let value =
        |entries: &'a [Entry], key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
    let changed = after.iter().filter(|entry| value(before, &entry.key) != Some(&entry.value));
    let gone = before.iter().filter(|entry| value(after, &entry.key).is_none());
    changed.chain(gone).map(|entry| (entry.key.as_str(), entry.applies)).collect()
}

impl Resolved {
    /// Takes over what is applied of `new`; all else stays as it is running. `changes`: between both.
    pub fn adopt(&mut self, new: Self, changes: &Changes) {
        let Self { config, log_filter, entries, sinks, clients, file, .. } = new;
        take_over(&mut self.entries, entries);
        // From now on it must not be missing.
        self.file = file;
        let running = &mut self.config;
        running.server.tokens_file = config.server.tokens_file;
        running.server.pages_token_file = config.server.pages_token_file;
        running.server.allow_plaintext_tokens = config.server.allow_plaintext_tokens;
        (running.tls, running.limits, running.clients) = (config.tls, config.limits, config.clients);
        (running.log.filter, running.log.agents) = (config.log.filter, config.log.agents);
        running.batch.max_age = config.batch.max_age;
        (self.log_filter, self.clients) = (log_filter, clients);
        let mut new_sinks: Vec<Option<(ResolvedSink, SinkSettings)>> =
            sinks.into_iter().zip(config.sinks).map(Some).collect();
        for ChangedSink { running: place, new } in &changes.sinks {
            let (Some(sink), Some(settings)) = (self.sinks.get_mut(*place), running.sinks.get_mut(*place)) else {
                continue;
            };
            let Some((new_sink, new_settings)) = new_sinks.get_mut(*new).and_then(Option::take) else { continue };
            take_over(&mut sink.entries, new_sink.entries);
            settings.steps = new_settings.steps;
            settings.batch.max_age = new_settings.batch.max_age;
        }
    }
}

fn take_over(entries: &mut [Entry], new: Vec<Entry>) {
    for entry in new.into_iter().filter(|entry| entry.applies == Applies::OnReload) {
        if let Some(running) = entries.iter_mut().find(|running| running.key == entry.key) {
            *running = entry;
        }
    }
}

// The default sink is SQLite.
#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;
    use crate::config::table::{BATCH, CLIENT, SECTIONS, SINK};
    use crate::config::{Layers, table};
    use crate::settings::Value;
    use crate::sink::KINDS;

    fn resolve(text: &str) -> Resolved {
        let file = Some(("t.toml".to_owned(), text.to_owned()));
        Layers { file, ..Layers::default() }.resolve().unwrap_or_else(|error| panic!("{error}"))
    }

    /// What differs from the settings of `before` where those of `after` are read.
    fn between(before: &str, after: &str) -> (Vec<String>, Vec<String>) {
        let Changes { applied, needs_restart, .. } = changes(&resolve(before), &resolve(after));
        (applied, needs_restart)
    }

    fn owned(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    /// Another value of the key in one of `entries`, as the row says: in force or with the next start.
    fn changed(entries: &mut [Entry], key: &str) {
        let entry = entries.iter_mut().find(|entry| entry.key == key).unwrap_or_else(|| panic!("no entry {key}"));
        entry.value = Value::text("another value");
    }

    #[track_caller]
    fn is_classified(found: &Changes, name: &str, applies: Applies) {
        let (expected, other) = match applies {
            Applies::OnReload => (&found.applied, &found.needs_restart),
            Applies::OnRestart => (&found.needs_restart, &found.applied),
        };
        assert_eq!((expected, other), (&owned(&[name]), &Vec::new()), "{name}");
    }

    #[test]
    fn every_key_of_the_table_is_applied_or_named_as_its_row_says() {
        let running = resolve("");
        let mut keys = 0;
        for section in SECTIONS {
            for row in section.settings {
                let mut new = resolve("");
                changed(&mut new.entries, &section.key(row));
                is_classified(&changes(&running, &new), &section.key(row), row.applies);
                keys += 1;
            }
        }
        let client = "[[clients]]\nname = \"api\"\ntoken_file = \"t\"\n";
        for row in CLIENT {
            let mut new = resolve(client);
            changed(&mut new.clients[0].entries, row.key);
            assert_eq!(row.applies, Applies::OnReload, "{}", row.key);
            is_classified(&changes(&resolve(client), &new), "clients.api", row.applies);
            keys += 1;
        }
        for kind in KINDS {
            let sink = format!("[[sinks]]\nname = \"out\"\nkind = \"{}\"\n{}", kind.name, needed(kind.name));
            let batch = BATCH.settings.iter().map(|row| (BATCH.key(row), row.applies));
            let rows = SINK.iter().chain(kind.settings).map(|row| (row.key.to_owned(), row.applies)).chain(batch);
            for (key, applies) in rows {
                let mut new = resolve(&sink);
                changed(&mut new.sinks[0].entries, &key);
                is_classified(&changes(&resolve(&sink), &new), &format!("sinks.out.{key}"), applies);
                keys += 1;
            }
        }
        assert!(keys > 150, "{keys} keys");
    }

    /// Settings without which the kind is invalid.
    fn needed(kind: &str) -> &'static str {
        match kind {
            "http" => "url = \"http://127.0.0.1:1\"\n",
            _ => "",
        }
    }

    #[test]
    fn what_is_applied_is_what_runs_and_all_else_stays() {
        let certificate = "cert_file = \"c\"\nkey_file = \"k\"\n";
        let tls = format!(
            "{certificate}client_ca_file = \"a\"\nclient_crl_file = \"r\"\nclient_auth = \"require\"\nplaintext = \"loopback\""
        );
        let reloaded = format!(
            "[server]\ntokens_file = \"t\"\npages_token_file = \"p\"\nallow_plaintext_tokens = true\n[tls]\n{tls}\n[limits]\nevents_per_second = 1\n\
             bytes_per_second = 2\nagent_events_per_second = 3\nagent_bytes_per_second = 4\nburst = \"5s\"\n[batch]\n\
             max_age = \"1s\"\n[log]\nfilter = \"warn\"\nagents = \"web-*\"\n[[clients]]\nname = \"api\"\ntoken_file = \"t\"\n[[sinks]]\n\
             name = \"sqlite\"\ninclude = [{{ kinds = [\"log\"] }}]\nexclude = [{{ name = [\"x\"] }}]\nsample = {{ keep = \"1/2\", \
             by = \"name\", always = {{ severity = \"error\" }} }}\nredact = [{{ attributes = [\"a\"], action = \"remove\" }}]\n\
             collapse = true\naggregate = {{ interval = \"1s\", gauges = [\"max\"], by = [\"source\"], max_series = 5 }}\n"
        );
        let (mut running, new) = (resolve(""), resolve(&reloaded));
        let found = changes(&running, &new);
        assert_eq!(found.needs_restart, Vec::<String>::new());
        // Every key that can be applied was changed.
        let of_sections =
            table::SECTIONS.iter().flat_map(|section| section.settings.iter().map(|row| (section.key(row), row)));
        let of_sinks = SINK.iter().map(|row| (format!("sinks.sqlite.{}", row.key), row));
        for (key, _) in of_sections.chain(of_sinks).filter(|(_, row)| row.applies == Applies::OnReload) {
            assert!(found.applied.contains(&key), "{key} of {:?}", found.applied);
        }
        running.adopt(new, &found);
        let again = resolve(&reloaded);
        assert_eq!(format!("{:?}", running.config), format!("{:?}", again.config));
        // Without where each value is from: the sink itself is there since the start.
        let values = |resolved: &Resolved| {
            let text = resolved.to_string();
            text.lines().map(|line| line.split(" # ").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!((values(&running), &running.log_filter), (values(&again), &again.log_filter));
    }

    #[test]
    fn a_key_that_needs_a_restart_is_named_until_there_is_one() {
        let mut running = resolve("");
        let text = "[server]\nmax_agents = 7\n[limits]\nburst = \"5s\"\n";
        let found = changes(&running, &resolve(text));
        assert_eq!((&found.applied, &found.needs_restart), (&owned(&["limits.burst"]), &owned(&["server.max_agents"])));
        running.adopt(resolve(text), &found);
        assert_eq!((running.config.server.max_agents, running.config.limits.burst.as_secs()), (100_000, 5));
        let found = changes(&running, &resolve(text));
        assert_eq!((found.applied, found.needs_restart), (Vec::new(), owned(&["server.max_agents"])));
        assert_eq!(changes(&running, &resolve("[limits]\nburst = \"5s\"\n")), Changes::default());
    }

    #[test]
    fn a_file_that_is_found_for_the_first_time_is_that_of_the_settings() {
        let mut running = Layers::default().resolve().unwrap();
        assert_eq!(running.file, None);
        let new = resolve("[limits]\nburst = \"5s\"\n");
        let found = changes(&running, &new);
        running.adopt(new, &found);
        assert_eq!(running.file.as_deref(), Some("t.toml"));
    }

    #[test]
    fn clients_and_sinks_come_and_go() {
        let client = |name: &str| format!("[[clients]]\nname = \"{name}\"\ntoken_file = \"t\"\n");
        let (applied, restart) = between(&client("a"), &client("b"));
        assert_eq!((applied, restart), (owned(&["clients.b", "clients.a (removed)"]), Vec::new()));
        let (one, two) = (client("a") + &client("b"), client("b") + &client("a"));
        assert_eq!(between(&one, &two), (Vec::new(), Vec::new()), "their order means nothing");

        let sink = |name: &str, more: &str| format!("[[sinks]]\nname = \"{name}\"\nkind = \"discard\"\n{more}");
        let (applied, restart) = between(&sink("a", ""), &sink("b", ""));
        assert_eq!((applied, restart), (Vec::new(), owned(&["sinks.b (added)", "sinks.a (removed)"])));
        let (applied, restart) = between(&sink("a", ""), "[[sinks]]\nname = \"a\"\nkind = \"stdout\"\n");
        assert_eq!((applied, restart), (Vec::new(), owned(&["sinks.a.kind"])));
        let (one, two) = (sink("a", "") + &sink("b", ""), sink("b", "collapse = true\n") + &sink("a", ""));
        let found = changes(&resolve(&one), &resolve(&two));
        assert_eq!(found.sinks, [ChangedSink { running: 1, new: 0 }]);
        let mut running = resolve(&one);
        running.adopt(resolve(&two), &found);
        assert_eq!(running.config.sinks.iter().map(|sink| sink.steps.collapse).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn nothing_is_applied_to_a_sink_that_needs_a_restart() {
        let sink = |more: &str| format!("[[sinks]]\nname = \"a\"\nkind = \"discard\"\n{more}");
        let found = changes(&resolve(&sink("")), &resolve(&sink("required = false\ncollapse = true\n")));
        let expected = owned(&["sinks.a.required", "sinks.a.collapse"]);
        assert_eq!((found.applied, found.needs_restart, found.sinks), (Vec::new(), expected, Vec::new()));
        // The window would be too long for what is promised until the restart.
        let (delivered, window) = ("[server]\nack = \"delivered\"\n", "aggregate = { interval = \"60s\" }\n");
        let (applied, restart) = between(&format!("{delivered}{}", sink("")), &sink(window));
        let expected = owned(&["server.ack", "sinks.a.aggregate.interval", "sinks.a.batch.max_age"]);
        assert_eq!((applied, restart), (Vec::new(), expected));
    }
}
