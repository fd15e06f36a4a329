//! `telemetryx top`: the state of a running server in a terminal, from its `/status.json`.

mod live;
mod units;
mod view;

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;

use super::page::{Answer, Page, first_line};
use super::terminal::{self, fit};
use super::tls_args::TlsFiles;
use super::{Failure, SettingsArgs, print, read_token};
use crate::escape::escape;
use crate::limits::STATUS_ANSWER_BYTES_MAX;
use crate::status::Status;
use view::View;

/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(1);
/// Characters of an answer in an error.
const ERROR_CHARS_MAX: usize = 500;

#[derive(Args)]
pub(super) struct TopArgs {
    /// Server to query, such as localhost:4640 or https://example.org/telemetryx/ [default: server.address]
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// File that contains the token for the pages of the server (server.pages_token_file)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the state once, with the rates of one second, and exit; the default where the output is not a terminal
    #[arg(long)]
    once: bool,
    /// Print the answer of the server as JSON, and exit
    #[arg(long, conflicts_with = "once")]
    json: bool,
    #[command(flatten)]
    files: TlsFiles,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

/// Until `q` or Ctrl-C, or once.
pub(super) fn run(args: &TopArgs) -> Result<(), Failure> {
    let source = Source::new(args)?;
    if args.json {
        let body = source.body()?;
        return print(&format!("{}\n", body.trim_end()));
    }
    let first = source.ask()?;
    if !args.once && stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|name| name != "dumb") {
        return live::show(source, first)
            .map_err(|error| Failure::Failed(format!("the terminal cannot be used: {error}")));
    }
    thread::sleep(INTERVAL);
    let now = source.ask()?;
    let columns = terminal::columns();
    let lines = View { before: &first, now: &now, server: &source.page.shown, trouble: None }.lines(columns);
    print(&lines.iter().map(|line| format!("{}\n", line.text)).collect::<String>())
}

/// Where the answers come from.
struct Source {
    page: Page,
    has_token: bool,
}

impl Source {
    fn new(args: &TopArgs) -> Result<Self, Failure> {
        let token = args.token_file.as_deref().map(read_token).transpose().map_err(Failure::Failed)?;
        let (url, has_token) = (args.url.as_deref(), token.is_some());
        let page = Page::new(("status.json", "top"), url, &args.files, &args.settings, STATUS_ANSWER_BYTES_MAX)?;
        Ok(Self { page: page.with_token(token)?, has_token })
    }

    fn body(&self) -> Result<String, Failure> {
        let failed = |why: String| Failure::Failed(format!("{}: {why}", self.page.shown));
        let Answer { status, body, incomplete } = self.page.get()?;
        match (status, incomplete) {
            (200, None) => Ok(body),
            (200, Some(error)) => Err(failed(format!("the answer is incomplete: {error}"))),
            (status, _) => Err(failed(format!("answers {status}: {}{}", error_of(&body), self.hint(status)))),
        }
    }

    fn hint(&self, status: u16) -> &'static str {
        match status {
            401 if !self.has_token => "; name a file that contains it with --token-file",
            404 => "; perhaps this is not a telemetryx server, or an older one",
            _ => "",
        }
    }

    fn ask(&self) -> Result<Status, Failure> {
        serde_json::from_str(&self.body()?).map_err(|error| {
            Failure::Failed(format!("{}: the answer is not the status of a server: {error}", self.page.shown))
        })
    }
}

/// The `error` of an answer, or the first line of the answer.
fn error_of(body: &str) -> String {
    let error = serde_json::from_str::<serde_json::Value>(body).ok();
    let error = error.as_ref().and_then(|body| body["error"].as_str());
    error.map_or_else(|| first_line(body, ERROR_CHARS_MAX), |error| fit(&escape(error), ERROR_CHARS_MAX).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_an_answer_is_shown_escaped() {
        assert_eq!(error_of(r#"{"error":"send a token"}"#), "send a token");
        assert!(!error_of("\x1b[2Jgone").contains('\x1b'));
        assert_eq!(error_of("\n<html>\n<body>Not here"), "<html> …");
    }
}
