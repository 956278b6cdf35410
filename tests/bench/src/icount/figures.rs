//! From what the guest counted to tables.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use headgate_bench_guest::plan::{Measured, Phase};

use super::expected::Expected;
use super::ramdisk::Setting;
use super::variants::{Kind, MANY, NULL, ROUTE, Row};
use crate::report::{Cell, Report, Table, Target};

/// Instructions by variant and phase, what belongs to the sender (for TCP: to both ends and the way as a router) subtracted.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures(pub(super) BTreeMap<String, BTreeMap<Phase, f64>>);

impl Figures {
    /// The median of the repeats of each phase.
    pub(super) fn new(measured: &[Measured]) -> Result<Self> {
        let mut repeats: BTreeMap<(&str, Phase), Vec<f64>> = BTreeMap::new();
        for one in measured {
            repeats.entry((&one.variant, one.phase)).or_default().push(one.median);
        }
        let medians: BTreeMap<_, f64> = repeats
            .into_iter()
            .map(|(key, mut values)| {
                values.sort_by(f64::total_cmp);
                (key, values[values.len() / 2])
            })
            .collect();
        let null = *medians.get(&(NULL, Phase::Original)).with_context(|| format!("{NULL} was not measured"))?;
        let route = *medians.get(&(ROUTE, Phase::Tcp)).with_context(|| format!("{ROUTE} was not measured"))?;
        let mut figures = Self::default();
        for ((variant, phase), median) in medians {
            let own = match phase {
                // These stay as they are: they are what the others depend on.
                _ if variant == NULL => median,
                Phase::Tcp if variant == ROUTE => median,
                Phase::Tcp => median - route,
                Phase::Original | Phase::Reply | Phase::New => median - null,
            };
            // A tenth of an instruction is what 16 packets resolve.
            figures.0.entry(variant.to_owned()).or_default().insert(phase, (own * 10.0).round() / 10.0);
        }
        Ok(figures)
    }

    /// Instructions of a variant in a phase.
    pub(super) fn get(&self, variant: &str, phase: Phase) -> Option<f64> {
        self.0.get(variant)?.get(&phase).copied()
    }
}

/// The names of all variants.
pub(super) fn list(rows: &[Row]) -> Report {
    let mut table = Table::new("Variants", &["name"]);
    table.rows = rows.iter().map(|row| vec![row.name().into()]).collect();
    Report { name: "icount", setting: Vec::new(), tables: vec![table], targets: Vec::new() }
}

/// Everything as tables.
pub(super) fn report(versions: &Setting, rows: &[Row], figures: &Figures) -> Report {
    Report {
        name: "icount",
        setting: setting(versions),
        tables: vec![modes(rows, figures), peers(rows, figures), options(rows, figures)]
            .into_iter()
            .filter(|table| !table.rows.is_empty())
            .collect(),
        targets: targets(figures),
    }
}

/// What another kernel takes, with the difference to the committed figures.
pub(super) fn beside(versions: &Setting, rows: &[Row], figures: &Figures, expected: &Expected) -> Report {
    let columns = ["variant", "to the backend", "", "back", "", "first packet", "", "TCP connection", ""];
    let title = format!(
        "Instructions with kernel {}, and how many more or fewer than with {}",
        versions.kernel,
        expected.kernel()
    );
    let mut table = Table::new(title, &columns);
    for row in rows {
        let name = row.name();
        let mut line = vec![name.as_str().into()];
        for phase in Phase::ALL {
            let is = figures.get(&name, phase);
            let difference = is.zip(expected.get(&name, phase)).map(|(is, was)| format!("{:+.0}", is - was));
            line.push(is.map_or(Cell::Missing, |is| Cell::Number(is, 0)));
            line.push(difference.map_or(Cell::Missing, Cell::Text));
        }
        table.rows.push(line);
    }
    Report { name: "icount-production", setting: setting(versions), tables: vec![table], targets: Vec::new() }
}

/// The setting as a report has it.
pub(super) fn setting(setting: &Setting) -> Vec<(String, String)> {
    let shown =
        [("kernel", &setting.kernel), ("nft", &setting.nft), ("QEMU", &setting.qemu), ("processor", &setting.cpu)];
    shown.map(|(name, value)| (name.to_owned(), value.clone())).to_vec()
}

const COLUMNS: [&str; 7] = [
    "variant",
    "farms",
    "packet to the backend",
    "packet back",
    "first packet",
    "of it, creation",
    "TCP connection over routing",
];

fn line(row: &Row, figures: &Figures) -> Vec<Cell> {
    let name = row.name();
    let [original, reply, new, tcp] = Phase::ALL.map(|phase| figures.get(&name, phase));
    let creation = new.zip(original).map(|(new, original)| new - original);
    let cell = |figure: Option<f64>| figure.map_or(Cell::Missing, |figure| Cell::Number(figure, 0));
    let label = name.split('@').next().unwrap_or(&name).to_owned();
    let mut cells = vec![label.into(), Cell::Number(f64::from(row.farms), 0)];
    cells.extend([original, reply, new, creation, tcp].map(cell));
    cells
}

fn modes(rows: &[Row], figures: &Figures) -> Table {
    let mut table = Table::new("Headgate, instructions", &COLUMNS).note(
        "Medians, of UDP with 18 bytes. What the sender takes up to where the balancer receives is subtracted (the row `null`), \
         and for TCP (opened, 64 bytes each way, closed) what both ends and plain routing take (the row `route`).",
    );
    table.rows = rows.iter().filter(|row| row.kind == Kind::Mode).map(|row| line(row, figures)).collect();
    table
}

fn peers(rows: &[Row], figures: &Figures) -> Table {
    let mut table = Table::new("Beside it, instructions", &COLUMNS).note(
        "`nft-…` are the shortest rulesets by hand, `nftlb-…` rulesets as nftlb writes them, `ipvs-…` IPVS with round robin. \
         IPVS creates flows cheaper: it has one table, a cheaper hash and no search for a free address and port. \
         With a flowtable a connection as short as this one is even again. \
         `…+addresses` has the services' addresses on an interface, as farms have them: every route is looked up in one trie \
         with them. `layout` is the ruleset of `snat` by hand, without its counters and address.",
    );
    let others = rows.iter().filter(|row| matches!(row.kind, Kind::Peer | Kind::Base));
    table.rows = others.map(|row| line(row, figures)).collect();
    table
}

/// What an option adds to its mode.
fn options(rows: &[Row], figures: &Figures) -> Table {
    let columns = ["option", "packet to the backend", "packet back", "first packet", "TCP connection"];
    let mut table = Table::new("What an option adds, instructions", &columns).note(
        "`layout+flows`: the counter of new flows on the element that translates, which every farm has. `…+bytes`: packets and \
         bytes of each backend, `[metrics] traffic = \"bytes\"`.",
    );
    for row in rows {
        let Kind::Option(base) = &row.kind else { continue };
        let name = row.name();
        let price = |phase| Some(figures.get(&name, phase)? - figures.get(base, phase)?);
        let cells = Phase::ALL.map(|phase| price(phase).map_or(Cell::Missing, |price| Cell::Number(price, 0)));
        let mut line = vec![name.split('@').next().unwrap_or(&name).into()];
        line.extend(cells);
        table.rows.push(line);
    }
    table
}

/// What the design asks for.
fn targets(figures: &Figures) -> Vec<Target> {
    let many = format!("snat@{MANY}");
    let wanted = [
        ("established packet, snat, 1 farm", "snat@1", Phase::Original, 5300.0),
        ("established packet, snat, 10,000 farms", many.as_str(), Phase::Original, 5300.0),
        ("established packet, snat with offload", "snat+offload@1", Phase::Original, 2300.0),
        ("first packet, snat", "snat@1", Phase::New, 9800.0),
        ("first packet, dnat", "dnat@1", Phase::New, 8300.0),
        ("packet, dsr with its flows bound", "dsr@1", Phase::Original, 3600.0),
        ("TCP connection over routing, snat with offload", "snat+offload@1", Phase::Tcp, 25_600.0),
    ];
    let target = |(what, variant, phase, limit): (&str, &str, Phase, f64)| {
        Some(Target::at_most(what, limit, figures.get(variant, phase)?, "instructions"))
    };
    wanted.into_iter().filter_map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(variant: &str, phase: Phase, median: f64) -> Measured {
        Measured { variant: variant.to_owned(), phase, median, mean: median }
    }

    #[test]
    fn the_median_of_the_repeats_counts_without_the_sender() {
        let all = [
            measured(NULL, Phase::Original, 4500.0),
            measured(ROUTE, Phase::Tcp, 160_000.0),
            measured("snat@1", Phase::New, 14_000.04),
            measured("snat@1", Phase::New, 99_000.0),
            measured("snat@1", Phase::New, 13_000.0),
            measured("snat@1", Phase::Tcp, 190_000.0),
        ];
        let figures = Figures::new(&all).unwrap();
        assert_eq!(figures.get("snat@1", Phase::New), Some(9500.0));
        assert_eq!(figures.get("snat@1", Phase::Tcp), Some(30_000.0));
        assert_eq!(figures.get(NULL, Phase::Original), Some(4500.0));
        assert_eq!(figures.get("snat@1", Phase::Reply), None);
        assert!(Figures::new(&all[1..]).unwrap_err().to_string().contains("null@1"));
    }
}
