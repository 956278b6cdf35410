//! Where an update comes from: a file, standard input, a server, or the stick.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use headgate_update::disk;
use headgate_update::stick::{self, Mounted, StickError};
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// To a server that answers at all.
const CONNECT: Duration = Duration::from_secs(15);
/// Between two pieces of what it sends; how long all of it takes is for the network to say.
const STALL: Duration = Duration::from_secs(60);
/// Where the stick is mounted while its update is read.
const MOUNT_POINT: &str = "/run/headgate/mount/update";
const EXTENSION: &str = "update";

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server does not give it.
    #[error("cannot get {url}")]
    Get {
        /// Where from.
        url: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// The file with certificates holds none.
    #[error("{} holds no certificate in PEM", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
    },
    /// There is no stick.
    #[error(transparent)]
    Stick(#[from] StickError),
    /// The stick does not say which.
    #[error(
        "the stick has {} files {}/*.{EXTENSION}: one is needed, or its name",
        found.len(), stick::DIRECTORY
    )]
    Which {
        /// What it has.
        found: Vec<PathBuf>,
    },
}

/// Opens what the command line names: `-`, a URL, or a path. With certificates, only servers count that one of them vouches for;
/// without, those that Mozilla's vouch for.
pub(super) fn open(name: &str, certificates: Option<&Path>) -> Result<Box<dyn Read>, SourceError> {
    match name {
        "-" => Ok(Box::new(io::stdin().lock())),
        url if url.starts_with("http://") || url.starts_with("https://") => get(url, certificates),
        path => file(path.into()),
    }
}

fn file(path: PathBuf) -> Result<Box<dyn Read>, SourceError> {
    match File::open(&path) {
        Ok(file) => Ok(Box::new(file)),
        Err(source) => Err(SourceError::Open { path, source }),
    }
}

fn get(url: &str, certificates: Option<&Path>) -> Result<Box<dyn Read>, SourceError> {
    let failed = |source| SourceError::Get { url: url.to_owned(), source: Box::new(source) };
    let roots = certificates.map(read).transpose()?.unwrap_or(RootCerts::WebPki);
    let agent: Agent = Agent::config_builder()
        .timeout_connect(Some(CONNECT))
        .timeout_per_read(Some(STALL))
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .user_agent(concat!("headgate/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let body = agent.get(url).call().map_err(failed)?.into_body();
    // Its size is bounded by what the signed manifest says.
    Ok(Box::new(body.into_with_config().limit(u64::MAX).reader()))
}

fn read(path: &Path) -> Result<RootCerts, SourceError> {
    let text = std::fs::read(path).map_err(|source| SourceError::Open { path: path.to_owned(), source })?;
    let found: Vec<Certificate<'static>> = parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    match found.is_empty() {
        true => Err(SourceError::Certificates { path: path.to_owned() }),
        false => Ok(RootCerts::Specific(Arc::new(found))),
    }
}

/// The update on the stick: the one with this name, or the only one.
pub(super) fn from_stick(name: Option<&str>) -> Result<(Mounted, Box<dyn Read>), SourceError> {
    let sys = Path::new("/sys");
    let home = disk::disk_of(sys, Path::new("/"));
    let device = stick::find(sys, home.as_deref()).ok_or(StickError::None)?;
    let mounted = Mounted::at(&device, Path::new(MOUNT_POINT))?;
    let directory = mounted.path().join(stick::DIRECTORY);
    let path = match name {
        Some(name) => directory.join(name),
        None => only(&directory)?,
    };
    let file = file(path)?;
    Ok((mounted, file))
}

fn only(directory: &Path) -> Result<PathBuf, SourceError> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let update = |path: &PathBuf| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(EXTENSION));
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(update).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        _ => Err(SourceError::Which { found }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    /// A server that answers one request with these bytes and hangs up.
    fn server(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
        });
        format!("http://{address}/headgate.update")
    }

    fn read_all(url: &str) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let mut source = open(url, None).map_err(|error| crate::explain(&error))?;
        source.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    #[test]
    fn a_server_gives_its_file_and_what_it_refuses_or_cuts_off_is_an_error() {
        assert_eq!(read_all(&server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")).unwrap(), b"hello");
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        assert_eq!(read_all(&server(chunked)).unwrap(), b"hello");
        assert!(read_all(&server(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")).unwrap_err().contains("404"));
        assert!(read_all(&server(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello")).is_err(), "cut off");
        assert!(read_all(&server(b"nonsense")).is_err());
        assert!(read_all("http://127.0.0.1:1/x").unwrap_err().starts_with("cannot get http://127.0.0.1:1/x"));
        // Plain HTTP behind https:// is no TLS.
        let plain = server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").replace("http:", "https:");
        assert!(read_all(&plain).is_err());
    }

    /// A server with a certificate of its own making, and the file that vouches for it.
    fn secure(directory: &Path) -> (String, PathBuf) {
        use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let path = directory.join("ca.pem");
        std::fs::write(&path, made.cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
                // A client that does not believe us hangs up here.
                if stream.read(&mut [0; 4096]).is_ok() {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                }
            }
        });
        (format!("https://localhost:{port}/headgate.update"), path)
    }

    #[test]
    fn a_server_is_believed_only_when_somebody_vouches_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let (url, certificate) = secure(directory.path());
        let mut text = String::new();
        open(&url, Some(&certificate)).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(read_all(&url).unwrap_err().contains("cannot get https://localhost"));
        // Vouched for, but under another name.
        let other = url.replace("localhost", "127.0.0.1");
        assert!(open(&other, Some(&certificate)).is_err());
    }

    #[test]
    fn a_file_with_no_certificate_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        std::fs::write(&path, "nothing").unwrap();
        let refused = open("https://127.0.0.1:1/x", Some(&path)).err().unwrap().to_string();
        assert!(refused.contains("holds no certificate"), "{refused}");
    }

    #[test]
    fn the_only_update_of_a_stick_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let refused = only(directory.path()).unwrap_err().to_string();
        assert_eq!(refused, "the stick has 0 files headgate/*.update: one is needed, or its name");
        std::fs::write(directory.path().join("A.UPDATE"), "").unwrap();
        std::fs::write(directory.path().join("notes.txt"), "").unwrap();
        assert_eq!(only(directory.path()).unwrap(), directory.path().join("A.UPDATE"));
        std::fs::write(directory.path().join("b.update"), "").unwrap();
        assert!(only(directory.path()).is_err());
    }
}
