//! The API: HTTP/1.1 over the Unix socket.
//!
//! Every connection is a task of its own with deadlines, one request each; what it asks for is done by the one thread that
//! owns the kernel. A client that stalls holds a task and a descriptor for some seconds, and nobody up.

use std::fs::Permissions;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use headgate_config::types::{BackendName, FarmName};
use headgate_plan::hardware::HardwareReport;
use headgate_plan::status::{FarmStatus, ServiceStatus, Status};

use super::engine::{Edit, Engine, EngineError, Handle};
use super::operator::Target;
use super::supervise::Supervisor;
use crate::api::{
    ApiError, Applied, BODY_MAX, Clients, Connections, ErrorBody, ErrorCode, FlowQuery, Flushed, Forgotten, Generation,
    Keep, Planned, Rollback, SOCKET,
};

/// From the connection to the last byte of the request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// From the head to the last byte of the body.
const BODY_DEADLINE: Duration = Duration::from_secs(5);
/// From the connection to the last byte of the answer.
const WHOLE_DEADLINE: Duration = Duration::from_secs(60);
/// Connections at the same time; the socket is root's alone, so this bounds accidents, not attacks.
const CONNECTIONS_MAX: usize = 64;

/// What answers are made from.
#[derive(Debug, Clone)]
pub struct Api {
    /// The kernel and the configuration.
    pub engine: Handle,
    /// The supervised processes; `None` once they are being stopped.
    pub supervisor: Arc<Mutex<Option<Supervisor>>>,
}

impl Api {
    fn services(&self) -> Vec<ServiceStatus> {
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        let services = supervisor.as_ref().map(Supervisor::status).unwrap_or_default();
        services.iter().map(summary).collect()
    }
}

/// A service as the status tells it.
fn summary(service: &crate::service::ServiceStatus) -> ServiceStatus {
    let reason = service.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let restarts = if service.restarts > 0 { format!(", restarted {} times", service.restarts) } else { String::new() };
    ServiceStatus {
        name: service.name.clone(),
        healthy: !service.state.is_fault(),
        state: format!("{}{reason}{restarts}", service.state.word()),
        pid: service.pid.and_then(|pid| i32::try_from(pid).ok()),
    }
}

/// Why the socket is not there.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}", path.display())]
pub struct ListenError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Listens on the socket of this root, in place of one that a dead daemon left. The caller holds the daemon's lock, so no
/// living one is behind it.
///
/// # Errors
/// [`ListenError`].
pub fn listen(root: &Path) -> Result<UnixListener, ListenError> {
    let path = root.join(SOCKET);
    let attempt = || {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Between bind and chmod nobody else may connect. Other threads create no files yet.
        let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(&path);
        nix::sys::stat::umask(before);
        let listener = listener?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o660))?;
        Ok(listener)
    };
    attempt().map_err(|source| ListenError { path: path.clone(), source })
}

/// Serves until the task is dropped.
pub async fn serve(listener: UnixListener, api: Api) {
    let router = router(api);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // No descriptors left, most likely: connections that end make room.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(WHOLE_DEADLINE, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(error = %crate::explain(&error), "a connection ended early"),
                Err(_) => tracing::debug!("a connection was cut at its deadline"),
            }
            drop(slot);
        });
    }
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/farms", get(farms))
        .route("/v1/farms/{farm}", get(farm_get).put(add).patch(set).delete(remove))
        .route("/v1/farms/{farm}/clients", get(clients).delete(forget))
        .route("/v1/farms/{farm}/backends/{backend}", put(add).patch(set).delete(remove))
        .route("/v1/apply", post(apply))
        .route("/v1/plan", get(plan))
        .route("/v1/rollback", post(rollback))
        .route("/v1/history", get(history))
        .route("/v1/hardware", get(hardware))
        .route("/v1/connections", get(connections).delete(flush))
        .fallback(nowhere)
        .method_not_allowed_fallback(nowhere)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(api)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, axum::Json(ErrorBody { error: self })).into_response()
    }
}

type Answer<T> = Result<axum::Json<T>, ApiError>;

/// Runs `work` where the kernel is.
async fn on_engine<T, W>(engine: &Handle, work: W) -> Answer<T>
where
    T: Serialize + Send + 'static,
    W: FnOnce(&mut Engine) -> Result<T, EngineError> + Send + 'static,
{
    let busy = |_| ApiError::new(ErrorCode::Busy, "the daemon is busy or going down; try again");
    let answer = engine.call(work).await.map_err(busy)?;
    answer.map(axum::Json).map_err(|error| error.api())
}

fn bad_request(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, message)
}

/// The body as JSON; an empty body is the default.
async fn body<T: DeserializeOwned + Default>(request: Request) -> Result<T, ApiError> {
    let read = within(BODY_DEADLINE, axum::body::to_bytes(request.into_body(), BODY_MAX)).await?;
    let bytes: Bytes = read.map_err(|_| {
        ApiError::new(ErrorCode::TooLarge, format!("the body is larger than {BODY_MAX} bytes, or was cut short"))
    })?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes).map_err(|error| bad_request(format!("the body is not what it should be: {error}")))
}

async fn within<T>(deadline: Duration, work: impl Future<Output = T>) -> Result<T, ApiError> {
    tokio::time::timeout(deadline, work).await.map_err(|_| bad_request("the body did not come in time"))
}

/// `?persist=true`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Persist {
    #[serde(default)]
    persist: bool,
}

fn keep(request: &Request) -> Result<Keep, ApiError> {
    let Query(query) = Query::<Persist>::try_from_uri(request.uri()).map_err(|error| bad_request(error.body_text()))?;
    Ok(if query.persist { Keep::Persist } else { Keep::UntilReboot })
}

type Segments = axum::extract::Path<Vec<String>>;

/// A name that is none cannot be that of anything.
fn target(segments: &[String]) -> Result<Target, ApiError> {
    let no_name = |error: headgate_config::types::Invalid| ApiError::new(ErrorCode::NotFound, error.message);
    let farm = segments.first().map(String::as_str).unwrap_or_default();
    let backend = segments.get(1).map(|backend| BackendName::new(backend)).transpose().map_err(no_name)?;
    Ok(Target { farm: FarmName::new(farm).map_err(no_name)?, backend })
}

async fn nowhere(request: Request) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no {} {}", request.method(), request.uri().path()))
}

async fn status(State(api): State<Api>) -> Answer<Status> {
    let services = api.services();
    on_engine(&api.engine, move |engine| engine.status(&services)).await
}

async fn farms(State(api): State<Api>) -> Answer<Vec<FarmStatus>> {
    on_engine(&api.engine, |engine| engine.farms()).await
}

async fn farm_get(State(api): State<Api>, segments: Segments) -> Answer<FarmStatus> {
    let target = target(&segments)?;
    on_engine(&api.engine, move |engine| engine.farm(&target.farm)).await
}

async fn add(State(api): State<Api>, segments: Segments, request: Request) -> Answer<Applied> {
    let (target, keep) = (target(&segments)?, keep(&request)?);
    let edit = Edit::Add(body(request).await?);
    on_engine(&api.engine, move |engine| engine.change(&target, &edit, keep)).await
}

async fn set(State(api): State<Api>, segments: Segments, request: Request) -> Answer<Applied> {
    let (target, keep) = (target(&segments)?, keep(&request)?);
    let edit = Edit::Set(body(request).await?);
    on_engine(&api.engine, move |engine| engine.change(&target, &edit, keep)).await
}

async fn remove(State(api): State<Api>, segments: Segments, request: Request) -> Answer<Applied> {
    let (target, keep) = (target(&segments)?, keep(&request)?);
    on_engine(&api.engine, move |engine| engine.change(&target, &Edit::Remove, keep)).await
}

async fn apply(State(api): State<Api>) -> Answer<Applied> {
    on_engine(&api.engine, |engine| engine.apply()).await
}

async fn plan(State(api): State<Api>) -> Answer<Planned> {
    on_engine(&api.engine, |engine| engine.plan()).await
}

async fn rollback(State(api): State<Api>, request: Request) -> Answer<Applied> {
    let Rollback { to } = body(request).await?;
    on_engine(&api.engine, move |engine| engine.rollback(to)).await
}

async fn history(State(api): State<Api>) -> Answer<Vec<Generation>> {
    on_engine(&api.engine, |engine| Ok(engine.history())).await
}

async fn hardware(State(api): State<Api>) -> Answer<HardwareReport> {
    on_engine(&api.engine, Engine::hardware).await
}

fn flow_query(request: &Request) -> Result<FlowQuery, ApiError> {
    let query = Query::<FlowQuery>::try_from_uri(request.uri()).map_err(|error| bad_request(error.body_text()))?;
    Ok(query.0)
}

async fn connections(State(api): State<Api>, request: Request) -> Answer<Connections> {
    let query = flow_query(&request)?;
    on_engine(&api.engine, move |engine| engine.connections(&query)).await
}

async fn clients(State(api): State<Api>, segments: Segments) -> Answer<Clients> {
    let target = target(&segments)?;
    on_engine(&api.engine, move |engine| engine.clients(&target.farm)).await
}

async fn forget(State(api): State<Api>, segments: Segments) -> Answer<Forgotten> {
    let target = target(&segments)?;
    on_engine(&api.engine, move |engine| engine.forget_clients(&target.farm)).await
}

async fn flush(State(api): State<Api>, request: Request) -> Answer<Flushed> {
    let query = flow_query(&request)?;
    on_engine(&api.engine, move |engine| engine.cut(&query)).await
}
