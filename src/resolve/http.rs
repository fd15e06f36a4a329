//! [`super::addresses`] for the HTTP client.
//!
//! The client's own resolver asks in a thread of its own for each request, and panics where no thread can be created.

use std::io;

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// Waits for the system. What is left of a request's time is checked afterwards.
#[derive(Debug, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().ok_or(Error::HostNotFound)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let addresses = super::addresses(host, port).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::HostNotFound,
            _ => Error::Io(error),
        })?;
        let mut found = self.empty();
        addresses.into_iter().take(ADDRESSES_MAX).for_each(|address| found.push(address));
        Ok(found)
    }
}
