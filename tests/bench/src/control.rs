//! The control plane: how long farms take to load and to change, and how much memory that needs.
//!
//! `stages` times the way from TOML to the kernel step by step inside this process.

mod stages;

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use clap::Args;
use headgate_image::netns::Namespace;

use crate::report::Report;
use crate::setting;

/// What of the control plane to measure.
#[derive(Args)]
pub struct Options {
    /// How many farms with how many backends each
    #[arg(long, value_name = "FARMSxBACKENDS", value_delimiter = ',', default_values = ["1x10", "1000x4", "10000x4"])]
    sizes: Vec<Size>,
    /// How often each stage is timed; what is shown is the median
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// How many farms, and how many backends each of them has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// At least 1.
    pub farms: u32,
    /// At least 1.
    pub backends: u32,
}

impl FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let pair =
            text.split_once('x').and_then(|(farms, backends)| Some((farms.parse().ok()?, backends.parse().ok()?)));
        let size = pair.map(|(farms, backends)| Self { farms, backends });
        size.filter(|size| size.farms > 0 && size.backends > 0).context("FARMSxBACKENDS is needed, as in 1000x4")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.farms, self.backends)
    }
}

/// Measures all sizes.
pub fn run(options: &Options) -> Result<Report> {
    let setting = setting::describe(&[setting::NFT])?;
    let mut report = Report { name: "control", setting, tables: Vec::new(), targets: Vec::new() };
    let mut table = stages::table();
    for &size in &options.sizes {
        let (row, targets) = stages::measure(&space()?, size, options.rounds)?;
        table.rows.push(row);
        report.targets.extend(targets);
    }
    report.tables.push(table);
    Ok(report)
}

/// A box without neighbours: one interface in the network of the virtual addresses, one in that of the backends.
fn space() -> Result<Namespace> {
    let space = Namespace::create("control")?;
    for (device, peer, address) in [("service", "far", "10.255.255.254/8"), ("backend", "back", "172.31.255.254/12")] {
        space.ip(&["link", "add", device, "type", "veth", "peer", "name", peer])?;
        space.ip(&["address", "add", address, "dev", device])?;
        space.ip(&["link", "set", device, "up"])?;
        space.ip(&["link", "set", peer, "up"])?;
    }
    Ok(space)
}
