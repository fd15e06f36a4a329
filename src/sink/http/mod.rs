//! POST to a service over HTTP/1.1: at least once, deduplicated by positions.
//!
//! ```text
//!  delivery ─▶ body (JSON array, NDJSON, EventBatch; perhaps gzip) ─▶ POST url, Telemetryx-Positions: 1-4,6-9
//!                                                                        │
//!   2xx stored ◀──┬── 400, 413, 422 refused: the router halves ◀─────────┴─▶ 3xx, other 4xx, 501, 505, TLS: down
//!                 └── 408, 425, 429, 5xx, broken, silent: again, after Retry-After
//! ```
//!
//! **Positions** are in the router's file: whether a service has stored something, it alone knows. A delivery whose answer
//! was lost is sent again, and so is one that was halved meanwhile. A service that must not store an event twice keeps,
//! for each `Telemetryx-Server-Id`, the positions that it has: the n-th event of the body has the n-th position of
//! `Telemetryx-Positions`. That is a list of ranges, `first-last` with commas between them; more than one only where an
//! event in the middle was refused before.
//!
//! **Connections** are kept and used again after an answer that was read whole; after trouble there is a new one.

mod early_answer;
mod encode;
mod errors;
mod settings;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use ureq::Agent;
use ureq::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::transport::{Connector, RustlsConnector, TcpConnector};

use self::early_answer::EarlyAnswers;
use self::errors::{Answer, unavailable};
pub use self::settings::{Format, HttpSettings, KIND};
use super::{Failure, Identity, Sink, Unavailable, connection_advice, tls, uuid, with_advice};
use crate::batch::Delivery;
use crate::limits;
use crate::resolve::{self, http::SystemResolver};
use crate::small_file::Kinds;

const USER_AGENT: &str = concat!("telemetryx/", env!("CARGO_PKG_VERSION"));
const SERVER_ID: &str = "telemetryx-server-id";
const POSITIONS: &str = "telemetryx-positions";

/// The sink, with its HTTP client.
pub struct Http {
    settings: HttpSettings,
    server_id: [u8; 16],
    client: Option<Client>,
}

/// What [`Sink::connect`] prepares: nothing is sent yet.
struct Client {
    agent: Agent,
    early_answers: EarlyAnswers,
}

impl Http {
    /// A sink that has sent nothing yet.
    pub fn new(settings: &HttpSettings, identity: &Identity) -> Self {
        Self { settings: settings.clone(), server_id: identity.server_id, client: None }
    }

    fn down(&self, reason: &str) -> Unavailable {
        Unavailable::down(format!("{}: {reason}", self.settings.place()))
    }

    fn client(&self) -> Result<Client, Unavailable> {
        let roots = match &self.settings.ca_file {
            None => RootCerts::WebPki,
            Some(path) => {
                let authorities = tls::authorities(path, Kinds::Regular).map_err(|why| self.down(&why))?;
                let certificates: Vec<_> =
                    authorities.iter().map(|authority| Certificate::from_der(authority).to_owned()).collect();
                RootCerts::Specific(Arc::new(certificates))
            }
        };
        let tls = TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(tls::provider()).build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(USER_AGENT)
            .accept("")
            .max_response_header_size(limits::HTTP_HEAD_BYTES_MAX)
            .timeout_global(Some(self.settings.timeout))
            .timeout_connect(Some(limits::STORE_CONNECT_TIMEOUT))
            .tls_config(tls)
            .build();
        let early_answers = EarlyAnswers::default();
        let connector =
            ().chain(TcpConnector::default()).chain(early_answers.clone()).chain(RustlsConnector::default());
        let agent = Agent::with_parts(config, connector, SystemResolver);
        Ok(Client { agent, early_answers })
    }
}

impl Sink for Http {
    /// Whether a server listens there; no request is sent.
    fn probe(&mut self) -> Result<(), Unavailable> {
        self.client()?;
        let uri = &self.settings.uri;
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let refused = |error: io::Error| {
            let reason = with_advice(&error.to_string(), connection_advice(&error));
            Unavailable::retry(format!("{}: {reason}", self.settings.place()))
        };
        resolve::connect(host, port, limits::STORE_CONNECT_TIMEOUT).map(drop).map_err(refused)
    }

    fn probed(&self) -> &'static str {
        "reachable (the service itself is not asked)"
    }

    fn connect(&mut self) -> Result<Option<u64>, Unavailable> {
        self.client = None;
        self.client = Some(self.client()?);
        Ok(None)
    }

    fn reach(&mut self) -> Result<(), Unavailable> {
        self.probe()
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let positions = delivery.position_ranges();
        if positions.is_empty() {
            return Ok(());
        }
        if positions.len() > limits::HTTP_POSITION_RANGES_MAX {
            // Halved until it fits: one event is one range.
            let reason = "more ranges of positions than fit into a header".to_owned();
            return Err(Failure::BatchRefused { code: "POSITIONS".to_owned(), reason });
        }
        let HttpSettings { uri, format, gzip, headers, .. } = &self.settings;
        let Some(Client { agent, early_answers }) = &self.client else {
            return Err(Unavailable::retry(format!("{}: not connected", self.settings.place())).into());
        };
        let body = encode::encode(*format, *gzip, &self.server_id, delivery)
            .map_err(|error| Unavailable::retry(error.to_string()))?;
        let mut request = agent
            .post(uri)
            .header(CONTENT_TYPE, format.media_type())
            .header(SERVER_ID, uuid(&self.server_id))
            .header(POSITIONS, encode::header(&positions));
        if *gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        early_answers.take_cut_short();
        match request.send(&body[..]) {
            Ok(response) => {
                Answer::read(response, early_answers.take_cut_short(), &self.settings).verdict(&self.settings)
            }
            Err(error) => Err(unavailable(&error, &self.settings).into()),
        }
    }
}
