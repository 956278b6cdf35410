//! The API: HTTP/1.1 over the Unix socket.
//!
//! Every connection is a task of its own with deadlines, one request each; what it asks for is done by the one thread that
//! owns the kernel. A client that stalls holds a task and a descriptor for some seconds, and nobody up.

mod connection;
pub mod listeners;

use std::fs::Permissions;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};

use self::connection::{Connections as Live, answer};
use self::listeners::{Faults, pause_after};
use headgate_config::types::{BackendName, FarmName};
use headgate_plan::hardware::HardwareReport;
use headgate_plan::status::{FarmStatus, ServiceStatus, Status};

use super::caller::Caller;
use super::engine::{Edit, Engine, EngineError, Handle, WINDOW_MAX};
use super::metrics::{CONTENT_TYPE, Metrics};
use super::operator::Target;
use super::supervise::Supervisor;
use crate::api::{
    ApiError, Applied, Apply, BODY_MAX, Clients, Confirmed, Connections, Diff, Difference, ErrorBody, ErrorCode,
    FlowQuery, Flushed, Forgotten, Generation, Keep, Planned, Rollback, SOCKET,
};

/// From the head to the last byte of the body.
const BODY_DEADLINE: Duration = Duration::from_secs(5);
/// Connections at the same time; the socket is root's alone, so this bounds accidents, not attacks. The one that has waited
/// longest without a request makes room for another.
const CONNECTIONS_MAX: usize = 64;

/// What answers are made from.
#[derive(Debug, Clone)]
pub struct Api {
    /// The kernel and the configuration.
    pub engine: Handle,
    /// The supervised processes.
    pub services: Services,
    /// What is not listened on.
    pub faults: Faults,
    /// The figures.
    pub metrics: Metrics,
}

/// The supervised processes; `None` once they are being stopped.
#[derive(Debug, Clone)]
pub struct Services(pub Arc<Mutex<Option<Supervisor>>>);

impl Services {
    /// How each is.
    pub fn list(&self) -> Vec<crate::service::ServiceStatus> {
        let supervisor = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        supervisor.as_ref().map(Supervisor::status).unwrap_or_default()
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
    let mut connections = Live::new(CONNECTIONS_MAX);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (router, caller) = (router.clone(), caller(&stream));
                connections.add(|busy| answer(stream, router, Some(caller), busy));
            }
            Err(error) => pause_after(&error).await,
        }
    }
}

fn caller(stream: &UnixStream) -> Caller {
    match stream.peer_cred() {
        Ok(peer) => Caller::user(peer.uid(), peer.pid()),
        // It is gone already.
        Err(_) => Caller::user(u32::MAX, None),
    }
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/farms", get(farms))
        .route("/v1/farms/{farm}", get(farm_get).put(add).patch(set).delete(remove))
        .route("/v1/farms/{farm}/clients", get(clients).delete(forget))
        .route("/v1/farms/{farm}/backends/{backend}", put(add).patch(set).delete(remove))
        .route("/v1/apply", post(apply))
        .route("/v1/confirm", post(confirm))
        .route("/v1/plan", get(plan))
        .route("/v1/rollback", post(rollback))
        .route("/v1/history", get(history))
        .route("/v1/diff", get(diff))
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
    let services: Vec<ServiceStatus> = api.services.list().iter().map(summary).collect();
    let mut status = on_engine(&api.engine, move |engine| engine.status(&services)).await?;
    status.warnings.extend(api.faults.list());
    Ok(status)
}

async fn metrics(State(api): State<Api>) -> Response {
    page(&api.metrics).await
}

async fn page(metrics: &Metrics) -> Response {
    match metrics.page().await {
        Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(busy) => ApiError::new(ErrorCode::Busy, busy.to_string()).into_response(),
    }
}

/// What `[metrics] listen` answers: nothing but the figures.
pub fn metrics_router(metrics: Metrics) -> Router {
    Router::new()
        .route("/metrics", get(|State(metrics): State<Metrics>| async move { page(&metrics).await }))
        .fallback(nowhere)
        .method_not_allowed_fallback(nowhere)
        .with_state(metrics)
}

async fn farms(State(api): State<Api>) -> Answer<Vec<FarmStatus>> {
    on_engine(&api.engine, |engine| engine.farms()).await
}

async fn farm_get(State(api): State<Api>, segments: Segments) -> Answer<FarmStatus> {
    let target = target(&segments)?;
    on_engine(&api.engine, move |engine| engine.farm(&target.farm)).await
}

type By = Extension<Caller>;

async fn add(State(api): State<Api>, Extension(by): By, segments: Segments, request: Request) -> Answer<Applied> {
    let (target, keep) = (target(&segments)?, keep(&request)?);
    let edit = Edit::Add(body(request).await?);
    on_engine(&api.engine, move |engine| engine.change(&target, &edit, keep, &by)).await
}

async fn set(State(api): State<Api>, Extension(by): By, segments: Segments, request: Request) -> Answer<Applied> {
    let (target, keep) = (target(&segments)?, keep(&request)?);
    let edit = Edit::Set(body(request).await?);
    on_engine(&api.engine, move |engine| engine.change(&target, &edit, keep, &by)).await
}

async fn remove(State(api): State<Api>, Extension(by): By, segments: Segments, request: Request) -> Answer<Applied> {
    let (target, keep) = (target(&segments)?, keep(&request)?);
    on_engine(&api.engine, move |engine| engine.change(&target, &Edit::Remove, keep, &by)).await
}

async fn apply(State(api): State<Api>, Extension(by): By, request: Request) -> Answer<Applied> {
    let Apply { confirm_seconds } = body(request).await?;
    let Some(seconds) = confirm_seconds else { return on_engine(&api.engine, move |engine| engine.apply(&by)).await };
    if !(1..=WINDOW_MAX.as_secs()).contains(&seconds) {
        return Err(bad_request(format!("confirm-seconds must be 1 to {}", WINDOW_MAX.as_secs())));
    }
    on_engine(&api.engine, move |engine| engine.apply_on_trial(&by, Duration::from_secs(seconds))).await
}

async fn confirm(State(api): State<Api>, Extension(by): By) -> Answer<Confirmed> {
    on_engine(&api.engine, move |engine| engine.confirm(&by)).await
}

async fn plan(State(api): State<Api>) -> Answer<Planned> {
    on_engine(&api.engine, |engine| engine.plan()).await
}

async fn rollback(State(api): State<Api>, Extension(by): By, request: Request) -> Answer<Applied> {
    let Rollback { to } = body(request).await?;
    on_engine(&api.engine, move |engine| engine.rollback(to, &by)).await
}

async fn diff(State(api): State<Api>, request: Request) -> Answer<Vec<Difference>> {
    let query = Query::<Diff>::try_from_uri(request.uri()).map_err(|error| bad_request(error.body_text()))?;
    on_engine(&api.engine, move |engine| engine.diff(&query.0)).await
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
