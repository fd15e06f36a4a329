//! A service of the user's, in Python or anything else: `telemetryx.v1.Sink.Deliver` of proto/events.proto.
//!
//! ```text
//!  delivery ─▶ parts (≤ 1 MiB, ≤ 10,000 events) ─▶ Deliver ─▶ verdicts: refused here, all others taken ─▶ next part
//!                                                 in_flight   retry_after_ms: nothing taken
//!                                                 at a time   a status: nothing taken (see `errors`)
//! ```
//!
//! **At least once.** The receiver keeps no position for the router; (server_id, position) of every event lets it
//! recognise what it has already. What was taken of a delivery that failed elsewhere is remembered, and left out when
//! the rest comes again.
//!
//! **HTTP/2.** The library takes a connection for established before the receiver has sent anything. So a connection
//! without TLS is preceded by one that only asks for the receiver's first frame (`preface`).
//!
//! **Time.** Each request has its deadline, the connection its own; nothing else waits. A runtime of this thread turns
//! during these waits only, and dies with its connection.

mod encode;
mod errors;
mod preface;
mod settings;
#[cfg(all(test, feature = "sqlite"))]
mod tests;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use self::encode::{DeliverCodec, Head, Part};
pub use self::settings::{GrpcSettings, KIND};
use super::{Failure, Identity, Refusal, Sink, Unavailable, tls};
use crate::batch::Delivery;
use crate::event::proto::DeliverResponse;
use crate::limits;
use crate::resolve;
use crate::small_file::Kinds;
use crate::text::cut;

const METHOD: &str = "/telemetryx.v1.Sink/Deliver";

/// The sink, with its connection.
pub struct Grpc {
    settings: Arc<GrpcSettings>,
    head: Arc<Head>,
    connection: Option<Connection>,
    /// Of the delivery in hand: positions that the receiver has answered for. As many ranges as a delivery has parts.
    taken: Vec<RangeInclusive<u64>>,
}

struct Connection {
    /// Taken by drop only.
    runtime: Option<Runtime>,
    channel: Channel,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Does not wait for a name that is still being looked up.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What the requests of one delivery have come to.
#[derive(Default)]
struct Outcome {
    refusals: Vec<Refusal>,
    taken: Vec<RangeInclusive<u64>>,
    /// The one that weighs most.
    failure: Option<Failure>,
}

impl Outcome {
    fn add(&mut self, positions: RangeInclusive<u64>, answer: Result<Vec<Refusal>, Failure>) {
        match answer {
            Ok(refusals) => {
                self.refusals.extend(refusals);
                self.taken.push(positions);
            }
            Err(failure) => {
                let weight = |failure: &Failure| match failure {
                    Failure::Unavailable(Unavailable::Down { .. }) => 2,
                    Failure::Unavailable(Unavailable::Retry { .. }) => 1,
                    _ => 0,
                };
                if self.failure.as_ref().is_none_or(|known| weight(known) < weight(&failure)) {
                    self.failure = Some(failure);
                }
            }
        }
    }
}

/// The receiver's. Where its host is `localhost` and the system does not know it (no `/etc/hosts`), the address stands for it;
/// the receiver is asked by its name all the same.
fn endpoint(uri: Uri) -> Endpoint {
    let address = uri.host().and_then(resolve::unknown_localhost);
    let by_address = address.and_then(|address| {
        let port = uri.port_u16().map_or_else(String::new, |port| format!(":{port}"));
        let authority = format!("{address}{port}");
        Uri::builder().scheme(uri.scheme_str()?).authority(authority).path_and_query("/").build().ok()
    });
    match by_address {
        Some(by_address) => Endpoint::from(by_address).origin(uri),
        None => Endpoint::from(uri),
    }
}

impl Grpc {
    /// A sink that is not connected. `sink`: its name, sent with each request.
    pub fn new(sink: &str, settings: &GrpcSettings, identity: &Identity) -> Self {
        let head = Head { server_id: identity.server_id, sink: sink.to_owned() };
        Self { settings: Arc::new(settings.clone()), head: Arc::new(head), connection: None, taken: Vec::new() }
    }

    fn open(&self) -> Result<Connection, Unavailable> {
        let down = |why: String| Unavailable::down(format!("{}: {why}", self.settings.place()));
        let retry = |why: String| Unavailable::retry(format!("{}: {why}", self.settings.place()));
        let uri = &self.settings.uri;
        let is_encrypted = self.settings.is_encrypted();
        if !is_encrypted {
            // With TLS the handshake agrees on HTTP/2.
            let patience = self.settings.deadline.min(limits::STORE_CONNECT_TIMEOUT);
            preface::check(uri, patience).map_err(|error| error.unavailable(self.settings.place()))?;
        }
        let mut endpoint = endpoint(uri.clone())
            .user_agent(concat!("telemetryx/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| down(error.to_string()))?
            .connect_timeout(limits::STORE_CONNECT_TIMEOUT)
            .tcp_keepalive(Some(limits::STORE_KEEPALIVE_IDLE));
        if is_encrypted {
            let roots = tls::roots(self.settings.ca_file.as_deref(), Kinds::Regular).map_err(down)?.roots;
            let name = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
            let config = ClientTlsConfig::new().trust_anchors(roots).domain_name(name);
            endpoint = endpoint.tls_config(config).map_err(|error| down(error.to_string()))?;
        }
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| retry(error.to_string()))?;
        let connected =
            runtime.block_on(async { tokio::time::timeout(limits::STORE_CONNECT_TIMEOUT, endpoint.connect()).await });
        match connected {
            Ok(Ok(channel)) => Ok(Connection { runtime: Some(runtime), channel }),
            Ok(Err(error)) => {
                runtime.shutdown_background();
                Err(errors::unconnected(self.settings.place(), &error, |text| self.settings.hide(text)))
            }
            Err(_) => {
                runtime.shutdown_background();
                let seconds = limits::STORE_CONNECT_TIMEOUT.as_secs();
                Err(retry(format!("no connection within {seconds} s")))
            }
        }
    }

    /// How the requests of the delivery in hand are made.
    fn call(&self, channel: &Channel) -> Call {
        Call {
            client: tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(limits::GRPC_ANSWER_BYTES_MAX),
            settings: self.settings.clone(),
        }
    }
}

impl Sink for Grpc {
    fn probe(&mut self) -> Result<(), Unavailable> {
        self.open().map(drop)
    }

    fn connect(&mut self) -> Result<Option<u64>, Unavailable> {
        self.connection = None;
        self.connection = Some(self.open()?);
        Ok(None)
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        self.taken.retain(|positions| *positions.end() >= delivery.first_position());
        let parts = encode::parts(&self.head, delivery, &self.taken);
        let Some(Connection { runtime: Some(runtime), channel }) = &self.connection else {
            return Err(Unavailable::retry(format!("{}: not connected", self.settings.place())).into());
        };
        let call = self.call(channel);
        let outcome = runtime.block_on(deliver_all(parts, &call, self.settings.in_flight));
        self.taken.extend(outcome.taken);
        if !outcome.refusals.is_empty() {
            // First of all: what failed beside it comes again without them.
            return Err(Failure::Refused(outcome.refusals));
        }
        match outcome.failure {
            None => {
                // What lies behind it is of a larger delivery, of which this is a part.
                self.taken.retain(|positions| *positions.end() > delivery.last_position());
                Ok(())
            }
            Some(failure) => {
                if matches!(failure, Failure::Unavailable(_)) {
                    self.connection = None;
                }
                Err(failure)
            }
        }
    }
}

/// Sends the parts in order, `in_flight` at a time. After a failure no further one is begun; those on their way are
/// waited for, so that it is known what was taken.
async fn deliver_all(parts: Vec<Part>, call: &Call, in_flight: usize) -> Outcome {
    let mut outcome = Outcome::default();
    let mut parts = parts.into_iter();
    let mut calls = JoinSet::new();
    loop {
        while outcome.failure.is_none() && calls.len() < in_flight.max(1) {
            let Some(part) = parts.next() else { break };
            calls.spawn(call.clone().deliver(part));
        }
        match calls.join_next().await {
            None => break,
            Some(Ok((positions, answer))) => outcome.add(positions, answer),
            Some(Err(error)) => {
                outcome.failure = Some(Unavailable::retry(format!("{}: {error}", call.settings.place())).into())
            }
        }
    }
    outcome.refusals.sort_unstable_by_key(|refusal| refusal.position);
    outcome
}

/// How to make one call.
#[derive(Clone)]
struct Call {
    client: tonic::client::Grpc<Channel>,
    settings: Arc<GrpcSettings>,
}

impl Call {
    /// The positions of the part, and the refused events among them.
    async fn deliver(self, part: Part) -> (RangeInclusive<u64>, Result<Vec<Refusal>, Failure>) {
        let (range, events) = (part.positions(), part.events());
        let positions = part.position_of_each();
        let settings = self.settings.clone();
        let (deadline, place) = (settings.deadline, settings.place());
        let answer = match tokio::time::timeout(deadline, self.send(part)).await {
            Ok(answer) => answer,
            Err(_) => Err(Unavailable::retry(format!("{place}: no answer within {} ms", deadline.as_millis())).into()),
        };
        let hide = |text: &str| settings.hide(text);
        (range, answer.and_then(|response| refusals(place, response, events, positions, hide)))
    }

    async fn send(mut self, part: Part) -> Result<DeliverResponse, Failure> {
        let mut request = tonic::Request::new(part);
        // A little more than it gets: its end, too, is to have our words.
        request.set_timeout(self.settings.deadline + Duration::from_secs(1));
        if let Some(authorization) = &self.settings.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        let hide = |text: &str| self.settings.hide(text);
        self.client.ready().await.map_err(|error| errors::unconnected(self.settings.place(), &error, hide))?;
        let path = PathAndQuery::from_static(METHOD);
        let answer = self.client.unary(request, path, DeliverCodec).await;
        let answer = answer.map_err(|status| errors::failure(self.settings.place(), &status, hide))?;
        answer
            .into_inner()
            .map_err(|error| broken(self.settings.place(), &format!("its answer is not a DeliverResponse ({error})")))
    }
}

fn broken(place: &str, why: &str) -> Failure {
    Unavailable::down(format!("{place}: the receiver is broken: {why}")).into()
}

/// What the receiver has refused of a request with so many events; `positions` are theirs, by index. `hide` leaves the
/// token out of a text, which the receiver may quote.
fn refusals(
    place: &str,
    response: DeliverResponse,
    events: usize,
    positions: impl Iterator<Item = u64>,
    hide: impl Fn(&str) -> String,
) -> Result<Vec<Refusal>, Failure> {
    if response.retry_after_ms > 0 {
        let after = Duration::from_millis(response.retry_after_ms.into()).min(limits::RETRY_AFTER_MAX);
        let reason = format!("{place}: the receiver asks to be tried again after {} ms", response.retry_after_ms);
        return Err(Unavailable::Retry { reason, after: Some(after) }.into());
    }
    let mut verdicts = response.verdicts;
    verdicts.sort_unstable_by_key(|verdict| verdict.index);
    let mut positions = positions.enumerate();
    let mut refusals = Vec::with_capacity(verdicts.len());
    for verdict in verdicts {
        let index = usize::try_from(verdict.index).unwrap_or(usize::MAX);
        if index >= events {
            return Err(broken(
                place,
                &format!("a verdict names event {index}, the request has {events} (the first is 0)"),
            ));
        }
        // Both go up: an index that has gone by was there before.
        let Some((_, position)) = positions.find(|(at, _)| *at == index) else {
            return Err(broken(place, &format!("two verdicts name event {index}")));
        };
        // Hidden before it is cut: a part of the token would not be found.
        let (code, reason) = (hide(&verdict.code), hide(&verdict.reason));
        let code = match cut(&code, limits::GRPC_CODE_BYTES_MAX) {
            "" => "REFUSED".to_owned(),
            code => code.to_owned(),
        };
        let reason = cut(&reason, limits::REFUSAL_REASON_BYTES_MAX).to_owned();
        refusals.push(Refusal { position, code, reason });
    }
    Ok(refusals)
}
