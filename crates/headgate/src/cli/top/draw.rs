//! The board as a screen: as well at 80 × 24 on a serial line as in a large window.

use headgate_plan::load::{CpuLoad, Served};
use headgate_plan::status::{FarmHealth, FarmStatus, HealthState, Standing};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::bar;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Sparkline, Table, TableState};

use super::board::{Board, CpuRow, Page, Rate};
use crate::steps::printable;

/// Columns that one CPU takes in its line: `cpu12  99 %  `.
const CPU_WIDTH: u16 = 12;
/// Most lines of CPUs: 80 columns have room for 24 CPUs then.
const CPU_LINES: u16 = 4;

/// What the terminal can do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looks {
    pub(super) colour: bool,
    /// Block characters; else ASCII.
    pub(super) blocks: bool,
}

/// A curve of letters, for terminals without block characters.
const ASCII: bar::Set<'_> = bar::Set {
    full: "#",
    seven_eighths: "#",
    three_quarters: "+",
    five_eighths: "+",
    half: "=",
    three_eighths: "-",
    one_quarter: "-",
    one_eighth: ".",
    empty: " ",
};

pub(super) fn draw(frame: &mut Frame<'_>, board: &Board, looks: Looks) {
    let area = frame.area();
    let cpus = board.sample.as_ref().map_or(0, |sample| sample.load.cpus.len());
    let per_line = usize::from((area.width / CPU_WIDTH).max(1));
    let cpu_lines = u16::try_from(cpus.div_ceil(per_line)).unwrap_or(CPU_LINES).min(CPU_LINES);
    let parts = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(3),
        Constraint::Length(cpu_lines),
        Constraint::Min(3),
        Constraint::Length(1),
    ]);
    let [head, curve, load, rows, foot] = parts.areas(area);
    frame.render_widget(Paragraph::new(title(board, looks)), head);
    let history: Vec<u64> = board.history.iter().rev().take(usize::from(curve.width)).rev().copied().collect();
    let bars = if looks.blocks { bar::NINE_LEVELS } else { ASCII };
    frame.render_widget(Sparkline::default().data(&history).bar_set(bars).style(tone(looks, Color::Cyan)), curve);
    draw_load(frame, board, looks, (load, per_line));
    draw_rows(frame, board, looks, rows);
    frame.render_widget(Paragraph::new(footer(board, looks)), foot);
}

fn tone(looks: Looks, colour: Color) -> Style {
    if looks.colour { Style::new().fg(colour) } else { Style::new() }
}

/// What is loud is loud without colours too.
fn alarm(looks: Looks) -> Style {
    tone(looks, Color::Red).add_modifier(Modifier::BOLD)
}

fn title(board: &Board, looks: Looks) -> Line<'static> {
    let farms = board.farms();
    let total = board.total();
    let what = match board.opened() {
        Some(farm) => format!("farm {}  {}  {} flows", farm.name, farm.health.word(), farm.flows),
        None => {
            let flows: u64 = farms.iter().map(|farm| farm.flows).sum();
            let bad = farms.iter().filter(|farm| farm.health < FarmHealth::Serving).count();
            format!("{} farms, {bad} not well  {flows} flows", farms.len())
        }
    };
    let mut spans = vec![
        Span::styled("headgate ", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!("{what}  {} new/s", number(total.flows))),
    ];
    spans.extend(total.bytes.map(|bytes| Span::raw(format!("  {}B/s", number(bytes)))));
    if board.is_paused {
        spans.push(Span::styled("  PAUSED", alarm(looks)));
    }
    if board.lost {
        spans.push(Span::styled("  NO ANSWER: this is old", alarm(looks)));
    }
    Line::from(spans)
}

fn draw_load(frame: &mut Frame<'_>, board: &Board, looks: Looks, (area, per_line): (Rect, usize)) {
    let Some(sample) = &board.sample else { return };
    let cpus: Vec<Span<'_>> = sample
        .load
        .cpus
        .iter()
        .map(|CpuLoad { cpu, busy_percent, .. }| {
            Span::styled(format!("{:<12}", format!("cpu{cpu} {busy_percent:>3} %")), busy(*busy_percent, looks))
        })
        .collect();
    let lines: Vec<Line<'_>> = cpus.chunks(per_line).map(|line| Line::from(line.to_vec())).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_rows(frame: &mut Frame<'_>, board: &Board, looks: Looks, area: Rect) {
    let mut state = TableState::new().with_selected(Some(board.selected));
    let head = Style::new().add_modifier(Modifier::BOLD);
    let chosen = Style::new().add_modifier(Modifier::REVERSED);
    let table = match board.opened() {
        _ if board.page == Page::Hardware => {
            let widths = columns(1, [6, 10, 16, 6, 6, 10], 2);
            let head = Row::new(["CPU", "LOAD", "PACKETS/S", "NIC", "QUEUE", "IRQ", "IRQS/S", "VECTOR"]).style(head);
            Table::new(hardware(board, looks), widths).header(head)
        }
        Some(farm) => {
            let widths = columns(1, [9, 6, 4, 8, 6, 9], 2);
            let head =
                Row::new(["BACKEND", "STATE", "WEIGHT", "PRIO", "FLOWS", "NEW/S", "CHECKS", "ADDRESS"]).style(head);
            Table::new(backends(board, farm, looks), widths).header(head)
        }
        None => {
            let widths = columns(1, [8, 8, 8, 6, 7], 1);
            let head = Row::new(["FARM", "STATE", "BACKENDS", "FLOWS", "NEW/S", "BYTES/S", "LISTEN"]).style(head);
            Table::new(farms(board, looks), widths).header(head)
        }
    };
    frame.render_stateful_widget(table.row_highlight_style(chosen), area, &mut state);
}

/// The first and the last column share what the others leave.
fn columns<const N: usize>(first: u16, middle: [u16; N], last: u16) -> impl Iterator<Item = Constraint> {
    let middle = middle.map(Constraint::Length);
    std::iter::once(Constraint::Fill(first)).chain(middle).chain([Constraint::Fill(last)])
}

fn farms<'a>(board: &'a Board, looks: Looks) -> Vec<Row<'a>> {
    let row = |farm: &'a FarmStatus| {
        let rate = board.rates.get(&(farm.name.clone(), None)).copied().unwrap_or_default();
        let style = match farm.health {
            FarmHealth::Down => alarm(looks),
            FarmHealth::Degraded => tone(looks, Color::Yellow),
            FarmHealth::Serving | FarmHealth::Off => Style::new(),
        };
        Row::new([
            farm.name.to_string(),
            farm.health.word().to_owned(),
            format!("{}/{}", farm.usable, farm.total),
            farm.flows.to_string(),
            number(rate.flows),
            bytes(rate),
            farm.listen.join(" "),
        ])
        .style(style)
    };
    board.farms().iter().map(row).collect()
}

fn backends<'a>(board: &'a Board, farm: &'a FarmStatus, looks: Looks) -> Vec<Row<'a>> {
    let row = |backend: &'a headgate_plan::status::BackendStatus| {
        let rate = board.rates.get(&(farm.name.clone(), Some(backend.name.clone()))).copied().unwrap_or_default();
        let style = match backend.standing {
            Standing::Unhealthy | Standing::Down | Standing::Unroutable => alarm(looks),
            Standing::Draining => tone(looks, Color::Yellow),
            Standing::Serving | Standing::Spare | Standing::Idle => Style::new(),
        };
        let checks = backend.health.as_ref().map_or("", |health| match health.state {
            HealthState::Down => "failing",
            HealthState::Suspected => "suspected",
            HealthState::Unknown => "unknown",
            HealthState::Up => "passing",
        });
        Row::new([
            backend.name.to_string(),
            backend.standing.word().to_owned(),
            backend.weight.to_string(),
            backend.priority.to_string(),
            backend.flows.to_string(),
            number(rate.flows),
            checks.to_owned(),
            backend.address.clone(),
        ])
        .style(style)
    };
    farm.backends.iter().map(row).collect()
}

fn hardware<'a>(board: &'a Board, looks: Looks) -> Vec<Row<'a>> {
    let row = |row: CpuRow<'a>| {
        let style = row.cpu.map_or(Style::new(), |(_, percent, _)| busy(percent, looks));
        let (cpu, load, packets) = row.cpu.map_or_else(Default::default, |(cpu, percent, packets)| {
            (format!("cpu{cpu}"), format!("{percent:>3} %"), packets.map(number).unwrap_or_default())
        });
        let mut cells = vec![cpu, load, packets];
        cells.extend(row.served.into_iter().flat_map(|Served { vector, rate }| {
            let queue = vector.queue.map_or_else(|| "-".to_owned(), |queue| queue.to_string());
            let rate = rate.map(number).unwrap_or_default();
            [printable(&vector.nic), queue, vector.irq.to_string(), rate, printable(&vector.name)]
        }));
        Row::new(cells).style(style)
    };
    board.cpus().into_iter().map(row).collect()
}

fn busy(percent: u8, looks: Looks) -> Style {
    if percent >= 90 { alarm(looks) } else { Style::new() }
}

fn footer(board: &Board, looks: Looks) -> Line<'static> {
    if let Some(question) = board.question() {
        return Line::styled(question, alarm(looks));
    }
    if let Some(message) = &board.message {
        return Line::styled(printable(message), alarm(looks));
    }
    Line::raw(match (board.page, &board.open) {
        (Page::Hardware, _) => "up/down  h farms  p pause  Esc back  q quit",
        (Page::Farms, Some(_)) => "up/down  d drain  u up  x down  w weight  h hardware  p pause  Esc back  q quit",
        (Page::Farms, None) => "up/down  Enter backends  h hardware  p pause  q quit",
    })
}

fn bytes(rate: Rate) -> String {
    rate.bytes.map(number).unwrap_or_default()
}

/// At most five characters: `0.5`, `12`, `1234`, `56k`, `7.8M`.
pub(super) fn number(value: f64) -> String {
    let mut value = value;
    for unit in ["", "k", "M", "G", "T"] {
        let limit = if unit.is_empty() { 10_000.0 } else { 1000.0 };
        if value < limit {
            return match value {
                small if small > 0.0 && small < 9.95 && small.fract() > 0.05 => format!("{small:.1}{unit}"),
                _ => format!("{value:.0}{unit}"),
            };
        }
        value /= 1000.0;
    }
    format!("{value:.0}P")
}
