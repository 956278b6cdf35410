//! Random configurations and random changes of them: what is sent is what is read back, on the real kernel, by every way
//! that a change can take. Needs root and nft(8); each test has network namespaces of its own.
//!
//! The same configurations in every run. `HEADGATE_ROUNDS=20` draws twenty times as many, `HEADGATE_SEED=N` others
//! (`make test-long` does both, and prints the seed).
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use headgate_config::Config;
use headgate_config::model::FarmState;
use headgate_nft::model::width;
use headgate_nft::wire::decode_messages;
use headgate_nft::{Batch, Change, CommitError, Ruleset, Socket, Statement, between};
use headgate_plan::compile::{Desired, compile};
use headgate_plan::facts::Facts;
use headgate_plan::features::Feature;
use headgate_plan::ids::Ids;
use headgate_plan::maps;
use headgate_tests::arbitrary::{Edit, Farms, edit, farms};
use headgate_tests::hostile;
use headgate_tests::lab::Lab;
use headgate_tests::listing::settled;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config as Rounds, RngSeed, TestCaseError, TestRunner};

/// The machine of the golden cases, with what the kernel that runs this test lacks.
fn facts() -> &'static Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    FACTS.get_or_init(|| {
        let has = |feature: &Feature| Socket::open().unwrap().supports(feature.family(), feature.probe()).unwrap();
        let lacking_features = Feature::ALL.into_iter().filter(|feature| !has(feature)).collect();
        Facts { lacking_features, ..hostile::facts().clone() }
    })
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}: a number")))
}

/// Runs `test` with `cases` values of `strategy`, in a network namespace of this test's thread.
fn for_all<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let seed = number("HEADGATE_SEED", 1);
    let rounds = number("HEADGATE_ROUNDS", 1);
    let config = Rounds {
        cases: cases * u32::try_from(rounds).unwrap(),
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 2000,
        max_shrink_time: 60_000,
        ..Rounds::default()
    };
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root: they make network namespaces");
    // The devices of the recorded machine: chains of the netdev family are bound to them.
    let ip = ["link", "add", "eth0", "type", "veth", "peer", "name", "eth1"];
    assert!(Command::new("ip").args(ip).status().unwrap().success());
    if let Err(error) = TestRunner::new(config).run(&strategy, test) {
        panic!("HEADGATE_SEED={seed} HEADGATE_ROUNDS={rounds}: {error}");
    }
}

fn compiled(config: &Config, ids: &Ids) -> Desired {
    compiled_on(facts(), config, ids)
}

fn compiled_on(facts: &Facts, config: &Config, ids: &Ids) -> Desired {
    compile(config, &[], facts, ids).unwrap_or_else(|refused| panic!("{refused:?}"))
}

/// How many farms ask for what a kernel without flowtables does not have.
fn offloading(config: &Config) -> usize {
    config.farms.values().filter(|farm| farm.offload && farm.state != FarmState::Off).count()
}

const NOT_OFFLOADED: &str = "offload has no effect: this kernel has no flowtables";

/// Our tables in the network namespace of this thread.
struct Kernel(Socket);

impl Kernel {
    fn open() -> Self {
        Self(Socket::open().unwrap())
    }

    fn dump(&mut self) -> Ruleset {
        self.0.dump(&maps::tables()).unwrap()
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), TestCaseError> {
        self.0.commit(&Batch::new(changes, None)).map_err(|error| refused(&error, changes))
    }

    /// Of nothing: what was there, of a case that failed perhaps, goes first.
    fn load(&mut self, ruleset: &Ruleset) -> Result<(), TestCaseError> {
        let found = self.dump();
        self.commit(&between(&found, &Ruleset::default()))?;
        self.commit(&between(&Ruleset::default(), ruleset))
    }

    /// What nft(8) says of it, word by word: it does not read with our decoder. The kernel gives elements and objects in no
    /// certain order.
    fn listed(&self) -> Vec<String> {
        let output = Command::new("nft").args(["list", "ruleset"]).output().expect("this test needs nft(8)");
        assert!(output.status.success(), "nft list ruleset: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let mut words: Vec<String> = text.split_whitespace().map(|word| word.trim_matches(',').to_owned()).collect();
        words.sort_unstable();
        words
    }
}

fn refused(error: &CommitError, changes: &[Change]) -> TestCaseError {
    TestCaseError::fail(format!("{error:?}\n{}", lines(changes)))
}

fn lines(changes: &[Change]) -> String {
    changes.iter().map(|change| format!("{change}\n")).collect()
}

/// Equal, or where not.
fn same(what: &str, found: &Ruleset, wanted: &Ruleset) -> Result<(), TestCaseError> {
    match found == wanted {
        true => Ok(()),
        false => Err(TestCaseError::fail(format!("{what}; to be done:\n{}", lines(&between(found, wanted))))),
    }
}

/// nft(8) 1.0.6 aborts when it reads an `update` of a key over 16 bytes; it lists what we have sent all the same.
fn without_long_keys(mut ruleset: Ruleset) -> Ruleset {
    for table in ruleset.tables.values_mut() {
        let is_long = |statement: &Statement| match statement {
            Statement::Dynset(update) => width(&table.sets[&update.set].key) > 16,
            _ => false,
        };
        for chain in table.chains.values_mut() {
            chain.rules.retain(|rule| !rule.statements.iter().any(is_long));
        }
    }
    ruleset
}

#[test]
fn messages_and_text_say_the_ruleset() {
    let asked_for_offload = Cell::new(0);
    for_all(100, farms(), |mut farms| {
        let config = farms.config();
        let desired = compiled(&config, &Ids::default());
        hostile::compiled(facts(), &config, &desired);
        let warned = desired.warnings.iter().filter(|warning| warning.contains(NOT_OFFLOADED)).count();
        prop_assert_eq!(warned, offloading(&config), "each farm once: {:?}", desired.warnings);
        asked_for_offload.set(asked_for_offload.get() + warned);
        // The same farms on a kernel that has what ours lacks, as messages: nobody here would take them.
        let machine = Facts { flowtable: true, lacking_features: BTreeSet::new(), ..facts().clone() };
        let able = compiled_on(&machine, &config, &Ids::default());
        hostile::compiled(&machine, &config, &able);
        for ruleset in [&desired.state.ruleset, &able.state.ruleset] {
            let changes = between(&Ruleset::default(), ruleset);
            let said = decode_messages(Batch::new(&changes, None).as_bytes()).unwrap();
            same("the messages say something else", &said, ruleset)?;
        }
        let ruleset = desired.state.ruleset;
        let text = without_long_keys(ruleset).to_string();
        let mut nft =
            Command::new("nft").args(["-c", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = nft.wait_with_output().unwrap();
        prop_assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    });
    assert!(asked_for_offload.get() > 0);
}

#[test]
fn changes_lead_from_any_configuration_to_any_other() {
    for_all(60, (farms(), farms(), any::<bool>()), |(mut from, mut to, remembers)| {
        let mut kernel = Kernel::open();
        let old = compiled(&from.config(), &Ids::default()).state.ruleset;
        kernel.load(&old)?;
        let found = kernel.dump();
        same("the first is not what was sent", &found, &old)?;
        // Without a memory the same ids are other backends': more has to change.
        let ids = if remembers { Ids::observe(&found) } else { Ids::default() };
        let new = compiled(&to.config(), &ids).state.ruleset;
        for (from, to) in [(&old, &new), (&new, &old)] {
            kernel.commit(&between(from, to))?;
            let found = kernel.dump();
            same("the changes lead elsewhere", &found, to)?;
            prop_assert!(between(&found, to).is_empty());
        }
        Ok(())
    });
}

/// How a change reaches the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// One farm's own changes, without a look at the kernel; if they are more than that, as [`Way::Long`].
    Short,
    /// All of the configuration against what the kernel has.
    Long,
    /// The same by a daemon that has just begun.
    Restart,
}

/// A daemon, as far as rulesets are concerned.
struct Walk {
    kernel: Kernel,
    config: Config,
    desired: Desired,
    short: usize,
}

impl Walk {
    fn step(&mut self, config: Config, way: Way) -> Result<(), TestCaseError> {
        if way == Way::Short && self.only_farm_changed(&config)? {
            self.config = config;
            return Ok(());
        }
        let found = self.kernel.dump();
        let known = if way == Way::Restart { Ids::observe(&found) } else { self.desired.ids.clone() };
        self.desired = compiled(&config, &known);
        self.kernel.commit(&between(&found, &self.desired.state.ruleset))?;
        self.config = config;
        Ok(())
    }

    /// The short way, when exactly one farm differs and it goes that way.
    fn only_farm_changed(&mut self, config: &Config) -> Result<bool, TestCaseError> {
        let shared = |config: &Config| {
            let traffic = config.metrics.as_ref().map(|metrics| metrics.traffic);
            (config.policies.clone(), traffic, config.system.protect, config.network.clone())
        };
        if !config.farms.keys().eq(self.config.farms.keys()) || shared(config) != shared(&self.config) {
            return Ok(false);
        }
        let mut changed = config.farms.iter().filter(|(name, farm)| text(&self.config.farms[*name]) != text(farm));
        let (Some((name, new)), None) = (changed.next(), changed.next()) else { return Ok(false) };
        let mut ids = self.desired.ids.clone();
        ids.assign_farm(new);
        let Some(changes) = self.desired.context.farm_change(&self.config.farms[name], new, &ids) else {
            return Ok(false);
        };
        match self.kernel.0.commit(&Batch::new(&changes, None)) {
            Ok(()) => {}
            // A map is full: all of the configuration declares a larger one.
            Err(CommitError::Refused { failures, .. }) if failures.iter().all(|one| one.errno == Errno::ENFILE) => {
                return Ok(false);
            }
            Err(error) => return Err(refused(&error, &changes)),
        }
        self.desired.ids = ids;
        self.short += 1;
        Ok(true)
    }
}

/// A farm without the lines that it is written on.
fn text(farm: &headgate_config::model::Farm) -> String {
    let mut farm = farm.clone();
    let nowhere = headgate_config::Origin { line: 0, column: 0, ..farm.origin.clone() };
    farm.backends.values_mut().for_each(|backend| backend.origin = nowhere.clone());
    farm.origin = nowhere;
    format!("{farm:?}")
}

#[test]
fn five_hundred_changes_end_where_a_fresh_load_does() {
    let way =
        || select(vec![Way::Short, Way::Short, Way::Short, Way::Short, Way::Short, Way::Long, Way::Long, Way::Restart]);
    for_all(2, (farms(), vec((edit(), way()), 500)), move |(mut farms, edits): (Farms, Vec<(Edit, Way)>)| {
        let config = farms.config();
        let desired = compiled(&config, &Ids::default());
        let mut walk = Walk { kernel: Kernel::open(), config, desired, short: 0 };
        walk.kernel.load(&walk.desired.state.ruleset)?;
        for (number, (edit, way)) in edits.iter().enumerate() {
            farms.edit(edit);
            walk.step(farms.config(), *way)?;
            let wanted = compiled(&walk.config, &walk.desired.ids).state.ruleset;
            same(&format!("change {number}, {way:?} {edit:?}, led elsewhere"), &walk.kernel.dump(), &wanted)?;
        }
        prop_assert!(walk.short > edits.len() / 10, "only {} changes went the short way", walk.short);
        let ids = Ids::observe(&walk.kernel.dump());
        let (walked, listed) = (walk.kernel.dump(), walk.kernel.listed());
        walk.kernel.load(&compiled(&walk.config, &ids).state.ruleset)?;
        same("a fresh load is something else", &walked, &walk.kernel.dump())?;
        prop_assert!(listed == walk.kernel.listed(), "nft(8) sees a difference that we do not");
        Ok(())
    });
}

/// What nft(8) lists, with handles: what was written anew has others.
fn listing(lab: &Lab) -> String {
    settled(&lab.nft("-a -s list ruleset").unwrap())
}

/// The two arms of the recorded machine have other names in the lab.
fn in_the_lab(farms: &Farms) -> String {
    farms.toml().replace("\"eth0\"", "\"service\"").replace("\"eth1\"", "\"backend\"")
}

/// By commands, files, reloads and crashes: what the kernel has in the end is what a daemon without a memory wants of the same
/// files. Nothing that was refused has left a trace.
#[test]
fn a_daemons_life_ends_where_another_would_begin() {
    let way = select(vec![Way::Short, Way::Short, Way::Short, Way::Short, Way::Long, Way::Restart]);
    for_all(1, (farms(), vec((edit(), way), 60)), |(mut farms, edits): (Farms, Vec<(Edit, Way)>)| {
        let mut lab = Lab::new("life").unwrap();
        farms.config();
        lab.configure(&in_the_lab(&farms)).unwrap();
        lab.start().unwrap();
        let mut commands = 0;
        for (edit, way) in &edits {
            let command = farms.command(edit).filter(|_| *way == Way::Short);
            farms.edit(edit);
            farms.config();
            match command {
                Some(words) => {
                    // 2: this one's listeners are others', so that it is not written.
                    let code =
                        lab.headgate(&words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap().status.code();
                    prop_assert!(matches!(code, Some(0 | 2)), "{words:?} exits with {code:?}");
                    commands += usize::from(code == Some(0));
                }
                None => {
                    lab.configure(&in_the_lab(&farms)).unwrap();
                    lab.headgate_ok(&["apply"]).map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
                }
            }
            if *way == Way::Restart {
                lab.crash().unwrap();
                lab.start().unwrap();
            }
        }
        prop_assert!(commands > 5, "only {commands} commands did something");
        let plan = lab.headgate_ok(&["plan"]).unwrap();
        prop_assert_eq!(plan, "nothing to do\n");
        let warned = lab.headgate(&["status"]).unwrap();
        let warned = String::from_utf8_lossy(&warned.stdout).matches(NOT_OFFLOADED).count();
        prop_assert_eq!(warned, offloading(&farms.config()));
        let before = listing(&lab);
        lab.stop().unwrap();
        let once = lab.headgated(&["--once"]).unwrap();
        prop_assert!(once.status.success(), "{}", headgate_tests::lab::said(&once));
        prop_assert_eq!(listing(&lab), before);
        Ok(())
    });
}
