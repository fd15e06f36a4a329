//! Arguments of the commands that connect to a server: whether with TLS, whom they trust, and what they show of themselves.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::tls::{Connector, ConnectorFiles};

/// Nothing here leaves the certificate of the server unchecked.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct TlsArgs {
    /// Connect with TLS, and trust the public authorities
    #[arg(long)]
    tls: bool,
    #[command(flatten)]
    pub(super) files: TlsFiles,
}

/// Files in PEM.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct TlsFiles {
    /// Connect with TLS, and trust the authorities in this PEM file instead of the public ones
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// Certificate to show to the server (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(super) cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(super) key: Option<PathBuf>,
}

impl TlsArgs {
    /// What to connect with. `None`: without TLS.
    pub(super) fn connector(&self) -> Result<Option<Connector>, Failure> {
        let TlsFiles { ca_file, cert, key } = &self.files;
        if !self.tls && ca_file.is_none() && cert.is_none() {
            return Ok(None);
        }
        let certificate = cert.as_deref().zip(key.as_deref());
        let files = ConnectorFiles { ca_file: ca_file.as_deref(), certificate };
        Connector::new(files).map(Some).map_err(Failure::Failed)
    }
}
