//! `telemetryx health`: the check of a container whose image has no curl.

use clap::Args;

use super::{Failure, SettingsArgs, print, reachable};
use crate::config::url::Url;
use crate::escape::escape;
use crate::limits;

/// Bytes of an answer that are shown; the server's are far shorter.
const ANSWER_BYTES_MAX: u64 = 4 * 1024;

#[derive(Args)]
pub struct HealthArgs {
    /// Server to ask, such as http://localhost:4640; else server.address of the settings
    pub url: Option<String>,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

/// One GET of /health. Fine with 200 only.
pub fn run(settings: &SettingsArgs, url: Option<&str>) -> Result<(), Failure> {
    let url = match url {
        Some(url) => health_url(url),
        None => {
            let address = reachable(settings.load()?.config.server.address);
            if address.port() == 0 {
                return Err(Failure::Failed(
                    "server.address has port 0, any port: name the one in use, as in `telemetryx health localhost:4640`"
                        .to_owned(),
                ));
            }
            health_url(&address.to_string())
        }
    };
    // It may have a password in it.
    let shown = Url::new(&*url);
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(limits::HEALTH_TIMEOUT))
        .max_redirects(0)
        // A proxy's answer says nothing about the server.
        .proxy(None)
        .build()
        .new_agent();
    let mut answer = agent.get(&url).call().map_err(|error| Failure::Failed(format!("{shown}: {error}")))?;
    let status = answer.status().as_u16();
    let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().unwrap_or_default();
    let body = body.trim_end();
    if status != 200 {
        return Err(Failure::Failed(format!("{shown}: answers {status} {}", escape(body))));
    }
    print(&format!("{body}\n"))
}

/// `host:port`, a base URL or a whole one.
fn health_url(url: &str) -> String {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let host = url.split_once("://").map_or("", |(_, host)| host);
    match host.split_once('/') {
        None | Some((_, "")) => format!("{}/health", url.trim_end_matches('/')),
        Some(_) => url,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_enough_and_a_path_is_kept() {
        for (url, asked) in [
            ("localhost:4640", "http://localhost:4640/health"),
            ("[::1]:4640", "http://[::1]:4640/health"),
            ("http://h", "http://h/health"),
            ("http://h:1/", "http://h:1/health"),
            ("http://h:1/health", "http://h:1/health"),
            ("http://h/behind/proxy/health", "http://h/behind/proxy/health"),
        ] {
            assert_eq!(health_url(url), asked, "{url}");
        }
    }
}
