//! One probe: a question to a backend, with a deadline.
//!
//! A probe goes to the backend's own address, as flows do behind translation: it carries the mark of the backend's flows, for
//! policy routing, but no ct mark of ours, so that no rule of ours takes it for one of them.

mod dns;
mod exec;
mod http;
mod icmp;
mod socket;
mod sought;
mod tcp;
mod tls;
mod udp;

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use headgate_config::model::HealthCheck;
use headgate_config::types::duration_text;
use headgate_host::Root;
use headgate_plan::health::Target;
use nix::errno::Errno;
use tokio::time::{Instant, timeout_at};

use self::tls::Tls;
use crate::daemon::errands::Errands;

/// How a probe ended. Reasons are sentences for people, without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The backend answered as it should.
    Passed,
    /// It did not.
    Failed(String),
    /// The box could not ask.
    Untried(String),
}

/// Why a probe did not pass.
#[derive(Debug)]
enum Fault {
    /// The backend's.
    Theirs(String),
    /// The box's own: it says nothing about the backend.
    Ours(String),
}

type Passed = Result<(), Fault>;

/// What probes are made of besides their targets: the files that TLS needs, read once for all that name the same ones.
#[derive(Debug, Default)]
pub(super) struct Makings {
    tls: tls::Configurations,
}

impl Makings {
    /// Reads what the targets name.
    pub(super) fn read(root: &Root, targets: &[Target]) -> Self {
        let wanted = targets.iter().filter_map(|target| match &target.health.check {
            HealthCheck::Http { tls, .. } => tls.as_ref(),
            _ => None,
        });
        Self { tls: tls::Configurations::read(root, wanted) }
    }

    /// The probe of a target.
    pub(super) fn probe(&self, target: &Target) -> Probe {
        let tls = match &target.health.check {
            HealthCheck::Http { tls: Some(tls), host, .. } => {
                Some(self.tls.of(tls, host.as_deref(), target.address).map(Arc::new))
            }
            _ => None,
        };
        Probe(Arc::new(Question { target: target.clone(), tls }))
    }
}

/// A probe that can be made again and again.
#[derive(Debug, Clone)]
pub(super) struct Probe(Arc<Question>);

#[derive(Debug)]
struct Question {
    target: Target,
    /// Or why there is none.
    tls: Option<Result<Arc<Tls>, String>>,
}

impl Probe {
    /// Asks, once; a program is an errand.
    pub(super) async fn run(self, errands: Errands) -> Outcome {
        match self.0.ask(&errands).await {
            Ok(()) => Outcome::Passed,
            Err(Fault::Theirs(why)) => Outcome::Failed(why),
            Err(Fault::Ours(why)) => Outcome::Untried(why),
        }
    }
}

impl Question {
    /// Each type's future lives on the heap, so that one of a plain type is not as large as the largest.
    async fn ask(&self, errands: &Errands) -> Passed {
        let health = &self.target.health;
        let attempt = Attempt {
            address: self.target.address,
            source: health.source_address.filter(|source| source.is_ipv4() == self.target.address.is_ipv4()),
            mark: self.target.mark,
            timeout: health.timeout,
            deadline: Instant::now() + health.timeout,
        };
        let to = || match self.target.port {
            Some(port) => Ok(SocketAddr::new(self.target.address, port)),
            None => Err(Fault::Ours("the backend keeps the client's port; give health.port".to_owned())),
        };
        match &health.check {
            HealthCheck::Tcp { send, expect_body } => {
                Box::pin(tcp::ask(&attempt, to()?, send.as_deref(), expect_body.as_deref())).await
            }
            HealthCheck::Http { .. } => match &self.tls {
                Some(Err(why)) => Err(Fault::Ours(why.clone())),
                Some(Ok(tls)) => Box::pin(http::ask(&attempt, to()?, &health.check, Some(tls))).await,
                None => Box::pin(http::ask(&attempt, to()?, &health.check, None)).await,
            },
            HealthCheck::Icmp => Box::pin(icmp::ask(&attempt)).await,
            HealthCheck::Udp { send, expect_body } => {
                Box::pin(udp::ask(&attempt, to()?, send.as_deref(), expect_body.as_deref())).await
            }
            HealthCheck::Dns { query } => Box::pin(dns::ask(&attempt, to()?, query)).await,
            HealthCheck::Exec { command } => {
                let (command, target) = (command.clone(), self.target.clone());
                let ran = errands.run(async move { exec::ask(&attempt, &command, &target).await });
                ran.await.unwrap_or_else(|| Err(Fault::Ours("the daemon goes down".to_owned())))
            }
        }
    }
}

/// One try: from where, and until when.
#[derive(Debug)]
struct Attempt {
    address: IpAddr,
    source: Option<IpAddr>,
    mark: Option<u32>,
    timeout: Duration,
    deadline: Instant,
}

impl Attempt {
    /// Awaits one step of a probe; `what` begins the sentence when it fails or is not over at the deadline.
    async fn step<T>(&self, what: &str, work: impl Future<Output = io::Result<T>>) -> Result<T, Fault> {
        match timeout_at(self.deadline, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(fault(what, &error)),
            Err(_) => Err(self.late(what)),
        }
    }

    fn late(&self, what: &str) -> Fault {
        Fault::Theirs(format!("{what}: no answer within {}", duration_text(self.timeout)))
    }
}

/// Whose fault it is that a system call failed.
fn fault(what: &str, error: &io::Error) -> Fault {
    let why = format!("{what}: {}", reason(error));
    match error.raw_os_error().map(Errno::from_raw) {
        // Descriptors, memory, an address or a port that the box does not have, a firewall or a privilege of its own.
        Some(
            Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOMEM
            | Errno::ENOBUFS
            | Errno::EADDRNOTAVAIL
            | Errno::EADDRINUSE
            | Errno::EAGAIN
            | Errno::EACCES
            | Errno::EPERM,
        ) => Fault::Ours(why),
        _ => Fault::Theirs(why),
    }
}

/// What the system says, as the end of a sentence.
fn reason(error: &io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    };
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_the_box_are_told_from_those_of_the_backend() {
        let of = |errno: Errno| fault("tcp connect to 10.0.0.1:80", &errno.into());
        let Fault::Theirs(why) = of(Errno::ECONNREFUSED) else { panic!("refused") };
        assert_eq!(why, "tcp connect to 10.0.0.1:80: connection refused");
        assert!(matches!(of(Errno::EHOSTUNREACH), Fault::Theirs(_)));
        for errno in [Errno::EMFILE, Errno::EADDRNOTAVAIL, Errno::EPERM] {
            assert!(matches!(of(errno), Fault::Ours(_)), "{errno}");
        }
    }
}
