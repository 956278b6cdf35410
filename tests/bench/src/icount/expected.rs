//! The committed figures, and the gate: `tests/bench/icount.toml`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use headgate_bench_guest::plan::Phase;
use headgate_image::source::Source;
use serde::{Deserialize, Serialize};

use super::figures::Figures;
use super::ramdisk::Setting;
use super::variants::ROUTE;

const FILE: &str = "tests/bench/icount.toml";
const HEADER: &str = "\
# Instructions of the kernel per packet and per TCP connection: what `headgate-bench icount --check` compares with.
# `make bless-icount` rewrites this; read the difference before you commit it.
";

/// The file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expected {
    setting: Setting,
    instructions: Instructions,
}

/// Those of [`Figures`].
type Instructions = BTreeMap<String, BTreeMap<Phase, f64>>;

impl Expected {
    /// What was measured, as what is expected from now on.
    pub(super) fn new(setting: &Setting, figures: &Figures) -> Self {
        Self { setting: setting.clone(), instructions: figures.0.clone() }
    }

    /// The release of the kernel that was counted.
    pub(super) fn kernel(&self) -> &str {
        &self.setting.kernel
    }

    /// Instructions of a variant in a phase.
    pub(super) fn get(&self, variant: &str, phase: Phase) -> Option<f64> {
        self.instructions.get(variant)?.get(&phase).copied()
    }

    /// Reads the file.
    pub(super) fn read(source: &Source) -> Result<Self> {
        source
            .read_toml(FILE)
            .with_context(|| format!("no figures to compare with (`make bless-icount` writes {FILE})"))
    }

    /// Writes the file.
    pub(super) fn write(&self, source: &Source) -> Result<()> {
        let text = format!("{HEADER}{}", toml::to_string(self)?);
        std::fs::write(source.join(FILE), text).with_context(|| format!("cannot write {FILE}"))
    }

    /// An error with every figure that is worse than it may be. With `whole`, all variants were to be measured.
    pub(super) fn check(&self, setting: &Setting, figures: &Figures, whole: bool) -> Result<()> {
        ensure!(
            self.setting == *setting,
            "figures of another setting mean nothing here: {FILE} was made with {:?}, this is {setting:?}. \
             Measure the commit before this one with --bless, then this one with --check",
            self.setting
        );
        let mut worse = String::new();
        for (variant, phases) in &figures.0 {
            for (&phase, own) in phases {
                let is = as_counted(&figures.0, variant, phase).unwrap_or(*own);
                match as_counted(&self.instructions, variant, phase) {
                    None => writeln!(worse, "{variant} {phase}: {is}, and nothing was expected")?,
                    Some(was) if is > was * (1.0 + tolerance(phase)) => {
                        let percent = (is / was - 1.0) * 100.0;
                        writeln!(worse, "{variant} {phase}: {is} instead of {was}, {percent:+.2} %")?;
                    }
                    Some(_) => {}
                }
            }
        }
        for variant in self.instructions.keys().filter(|variant| whole && !figures.0.contains_key(*variant)) {
            writeln!(worse, "{variant}: expected, and not measured")?;
        }
        ensure!(worse.is_empty(), "not what {FILE} says:\n{worse}");
        Ok(())
    }
}

/// A figure before something was subtracted that is much larger: what a connection takes over plain routing may be next to
/// nothing, or less.
fn as_counted(instructions: &Instructions, variant: &str, phase: Phase) -> Option<f64> {
    let figure = |variant: &str| instructions.get(variant)?.get(&phase).copied();
    let own = figure(variant)?;
    Some(if phase == Phase::Tcp && variant != ROUTE { figure(ROUTE)? + own } else { own })
}

/// How much more than before is let go. Repeats of established packets are equal; those of new flows depend a little on how a
/// hash table happens to be filled, and connections on where ticks fall among a hundred thousand instructions.
fn tolerance(phase: Phase) -> f64 {
    match phase {
        Phase::Original | Phase::Reply => 0.01,
        Phase::New => 0.02,
        Phase::Tcp => 0.0025,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(kernel: &str) -> Setting {
        Setting { kernel: kernel.to_owned(), nft: "1".to_owned(), qemu: "10".to_owned(), cpu: "x".to_owned() }
    }

    fn figures(original: f64, new: f64) -> Figures {
        let phases = BTreeMap::from([(Phase::Original, original), (Phase::New, new)]);
        Figures(BTreeMap::from([("snat@1".to_owned(), phases)]))
    }

    #[test]
    fn one_percent_and_two_are_the_limits() {
        let expected = Expected::new(&setting("6.12"), &figures(5000.0, 9000.0));
        expected.check(&setting("6.12"), &figures(5050.0, 9180.0), true).unwrap();
        expected.check(&setting("6.12"), &figures(4000.0, 8000.0), true).unwrap();
        let error = expected.check(&setting("6.12"), &figures(5051.0, 9181.0), true).unwrap_err().to_string();
        assert!(error.contains("snat@1 original: 5051 instead of 5000, +1.02 %"), "{error}");
        assert!(error.contains("snat@1 new: 9181 instead of 9000, +2.01 %"), "{error}");
    }

    #[test]
    fn a_connection_is_compared_with_both_ends_in_it() {
        let connection = |route, dsr| {
            let one = |name: &str, tcp| (name.to_owned(), BTreeMap::from([(Phase::Tcp, tcp)]));
            Figures(BTreeMap::from([one(ROUTE, route), one("dsr@1", dsr)]))
        };
        let expected = Expected::new(&setting("6.12"), &connection(160_000.0, -2_000.0));
        let check = |route, dsr| expected.check(&setting("6.12"), &connection(route, dsr), true);
        // 0.25 % of 158,000 is 395; what the way itself has lost or won is none of a mode's.
        check(160_000.0, -1_606.0).unwrap();
        check(159_900.0, -1_506.0).unwrap();
        let error = check(160_000.0, -1_604.0).unwrap_err().to_string();
        assert!(error.contains("dsr@1 tcp: 158396 instead of 158000, +0.25 %"), "{error}");
        assert!(check(160_401.0, -2_401.0).unwrap_err().to_string().contains("route@1 tcp"));
    }

    #[test]
    fn what_is_new_or_gone_is_named() {
        let expected = Expected::new(&setting("6.12"), &figures(5000.0, 9000.0));
        let other = Figures(BTreeMap::from([("dnat@1".to_owned(), BTreeMap::from([(Phase::New, 1.0)]))]));
        let error = expected.check(&setting("6.12"), &other, true).unwrap_err().to_string();
        assert!(error.contains("dnat@1 new: 1, and nothing was expected"), "{error}");
        assert!(error.contains("snat@1: expected, and not measured"), "{error}");
        let error = expected.check(&setting("6.12"), &other, false).unwrap_err().to_string();
        assert!(!error.contains("not measured"), "{error}");
    }

    #[test]
    fn another_kernel_is_not_compared() {
        let expected = Expected::new(&setting("6.12"), &figures(5000.0, 9000.0));
        let error = expected.check(&setting("6.18"), &figures(1.0, 1.0), true).unwrap_err().to_string();
        assert!(error.contains("6.12") && error.contains("6.18"), "{error}");
    }

    #[test]
    fn the_file_survives_a_round_trip() {
        let expected = Expected::new(&setting("6.12"), &figures(5000.5, 9000.0));
        assert_eq!(toml::from_str::<Expected>(&toml::to_string(&expected).unwrap()).unwrap(), expected);
    }
}
