//! One question to one time server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use headgate_plan::clock::Sample;
use rsntp::{AsyncSntpClient, Config, KissCode, ProtocolError, SynchronizationError};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Who says that it was asked too often is left alone for so long.
const RATE: Duration = Duration::from_secs(30 * 60);
/// Who says that it does not want to be asked. Not for ever: whoever sees the question could say so in its place.
const DENIED: Duration = Duration::from_secs(6 * 3600);
/// An answer that was longer on its way says little; the one that is asked for is within [`PATIENCE`] anyhow.
const SECOND: f64 = 1e9;

/// Why a server did not say what time it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// It does not want to be asked for a while (RFC 5905, 7.4).
    #[error("it asks not to be asked for {} minutes", pause.as_secs() / 60)]
    Asks {
        /// For how long.
        pause: Duration,
        /// How it said so.
        source: SynchronizationError,
    },
    /// It did not answer, or the answer is none to our question, or it does not know itself.
    // The library's errors say all that they know, their sources included.
    #[error("no time from it: {0}")]
    Nothing(String),
    /// What it says is no time.
    #[error("what it says is no time")]
    Absurd,
}

/// Asks. The socket is connected, so that nobody else is heard, and the answer must repeat the time of the question, whose fraction of a
/// second nobody guesses.
pub(super) async fn ask(server: IpAddr) -> Result<Sample, Refusal> {
    let any = match server {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let config = Config::default().bind_address((any, 0).into()).timeout(PATIENCE);
    let said = AsyncSntpClient::with_config(config).synchronize(server).await.map_err(refusal)?;
    let nanoseconds = |seconds: f64| {
        let nanoseconds = seconds * SECOND;
        (nanoseconds.is_finite() && nanoseconds.abs() < i64::MAX as f64 / 2.0).then_some(nanoseconds as i64)
    };
    let offset_ns = nanoseconds(said.clock_offset().as_secs_f64()).ok_or(Refusal::Absurd)?;
    let delay_ns = nanoseconds(said.round_trip_delay().as_secs_f64()).ok_or(Refusal::Absurd)?;
    // What the server says about itself cannot make the way longer than we have waited, nor much shorter than nothing.
    if delay_ns < -1_000_000 || delay_ns > PATIENCE.as_nanos() as i64 {
        return Err(Refusal::Absurd);
    }
    Ok(Sample { server, offset_ns, delay_ns, stratum: said.stratum() })
}

fn refusal(source: SynchronizationError) -> Refusal {
    let pause = match &source {
        SynchronizationError::ProtocolError(ProtocolError::KissODeath(code)) => match code {
            KissCode::RateExceeded => Some(RATE),
            KissCode::AccessDenied => Some(DENIED),
            _ => None,
        },
        _ => None,
    };
    match pause {
        Some(pause) => Refusal::Asks { pause, source },
        None => Refusal::Nothing(source.to_string()),
    }
}
