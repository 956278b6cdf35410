//! The console: one page, which comes out of the program itself.
//!
//! It says nothing of this box, so nobody needs a token for it; what it shows it asks the API for, with the token of whoever
//! sits before it.

use std::sync::LazyLock;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

const LOOKS: &str = include_str!("../../../console/console.css");
const SCRIPT: &str = concat!(
    include_str!("../../../console/api.js"),
    include_str!("../../../console/draw.js"),
    include_str!("../../../console/main.js")
);
const HEAD: &str = include_str!("../../../console/head.html");
const BODY: &str = include_str!("../../../console/body.html");

/// Whole, so that one request brings it.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    format!("{HEAD}<style>{LOOKS}</style>\n<script type=\"module\">{SCRIPT}</script>\n</head>\n{BODY}")
});

/// Its own script and looks and nothing else, no frame around it, and no text that becomes markup: a name or an error message
/// that carries a script is only a text.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        hash(SCRIPT),
        hash(LOOKS)
    );
    HeaderValue::try_from(policy).expect("hashes and words are ASCII")
});

/// The page, at the root.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/", get(page))
}

async fn page() -> impl IntoResponse {
    let word = HeaderValue::from_static;
    let headers: [(HeaderName, HeaderValue); 6] = [
        (header::CONTENT_TYPE, word("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        (header::X_CONTENT_TYPE_OPTIONS, word("nosniff")),
        (header::REFERRER_POLICY, word("no-referrer")),
        // An upgraded box must not be looked at with the page of the one before.
        (header::CACHE_CONTROL, word("no-store")),
        (HeaderName::from_static("cross-origin-resource-policy"), word("same-origin")),
    ];
    (headers, PAGE.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A browser would only complain on a console that nobody reads.
    #[test]
    fn nothing_of_it_needs_what_the_policy_forbids() {
        let text = PAGE.replace("http://www.w3.org/2000/svg", "");
        for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http://", "https://"] {
            assert!(!text.contains(word), "{word}");
        }
        for word in ["<style", " style=", " onclick", "<script", "javascript:", " src=", "href=\"/"] {
            assert!(![HEAD, BODY].concat().contains(word), "{word}");
        }
        for text in [SCRIPT, LOOKS] {
            assert!(!text.contains("</"), "it would end there");
        }
        assert!(POLICY.to_str().is_ok_and(|policy| policy.matches("'sha256-").count() == 2));
    }
}
