//! The merged tree to a [`Config`]: what no single value shows, because it takes two of them to be wrong.
//!
//! Types, bounds and forms have been judged by [`crate::schema`]; a value that was refused there reads as its default here, and
//! the `Config` is thrown away in the end.

use std::net::IpAddr;

use crate::diagnostic::{Collector, Report};
use crate::document::Document;
use crate::model::Config;
use crate::schema::ROOT;
use crate::tree::Span;

mod claims;
mod farm;
mod fields;
mod hardware;
mod health;
mod mode;
mod network;
mod policy;
mod service;
mod system;

use fields::Fields;
pub(crate) use hardware::profile;

/// Makes the configuration, leaving every contradiction in `problems`.
pub(crate) fn check(document: &Document, problems: &mut Collector) -> Config {
    let root = Fields::new(Some(&document.root), ROOT, Span::default());
    let mut checker = Checker { document, problems };
    let mut config = Config {
        site_secret: root.table("site").text("secret").map(str::to_owned),
        system: system::system(&mut checker, root.table("system")),
        hardware: hardware::hardware(&mut checker, root.table("hardware")),
        network: network::network(&mut checker, root.table("network")),
        sysctl: system::sysctl(&mut checker, root.table("sysctl")),
        sysctl_origins: system::sysctl_origins(&checker, root.table("sysctl")),
        api: system::api(&checker, root.maybe_table("api")),
        metrics: system::metrics(&checker, root.maybe_table("metrics")),
        services: service::services(&mut checker, root),
        service_order: Vec::new(),
        policies: policy::policies(&mut checker, root),
        farms: Default::default(),
    };
    config.service_order = service::order(&mut checker, root, &config.services);
    config.farms = farm::farms(&mut checker, root, &config);
    system::reachable(&mut checker, root, &config);
    config
}

/// What every check needs.
struct Checker<'a> {
    document: &'a Document,
    problems: &'a mut Collector,
}

impl Checker<'_> {
    fn push(&mut self, report: Report) {
        self.problems.push(report);
    }

    /// A key that must be there and is not. The place is the table.
    fn missing(&mut self, fields: Fields<'_>, what: &str, help: &str) {
        self.push(Report::error(fields.span(), what).help(help));
    }

    /// Refuses an address that no single host can have.
    fn host_address(&mut self, what: &str, address: IpAddr, span: Span) {
        let kind = match address {
            IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
            _ if address.is_multicast() => "a multicast address",
            _ if address.is_unspecified() => "the unspecified address",
            _ => return,
        };
        self.push(Report::error(span, format!("{what} is {kind}")).help("the address of one host"));
    }
}

#[cfg(test)]
mod tests;
