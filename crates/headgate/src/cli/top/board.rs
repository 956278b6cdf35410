//! What the screen knows: the last answers of the daemon, what follows from two of them, and what the operator is about to do.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use headgate_config::types::{BackendName, FarmName};
use headgate_plan::load::{Load, Served};
use headgate_plan::status::{BackendStatus, FarmStatus};

/// Rates that are kept for the curve: two minutes at one a second, more than a screen is wide.
const HISTORY: usize = 240;
/// Digits of the largest weight, 65535.
const DIGITS: usize = 5;

/// What the daemon said at one time.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) farms: Vec<FarmStatus>,
    pub(super) load: Load,
}

/// What is counted of a farm or a backend, since it is there.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    flows: u64,
    bytes: Option<u64>,
}

/// How much of it in a second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Rate {
    pub(super) flows: f64,
    /// `None` when nobody counts bytes.
    pub(super) bytes: Option<f64>,
}

/// A farm, or a backend of it.
pub(super) type Who = (FarmName, Option<BackendName>);

/// A change that waits for its `y`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// `drain`, `up`, `down`.
    State(&'static str),
    /// The digits so far.
    Weight(String),
}

/// What a key led to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    None,
    Quit,
    /// A change of a backend, as the API takes it.
    Change(FarmName, BackendName, serde_json::Value),
}

/// A key, as far as it means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Enter,
    Back,
    Char(char),
}

/// What fills the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Page {
    #[default]
    Farms,
    /// CPUs, and the queues that each serves.
    Hardware,
}

/// A line of [`Page::Hardware`]: a CPU, or a queue behind the first one that it serves.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CpuRow<'a> {
    /// Number, percent, and packets a second; only in the first line of each CPU.
    pub(super) cpu: Option<(u32, u8, Option<f64>)>,
    pub(super) served: Option<Served<'a>>,
}

/// Everything that is drawn.
#[derive(Debug, Default)]
pub(super) struct Board {
    pub(super) page: Page,
    pub(super) sample: Option<Sample>,
    /// The one before, and how many seconds before.
    before: Option<(Load, f64)>,
    pub(super) rates: BTreeMap<Who, Rate>,
    counts: BTreeMap<Who, Count>,
    /// New flows a second of all farms, or of the one that is open; the newest last.
    pub(super) history: VecDeque<u64>,
    /// The farm whose backends are shown.
    pub(super) open: Option<FarmName>,
    pub(super) selected: usize,
    /// What is selected on the other page.
    elsewhere: usize,
    pub(super) asked: Option<Asked>,
    /// What the last change did, or why there is no answer.
    pub(super) message: Option<String>,
    /// The daemon does not answer; what is shown is old.
    pub(super) lost: bool,
    pub(super) is_paused: bool,
}

impl Board {
    /// Takes in what the daemon says now.
    pub(super) fn take(&mut self, sample: Sample) {
        if self.is_paused {
            return;
        }
        let since = self.sample.as_ref().map(|last| sample.at.saturating_duration_since(last.at));
        let counts: BTreeMap<Who, Count> = sample.farms.iter().flat_map(counts_of).collect();
        self.rates = match since.filter(|since| !since.is_zero()) {
            Some(since) => rates(&self.counts, &counts, since),
            None => BTreeMap::new(),
        };
        if since.is_some() {
            self.history.push_back(self.total().flows.round() as u64);
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
        self.counts = counts;
        let last = self.sample.replace(sample);
        self.before = last.zip(since).map(|(last, since)| (last.load, since.as_secs_f64().max(f64::EPSILON)));
        if self.lost {
            (self.lost, self.message) = (false, None);
        }
        if self.open.as_ref().is_some_and(|open| self.farm(open).is_none()) {
            self.leave();
            self.message = Some("the farm is gone".to_owned());
        }
        self.selected = self.selected.min(self.rows().saturating_sub(1));
    }

    /// The daemon did not answer.
    pub(super) fn lose(&mut self, why: String) {
        (self.lost, self.message) = (true, Some(why));
    }

    pub(super) fn farms(&self) -> &[FarmStatus] {
        self.sample.as_ref().map_or(&[], |sample| &sample.farms)
    }

    fn farm(&self, name: &FarmName) -> Option<&FarmStatus> {
        self.farms().iter().find(|farm| farm.name == *name)
    }

    /// The farm whose backends are shown.
    pub(super) fn opened(&self) -> Option<&FarmStatus> {
        self.farm(self.open.as_ref()?)
    }

    /// What all farms are given, or the one that is open.
    pub(super) fn total(&self) -> Rate {
        let of_farms = self
            .rates
            .iter()
            .filter(|((farm, backend), _)| backend.is_none() && self.open.as_ref().is_none_or(|open| open == farm));
        of_farms.fold(Rate::default(), |sum, (_, rate)| Rate {
            flows: sum.flows + rate.flows,
            bytes: rate.bytes.map_or(sum.bytes, |bytes| Some(sum.bytes.unwrap_or_default() + bytes)),
        })
    }

    /// The CPUs in the order of their numbers, each with the queues that it serves.
    pub(super) fn cpus(&self) -> Vec<CpuRow<'_>> {
        let Some(Sample { load, .. }) = &self.sample else { return Vec::new() };
        let before = self.before.as_ref().map(|(load, seconds)| (load, *seconds));
        let rows = load.cpus.iter().flat_map(|one| {
            let packets = before.and_then(|(before, seconds)| load.packet_rate(one.cpu, before, seconds));
            let mut served = load.served(one.cpu, before).into_iter();
            let first = CpuRow { cpu: Some((one.cpu, one.busy_percent, packets)), served: served.next() };
            std::iter::once(first).chain(served.map(|served| CpuRow { cpu: None, served: Some(served) }))
        });
        rows.collect()
    }

    fn rows(&self) -> usize {
        if self.page == Page::Hardware {
            return self.cpus().len();
        }
        self.opened().map_or(self.farms().len(), |farm| farm.backends.len())
    }

    fn backend(&self) -> Option<(&FarmStatus, &BackendStatus)> {
        if self.page == Page::Hardware {
            return None;
        }
        let farm = self.opened()?;
        Some((farm, farm.backends.get(self.selected)?))
    }

    fn turn_page(&mut self) {
        self.page = match self.page {
            Page::Farms => Page::Hardware,
            Page::Hardware => Page::Farms,
        };
        std::mem::swap(&mut self.selected, &mut self.elsewhere);
    }

    fn leave(&mut self) {
        let was = self.open.take();
        self.selected = self.farms().iter().position(|farm| Some(&farm.name) == was.as_ref()).unwrap_or_default();
        self.asked = None;
        self.history.clear();
    }

    /// What is asked for, with the backend that it would change.
    pub(super) fn question(&self) -> Option<String> {
        let (farm, backend) = self.backend()?;
        Some(match self.asked.as_ref()? {
            Asked::State(state) => format!("{state} {} of {}? y/n", backend.name, farm.name),
            Asked::Weight(digits) => {
                format!("weight of {} of {} (now {}): {digits}_  Enter/Esc", backend.name, farm.name, backend.weight)
            }
        })
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: Key) -> Action {
        if self.asked.is_some() {
            return self.answer(key);
        }
        self.message = self.message.take().filter(|_| self.lost);
        let last = self.rows().saturating_sub(1);
        match key {
            Key::Char('q') => return Action::Quit,
            Key::Char('h') => self.turn_page(),
            Key::Back if self.page == Page::Hardware => self.turn_page(),
            Key::Back if self.open.is_none() => return Action::Quit,
            Key::Back => self.leave(),
            Key::Up | Key::Char('k') => self.selected = self.selected.saturating_sub(1),
            Key::Down | Key::Char('j') => self.selected = (self.selected + 1).min(last),
            Key::PageUp => self.selected = self.selected.saturating_sub(10),
            Key::PageDown => self.selected = (self.selected + 10).min(last),
            Key::Enter if self.page == Page::Farms && self.open.is_none() => {
                self.open = self.farms().get(self.selected).map(|farm| farm.name.clone());
                self.selected = 0;
                self.history.clear();
            }
            Key::Char('p') => self.is_paused = !self.is_paused,
            Key::Char(letter) if self.backend().is_some() => {
                self.asked = match letter {
                    'd' => Some(Asked::State("drain")),
                    'u' => Some(Asked::State("up")),
                    'x' => Some(Asked::State("down")),
                    'w' => Some(Asked::Weight(String::new())),
                    _ => None,
                };
            }
            Key::Char(_) | Key::Enter => {}
        }
        Action::None
    }

    fn answer(&mut self, key: Key) -> Action {
        let Some((farm, backend)) = self.backend().map(|(farm, backend)| (farm.name.clone(), backend.name.clone()))
        else {
            self.asked = None;
            return Action::None;
        };
        match (self.asked.take(), key) {
            (Some(Asked::State(state)), Key::Char('y')) => {
                return Action::Change(farm, backend, serde_json::json!({ "state": state }));
            }
            (Some(Asked::Weight(digits)), Key::Enter) => {
                let Ok(weight) = digits.parse::<u16>() else {
                    self.message = Some(format!("{digits:?} is no weight: 0 to 65535"));
                    return Action::None;
                };
                return Action::Change(farm, backend, serde_json::json!({ "weight": weight }));
            }
            (Some(Asked::Weight(mut digits)), Key::Char(digit)) if digit.is_ascii_digit() && digits.len() < DIGITS => {
                digits.push(digit);
                self.asked = Some(Asked::Weight(digits));
            }
            (Some(Asked::Weight(digits)), Key::Char('\u{8}')) => {
                let mut digits = digits;
                digits.pop();
                self.asked = Some(Asked::Weight(digits));
            }
            (Some(Asked::Weight(digits)), Key::Char(_)) => self.asked = Some(Asked::Weight(digits)),
            // Anything but yes is no.
            _ => {}
        }
        Action::None
    }
}

fn counts_of(farm: &FarmStatus) -> Vec<(Who, Count)> {
    let bytes = |traffic: &Option<headgate_plan::status::Traffic>| traffic.as_ref().map(|traffic| traffic.bytes);
    let own = ((farm.name.clone(), None), Count { flows: farm.new_flows, bytes: bytes(&farm.traffic) });
    let backends = farm.backends.iter().map(|backend| {
        let count = Count { flows: backend.new_flows, bytes: bytes(&backend.traffic) };
        ((farm.name.clone(), Some(backend.name.clone())), count)
    });
    std::iter::once(own).chain(backends).collect()
}

/// A counter that went back began anew: nothing is said of it until the next time.
fn rates(before: &BTreeMap<Who, Count>, now: &BTreeMap<Who, Count>, since: Duration) -> BTreeMap<Who, Rate> {
    let per_second = |before: u64, now: u64| Some(now.checked_sub(before)? as f64 / since.as_secs_f64());
    now.iter()
        .filter_map(|(who, now)| {
            let before = before.get(who)?;
            let bytes = before.bytes.zip(now.bytes).and_then(|(before, now)| per_second(before, now));
            Some((who.clone(), Rate { flows: per_second(before.flows, now.flows)?, bytes }))
        })
        .collect()
}
