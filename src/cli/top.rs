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
    let mut source = Source::new(args)?;
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
    token_file: Option<PathBuf>,
}

impl Source {
    fn new(args: &TopArgs) -> Result<Self, Failure> {
        let token = args.token_file.as_deref().map(read_token).transpose().map_err(Failure::Failed)?;
        let page = Page::new(
            ("status.json", "top"),
            args.url.as_deref(),
            &args.files,
            &args.settings,
            STATUS_ANSWER_BYTES_MAX,
        )?;
        Ok(Self { page: page.with_token(token)?, token_file: args.token_file.clone() })
    }

    fn body(&mut self) -> Result<String, Failure> {
        let mut answer = self.page.get()?;
        // The server may have been given another token meanwhile, and the file of this command with it.
        if answer.status == 401
            && let Some(Ok(token)) = self.token_file.as_deref().map(read_token)
            && self.page.take_other_token(token)
        {
            answer = self.page.get()?;
        }
        let failed = |why: String| Failure::Failed(format!("{}: {why}", self.page.shown));
        let Answer { status, body, incomplete } = answer;
        match (status, incomplete) {
            (200, None) => Ok(body),
            (200, Some(error)) => Err(failed(format!("the answer is incomplete: {error}"))),
            (status, _) => Err(failed(format!("answers {status}: {}{}", error_of(&body), self.hint(status)))),
        }
    }

    fn hint(&self, status: u16) -> &'static str {
        match status {
            401 if self.token_file.is_none() => "; name a file that contains it with --token-file",
            404 => "; perhaps this is not a telemetryx server, or an older one",
            _ => "",
        }
    }

    fn ask(&mut self) -> Result<Status, Failure> {
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
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use clap::Parser;

    use super::*;

    /// A server that accepts the token `second`: another one was, until a reload.
    fn serve(listener: &TcpListener) {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
            let is_known = head.iter().any(|line| line.eq_ignore_ascii_case("authorization: Bearer second"));
            let (status, body) = if is_known { (200, "{}") } else { (401, r#"{"error":"not the token"}"#) };
            let length = body.len();
            write!(stream, "HTTP/1.1 {status} t\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
                .unwrap();
        }
    }

    #[test]
    fn a_token_that_is_not_accepted_any_more_is_read_again() {
        #[derive(Parser)]
        struct Cli {
            #[command(flatten)]
            args: TopArgs,
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pages");
        std::fs::write(&file, "first\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || serve(&listener));
        let args = Cli::parse_from(["top", &url, "--token-file", file.to_str().unwrap()]).args;
        let mut source = Source::new(&args).unwrap();
        let refused = |source: &mut Source| source.body().unwrap_err().to_string();
        assert!(refused(&mut source).contains("answers 401: not the token"));
        std::fs::remove_file(&file).unwrap();
        assert!(refused(&mut source).contains("answers 401: not the token"));
        std::fs::write(&file, "second\n").unwrap();
        assert_eq!(source.body().unwrap(), "{}");
    }

    #[test]
    fn the_error_of_an_answer_is_shown_escaped() {
        assert_eq!(error_of(r#"{"error":"send a token"}"#), "send a token");
        assert!(!error_of("\x1b[2Jgone").contains('\x1b'));
        assert_eq!(error_of("\n<html>\n<body>Not here"), "<html> …");
    }
}
