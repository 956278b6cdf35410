//! What is to be listened on, besides the Unix socket.

use std::net::SocketAddr;

use headgate_config::Config;

/// The addresses to listen on, besides the Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listen {
    /// For `GET /metrics`.
    pub metrics: Option<SocketAddr>,
    /// For the API over TLS.
    pub api: Option<ListenApi>,
}

/// Where the API is over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenApi {
    /// The address.
    pub address: SocketAddr,
    /// The certificate below `/etc/headgate`; `None`: our own.
    pub certificate: Option<String>,
}

impl Listen {
    /// What the configuration asks for.
    pub(super) fn of(config: &Config) -> Self {
        let metrics = config.metrics.as_ref().and_then(|metrics| metrics.listen);
        let api = config.api.as_ref().and_then(|api| Some((api.listen?, api.certificate.clone())));
        Self { metrics, api: api.map(|(address, certificate)| ListenApi { address, certificate }) }
    }
}
