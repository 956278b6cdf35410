use std::path::Path;

use super::*;
use crate::model::{ConntrackMax, IrqPolicy};

#[test]
fn a_profile_is_read_with_the_place_of_each_setting() {
    let directory = tempfile::tempdir().unwrap();
    let text = "irq = \"one-per-core\"\n[profile]\ntitle = \"A box\"\npriority = 10\n\
                [[match]]\ndmi-product = \"BOX*\"\n[[match]]\ncpu-model = \"*E3*\"\ncpu-cores = 4\nnic-drivers = [\"igb\", \"e1000e\"]\nnic-count-min = 2\n\
                [conntrack]\nmax = \"auto\"\n[sysctl]\n\"net.ipv4.conf.{if}.rp_filter\" = 0\n\"kernel.panic\" = 10\n";
    std::fs::write(directory.path().join("box.toml"), text).unwrap();
    let profiles = load_profiles(&[directory.path().to_owned()]).unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    let [profile] = profiles.as_slice() else { panic!("{profiles:?}") };
    assert_eq!((profile.id.as_str(), profile.title.as_str(), profile.priority), ("box", "A box", 10));
    assert_eq!(profile.matches.len(), 2);
    assert_eq!(profile.matches[0].dmi_product, ["BOX*"]);
    assert_eq!((profile.matches[1].cpu_cores, profile.matches[1].nic_count_min), (Some(4), Some(2)));
    assert_eq!(profile.tuning.irq, Some(IrqPolicy::OnePerCore));
    assert_eq!(profile.tuning.conntrack_max, Some(ConntrackMax::Auto));
    assert_eq!(profile.tuning.sysctl["net.ipv4.conf.{if}.rp_filter"], "0");
    let lines: Vec<(&str, u32)> =
        profile.tuning.origins.iter().map(|(key, origin)| (key.as_str(), origin.line)).collect();
    assert_eq!(
        lines,
        [("conntrack.max", 13), ("irq", 1), ("sysctl.kernel.panic", 16), ("sysctl.net.ipv4.conf.{if}.rp_filter", 15)]
    );
}

#[test]
fn a_later_directory_replaces_a_profile_and_none_is_no_error() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(first.path().join("a.toml"), "not toml").unwrap();
    std::fs::write(second.path().join("a.toml"), "[profile]\ntitle = \"second\"\n").unwrap();
    let dirs = [first.path().to_owned(), second.path().to_owned(), "/nonexistent".into()];
    assert_eq!(load_profiles(&dirs).unwrap()[0].title, "second");
    let diagnostics = load_profiles(&dirs[..1]).unwrap_err();
    assert!(diagnostics.to_string().contains("a.toml:1:"), "{diagnostics}");
}

#[test]
fn the_profiles_of_the_tree_are_good() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hwprofiles");
    let profiles = load_profiles(&[directory]).unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    assert!(profiles.len() >= 3, "{}", profiles.len());
}
