//! `telemetryx health`: the check of a container whose image has no curl.

use clap::Args;

use super::page::{Page, first_line};
use super::tls_args::TlsFiles;
use super::{Failure, SettingsArgs, print};

/// Bytes of an answer that are printed: a page of metrics of a hundred sinks.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;
/// Characters of an answer in the message of an error.
const ERROR_CHARS_MAX: usize = 1_000;

#[derive(Args)]
pub(super) struct HealthArgs {
    /// Server to query, such as localhost:4640 or https://example.org/telemetryx/health [default: server.address]
    #[arg(value_name = "URL")]
    pub url: Option<String>,
    #[command(flatten)]
    files: TlsFiles,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

/// One GET of /health. `Ok` with status 200 only.
pub(super) fn run(args: &HealthArgs) -> Result<(), Failure> {
    let HealthArgs { url, files, settings } = args;
    let page = Page::new(("health", "health"), url.as_deref(), files, settings, ANSWER_BYTES_MAX)?;
    let (shown, answer) = (&page.shown, page.get()?);
    let body = answer.body.trim_end();
    if answer.status != 200 {
        let text = first_line(body, ERROR_CHARS_MAX);
        return Err(Failure::Failed(format!("{shown}: answers {} {text}", answer.status)));
    }
    print(&format!("{body}\n"))?;
    match answer.incomplete {
        Some(error) => Err(Failure::Failed(format!("{shown}: the answer is incomplete: {error}"))),
        None => Ok(()),
    }
}
