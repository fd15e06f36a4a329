//! Reload: the settings are read again while the server runs, and those that can change take effect.
//!
//! ```text
//!  SIGHUP, SIGUSR1 ─▶ event loop ─▶ reload thread: read ─▶ compare ─▶ is it allowed? ─┬─ no ──▶ nothing changes, and why
//!                                                                                    └─ yes ─▶ policy of every loop,
//!                                                                                              steps of routers, log filter
//! ```
//!
//! What differs is decided in [`crate::config::changes`], without any of this. Either all that can be applied is applied, or nothing
//! is: everything that can fail (files of tokens and certificates) is read before the first change.

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Instant;

use super::instance::Report;
use super::notify::Notices;
use super::{ServerError, access, certificates, loops, system};
use crate::config::changes::{Changes, changes};
use crate::config::{Config, ConfigError, LogFilter, Resolved};
use crate::counted::Counted;
use crate::limits::{RELOAD_KEYS_SHOWN, RELOAD_PROBLEMS_SHOWN, RELOAD_TIMEOUT};
use crate::metrics::Metrics;
use crate::net::{PagesAccess, Policy, Shared};
use crate::router::steps::Steps;
use crate::router::{Reshaper, Router};
use crate::session::tokens::Tokens;
use crate::tls::Acceptor;

/// How the process reads its settings, and what it does with those that are not the server's.
pub struct Reloading {
    /// Reads the settings again, as at start.
    pub load: Box<dyn Fn() -> Result<Resolved, ConfigError> + Send>,
    /// Puts another log filter in force.
    pub set_log_filter: Box<dyn Fn(LogFilter) + Send>,
    /// Whether SIGHUP asks for a reload; on a terminal it asks for the end.
    pub by_hangup: bool,
}

/// Asks for reloads, and receives what was asked for.
pub(super) struct Requests {
    sender: SyncSender<()>,
    receiver: Receiver<()>,
}

impl Requests {
    /// One request waits while a reload is under way: what changes after that one has read its settings is read once more.
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::sync_channel(1);
        Self { sender, receiver }
    }

    /// What the loop calls for a signal.
    pub(super) fn on_reload(&self) -> Box<dyn Fn() + Send + Sync> {
        let sender = self.sender.clone();
        Box::new(move || {
            // One that waits is enough, and without a thread nobody can reload.
            let _ = sender.try_send(());
        })
    }
}

/// What a reload works with.
pub(super) struct Reloader {
    /// What is running.
    settings: Resolved,
    reloading: Reloading,
    /// Gone when all loops have ended.
    loops: Weak<Shared>,
    /// In the order of the sinks that are running.
    reshapers: Vec<Reshaper>,
    /// Of the log; steps decide by it.
    server_id: [u8; 16],
    metrics: Arc<Metrics>,
    notices: Notices,
    /// Where the report is written.
    data_dir: PathBuf,
}

impl Reloader {
    /// `settings` are those that are running, with these `routers` for their sinks.
    pub(super) fn new(
        settings: Resolved,
        reloading: Reloading,
        shared: &Arc<Shared>,
        (routers, server_id): (&[Router], [u8; 16]),
        notices: Notices,
    ) -> Self {
        Self {
            data_dir: settings.config.data_dir.clone(),
            reshapers: routers.iter().map(|router| router.reshaper().clone()).collect(),
            loops: Arc::downgrade(shared),
            metrics: shared.metrics.clone(),
            settings,
            reloading,
            server_id,
            notices,
        }
    }

    /// Starts the thread. It ends with the event loops.
    pub(super) fn start(mut self, requests: Requests) -> Result<(), ServerError> {
        let Requests { sender, receiver } = requests;
        drop(sender);
        let run = move || {
            let mut report = Report::default();
            while receiver.recv().is_ok() {
                let Some(shared) = self.loops.upgrade() else { return };
                self.reload(&shared, &mut report);
            }
        };
        let spawned = thread::Builder::new().name("reload".to_owned()).spawn(run);
        spawned.map(drop).map_err(system("a thread that reads the settings again"))
    }

    fn reload(&mut self, shared: &Arc<Shared>, report: &mut Report) {
        report.begun += 1;
        self.write(report);
        self.notices.reloading();
        let result = self.try_reload(shared);
        self.metrics.reloaded(result.is_ok());
        let (refused, lines) = match result {
            Ok(changes) => (false, log_applied(&changes)),
            Err(ConfigError { problems }) => (true, log_refused(problems)),
        };
        self.notices.reloaded();
        *report = Report { ended: report.begun, refused, lines, ..*report };
        self.write(report);
    }

    fn write(&self, report: &Report) {
        if let Err(error) = report.write(&self.data_dir) {
            tracing::warn!(%error, "the outcome of the reload cannot be written to data_dir");
        }
    }

    fn try_reload(&mut self, shared: &Arc<Shared>) -> Result<Changes, ConfigError> {
        let new = (self.reloading.load)()?;
        if let (Some(file), None) = (&self.settings.file, &new.file) {
            return Err(refused(format!("{file}: the server was started with it, and it is not there any more")));
        }
        let before = shared.policy.get();
        let mut changes = changes(&self.settings, &new);
        let tokens = access::read_tokens_after(&new.config, &before.tokens)?;
        let pages = PagesAccess { token: access::read_pages_token(&new.config.server)? };
        check_authentication((&self.settings.config, &before.tokens), (&new.config, &tokens))?;
        check_pages(&before.pages, &pages, access::is_required(&new.config, &tokens))?;
        // The last that can fail: another certificate is watched and shown from here on.
        let acceptor = self.acceptor(&before, &new.config)?;
        name_files(&mut changes, (&before.tokens, &tokens), (before.encryption.acceptor.as_ref(), acceptor.as_ref()));
        name_pages_token(&mut changes, &before.pages, &pages);
        let policy = Policy {
            encryption: loops::encryption(&new.config, acceptor),
            rates: before.rates.followed_by(loops::rate_settings(&new.config, &tokens)),
            logged_agents: loops::logged_agents(&new.config),
            tokens,
            pages,
        };
        // First: with the policy, connections get the spans that the filter lets through.
        if new.log_filter != self.settings.log_filter {
            (self.reloading.set_log_filter)(new.log_filter.clone());
        }
        let (done, answers) = mpsc::channel();
        shared.set_policy(policy, &done);
        drop(done);
        for sink in &changes.sinks {
            let settings = new.config.sinks.get(sink.new);
            if let (Some(reshaper), Some(settings)) = (self.reshapers.get(sink.running), settings) {
                reshaper.reshape(Steps::new(&settings.steps, self.server_id), settings.batch.max_age);
            }
        }
        self.settings.adopt(new, &changes);
        wait_for_loops(shared.event_loops(), &answers);
        Ok(changes)
    }

    /// TLS with the new settings; the same one where its files have the same contents. `None`: it is not offered.
    fn acceptor(&self, before: &Policy, config: &Config) -> Result<Option<Arc<Acceptor>>, ConfigError> {
        let has_syslog = self.settings.config.syslog.enabled;
        let Some(fresh) = certificates::acceptor(config, has_syslog)? else { return Ok(None) };
        if let Some(running) = before.encryption.acceptor.as_ref().filter(|running| running.has_same_files(&fresh)) {
            return Ok(Some(running.clone()));
        }
        let fresh = Arc::new(fresh);
        let watched = certificates::watch(&fresh, self.metrics.clone());
        watched.map_err(|error| refused(format!("tls: the system refuses a thread for the certificate: {error}")))?;
        Ok(Some(fresh))
    }
}

fn refused(problem: String) -> ConfigError {
    ConfigError { problems: vec![problem] }
}

/// A typing error in a name of a file or a section must not open the server to everybody.
fn check_authentication(before: (&Config, &Tokens), after: (&Config, &Tokens)) -> Result<(), ConfigError> {
    if access::is_required(before.0, before.1) && !access::is_required(after.0, after.1) {
        return Err(refused(
            "server.tokens_file, clients and tls.client_auth: the new settings would turn authentication off; restart the \
             server if that is intended"
                .to_owned(),
        ));
    }
    Ok(())
}

/// The same of pages that have been closed.
fn check_pages(before: &PagesAccess, after: &PagesAccess, is_authentication_required: bool) -> Result<(), ConfigError> {
    if !before.token.is_empty() && after.token.is_empty() && !is_authentication_required {
        return Err(refused(
            "server.pages_token_file: the new settings would open the pages to everybody; restart the server if that is \
             intended"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Files whose contents have changed, and not their names.
fn name_files(
    changes: &mut Changes,
    tokens: (&Tokens, &Tokens),
    acceptors: (Option<&Arc<Acceptor>>, Option<&Arc<Acceptor>>),
) {
    let names = |prefix: &str| changes.applied.iter().any(|key| key.starts_with(prefix));
    let has_other_tokens = !tokens.0.knows_same(tokens.1) && !names("clients.") && !names("server.tokens_file");
    let is_other = match acceptors {
        (Some(before), Some(after)) => !Arc::ptr_eq(before, after),
        _ => false,
    };
    let has_other_certificate = is_other && !names("tls.");
    if has_other_tokens {
        changes.applied.push("contents of the files of tokens".to_owned());
    }
    if has_other_certificate {
        changes.applied.push("contents of the files of [tls]".to_owned());
    }
}

/// The same of the pages token.
fn name_pages_token(changes: &mut Changes, before: &PagesAccess, after: &PagesAccess) {
    let is_named = changes.applied.iter().any(|key| key == "server.pages_token_file");
    if !is_named && !before.token.knows_same(&after.token) {
        changes.applied.push("contents of server.pages_token_file".to_owned());
    }
}

/// Every loop has looked at all of its connections, or is late.
fn wait_for_loops(count: usize, answers: &Receiver<()>) {
    let until = Instant::now() + RELOAD_TIMEOUT;
    for _ in 0..count {
        if answers.recv_timeout(until.saturating_duration_since(Instant::now())).is_err() {
            tracing::warn!("an event loop is busy: the new settings are not in force everywhere yet");
            return;
        }
    }
}

/// Logs what was applied; returns the same for the person who asked for it.
fn log_applied(changes: &Changes) -> Vec<String> {
    let Changes { applied, needs_restart, .. } = changes;
    let (applied, restart) = (listed(applied), listed(needs_restart));
    match (&applied, &restart) {
        (None, None) => tracing::info!("settings reloaded, nothing has changed"),
        (_, None) => tracing::info!(applied, "settings reloaded"),
        (_, Some(_)) => tracing::warn!(
            applied,
            needs_restart = restart,
            "settings reloaded, but some changes take effect with a restart only"
        ),
    }
    let mut lines = vec![match applied {
        Some(keys) => format!("settings reloaded: {keys}"),
        None => "settings reloaded: nothing that a reload applies has changed".to_owned(),
    }];
    lines.extend(restart.map(|keys| format!("a restart is needed for: {keys}")));
    lines
}

/// Logs why nothing was applied, a line for each problem; returns the same.
fn log_refused(mut problems: Vec<String>) -> Vec<String> {
    let more = problems.len().saturating_sub(RELOAD_PROBLEMS_SHOWN);
    problems.truncate(RELOAD_PROBLEMS_SHOWN);
    if more > 0 {
        problems.push(format!("and {}: see \"telemetryx check\"", Counted(more as u64, "more problem")));
    }
    for problem in &problems {
        tracing::error!(problem, "settings not reloaded, the earlier ones stay in force");
    }
    problems
}

/// `None`: there is none.
fn listed(keys: &[String]) -> Option<String> {
    let shown = keys.get(..keys.len().min(RELOAD_KEYS_SHOWN)).unwrap_or_default().join(", ");
    match keys.len() {
        0 => None,
        count if count > RELOAD_KEYS_SHOWN => Some(format!("{shown} and {} more", count - RELOAD_KEYS_SHOWN)),
        _ => Some(shown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tokens::TokenHash;

    #[test]
    fn long_lists_are_cut() {
        let keys: Vec<String> = (0..RELOAD_KEYS_SHOWN + 3).map(|number| number.to_string()).collect();
        assert_eq!(listed(&keys[..2]).unwrap(), "0, 1");
        assert!(listed(&keys).unwrap().ends_with(&format!("{} and 3 more", RELOAD_KEYS_SHOWN - 1)));
        assert_eq!(listed(&[]), None);
        let lines = log_refused((0..RELOAD_PROBLEMS_SHOWN + 7).map(|number| number.to_string()).collect());
        assert_eq!(lines.len(), RELOAD_PROBLEMS_SHOWN + 1);
        assert!(lines.last().unwrap().contains("more problems"), "{lines:?}");
    }

    #[test]
    fn contents_of_files_are_named_where_tokens_differ_for_no_other_reason() {
        let earlier = Tokens::default();
        let tokens_after = |earlier: &Tokens, names: &[&str], lines: &str, is_open| {
            let mut tokens = Tokens::from_lines(lines, is_open).after(earlier);
            for name in names {
                tokens.add_client(name, Some(TokenHash::of(name.as_bytes())), None).unwrap();
            }
            tokens
        };
        let tokens = |names: &[&str], lines: &str, is_open| tokens_after(&earlier, names, lines, is_open);
        let named = |applied: &[&str], before: &Tokens, after: &Tokens| {
            let applied = applied.iter().map(|key| (*key).to_owned()).collect();
            let mut changes = Changes { applied, ..Changes::default() };
            name_files(&mut changes, (before, after), (None, None));
            changes.applied.iter().any(|key| key == "contents of the files of tokens")
        };
        let before = tokens(&["a", "b"], "one\ntwo\n", false);
        assert!(!named(&[], &before, &tokens_after(&before, &["b", "a"], "two\none\n", false)), "in another order");
        assert!(named(&[], &before, &tokens(&["a", "b"], "one\n", false)));
        let allowed = "server.allow_plaintext_tokens";
        assert!(!named(&[allowed], &before, &tokens(&["a", "b"], "one\ntwo\n", true)));
        assert!(named(&[allowed], &before, &tokens(&["a", "b"], "one\n", true)), "both have changed");
        assert!(!named(&["server.tokens_file"], &before, &tokens(&["a", "b"], "one\n", false)), "another file");
    }

    #[test]
    fn one_request_waits_while_a_reload_is_under_way() {
        let requests = Requests::new();
        let ask = requests.on_reload();
        (0..3).for_each(|_| ask());
        assert!(requests.receiver.try_recv().is_ok() && requests.receiver.try_recv().is_err());
    }
}
