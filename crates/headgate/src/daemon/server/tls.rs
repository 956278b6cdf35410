//! TLS for `[api] listen`: the certificate, made when there is none, and who may come in.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use headgate_host::Root;
use headgate_host::root::RootError;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Where the certificate is when the configuration names none, below the root.
const OWN: &str = "var/lib/headgate/api.pem";
/// Where those are that it names.
const NAMED: &str = "etc/headgate";
/// From the connection to the end of the handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub(super) enum TlsError {
    #[error(transparent)]
    File(#[from] RootError),
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    #[error("/{0} is no PEM file with a certificate and its key")]
    Pem(String, #[source] rustls::pki_types::pem::Error),
    #[error("the certificate of /{0} cannot be used")]
    Use(String, #[source] rustls::Error),
}

/// The end of a connection that speaks TLS.
#[derive(Clone)]
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    /// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` prints it.
    pub(super) fingerprint: String,
}

impl Tls {
    /// With the certificate of this name below `/etc/headgate`, or with our own. One that is not there is made, for
    /// `address`.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(super) fn open(root: &Root, name: Option<&str>, address: IpAddr) -> Result<Self, TlsError> {
        let file = name.map_or_else(|| OWN.to_owned(), |name| format!("{NAMED}/{name}"));
        let text = match root.read_file(&file) {
            Err(error) if error.is_missing() => make(root, &file, address)?,
            text => text?,
        };
        let pem = |error| TlsError::Pem(file.clone(), error);
        let certificates: Result<Vec<CertificateDer<'static>>, _> =
            CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        let certificates = certificates.map_err(pem)?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(pem)?;
        let first = certificates.first().map(Sha256::digest);
        let bytes: Vec<String> = first.iter().flatten().map(|byte| format!("{byte:02X}")).collect();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key));
        let mut config = config.map_err(|error| TlsError::Use(file, error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), fingerprint: bytes.join(":") })
    }

    /// The handshake; `None`: it failed, or took too long.
    pub(super) async fn accept(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        match tokio::time::timeout(HANDSHAKE_DEADLINE, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(%error, "no TLS");
                None
            }
            Err(_) => None,
        }
    }
}

/// A key and a certificate that it signs itself. Clients pin it: it is not in anybody's store, and does not expire.
fn make(root: &Root, file: &str, address: IpAddr) -> Result<String, TlsError> {
    let host = root.read_machine("proc/sys/kernel/hostname").unwrap_or_default();
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(Some(address).filter(|address| !address.is_unspecified()).map(|address| address.to_string()));
    let host = host.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    names.extend(Some(host.to_owned()).filter(|host| !host.is_empty() && host.chars().all(plain)));
    names.sort();
    names.dedup();
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name.push(DnType::CommonName, "Headgate");
    let key = KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    let text = format!("{}{}", certificate.pem(), key.serialize_pem());
    root.write_file(file, text.as_bytes())?;
    tracing::info!(file, "a certificate was made");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let address = "192.0.2.1".parse().unwrap();
        let first = Tls::open(&root, None, address).unwrap().fingerprint;
        assert_eq!(first.len(), 95);
        assert_eq!(Tls::open(&root, None, address).unwrap().fingerprint, first);
        assert_ne!(Tls::open(&root, Some("api.pem"), address).unwrap().fingerprint, first);
        for path in [OWN, "etc/headgate/api.pem"] {
            let mode = directory.path().join(path).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{path} holds a key");
        }
    }

    #[test]
    fn what_is_no_certificate_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        root.write_file(OWN, b"-----BEGIN CERTIFICATE-----\nx\n").unwrap();
        assert!(matches!(Tls::open(&root, None, "::1".parse().unwrap()), Err(TlsError::Pem(..))));
        assert_eq!(root.read_file(OWN).unwrap(), "-----BEGIN CERTIFICATE-----\nx\n");
    }
}
