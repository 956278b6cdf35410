//! The product's own binaries, built once for a test run in the profile of the tests.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use headgate_image::tool::cargo;

/// The folder that holds `headgated` and `headgate`, built from what the tree says now.
///
/// # Panics
/// When they do not build: no test that needs them could say anything.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        // In a guest there is no cargo: whoever packed it has put them where it says.
        if let Some(directory) = std::env::var_os("HEADGATE_BINARIES") {
            return directory.into();
        }
        let mut build = cargo();
        build.args(["build", "--quiet", "--package", "headgate", "--bins"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let status = build.status().expect("cargo runs: it runs this test");
        assert!(status.success(), "headgated and headgate do not build");
        let test = std::env::current_exe().expect("a running program has a path");
        let target = test.ancestors().find(|path| path.join("deps").is_dir()).expect("tests run from below target/");
        target.to_path_buf()
    })
}
