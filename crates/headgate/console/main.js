// The console: what `headgate status` and `headgate top` show, asked for again and again. It changes nothing unless changes
// are allowed, by the token and by a tick, and each is confirmed.

// A box that takes long is asked so much less often: it answers for at most a tenth of the time.
const EVERY = 2000;
const PAUSE_FACTOR = 9;
// Reads the whole ruleset, so it is asked for less often, and whenever something happens.
const STATUS_EVERY = 10_000;
const HISTORY = 120;
const FARMS_SHOWN = 200;
const FAULTS_SHOWN = 100;
const EVENTS_SHOWN = 30;
const TONES = {
  down: "bad", losing: "bad", unhealthy: "bad", "no route": "bad", unroutable: "bad", failing: "bad",
  degraded: "warning", near: "warning", draining: "warning", suspected: "warning", serving: "good", up: "good",
};

const $ = (id) => document.getElementById(id);
const state = {
  me: null, status: null, statusAt: 0, farms: [], load: null, rates: new Map(), before: new Map(), loadBefore: null,
  total: [], history: new Map(), open: new Set(), paused: false, stop: null, timer: 0,
};

// Rates: two answers and the time between them. A counter that went back began anew.
function rate(key, now, at) {
  const before = state.before.get(key);
  state.before.set(key, { ...now, at });
  if (!before || at <= before.at) return { flows: null, bytes: null };
  const seconds = (at - before.at) / 1000;
  const per = (was, is) => (was === null || is === null || is < was ? null : (is - was) / seconds);
  return { flows: per(before.flows, now.flows), bytes: per(before.bytes, now.bytes) };
}

const counted = (one) => ({ flows: one["new-flows"], bytes: one.traffic?.bytes ?? null });

function take(farms, load, at) {
  const total = { flows: null, bytes: null };
  const seen = new Set();
  for (const farm of farms) {
    const key = `farm ${farm.name}`;
    const own = rate(key, counted(farm), at);
    seen.add(key);
    state.rates.set(key, own);
    for (const kind of ["flows", "bytes"]) if (own[kind] !== null) total[kind] = (total[kind] ?? 0) + own[kind];
    for (const backend of farm.backends) {
      const name = `${farm.name}/${backend.name}`;
      seen.add(name);
      state.rates.set(name, rate(name, counted(backend), at));
    }
  }
  for (const key of [...state.before.keys()].filter((key) => !seen.has(key))) {
    state.before.delete(key);
    state.rates.delete(key);
    state.history.delete(key);
  }
  state.farms = farms;
  if (total.flows !== null) state.total = [...state.total, total.flows].slice(-HISTORY);
  state.totalBytes = total.bytes;
  state.loadBefore = state.load;
  state.load = { ...load, at };
}

// Faults, notes and the headline.
function drawStatus() {
  const { status } = state;
  if (!status) return;
  const faults = status.faults.length;
  say($("health"), status.healthy ? "✔ healthy" : "✖ degraded");
  dress($("health"), status.healthy ? "good" : "bad");
  const generation = status.generation === null ? "" : `, generation ${status.generation}`;
  say($("about"), `version ${state.me.version}${generation}`);
  document.title = `${faults ? `(${faults}) ` : ""}Headgate ${plain(state.me.host)}`;
  say($("faults-summary"), faults ? `${faults} ${faults === 1 ? "fault" : "faults"}` : "No faults");
  $("faults").hidden = faults === 0;
  const make = () => cells(5);
  rows($("faults").tBodies[0], status.faults.slice(0, FAULTS_SHOWN), (fault) => `${fault.subject} ${fault.text}`, make, (row, fault) => {
    const [subject, ...others] = [1, 2, 3, 4].map((at) => row.cells[at]);
    say(row.cells[0], fault.severity);
    dress(row.cells[0], TONES[fault.severity] ?? "");
    say(subject, fault.subject);
    const old = (performance.now() - state.statusAt) + (fault["since-ms"] ?? 0);
    [fault.text, fault["since-ms"] === null ? "" : span(old), fault.help].forEach((text, at) => say(others[at], text));
  });
  const notes = [...status.warnings, ...(faults > FAULTS_SHOWN ? [`${faults - FAULTS_SHOWN} more faults`] : [])];
  rows($("notes"), notes, (note) => note, () => element("li"), say);
  $("services-section").hidden = status.services.length === 0;
  rows($("services").tBodies[0], status.services, (one) => one.name, () => cells(3), (row, one) => {
    [one.name, one.pid ?? "", one.state].forEach((text, at) => say(row.cells[at], text));
    dress(row.cells[2], one.healthy ? "" : "bad");
  });
}

function drawTotals() {
  const flows = state.farms.reduce((sum, farm) => sum + farm.flows, 0);
  const now = state.total.length ? number(state.total[state.total.length - 1]) : "";
  const totals = [["Farms", state.farms.length], ["Flows", number(flows)], ["New flows a second", now], ["Bytes a second", state.totalBytes === null ? "not counted" : number(state.totalBytes)]];
  rows($("totals"), totals, ([name]) => name, ([name]) => element("div", {}, element("dt", {}, name), element("dd")), (row, [, value]) => say(row.lastChild, value));
  curve($("history"), state.total, 240, 60, "New flows a second");
}

function wanted(farm) {
  const text = $("filter").value.trim().toLowerCase();
  const said = [farm.name, ...farm.listen, ...farm.backends.map((backend) => `${backend.name} ${backend.address}`)];
  return text === "" || said.some((one) => one.toLowerCase().includes(text));
}

function drawFarms() {
  const chosen = state.farms.filter(wanted);
  const shown = chosen.slice(0, FARMS_SHOWN);
  // A farm, and behind it its backends where it is open.
  const items = shown.flatMap((farm) => (state.open.has(farm.name) ? [{ farm }, { farm, backends: true }] : [{ farm }]));
  const key = ({ farm, backends }) => `${backends ? "backends" : "farm"} ${farm.name}`;
  rows($("farms").tBodies[0], items, key, (item) => (item.backends ? makeBackends(item.farm) : makeFarm(item.farm)), (row, item) => {
    if (item.backends) drawBackends(row, item.farm);
    else drawFarm(row, item.farm);
  });
  const left = chosen.length - shown.length;
  say($("farms-more"), left > 0 ? `and ${left} more: type a part of a name to see them` : "");
}

function makeFarm(farm) {
  const row = cells(9, { 4: "number", 5: "number", 6: "number" });
  const toggle = () => {
    if (!state.open.delete(farm.name)) state.open.add(farm.name);
    drawFarms();
  };
  row.cells[0].append(element("button", { type: "button", class: "name", "aria-expanded": "false", click: toggle }, plain(farm.name)));
  row.cells[7].append(spark(`New flows a second of ${farm.name}`));
  return row;
}

function drawFarm(row, farm) {
  const key = `farm ${farm.name}`;
  const own = state.rates.get(key) ?? { flows: null, bytes: null };
  const open = state.open.has(farm.name);
  row.cells[0].firstChild.setAttribute("aria-expanded", String(open));
  say(row.cells[1], farm.health);
  dress(row.cells[1], TONES[farm.health] ?? "");
  const texts = [span(farm["since-ms"]), `${farm.usable}/${farm.total}`, farm.flows, number(own.flows), number(own.bytes)];
  texts.forEach((text, at) => say(row.cells[at + 2], text));
  const history = state.history.get(key) ?? [];
  curve(row.cells[7].firstChild, history, 120, 20, `New flows a second of ${farm.name}`);
  say(row.cells[8], farm.listen.join(" "));
}

function remember() {
  for (const farm of state.farms.filter(wanted).slice(0, FARMS_SHOWN)) {
    const key = `farm ${farm.name}`;
    const { flows } = state.rates.get(key) ?? { flows: null };
    if (flows !== null) state.history.set(key, [...(state.history.get(key) ?? []), flows].slice(-HISTORY));
  }
}

const mayOperate = () => state.me !== null && state.me.scope !== "read" && $("operate").checked;

function makeBackends(farm) {
  const heads = ["Backend", "State", "Weight", "Priority", "Flows", "New/s", "Checks", "Address", "Change"];
  const column = (text, at) => element("th", { scope: "col", class: at >= 2 && at <= 5 ? "number" : "" }, text);
  const head = element("tr", {}, ...heads.map(column));
  const table = element("table", {}, element("caption", {}, `Backends of ${plain(farm.name)}`), element("thead", {}, head), element("tbody"));
  return element("tr", { class: "backends" }, element("td", { colspan: "9" }, table));
}

function drawBackends(row, farm) {
  const table = row.firstChild.firstChild;
  // A column without anything in it is one that a screen reader reads in vain.
  table.tHead.rows[0].cells[8].hidden = !mayOperate();
  rows(table.tBodies[0], farm.backends, (backend) => backend.name, (backend) => makeBackend(farm.name, backend.name), drawBackend(farm));
}

function makeBackend(farm, backend) {
  const row = cells(9, { 2: "number", 3: "number", 4: "number", 5: "number" });
  const button = (text, work) => element("button", { type: "button", click: work, "aria-label": `${text} ${plain(backend)} of ${plain(farm)}` }, text);
  const effects = {
    drain: "It takes no new flows; those that it has stay.",
    up: "It takes new flows again.",
    down: "It takes no flows any more; those that it has may be cut.",
  };
  const set = (text, values) => button(text, () => change(farm, backend, text, effects[values.state], () => values));
  const weight = button("Weight", () => change(farm, backend, "Weigh", "Its share of new flows among those of its priority.", () => ({ weight: $("weight").valueAsNumber })));
  row.cells[8].append(element("div", { class: "actions" }, set("Drain", { state: "drain" }), set("Up", { state: "up" }), set("Down", { state: "down" }), weight));
  return row;
}

const drawBackend = (farm) => (row, backend) => {
  const own = state.rates.get(`${farm.name}/${backend.name}`) ?? { flows: null };
  const standing = backend.standing === "unroutable" ? "no route" : backend.standing;
  const health = backend.health;
  const checks = health === null ? "" : [{ down: "failing", up: "passing" }[health.state] ?? health.state, span(health["since-ms"]), health.error ?? ""].filter(Boolean).join(", ");
  [backend.name, standing, backend.weight, backend.priority, backend.flows, number(own.flows), checks, backend.address].forEach((text, at) => say(row.cells[at], text));
  dress(row.cells[1], TONES[standing] ?? "");
  dress(row.cells[6], health?.state === "down" ? "bad" : "");
  row.cells[8].hidden = !mayOperate();
};

// What a CPU serves: the same rule as that of `headgate top`.
function drawLoad() {
  const { load, loadBefore: before } = state;
  if (!load) return;
  const seconds = before ? (load.at - before.at) / 1000 : 0;
  const was = new Map((before?.vectors ?? []).map((vector) => [`${vector.irq} ${vector.name}`, vector.interrupts]));
  const taken = new Map((before?.cpus ?? []).map((cpu) => [cpu.cpu, cpu.packets]));
  const queues = new Map(load.cpus.map((cpu) => [cpu.cpu, []]));
  for (const vector of load.vectors) {
    const earlier = was.get(`${vector.irq} ${vector.name}`);
    const counts = Object.entries(vector.interrupts).map(([cpu, count]) => [Number(cpu), count, earlier && seconds ? (count - (earlier[cpu] ?? 0)) / seconds : null]);
    const name = vector.queue === null ? `${vector.nic} (link)` : `${vector.nic} queue ${vector.queue}`;
    const busy = counts.filter(([, , per]) => per !== null && per > 0);
    const most = counts.reduce((best, one) => (best === null || one[1] > best[1] ? one : best), null);
    if (busy.length) busy.forEach(([cpu, , per]) => queues.get(cpu)?.push(`${name}: ${number(per)}/s`));
    else queues.get(most?.[0] ?? 0)?.push(earlier ? `${name}: 0/s` : name);
  }
  const make = () => {
    const row = cells(4, { 2: "number" });
    row.cells[1].append(element("meter", { min: "0", max: "100", high: "90" }), " ", element("span"));
    return row;
  };
  rows($("cpus").tBodies[0], load.cpus, (cpu) => cpu.cpu, make, (row, cpu) => {
    say(row.cells[0], `CPU ${cpu.cpu}`);
    const [meter, , text] = row.cells[1].childNodes;
    meter.value = cpu["busy-percent"];
    meter.setAttribute("aria-label", `Load of CPU ${cpu.cpu}`);
    say(text, `${cpu["busy-percent"]} %`);
    dress(text, cpu["busy-percent"] >= 90 ? "bad" : "");
    const earlier = taken.get(cpu.cpu);
    say(row.cells[2], earlier === undefined || !seconds || cpu.packets < earlier ? "" : number((cpu.packets - earlier) / seconds));
    say(row.cells[3], queues.get(cpu.cpu).join(", "));
  });
}

function draw() {
  drawStatus();
  drawTotals();
  drawFarms();
  drawLoad();
}

function lose(error) {
  say($("health"), "✖ no answer: what is shown is old");
  dress($("health"), "bad");
  say($("message"), `The box does not answer: ${error.message}`);
}

async function look() {
  const begun = performance.now();
  try {
    const stale = begun - state.statusAt >= STATUS_EVERY || !state.status;
    const [farms, load, status] = await Promise.all([ask("/v1/farms"), ask("/v1/load"), stale ? ask("/v1/status") : state.status]);
    if (!state.me || state.paused) return;
    if (stale) [state.status, state.statusAt] = [status, performance.now()];
    take(farms, load, performance.now());
    remember();
    if ($("message").textContent.startsWith("The box does not answer")) say($("message"), "");
    draw();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return leave("The token is not valid any more.");
    if (state.me) lose(error);
  }
}

async function keepLooking() {
  const begun = performance.now();
  if (!state.paused && !document.hidden) await look();
  const took = performance.now() - begun;
  if (state.me) state.timer = setTimeout(keepLooking, Math.max(EVERY - took, took * PAUSE_FACTOR, 100));
}

function happened(name, data) {
  const { event: _, ...rest } = data && typeof data === "object" ? data : { missed: data };
  const said = Object.entries(rest).filter(([, value]) => value !== null).map(([key, value]) => `${key} ${plain(value)}`).join(", ");
  const line = element("p", {}, element("time", {}, new Date().toLocaleTimeString()), ` ${plain(name)}: ${said}`);
  $("events").prepend(line);
  while ($("events").children.length > EVENTS_SHOWN) $("events").lastChild.remove();
  state.statusAt = -STATUS_EVERY;
}

async function keepListening(signal) {
  while (!signal.aborted) {
    // Without events the page is only slower to notice.
    await listen(happened, signal).catch(() => {});
    await new Promise((resume) => setTimeout(resume, EVERY * 2));
  }
}

// The dialog, and the change behind it.
function change(farm, backend, verb, effect, values) {
  const weighs = verb === "Weigh";
  say($("ask-title"), `${verb} ${plain(backend)} of ${plain(farm)}?`);
  say($("ask-text"), `${effect} Until the next boot.`);
  say($("ask-yes"), verb);
  $("ask-weight").hidden = !weighs;
  $("weight").required = weighs;
  $("weight").value = weighs ? state.farms.find((one) => one.name === farm)?.backends.find((one) => one.name === backend)?.weight ?? 1 : "";
  $("ask").firstElementChild.onsubmit = (event) => {
    event.preventDefault();
    $("ask").close();
    carryOut(farm, backend, values());
  };
  $("ask").showModal();
  (weighs ? $("weight") : $("ask-no")).focus();
}

async function carryOut(farm, backend, values) {
  say($("message"), `${backend} of ${farm}: asked for …`);
  try {
    const path = `/v1/farms/${encodeURIComponent(farm)}/backends/${encodeURIComponent(backend)}`;
    const applied = await ask(path, "PATCH", values);
    const done = applied.steps.length || applied.stored ? "done, until the next boot" : "nothing to do: it is so already";
    say($("message"), [`${backend} of ${farm}: ${done}`, ...(applied.warnings ?? [])].join("; "));
  } catch (error) {
    say($("message"), `${backend} of ${farm}: not done: ${error.message}`);
  }
  state.statusAt = -STATUS_EVERY;
  await look();
}

async function enter() {
  state.me = await ask("/v1/self");
  say($("host"), state.me.host);
  say($("name"), `${state.me.name}, scope ${state.me.scope}`);
  $("operate-label").hidden = state.me.scope === "read";
  $("operate").checked = false;
  $("sign-out").hidden = !token.get();
  [$("who").hidden, $("box").hidden, $("sign-in").hidden] = [false, false, true];
  state.stop = new AbortController();
  keepListening(state.stop.signal);
  await keepLooking();
}

function leave(why) {
  token.forget();
  clearTimeout(state.timer);
  state.stop?.abort();
  Object.assign(state, { me: null, status: null, farms: [], load: null, total: [] });
  [state.before, state.rates, state.history].forEach((map) => map.clear());
  $("events").replaceChildren();
  [$("who").hidden, $("box").hidden, $("sign-in").hidden] = [true, true, false];
  say($("health"), "Not connected");
  dress($("health"), "");
  say($("about"), "");
  say($("host"), "");
  document.title = "Headgate";
  say($("sign-in-fault"), why);
  $("token").focus();
}

async function begin() {
  for (;;) {
    try {
      return await enter();
    } catch (error) {
      if (error instanceof Refused && error.status === 401) return leave(token.get() ? "This token is not valid." : "");
      say($("health"), `✖ the box does not answer, trying again: ${error.message}`);
      await new Promise((resume) => setTimeout(resume, EVERY));
    }
  }
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set($("token").value.trim());
  $("token").value = "";
  begin().then(() => state.me && $("main").focus());
});
$("sign-out").addEventListener("click", () => leave("Signed out."));
$("operate").addEventListener("change", drawFarms);
$("filter").addEventListener("input", drawFarms);
$("ask-no").addEventListener("click", () => $("ask").close());
$("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  $("pause").setAttribute("aria-pressed", String(state.paused));
});
begin();
