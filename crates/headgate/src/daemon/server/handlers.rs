//! What each operation does: reads the request, has the engine do it, and answers.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Extension, Query, Request, State};
use axum::http::header;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use headgate_config::FileUse;
use headgate_config::types::{BackendName, FarmName};
use headgate_plan::hardware::HardwareReport;
use headgate_plan::load::Load;
use headgate_plan::status::{FarmStatus, ServiceStatus, Status};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast::error::RecvError;

use super::access::By;
use super::connection::Busy;
use super::{Api, BODY_DEADLINE, access, closed, operations, summary};
use crate::api::{
    ApiError, Applied, Apply, BODY_MAX, Clients, Confirmed, Connections, Diff, Difference, ErrorCode, FlowQuery,
    Flushed, Forgotten, Generation, Introduction, Keep, NewToken, Planned, Removed, Rollback, Token, TokenWanted,
    Values,
};
use crate::daemon::engine::{DropIn, Edit, Engine, EngineError, Handle, WINDOW_MAX};
use crate::daemon::feed::Event;
use crate::daemon::metrics::{CONTENT_TYPE, Metrics};
use crate::daemon::operator::Target;
use crate::daemon::tokens::{TokenError, Tokens};
use crate::drop_in::{DropInName, NotADropIn};

/// Between two signs of life of an event stream in which nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

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

async fn bytes(request: Request) -> Result<Bytes, ApiError> {
    let read = within(BODY_DEADLINE, axum::body::to_bytes(request.into_body(), BODY_MAX)).await?;
    read.map_err(|_| {
        ApiError::new(ErrorCode::TooLarge, format!("the body is larger than {BODY_MAX} bytes, or was cut short"))
    })
}

/// The body as JSON; an empty body is the default.
async fn body<T: DeserializeOwned + Default>(request: Request) -> Result<T, ApiError> {
    let bytes = bytes(request).await?;
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

/// When whoever follows the events shall connect again to the program that takes over.
const COME_BACK: Duration = Duration::from_millis(200);

type Segments = axum::extract::Path<Vec<String>>;

/// A name that is none cannot be that of anything.
fn target(segments: &[String]) -> Result<Target, ApiError> {
    let no_name = |error: headgate_config::types::Invalid| ApiError::new(ErrorCode::NotFound, error.message);
    let farm = segments.first().map(String::as_str).unwrap_or_default();
    let backend = segments.get(1).map(|backend| BackendName::new(backend)).transpose().map_err(no_name)?;
    Ok(Target { farm: FarmName::new(farm).map_err(no_name)?, backend })
}

pub(super) async fn nowhere(request: Request) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no {} {}", request.method(), request.uri().path()))
}

pub(super) async fn status(State(api): State<Api>) -> Answer<Status> {
    let services: Vec<ServiceStatus> = api.services.list().iter().map(summary).collect();
    let mut status = on_engine(&api.engine, move |engine| engine.status(&services)).await?;
    status.warnings.extend(api.faults.list());
    status.fence = api.fence;
    Ok(status)
}

pub(super) async fn metrics(State(api): State<Api>) -> Response {
    page(&api.metrics).await
}

pub(super) async fn page(metrics: &Metrics) -> Response {
    match metrics.page().await {
        Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(busy) => ApiError::new(ErrorCode::Busy, busy.to_string()).into_response(),
    }
}

pub(super) async fn farms(State(api): State<Api>) -> Answer<Vec<FarmStatus>> {
    on_engine(&api.engine, |engine| engine.farms()).await
}

pub(super) async fn farm_get(State(api): State<Api>, segments: Segments) -> Answer<FarmStatus> {
    let target = target(&segments)?;
    on_engine(&api.engine, move |engine| engine.farm(&target.farm)).await
}

pub(super) async fn add(State(api): State<Api>, By(by): By, segments: Segments, request: Request) -> Answer<Applied> {
    let (target, keep) = (target(&segments)?, keep(&request)?);
    let values: Values = body(request).await?;
    access::require(&by, access::scope_of(&values, true))?;
    let edit = Edit::Add(values);
    on_engine(&api.engine, move |engine| engine.change(&target, &edit, keep, &by)).await
}

pub(super) async fn set(State(api): State<Api>, By(by): By, segments: Segments, request: Request) -> Answer<Applied> {
    let (target, keep) = (target(&segments)?, keep(&request)?);
    let values: Values = body(request).await?;
    access::require(&by, access::scope_of(&values, keep == Keep::Persist))?;
    let edit = Edit::Set(values);
    on_engine(&api.engine, move |engine| engine.change(&target, &edit, keep, &by)).await
}

pub(super) async fn remove(
    State(api): State<Api>,
    By(by): By,
    segments: Segments,
    request: Request,
) -> Answer<Applied> {
    let (target, keep) = (target(&segments)?, keep(&request)?);
    on_engine(&api.engine, move |engine| engine.change(&target, &Edit::Remove, keep, &by)).await
}

pub(super) async fn apply(State(api): State<Api>, By(by): By, request: Request) -> Answer<Applied> {
    let Some(window) = window(body(request).await?)? else {
        return on_engine(&api.engine, move |engine| engine.apply(&by)).await;
    };
    on_engine(&api.engine, move |engine| engine.apply_on_trial(&by, window)).await
}

/// For how long something is on trial; `None`: it is not.
fn window(Apply { confirm_seconds }: Apply) -> Result<Option<Duration>, ApiError> {
    match confirm_seconds {
        Some(seconds) if !(1..=WINDOW_MAX.as_secs()).contains(&seconds) => {
            Err(bad_request(format!("confirm-seconds must be 1 to {}", WINDOW_MAX.as_secs())))
        }
        seconds => Ok(seconds.map(Duration::from_secs)),
    }
}

fn window_of(request: &Request) -> Result<Option<Duration>, ApiError> {
    let query = Query::<Apply>::try_from_uri(request.uri()).map_err(|error| bad_request(error.body_text()))?;
    window(query.0)
}

fn drop_in_name(segments: &[String]) -> Result<DropInName, ApiError> {
    segments
        .first()
        .map(String::as_str)
        .unwrap_or_default()
        .parse()
        .map_err(|error: NotADropIn| bad_request(error.to_string()))
}

pub(super) async fn drop_ins(State(api): State<Api>) -> Answer<Vec<FileUse>> {
    on_engine(&api.engine, |engine| engine.drop_ins()).await
}

pub(super) async fn drop_in(State(api): State<Api>, segments: Segments) -> Result<Response, ApiError> {
    let name = drop_in_name(&segments)?;
    let axum::Json(text) = on_engine(&api.engine, move |engine| engine.drop_in(&name)).await?;
    Ok(([(header::CONTENT_TYPE, operations::TOML)], text).into_response())
}

pub(super) async fn drop_in_put(
    State(api): State<Api>,
    By(by): By,
    segments: Segments,
    request: Request,
) -> Answer<Applied> {
    let (name, window) = (drop_in_name(&segments)?, window_of(&request)?);
    let text = String::from_utf8(bytes(request).await?.into());
    let text = text.map_err(|_| bad_request("a file of the configuration is UTF-8 text"))?;
    let drop_in = DropIn { name, text: Some(text) };
    on_engine(&api.engine, move |engine| engine.change_drop_in(&drop_in, window, &by)).await
}

pub(super) async fn drop_in_remove(
    State(api): State<Api>,
    By(by): By,
    segments: Segments,
    request: Request,
) -> Answer<Applied> {
    let (name, window) = (drop_in_name(&segments)?, window_of(&request)?);
    let drop_in = DropIn { name, text: None };
    on_engine(&api.engine, move |engine| engine.change_drop_in(&drop_in, window, &by)).await
}

pub(super) async fn confirm(State(api): State<Api>, By(by): By) -> Answer<Confirmed> {
    on_engine(&api.engine, move |engine| engine.confirm(&by)).await
}

pub(super) async fn plan(State(api): State<Api>, By(by): By) -> Answer<Planned> {
    on_engine(&api.engine, move |engine| engine.plan(&by)).await
}

pub(super) async fn rollback(State(api): State<Api>, By(by): By, request: Request) -> Answer<Applied> {
    let Rollback { to, confirm_seconds } = body(request).await?;
    let window = window(Apply { confirm_seconds })?;
    on_engine(&api.engine, move |engine| engine.rollback(to, window, &by)).await
}

pub(super) async fn diff(State(api): State<Api>, request: Request) -> Answer<Vec<Difference>> {
    let query = Query::<Diff>::try_from_uri(request.uri()).map_err(|error| bad_request(error.body_text()))?;
    on_engine(&api.engine, move |engine| engine.diff(&query.0)).await
}

pub(super) async fn history(State(api): State<Api>) -> Answer<Vec<Generation>> {
    on_engine(&api.engine, |engine| Ok(engine.history())).await
}

pub(super) async fn hardware(State(api): State<Api>) -> Answer<HardwareReport> {
    on_engine(&api.engine, Engine::hardware).await
}

/// A fifth of a second that is nobody else's.
pub(super) async fn load(State(api): State<Api>) -> Answer<Load> {
    let root = api.root.clone();
    let read = tokio::task::spawn_blocking(move || headgate_host::load::read(&root)).await;
    read.map(axum::Json).map_err(|_| ApiError::new(ErrorCode::Busy, "the daemon is going down"))
}

pub(super) async fn introduce(State(api): State<Api>, By(by): By) -> axum::Json<Introduction> {
    let host = api.root.read_machine("proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    axum::Json(Introduction { name: by.name().to_owned(), scope: by.scope(), host, version })
}

pub(super) async fn tune(State(api): State<Api>) -> Answer<Applied> {
    on_engine(&api.engine, Engine::tune).await
}

pub(super) async fn restore(State(api): State<Api>) -> Answer<Applied> {
    on_engine(&api.engine, Engine::restore).await
}

fn flow_query(request: &Request) -> Result<FlowQuery, ApiError> {
    let query = Query::<FlowQuery>::try_from_uri(request.uri()).map_err(|error| bad_request(error.body_text()))?;
    Ok(query.0)
}

pub(super) async fn connections(State(api): State<Api>, request: Request) -> Answer<Connections> {
    let query = flow_query(&request)?;
    on_engine(&api.engine, move |engine| engine.connections(&query)).await
}

pub(super) async fn clients(State(api): State<Api>, segments: Segments) -> Answer<Clients> {
    let target = target(&segments)?;
    on_engine(&api.engine, move |engine| engine.clients(&target.farm)).await
}

pub(super) async fn forget(State(api): State<Api>, segments: Segments) -> Answer<Forgotten> {
    let target = target(&segments)?;
    on_engine(&api.engine, move |engine| engine.forget_clients(&target.farm)).await
}

pub(super) async fn flush(State(api): State<Api>, request: Request) -> Answer<Flushed> {
    let query = flow_query(&request)?;
    on_engine(&api.engine, move |engine| engine.cut(&query)).await
}

pub(super) async fn openapi() -> axum::Json<serde_json::Value> {
    axum::Json(operations::openapi())
}

/// Runs until the client goes. One that does not read misses events, and is told how many.
pub(super) async fn events(State(api): State<Api>, Extension(busy): Extension<Busy>) -> Result<Response, ApiError> {
    let slot = api.streams.clone().try_acquire_owned();
    let slot = slot.map_err(|_| ApiError::new(ErrorCode::Busy, "too many event streams at once"))?;
    busy.stream();
    let (listener, closing) = (api.events.listen(), Some(api.closing.clone()));
    let stream = futures_util::stream::unfold((listener, closing, slot), |(mut listener, closing, slot)| async move {
        // It has been told that this is the end.
        let mut closing = closing?;
        let event = tokio::select! {
            () = closed(&mut closing) => {
                let again = sse::Event::default().event("closing").retry(COME_BACK).data("{}");
                return Some((Ok(again), (listener, None, slot)));
            }
            event = listener.recv() => match event {
                Ok(event) => event_of(&event),
                Err(RecvError::Lagged(missed)) => sse::Event::default().event("missed").data(missed.to_string()),
                Err(RecvError::Closed) => return None,
            }
        };
        Some((Ok::<_, Infallible>(event), (listener, Some(closing), slot)))
    });
    Ok(stream_of(stream))
}

fn stream_of(stream: impl Stream<Item = Result<sse::Event, Infallible>> + Send + 'static) -> Response {
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

fn event_of(event: &Event) -> sse::Event {
    let json = serde_json::to_string(event).unwrap_or_default();
    sse::Event::default().event(event.name()).data(json)
}

/// Runs `work` where files can be written, and a full disk holds up nobody else.
async fn on_tokens<T, W>(api: &Api, work: W) -> Answer<T>
where
    T: Send + 'static,
    W: FnOnce(&Tokens) -> Result<T, TokenError> + Send + 'static,
{
    let tokens = api.tokens.clone();
    let done = api.errands.block(move || work(&tokens)).await;
    let done = done.ok_or_else(|| ApiError::new(ErrorCode::Busy, "the daemon is going down"))?;
    done.map(axum::Json).map_err(|error| {
        let code = match error {
            TokenError::Name => ErrorCode::BadRequest,
            TokenError::Exists(_) | TokenError::TooMany => ErrorCode::Conflict,
            TokenError::NotFound(_) => ErrorCode::NotFound,
            TokenError::File(_) | TokenError::Encode(_) | TokenError::Random(_) => ErrorCode::StorageFailed,
        };
        ApiError::new(code, crate::explain(&error))
    })
}

pub(super) async fn tokens(State(api): State<Api>) -> Answer<Vec<Token>> {
    on_tokens(&api, |tokens| Ok(tokens.list())).await
}

pub(super) async fn token_add(State(api): State<Api>, By(by): By, request: Request) -> Answer<NewToken> {
    let wanted: Option<TokenWanted> = body(request).await?;
    let TokenWanted { name, scope } = wanted.ok_or_else(|| bad_request("name and scope of the token are missing"))?;
    tracing::info!(token = name, scope = scope.word(), by = by.name(), "a token is made");
    on_tokens(&api, move |tokens| tokens.add(&name, scope)).await
}

pub(super) async fn token_remove(State(api): State<Api>, By(by): By, segments: Segments) -> Answer<Removed> {
    let name = segments.first().cloned().unwrap_or_default();
    tracing::info!(token = name, by = by.name(), "a token is removed");
    on_tokens(&api, move |tokens| tokens.remove(&name).map(|()| Removed { name })).await
}
