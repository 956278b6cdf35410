//! Every mistake of a configuration has a case of its own: its files, and what is said about them.
//!
//! A case with `etc`, `usr` or `run` is a root; one with `hwprofiles` holds profiles; any other is a directory of files as
//! `headgate check DIR` takes it. `BLESS=1` rewrites what is expected: read it before you commit it.

use std::fs;
use std::path::{Path, PathBuf};

use headgate_config::{Diagnostics, load, load_files, load_profiles};

fn said_about(case: &Path) -> String {
    let warnings = if ["etc", "usr", "run"].iter().any(|directory| case.join(directory).is_dir()) {
        load(case).map(|loaded| loaded.warnings)
    } else if case.join("hwprofiles").is_dir() {
        load_profiles(&[case.join("hwprofiles")]).map(|_| Diagnostics::default())
    } else {
        load_files(&[case.to_owned()], case).map(|loaded| loaded.warnings)
    };
    let text = match warnings {
        Ok(warnings) if warnings.is_empty() => "good\n".to_owned(),
        Ok(diagnostics) | Err(diagnostics) => diagnostics.to_string(),
    };
    text.replace(&format!("{}/", case.display()), "/")
}

#[test]
fn every_mistake_is_told() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("cases/errors");
    let mut cases: Vec<PathBuf> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 45, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let (said, file) = (said_about(case), case.join("expected.txt"));
        if std::env::var_os("BLESS").is_some() {
            fs::write(&file, &said).unwrap();
        } else if fs::read_to_string(&file).unwrap_or_default() != said {
            wrong.push(format!("look at {}\n--- it was said ---\n{said}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
