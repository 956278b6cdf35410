//! Who may do what: the token of a request, and the scope that an operation needs.

use std::net::Ipv4Addr;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::connection::Busy;
use crate::api::{ApiError, ErrorCode, Scope, Values};
use crate::daemon::caller::{Caller, Peer};
use crate::daemon::tokens::Tokens;
use crate::way::Way;

/// Lets nobody in without a token. Nothing of the body has been read yet.
pub(super) async fn authenticate(State(tokens): State<Tokens>, mut request: Request, next: Next) -> Response {
    let Some(caller) = bearer(request.headers()).and_then(|token| tokens.caller(token)) else {
        let error = ApiError::new(ErrorCode::Unauthorized, "a token is needed: `Authorization: Bearer TOKEN`");
        return ([(header::WWW_AUTHENTICATE, "Bearer")], error).into_response();
    };
    if let Some(busy) = request.extensions().get::<Busy>() {
        busy.serve();
    }
    let way = request.extensions().get::<Way>().copied();
    request.extensions_mut().insert(caller.over(way));
    next.run(request).await
}

/// Over the Unix socket nobody shows a token: who can open it is let in. A browser that reaches it by a port that somebody
/// forwards would let in every page that it shows, so what another site has it ask for is refused.
pub(super) async fn refuse_other_sites(request: Request, next: Next) -> Response {
    if is_of_other_site(request.headers()) {
        let message = "a page of another site asks for this; the console's own address is that of the forwarded port on localhost";
        return ApiError::new(ErrorCode::Forbidden, message).into_response();
    }
    next.run(request).await
}

/// Browsers name the site that a request comes from (`Sec-Fetch-Site`, `Origin`), except where they cannot tell it from this
/// one: a site can have its own name lead to localhost, and then the name is another's.
fn is_of_other_site(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text("host").unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_public = name.contains('.') && name.parse::<Ipv4Addr>().is_err();
    let led = text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let foreign = text("origin").is_some_and(|origin| origin.split_once("://").map(|(_, from)| from) != Some(host));
    is_public || led || foreign
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Who asks, for the handlers that put it on record.
pub(super) struct By(pub(super) Caller);

impl FromRequestParts<Api> for By {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        if let Some(caller) = parts.extensions.get::<Caller>() {
            return Ok(Self(caller.clone()));
        }
        let peer = *parts.extensions.get::<Peer>().ok_or_else(nobody)?;
        // Their name, and how they came here, are in files of the system and of their process.
        let caller = api.errands.run(async move { Caller::of(peer) }).await;
        caller.map(Self).ok_or_else(|| ApiError::new(ErrorCode::Busy, "the daemon is going down"))
    }
}

fn nobody() -> ApiError {
    ApiError::new(ErrorCode::Unauthorized, "it is not known who asks")
}

/// Refuses an operation to who has a smaller scope.
pub(super) async fn authorize(State(scope): State<Scope>, request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    let may = match (extensions.get::<Caller>(), extensions.get::<Peer>()) {
        (Some(caller), _) => require(caller, scope),
        (None, Some(_)) => Ok(()),
        (None, None) => Err(nobody()),
    };
    match may {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// # Errors
/// [`ErrorCode::Forbidden`].
pub(super) fn require(caller: &Caller, scope: Scope) -> Result<(), ApiError> {
    if caller.scope() >= scope {
        return Ok(());
    }
    let message = format!("this needs the scope {}; {} has {}", scope.word(), caller.name(), caller.scope().word());
    Err(ApiError::new(ErrorCode::Forbidden, message))
}

/// What a change of a farm or a backend needs: to drain, to weigh and to close until the next boot is what operators do; a
/// check that runs a program is what root does; the rest is configuration.
pub(super) fn scope_of(values: &Values, persist: bool) -> Scope {
    let runs_programs = values
        .get("health")
        .is_some_and(|health| health.get("command").is_some() || health.get("type").is_some_and(|kind| kind == "exec"));
    let steers = values.keys().all(|key| matches!(key.as_str(), "state" | "weight"));
    match (runs_programs, steers && !persist) {
        (true, _) => Scope::Root,
        (false, true) => Scope::Operate,
        (false, false) => Scope::Configure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_is_taken_from_its_header_only() {
        let headers = |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        assert_eq!(bearer(&headers("Bearer abc")), Some("abc"));
        assert_eq!(bearer(&headers("bearer  abc ")), Some("abc"));
        for wrong in ["abc", "Basic abc", "Bearer", ""] {
            assert_eq!(bearer(&headers(wrong)), None, "{wrong}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn other_sites_get_nothing_through_a_forwarded_port() {
        let of = |lines: &[(&'static str, &str)]| {
            let lines =
                lines.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()));
            is_of_other_site(&HeaderMap::from_iter(lines))
        };
        assert!(!of(&[]));
        for host in ["localhost", "localhost:8080", "headgated", "127.0.0.1:8080", "[::1]:8080", "x"] {
            assert!(!of(&[("host", host)]), "{host}");
            assert!(!of(&[("host", host), ("origin", &format!("http://{host}")), ("sec-fetch-site", "same-origin")]));
            assert!(!of(&[("host", host), ("sec-fetch-site", "none")]), "typed into the address line");
            assert!(of(&[("host", host), ("sec-fetch-site", "cross-site")]));
            assert!(of(&[("host", host), ("sec-fetch-site", "same-site")]));
            for origin in ["null", "http://evil.example", "", "\u{e9}", "http://localhost:1"] {
                assert!(of(&[("host", host), ("origin", origin)]), "{origin}");
            }
        }
        assert!(of(&[("host", "rebound.example:8080")]), "its own name, and our address");
    }

    #[test]
    fn changes_need_what_they_reach() {
        let scope = |values: serde_json::Value, persist| scope_of(values.as_object().unwrap(), persist);
        assert_eq!(scope(json!({"state": "drain"}), false), Scope::Operate);
        assert_eq!(scope(json!({"state": "drain", "weight": 3}), false), Scope::Operate);
        assert_eq!(scope(json!({"state": "drain"}), true), Scope::Configure);
        assert_eq!(scope(json!({"address": "10.0.0.1"}), false), Scope::Configure);
        assert_eq!(scope(json!({"health": {"type": "tcp"}}), false), Scope::Configure);
        assert_eq!(scope(json!({"health": {"type": "exec"}}), false), Scope::Root);
        assert_eq!(scope(json!({"health": {"command": ["/bin/sh"]}}), false), Scope::Root);
    }
}
