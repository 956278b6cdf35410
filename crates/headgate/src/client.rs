//! A blocking call to the daemon.
//!
//! One connection per call: the daemon closes after an answer, so a command that hangs can never hold another one up.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api::{ApiError, ErrorBody, SOCKET};
use crate::exit::Exit;

/// An apply of 10,000 farms on a slow machine takes seconds; a minute means that the daemon is stuck.
const DEADLINE: Duration = Duration::from_secs(60);
/// The status of 10,000 farms with four backends each is about 12 MB.
const ANSWER_MAX: usize = 256 * 1024 * 1024;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("headgated does not answer on {}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It listens, and does not answer in time.
    #[error("headgated did not answer on {} within {} s", path.display(), DEADLINE.as_secs())]
    Late {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke, or it is not HTTP.
    #[error("the connection to headgated on {} broke", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It is HTTP, but not the contract: the two programs are of different versions.
    #[error("headgated answered {method} {target} with something unknown; is it of the same version as headgate?")]
    Foreign {
        /// HTTP method.
        method: Method,
        /// Path and query.
        target: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The daemon refused.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl ClientError {
    /// The exit code of a command that met it.
    pub fn exit(&self) -> Exit {
        match self {
            ClientError::Api(error) => error.code.exit(),
            _ => Exit::Unreachable,
        }
    }
}

/// Where the daemon listens.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The daemon of this `--root`.
    pub fn new(root: &Path) -> Self {
        Self { socket: root.join(SOCKET) }
    }

    /// `GET`.
    pub fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.call(Method::GET, target, &())
    }

    /// Any method; a body of `()` is none.
    pub fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = match serde_json::to_vec(body) {
            Ok(body) if body == b"null" => Vec::new(),
            Ok(body) => body,
            Err(source) => return Err(ClientError::Foreign { method, target: target.to_owned(), source }),
        };
        let (status, answer) = self.exchange(method.clone(), target, body)?;
        read(status, &answer, method, target)
    }

    /// `GET` of something that is not JSON.
    pub fn text(&self, target: &str) -> Result<String, ClientError> {
        let (status, answer) = self.exchange(Method::GET, target, Vec::new())?;
        if !status.is_success() {
            return Err(refusal(&answer, Method::GET, target));
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// `PUT` of something that is not JSON.
    pub fn put<T: DeserializeOwned>(&self, target: &str, text: Vec<u8>) -> Result<T, ClientError> {
        let (status, answer) = self.exchange(Method::PUT, target, text)?;
        read(status, &answer, Method::PUT, target)
    }

    fn exchange(&self, method: Method, target: &str, body: Vec<u8>) -> Result<(StatusCode, Bytes), ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| ClientError::Unreachable { path: self.socket.clone(), source })?;
        runtime.block_on(async {
            tokio::time::timeout(DEADLINE, self.request(method, target, body))
                .await
                .unwrap_or_else(|_| Err(ClientError::Late { path: self.socket.clone() }))
        })
    }

    async fn request(&self, method: Method, target: &str, body: Vec<u8>) -> Result<(StatusCode, Bytes), ClientError> {
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Broken {
            path: self.socket.clone(),
            source,
        };
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Unreachable { path: self.socket.clone(), source })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(e.into()))?;
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "headgated")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| broken(e.into()))?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|e| broken(e.into()))?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(broken)?.to_bytes();
        driver.abort();
        Ok((status, answer))
    }
}

fn read<T: DeserializeOwned>(
    status: StatusCode,
    answer: &[u8],
    method: Method,
    target: &str,
) -> Result<T, ClientError> {
    if !status.is_success() {
        return Err(refusal(answer, method, target));
    }
    serde_json::from_slice(answer).map_err(|source| ClientError::Foreign { method, target: target.to_owned(), source })
}

fn refusal(answer: &[u8], method: Method, target: &str) -> ClientError {
    match serde_json::from_slice(answer) {
        Ok(ErrorBody { error }) => error.into(),
        Err(source) => ClientError::Foreign { method, target: target.to_owned(), source },
    }
}

/// A name as a segment of a path. Names that the configuration allows need no escape; anything else is escaped, so that
/// what was typed reaches the daemon's "no such farm" instead of another path.
pub fn segment(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => escaped.push(byte.into()),
            // A lone dot or two would be a step in the tree of paths for other programs.
            b'.' if name != "." && name != ".." => escaped.push('.'),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_one_segment() {
        assert_eq!(segment("web-1.a_B"), "web-1.a_B");
        assert_eq!(segment("../apply"), "..%2Fapply");
        assert_eq!(segment(".."), "%2E%2E");
        assert_eq!(segment("a b?c#ü"), "a%20b%3Fc%23%C3%BC");
    }

    #[test]
    fn nobody_listening_is_unreachable() {
        let root = tempfile::tempdir().unwrap();
        let error = Client::new(root.path()).get::<()>("/v1/status").unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
        assert_eq!(error.exit(), Exit::Unreachable);
    }
}
