//! TLS of `https`: what the files say, and one handshake.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use headgate_config::model::HealthTls;
use headgate_host::Root;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where the files of a check are.
const DIRECTORY: &str = "etc/headgate";
/// The system's authorities: of Debian and its kin, of Fedora and its kin.
const SYSTEM: [&str; 2] = ["etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt"];

/// Everything of a check that makes a configuration another one.
type Key = (bool, Option<String>, Option<String>, Option<String>);

/// Configurations by what they are made of, or why there is none.
#[derive(Debug, Default)]
pub(super) struct Configurations(BTreeMap<Key, Result<Arc<ClientConfig>, String>>);

/// How to talk TLS with one backend.
#[derive(Debug)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Configurations {
    pub(super) fn read<'a>(root: &Root, wanted: impl Iterator<Item = &'a HealthTls>) -> Self {
        let mut all = Self::default();
        for tls in wanted {
            all.0.entry(key(tls)).or_insert_with(|| configuration(root, tls).map(Arc::new));
        }
        all
    }

    /// The name is `server-name`, else `host`, else the address.
    pub(super) fn of(&self, tls: &HealthTls, host: Option<&str>, address: IpAddr) -> Result<Tls, String> {
        let config = self.0.get(&key(tls)).cloned().unwrap_or_else(|| Err("its files were not read".to_owned()))?;
        let host = host.map(|host| match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        });
        let name = match tls.server_name.as_deref().or(host) {
            Some(name) => ServerName::try_from(name.trim_matches(['[', ']']).to_owned())
                .map_err(|_| format!("{name:?} is no name that a certificate could have"))?,
            None => address.into(),
        };
        Ok(Tls { config, name })
    }
}

impl Tls {
    pub(super) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(self.config.clone()).connect(self.name.clone(), stream).await
    }
}

fn key(tls: &HealthTls) -> Key {
    (tls.verify, tls.ca.clone(), tls.client_certificate.clone(), tls.client_key.clone())
}

fn configuration(root: &Root, tls: &HealthTls) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let builder = match tls.verify {
        true => builder.with_root_certificates(authorities(root, tls.ca.as_deref())?),
        false => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider))),
    };
    let mut config = match (&tls.client_certificate, &tls.client_key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate, &read(root, certificate)?)?;
            let secret = PrivateKeyDer::from_pem_slice(&read(root, key)?)
                .map_err(|error| format!("{key} holds no private key: {error}"))?;
            let with = builder.with_client_auth_cert(chain, secret);
            with.map_err(|error| format!("{certificate} and {key} cannot be used: {error}"))?
        }
        _ => builder.with_no_client_auth(),
    };
    // A session that is resumed shows no certificate: one that has expired would go on passing.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn authorities(root: &Root, ca: Option<&str>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    match ca {
        Some(ca) => {
            for certificate in certificates(ca, &read(root, ca)?)? {
                store.add(certificate).map_err(|error| format!("{ca} holds no authority: {error}"))?;
            }
        }
        None => {
            for bytes in SYSTEM.iter().filter_map(|path| root.read_file_bytes(path).ok()) {
                store.add_parsable_certificates(CertificateDer::pem_slice_iter(&bytes).flatten());
            }
            if store.is_empty() {
                return Err(format!("the system has no authorities in /{}; give tls.ca", SYSTEM.join(" or /")));
            }
        }
    }
    Ok(store)
}

fn read(root: &Root, file: &str) -> Result<Vec<u8>, String> {
    root.read_file_bytes(format!("{DIRECTORY}/{file}")).map_err(|error| crate::explain(&error))
}

fn certificates(file: &str, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let read = read.map_err(|error| format!("{file} holds no certificate: {error}"))?;
    if read.is_empty() { Err(format!("{file} holds no certificate")) } else { Ok(read) }
}

/// Takes any certificate, and yet no connection with somebody who does not have its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
