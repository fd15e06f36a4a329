//! Names to addresses, as the other sinks look them up: by the system, within its own timeouts.
//!
//! The client's own resolver asks in a thread of its own for each request, and panics where there can be none.

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Waits for the system. What is left of a request's time is looked at afterwards.
#[derive(Debug, Default)]
pub struct SystemResolver(DefaultResolver);

impl Resolver for SystemResolver {
    fn resolve(&self, uri: &Uri, config: &Config, _timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        // Without a timeout there is no thread.
        self.0.resolve(uri, config, NextTimeout::default())
    }
}
