//! CPU profiles of the server: who may have them, for how long they are taken, and their answers, which come later.
//!
//! A client that waits for a profile keeps its connection open in both directions: closing it ends the profile.

use std::time::{Duration, Instant};

use super::connection::{Connection, Ending, State};
use super::head::Head;
use super::pages::{self, Denied};
use super::response::{Answer, Refusal};
use super::{Ingress, otlp::Encoding};
use crate::limits::{PROFILE_NAMES_TIMEOUT, PROFILE_SECONDS_DEFAULT, PROFILE_SECONDS_MAX};
use crate::profiling::{Format, NotBegun, Order, Outcome, Pending};

/// Header fields of a flamegraph: its script may zoom, and reach nothing else.
const FIELDS_OF_FLAMEGRAPH: &str = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
    Content-Security-Policy: default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; sandbox allow-scripts\r\n";
/// Header fields of a profile for pprof.
const FIELDS_OF_PROTOBUF: &str = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
    Content-Disposition: attachment; filename=\"profile.pb.gz\"\r\n";

/// A request whose profile is being taken.
pub(super) struct Profile {
    pending: Pending,
    format: Format,
    close: bool,
    /// When its client is not kept waiting any longer.
    pub deadline: Instant,
}

impl Profile {
    /// How its answer ends.
    fn ending(&self) -> Ending<'static> {
        Ending {
            close: self.close,
            head_only: false,
            method: "GET",
            path: path(self.format),
            encoding: Encoding::Native,
        }
    }
}

/// The path of profiles in this format.
pub(super) fn path(format: Format) -> &'static str {
    match format {
        Format::Protobuf => "/debug/pprof/profile",
        Format::Flamegraph => "/debug/pprof/flamegraph",
    }
}

/// Begins to take the profile that a request asks for.
///
/// # Errors
/// 404 where the server cannot take any; 421, 403, 401; 503 while draining; 400 for the query; 429 while another one is taken; 503.
fn begin(format: Format, head: &Head<'_>, ingress: &mut impl Ingress) -> Result<(Order, Pending), Refusal> {
    if !ingress.takes_profiles() {
        return Err(Refusal::new(
            404,
            "this server was built without profiles: build it with `--features profiling` to take some",
        ));
    }
    pages::check_host(head, ingress)?;
    ingress.may_profile(head.bearer.map(str::as_bytes)).map_err(denied)?;
    if ingress.draining() {
        return Err(Refusal::new(
            503,
            "the server is shutting down, or has too many connections: no profile was taken",
        ));
    }
    let order = Order { format, time: time(head.query)? };
    let pending = ingress.begin_profile(order).map_err(not_begun)?;
    Ok((order, pending))
}

fn denied(denied: Denied) -> Refusal {
    match denied {
        Denied::NotSet => Refusal::new(
            403,
            "profiles require the token of server.pages_token_file, and none is set: set it and run `telemetryx reload`",
        ),
        denied => denied.into(),
    }
}

fn not_begun(why: NotBegun) -> Refusal {
    match why {
        NotBegun::Busy { wait } => {
            let seconds = wait.as_secs() + 1;
            let error =
                format!("another profile is being taken, and there is one at a time: ask again after {seconds} s");
            Refusal { retry_after: Some(seconds), ..Refusal::new(429, error) }
        }
        NotBegun::Failed(why) => Refusal::new(503, why),
    }
}

/// How long samples are taken: `?seconds=`.
fn time(query: Option<&str>) -> Result<Duration, Refusal> {
    let mut seconds = None;
    for parameter in query.unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("seconds", value)) if seconds.is_none() => {
                let known = value.parse().ok().filter(|seconds| (1..=PROFILE_SECONDS_MAX).contains(seconds));
                // The value is the peer's: it is not repeated.
                seconds = Some(known.ok_or_else(|| {
                    Refusal::malformed(format!("`seconds` must be a whole number from 1 to {PROFILE_SECONDS_MAX}"))
                })?);
            }
            _ => return Err(Refusal::malformed("the query may have the parameter `seconds`, once")),
        }
    }
    Ok(Duration::from_secs(seconds.unwrap_or(PROFILE_SECONDS_DEFAULT)))
}

impl Connection {
    /// Answers a GET of a profile with an error, or begins to take it.
    pub(super) fn profile(
        &mut self,
        (format, head, ending): (Format, &Head<'_>, Ending<'_>),
        now: Instant,
        ingress: &mut impl Ingress,
        out: &mut Vec<u8>,
    ) {
        match begin(format, head, ingress) {
            Ok((order, pending)) => {
                let deadline = now + order.time + PROFILE_NAMES_TIMEOUT;
                self.state = State::Profile(Profile { pending, format, close: ending.close, deadline });
            }
            Err(refusal) => self.refuse(&refusal, ending, now, ingress, out),
        }
    }

    /// Whether a profile is being taken for this connection: nothing is consumed meanwhile. Where the peer closes its half, drop the
    /// connection, which ends the profile.
    pub fn waits_for_profile(&self) -> bool {
        matches!(self.state, State::Profile(_))
    }

    /// Answers once the profile is there. Then offer what is left to [`Connection::receive`].
    pub fn look_at_profile(&mut self, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) {
        let State::Profile(profile) = &mut self.state else { return };
        let Some(outcome) = profile.pending.take() else { return };
        self.answer_profile(outcome, now, ingress, out);
    }

    fn answer_profile(&mut self, outcome: Outcome, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) {
        let State::Profile(profile) = &self.state else { return };
        let ending = profile.ending();
        let (content_type, fields) = match profile.format {
            Format::Protobuf => ("application/octet-stream", FIELDS_OF_PROTOBUF),
            Format::Flamegraph => ("image/svg+xml", FIELDS_OF_FLAMEGRAPH),
        };
        match outcome {
            Ok(body) => {
                let answer = Answer { content_type, fields, ..Answer::json(200, &body, ending.close) };
                self.answer(answer, now, ingress, out);
            }
            Err(error) => self.refuse(&Refusal::new(503, error), ending, now, ingress, out),
        }
    }

    /// Ends a profile whose request is answered with an error. Does nothing elsewhere.
    pub(super) fn end_profile(
        &mut self,
        (status, error): (u16, &'static str),
        now: Instant,
        ingress: &mut impl Ingress,
        out: &mut Vec<u8>,
    ) {
        if let State::Profile(profile) = &self.state {
            let ending = profile.ending();
            self.refuse(&Refusal::new(status, error), ending, now, ingress, out);
        }
    }
}
