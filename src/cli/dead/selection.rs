//! Which letters a command is about.

use clap::Args;

use crate::event::rfc3339;
use crate::router::dead::{Content, ReadLetter};
use crate::settings::parse_duration;
use crate::time::now_unix_nano;

/// Of all sinks, or of one.
#[derive(Debug, Default, Args)]
pub(crate) struct Which {
    /// Only letters of this sink; `ingest` for events that were rejected on receipt
    #[arg(long, value_name = "NAME")]
    pub sink: Option<String>,
    #[command(flatten)]
    pub selection: Selection,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Args)]
pub(crate) struct Selection {
    /// Only letters with this code, such as 23514
    #[arg(long)]
    code: Option<String>,
    /// Only letters received at or after this RFC 3339 time, or time ago such as 1h
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<u64>,
    /// Only letters received before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<u64>,
    /// Only the letter of the event at this position
    #[arg(long, value_name = "N")]
    position: Option<u64>,
}

impl Which {
    pub(crate) fn is_everything(&self) -> bool {
        self.sink.is_none() && self.selection == Selection::default()
    }
}

impl Selection {
    /// What to print where no letter is selected.
    pub(crate) fn none(&self) -> String {
        match self.position {
            Some(position) if (Self { position: None, ..self.clone() }) == Self::default() => {
                format!("no dead letter of position {position}\n")
            }
            _ if *self == Self::default() => "no dead letters\n".to_owned(),
            _ => "no dead letters match: without filters, others may be listed\n".to_owned(),
        }
    }

    /// A letter without a time fits no bound of time.
    pub(crate) fn wants(&self, letter: &ReadLetter<'_>) -> bool {
        let position = match letter.content {
            Content::Event { position, .. } => Some(position),
            Content::Frame { .. } => None,
        };
        self.code.as_ref().is_none_or(|code| *code == letter.code)
            && self.position.is_none_or(|wanted| position == Some(wanted))
            && self.since.is_none_or(|since| letter.time_unix_nano.is_some_and(|time| time >= since))
            && self.until.is_none_or(|until| letter.time_unix_nano.is_some_and(|time| time < until))
    }
}

/// `2026-11-24T08:00:00Z`, `1h` or `1h ago`, in nanoseconds since 1970.
fn moment(text: &str) -> Result<u64, String> {
    if let Some(ago) = parse_duration(text.trim_end_matches("ago").trim_end()) {
        let ago = u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX);
        return Ok(now_unix_nano().saturating_sub(ago));
    }
    rfc3339::parse(text).map_err(|error| format!("{error}; or write a time ago, such as 1h or 7d"))
}
