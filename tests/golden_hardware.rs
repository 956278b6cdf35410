//! What each machine of `cases/hardware` gets from the profiles of `hwprofiles/`: `facts.toml` and `config.toml` in,
//! `expected.txt` out. `BLESS=1` writes the expected files anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use headgate_config::Config;
use headgate_config::model::Profile;
use headgate_plan::compile::hardware::{self, Tuned};
use headgate_plan::facts::Facts;
use headgate_plan::hardware::{HardwareReport, Sources};
use headgate_plan::knob::name;
use headgate_plan::state::Fit;

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the tree").to_owned()
}

fn profiles() -> Vec<Profile> {
    headgate_config::load_profiles(&[tree().join("hwprofiles")]).unwrap_or_else(|problems| panic!("{problems}"))
}

fn tuned(config: &Config, facts: &Facts) -> Tuned {
    let managed: BTreeSet<String> = config.network.interfaces.keys().map(ToString::to_string).collect();
    hardware::knobs(config, &profiles(), facts, &managed).expect("the case names a profile that exists")
}

/// The report of a machine that has everything as it is wanted, and the knobs with the lines that asked for them.
fn text(facts: &Facts, tuned: &Tuned) -> String {
    let report = HardwareReport::new(Sources {
        facts,
        profile: tuned.profile.as_deref(),
        knobs: &tuned.knobs,
        found: &tuned.knobs.iter().map(|knob| (knob.path.clone(), knob.want.clone())).collect(),
        outcomes: &BTreeMap::new(),
        originals: &BTreeMap::new(),
    });
    let mut text = format!("{report}\n");
    for knob in &tuned.knobs {
        let least = match knob.fit {
            Fit::Exact => "",
            Fit::AtLeast => "at least ",
            Fit::AtMost => "at most ",
            Fit::Near => "about ",
        };
        let origin = knob.origin.as_ref().map_or("forwarding".to_owned(), ToString::to_string);
        let origin = origin.replace(&format!("{}/", tree().display()), "");
        text += &format!("{} = {least}{}  # {origin}\n", name(&knob.path), knob.want.file_text());
    }
    tuned.notes.iter().for_each(|note| text += &format!("note: {note}\n"));
    text
}

#[test]
fn every_machine_gets_what_it_should() {
    let cases = tree().join("tests/cases/hardware");
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(&cases).expect("cases/hardware is there") {
        let case = entry.expect("a readable directory").path();
        let facts = fs::read_to_string(case.join("facts.toml")).expect("facts.toml");
        let facts: Facts = toml::from_str(&facts).unwrap_or_else(|error| panic!("{}: {error}", case.display()));
        let config = headgate_config::load_files(&[case.join("config.toml")], &case);
        let config = config.unwrap_or_else(|problems| panic!("{problems}")).config;
        let found = text(&facts, &tuned(&config, &facts));
        let expected = case.join("expected.txt");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &found).expect("expected.txt can be written");
        } else if fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("{}: found\n{found}", expected.display()));
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{}\nBLESS=1 rewrites; read it before", wrong.join("\n"));
    assert_eq!(count, 14, "cases/hardware has another number of cases than this test was written for");
}

#[test]
fn every_sysctl_of_a_profile_has_its_reason() {
    for profile in profiles() {
        let facts = Facts { appliance: true, initial_netns: true, ..Facts::default() };
        let config = Config {
            hardware: headgate_config::model::Hardware {
                profile: headgate_config::model::ProfileChoice::Named(profile.id.clone()),
                ..Default::default()
            },
            ..Config::default()
        };
        for knob in tuned(&config, &facts).knobs {
            assert!(!knob.why.contains("asks for it"), "{}: {} has no reason", profile.id, knob.path);
        }
    }
}
