//! `http` and `https`: one request, its status, and optionally something that its body contains.
//!
//! No more of an answer is kept than it takes: 64 KiB of its head and 64 KiB of its body, and without `expect-body` nothing of the
//! body is read at all.

use std::convert::Infallible;
use std::net::SocketAddr;

use headgate_config::model::HealthCheck;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout_at;

use super::sought::Sought;
use super::tls::Tls;
use super::{Attempt, Fault, Passed, reason, socket};

/// Bytes and lines of an answer's head.
const HEAD_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;

pub(super) async fn ask(attempt: &Attempt, to: SocketAddr, check: &HealthCheck, tls: Option<&Tls>) -> Passed {
    let request = request(to, check, tls.is_some())?;
    let stream = socket::connect(attempt, to).await?;
    match tls {
        None => exchange(attempt, stream, request, check).await,
        Some(tls) => {
            let what = format!("tls with {to}");
            let stream = attempt.step(&what, tls.connect(stream)).await?;
            exchange(attempt, stream, request, check).await
        }
    }
}

fn request(to: SocketAddr, check: &HealthCheck, tls: bool) -> Result<Request<Empty<Bytes>>, Fault> {
    let HealthCheck::Http { path, method, host, headers, .. } = check else {
        return Err(Fault::Ours("this is no check of type http".to_owned()));
    };
    let usual = if tls { 443 } else { 80 };
    let address = match (to, to.port() == usual) {
        (SocketAddr::V4(to), true) => to.ip().to_string(),
        (SocketAddr::V6(to), true) => format!("[{}]", to.ip()),
        (to, false) => to.to_string(),
    };
    let mut request = Request::builder()
        .method(method.as_str())
        .uri(path.as_str())
        .header(HOST, host.as_deref().unwrap_or(&address))
        .header(USER_AGENT, concat!("headgate/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.body(Empty::new()).map_err(|error| Fault::Ours(format!("the request cannot be made: {error}")))
}

async fn exchange<S>(attempt: &Attempt, stream: S, request: Request<Empty<Bytes>>, check: &HealthCheck) -> Passed
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let what = format!("http {} {}", request.method(), request.uri());
    let talk = async {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_MAX).max_headers(HEADERS_MAX);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let work = async {
            let response = sender.send_request(request).await?;
            judge(response, check).await
        };
        // What the connection has to say comes through the request.
        let drive = async {
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            biased;
            judged = work => judged,
            never = drive => match never {},
        }
    };
    match timeout_at(attempt.deadline, talk).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(why))) => Err(Fault::Theirs(format!("{what}: {why}"))),
        Ok(Err(error)) => Err(Fault::Theirs(format!("{what}: {}", told(&error)))),
        Err(_) => Err(attempt.late(&what)),
    }
}

/// What is wrong with an answer, when something is.
async fn judge(mut response: Response<Incoming>, check: &HealthCheck) -> Result<Result<(), String>, hyper::Error> {
    let HealthCheck::Http { expect: (first, last), expect_body, .. } = check else { return Ok(Ok(())) };
    let status = response.status().as_u16();
    if !(*first..=*last).contains(&status) {
        let wanted = if first == last { first.to_string() } else { format!("{first}-{last}") };
        return Ok(Err(format!("status {status}, not {wanted}")));
    }
    let Some(expect) = expect_body else { return Ok(Ok(())) };
    let mut sought = Sought::new(expect);
    while let Some(frame) = response.body_mut().frame().await {
        let Some(piece) = frame?.into_data().ok() else { continue };
        if sought.feed(&piece) {
            return Ok(Ok(()));
        }
        if sought.is_exhausted() {
            break;
        }
    }
    Ok(if sought.feed(&[]) { Ok(()) } else { Err(format!("the body does not contain {expect:?}")) })
}

/// The cause in the system, where there is one.
fn told(error: &hyper::Error) -> String {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(inner) = inner.downcast_ref::<std::io::Error>() {
            return reason(inner);
        }
        cause = inner.source();
    }
    crate::explain(error)
}
