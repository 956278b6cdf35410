//! What a configuration wants to go on beside the data plane: processes, and what the box itself has to do with others.

use headgate_config::Config;
use headgate_config::model::System;
use headgate_plan::compile::Desired;
use headgate_plan::facts::Facts;
use tokio::sync::watch;

use super::{Engine, Services};
use crate::daemon::{clock, syslog};
use crate::{dhcp, resolver, ssh};

impl Engine {
    /// The processes that should run, from now on.
    pub fn services(&self) -> watch::Receiver<Services> {
        self.services.subscribe()
    }

    /// What the box itself should be, from now on.
    pub fn system(&self) -> watch::Receiver<System> {
        self.system.subscribe()
    }

    /// Where it is told how sending the log elsewhere goes.
    pub fn syslog(&self) -> syslog::Board {
        self.syslog.clone()
    }

    /// Where it is told how the clock is kept.
    pub fn clock(&self) -> clock::Board {
        self.clock.clone()
    }

    /// Has the services of a configuration run, and what of our own it needs on this machine: clients of
    /// DHCP, ssh, and who resolves names.
    pub(super) fn keep_running(&self, config: &Config, desired: &Desired, facts: &Facts) {
        let system = &config.system;
        self.system.send_if_modified(|before| std::mem::replace(before, system.clone()) != *system);
        let keys = if facts.appliance { &*system.authorized_keys } else { &[] };
        if let Err(error) = resolver::lay_down(&desired.resolvers, &self.root) {
            tracing::error!(error = crate::explain(&error), "who resolves names cannot be written down");
        }
        let mut services = dhcp::services(desired.clients.clone(), &self.root);
        let ssh = ssh::service(keys, &self.root).unwrap_or_else(|error| {
            tracing::error!(error = crate::explain(&error), "nobody can log in over ssh");
            None
        });
        services.extend(ssh.map(|ssh| (ssh.name.clone(), ssh)));
        services.extend(config.services.clone());
        self.services.send_if_modified(|before| std::mem::replace(before, services.clone()) != services);
    }
}
