//! Which hardware profile a machine gets.

use headgate_config::model::{
    ConntrackMax, Hardware, IrqPolicy, NicTuning, Profile, ProfileChoice, ProfileMatch, RpsPolicy, Tuning, XpsPolicy,
};

use crate::compile::Unsupported;
use crate::facts::Facts;

/// `hardware.profile` names a profile that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no hardware profile {name:?}; there are: {}", known.join(", "))]
pub struct UnknownProfile {
    /// What was asked for.
    pub name: String,
    /// What there is, sorted.
    pub known: Vec<String>,
}

impl From<UnknownProfile> for Unsupported {
    fn from(unknown: UnknownProfile) -> Self {
        let value = format!("{:?} (there are: {})", unknown.name, unknown.known.join(", "));
        Self { path: "hardware.profile".to_owned(), value }
    }
}

pub(super) struct Chosen {
    pub(super) profile: Option<String>,
    pub(super) tuning: Tuning,
}

/// The profile, laid over the matching ones below it; overrides on top.
pub(super) fn choose(hardware: &Hardware, profiles: &[Profile], facts: &Facts) -> Result<Chosen, UnknownProfile> {
    let mut matching: Vec<&Profile> = profiles.iter().filter(|profile| matches(profile, facts)).collect();
    // Of two with the same priority the name decides, so that the order of files on a disk does not.
    matching.sort_by(|a, b| (a.priority, &b.id).cmp(&(b.priority, &a.id)));
    let chosen = match &hardware.profile {
        ProfileChoice::None => None,
        ProfileChoice::Auto => matching.last().copied(),
        ProfileChoice::Named(name) => match profiles.iter().find(|profile| profile.id == *name) {
            Some(profile) => Some(profile),
            None => {
                let mut known: Vec<String> = profiles.iter().map(|profile| profile.id.clone()).collect();
                known.sort();
                return Err(UnknownProfile { name: name.clone(), known });
            }
        },
    };
    let mut tuning = Tuning::default();
    if let Some(chosen) = chosen {
        tuning = defaults();
        let below = matching.iter().filter(|profile| profile.priority < chosen.priority && profile.id != chosen.id);
        below.for_each(|profile| lay_over(&mut tuning, &profile.tuning));
        lay_over(&mut tuning, &chosen.tuning);
    }
    lay_over(&mut tuning, &hardware.overrides);
    tuning.sysctl.retain(|_, value| value != "unset");
    Ok(Chosen { profile: chosen.map(|profile| profile.id.clone()), tuning })
}

/// What a profile that does not say it means.
fn defaults() -> Tuning {
    Tuning {
        irq: Some(IrqPolicy::OnePerCore),
        rps: Some(RpsPolicy::Auto),
        xps: Some(XpsPolicy::SameCore),
        conntrack_max: Some(ConntrackMax::Auto),
        ..Tuning::default()
    }
}

fn lay_over(tuning: &mut Tuning, upper: &Tuning) {
    tuning.irq = upper.irq.or(tuning.irq);
    tuning.rps = upper.rps.or(tuning.rps);
    tuning.xps = upper.xps.or(tuning.xps);
    lay_nic_over(&mut tuning.nic, &upper.nic);
    for (driver, upper) in &upper.drivers {
        lay_nic_over(tuning.drivers.entry(driver.clone()).or_default(), upper);
    }
    tuning.cpu_frequency = upper.cpu_frequency.or(tuning.cpu_frequency);
    tuning.cpu_wake_up = upper.cpu_wake_up.or(tuning.cpu_wake_up);
    tuning.pcie_power_saving = upper.pcie_power_saving.or(tuning.pcie_power_saving);
    tuning.conntrack_max = upper.conntrack_max.or(tuning.conntrack_max);
    tuning.sysctl.extend(upper.sysctl.clone());
    tuning.origins.extend(upper.origins.clone());
}

pub(super) fn lay_nic_over(tuning: &mut NicTuning, upper: &NicTuning) {
    tuning.queues = upper.queues.or(tuning.queues);
    tuning.rx_ring = upper.rx_ring.or(tuning.rx_ring);
    tuning.tx_ring = upper.tx_ring.or(tuning.tx_ring);
    // The word of an upper table goes before the number of a lower one.
    if upper.coalesce.is_some() {
        tuning.rx_usecs = None;
    }
    tuning.coalesce = upper.coalesce.or(tuning.coalesce);
    tuning.rx_usecs = upper.rx_usecs.or(tuning.rx_usecs);
    tuning.udp_hash = upper.udp_hash.or(tuning.udp_hash);
    tuning.pause = upper.pause.or(tuning.pause);
    tuning.eee = upper.eee.or(tuning.eee);
    tuning.features.extend(upper.features.clone());
}

fn matches(profile: &Profile, facts: &Facts) -> bool {
    profile.matches.is_empty() || profile.matches.iter().any(|alternative| matches_all(alternative, facts))
}

fn matches_all(wanted: &ProfileMatch, facts: &Facts) -> bool {
    let has_driver = |driver: &Option<String>| {
        driver.as_ref().is_some_and(|driver| wanted.nic_drivers.iter().any(|glob| matches_glob(glob, driver)))
    };
    let nics = facts.links.values().filter(|link| link.nic.is_some());
    let nics = nics.filter(|link| wanted.nic_drivers.is_empty() || has_driver(&link.driver)).count();
    let nics_min = wanted.nic_count_min.unwrap_or(if wanted.nic_drivers.is_empty() { 0 } else { 1 });
    let product = facts.dmi_product.as_deref().unwrap_or_default();
    (wanted.dmi_product.is_empty() || wanted.dmi_product.iter().any(|glob| matches_glob(glob, product)))
        && wanted.cpu_model.as_ref().is_none_or(|glob| matches_glob(glob, &facts.cpu_model))
        && wanted.cpu_cores.is_none_or(|cores| cores as usize == facts.cores.len())
        && nics >= nics_min as usize
}

/// `*` stands for any text, also none; everything else for itself, capital letters too.
fn matches_glob(glob: &str, text: &str) -> bool {
    let Some((head, rest)) = glob.split_once('*') else { return glob == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    // The leftmost place of each part leaves the most for those after it.
    for part in parts {
        let Some(place) = text.find(part) else { return false };
        text = &text[place + part.len()..];
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_texts() {
        for (glob, text, expected) in [
            ("igb", "igb", true),
            ("igb", "igbvf", false),
            ("*", "", true),
            ("*E3-1245 v5*", "Intel(R) Xeon(R) CPU E3-1245 v5 @ 3.50GHz", true),
            ("*E3-1245 v5*", "Intel(R) Xeon(R) CPU E3-1245 v6 @ 3.70GHz", false),
            ("Standard PC*", "Standard PC (Q35 + ICH9, 2009)", true),
            ("a*b*c", "aXbYbc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("*a*", "é-a", true),
            ("**", "x", true),
            ("", "x", false),
        ] {
            assert_eq!(matches_glob(glob, text), expected, "{glob} {text}");
        }
    }
}
