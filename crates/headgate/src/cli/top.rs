//! `headgate top`: farms, backends and CPUs as they are now, and the few changes that are made while one looks.

mod board;
mod draw;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use clap::Args;
use headgate_config::types::{BackendName, FarmName};
use headgate_plan::load::Load;
use headgate_plan::status::FarmStatus;
use hyper::Method;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::{cursor, execute, terminal};
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};

use self::board::{Action, Board, Key, Sample};
use self::draw::Looks;
use super::{Answer, CliError};
use crate::api::Applied;
use crate::client::{Client, segment};

/// The screen of a serial line that does not say how large it is.
const UNKNOWN_SIZE: (u16, u16) = (80, 24);
/// How long a key may wait for the screen, and a new answer for being shown.
const TICK: Duration = Duration::from_millis(100);
/// A daemon with 10,000 farms is asked so much less often: it answers for at most a tenth of the time.
const PAUSE_FACTOR: u32 = 9;

/// The options of `headgate top`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Ask the daemon so often
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub every: Duration,
    /// Draw with letters only; the default where the locale is not UTF-8
    #[arg(long)]
    pub ascii: bool,
}

pub(super) fn run(client: &Client, options: &Options) -> Result<Answer, CliError> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(CliError::Usage("top needs a terminal; `headgate status --json` is for programs".to_owned()));
    }
    // Before the screen is taken: why there is nothing to see is better read on a usual one.
    client.get::<Vec<FarmStatus>>("/v1/farms")?;
    let looks = Looks { colour: std::env::var_os("NO_COLOR").is_none(), blocks: !options.ascii && is_utf8() };
    let (every, asking) = (options.every.max(TICK), client.clone());
    // One answer waits at most: who looks away does not pile them up.
    let (sender, answers) = sync_channel(1);
    std::thread::spawn(move || ask(&asking, every, &sender));
    let mut screen = Screen::open().map_err(CliError::Terminal)?;
    let ended = watch(client, &mut screen, &answers, looks);
    drop(screen);
    ended.map_err(CliError::Terminal)?;
    Ok(Answer::good(""))
}

/// `LC_ALL`, else `LC_CTYPE`, else `LANG`, as setlocale(3) does.
fn is_utf8() -> bool {
    let set =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    set.is_some_and(|locale| locale.to_ascii_lowercase().replace('-', "").contains("utf8"))
}

/// Asks the daemon again and again, in a thread of its own: a daemon that hangs holds up no key.
fn ask(client: &Client, every: Duration, sender: &SyncSender<Result<Sample, String>>) {
    loop {
        let begun = Instant::now();
        let farms = client.get::<Vec<FarmStatus>>("/v1/farms");
        let took = begun.elapsed();
        let answer = farms.and_then(|farms| {
            let load = client.get::<Load>("/v1/load")?;
            Ok(Sample { at: begun, farms, load })
        });
        let answer = answer.map_err(|error| crate::explain(&error));
        if sender.send(answer).is_err() {
            return;
        }
        std::thread::sleep(every.saturating_sub(begun.elapsed()).max(took * PAUSE_FACTOR));
    }
}

fn watch(
    client: &Client,
    screen: &mut Screen,
    answers: &Receiver<Result<Sample, String>>,
    looks: Looks,
) -> io::Result<()> {
    let mut board = Board::default();
    loop {
        screen.terminal.draw(|frame| draw::draw(frame, &board, looks))?;
        match answers.recv_timeout(Duration::ZERO) {
            Ok(Ok(sample)) => board.take(sample),
            Ok(Err(why)) => board.lose(why),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if !event::poll(TICK)? {
            continue;
        }
        let Some(key) = key(&event::read()?) else { continue };
        match board.press(key) {
            Action::None => {}
            Action::Quit => return Ok(()),
            Action::Change(farm, backend, values) => board.message = Some(change(client, &farm, &backend, &values)),
        }
    }
}

fn key(event: &Event) -> Option<Key> {
    let Event::Key(key) = event else { return None };
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c' | 'd') if control => Key::Char('q'),
        KeyCode::Char(letter) => Key::Char(letter),
        KeyCode::Backspace => Key::Char('\u{8}'),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Enter | KeyCode::Right => Key::Enter,
        KeyCode::Esc | KeyCode::Left => Key::Back,
        _ => return None,
    })
}

/// Until the next boot, as `headgate backend` without `--persist`.
fn change(client: &Client, farm: &FarmName, backend: &BackendName, values: &serde_json::Value) -> String {
    let path = format!("/v1/farms/{}/backends/{}", segment(farm.as_str()), segment(backend.as_str()));
    match client.call::<Applied>(Method::PATCH, &path, values) {
        Ok(applied) if applied.steps.is_empty() && !applied.stored => "nothing to do: it is so already".to_owned(),
        Ok(_) => format!("{backend} of {farm}: done, until the next boot"),
        Err(error) => crate::explain(&error),
    }
}

/// The terminal while it is ours; it is given back whatever happens.
struct Screen {
    terminal: Terminal<CrosstermBackend<io::Stdout>>,
}

impl Screen {
    fn open() -> io::Result<Self> {
        let size = terminal::size().ok().filter(|(columns, rows)| *columns > 0 && *rows > 0);
        let viewport = match size {
            Some(_) => Viewport::Fullscreen,
            None => Viewport::Fixed(Rect::new(0, 0, UNKNOWN_SIZE.0, UNKNOWN_SIZE.1)),
        };
        terminal::enable_raw_mode()?;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        let terminal = Terminal::with_options(CrosstermBackend::new(io::stdout()), TerminalOptions { viewport })?;
        Ok(Self { terminal })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout();
        let _ = execute!(out, terminal::LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
        let _ = out.flush();
    }
}
