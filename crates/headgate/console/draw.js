// Elements from values. Whatever the box says is text and nothing else.

const SVG = "http://www.w3.org/2000/svg";

// What would move the cursor or turn the direction of writing is spelled out.
function plain(value) {
  return String(value ?? "").replace(/[\p{Cc}\p{Cf}]/gu, (one) => `\\u{${one.codePointAt(0).toString(16)}}`);
}

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (typeof value === "function") made.addEventListener(key, value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// Only what changes is written: a screen reader that is reading, and a selection, stay where they are.
function say(node, value) {
  const text = plain(value);
  if (node.textContent !== text) node.textContent = text;
}

function dress(node, name) {
  if (node.className !== name) node.className = name;
}

// Rows for items: made once by `make`, kept by their key, in the order of the items. The focus stays where it was.
function rows(body, items, key, make, update) {
  const focused = document.activeElement;
  body.rowsByKey ??= new Map();
  const gone = new Set(body.rowsByKey.keys());
  let place = null;
  for (const item of items) {
    const name = key(item);
    gone.delete(name);
    let row = body.rowsByKey.get(name);
    if (!row) {
      row = make(item);
      body.rowsByKey.set(name, row);
    }
    update(row, item);
    const next = place ? place.nextSibling : body.firstChild;
    if (next !== row) body.insertBefore(row, next);
    place = row;
  }
  for (const name of gone) {
    body.rowsByKey.get(name).remove();
    body.rowsByKey.delete(name);
  }
  if (focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
}

// A row of cells; the first one names the row.
function cells(count, classes = {}) {
  const row = element("tr");
  for (let cell = 0; cell < count; cell += 1) {
    row.append(cell === 0 ? element("th", { scope: "row" }) : element("td", { class: classes[cell] ?? "" }));
  }
  return row;
}

function curve(svg, values, width, height, what) {
  const most = Math.max(...values, 0);
  let line = svg.firstElementChild;
  if (!line) {
    line = document.createElementNS(SVG, "polyline");
    svg.append(line);
  }
  const step = width / Math.max(values.length - 1, 1);
  const point = (value, at) => `${(at * step).toFixed(1)},${(height - 1 - (value / Math.max(most, 1)) * (height - 2)).toFixed(1)}`;
  line.setAttribute("points", values.map(point).join(" "));
  const last = values.length ? values[values.length - 1] : 0;
  svg.setAttribute("aria-label", `${plain(what)}: now ${number(last)}, at most ${number(most)}`);
}

function spark(what) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of [["role", "img"], ["viewBox", "0 0 120 20"], ["preserveAspectRatio", "none"], ["aria-label", what]]) {
    svg.setAttribute(key, value);
  }
  return svg;
}

// At most five characters: 0.5, 12, 1234, 56k, 7.8M.
function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  let rest = value;
  for (const unit of ["", "k", "M", "G", "T"]) {
    if (rest < (unit === "" ? 10_000 : 1000)) {
      return rest > 0 && rest < 9.95 && rest % 1 > 0.05 ? `${rest.toFixed(1)}${unit}` : `${rest.toFixed(0)}${unit}`;
    }
    rest /= 1000;
  }
  return `${rest.toFixed(0)}P`;
}

// 3 d 4 h, 5 m 6 s: two units are enough for people.
function span(milliseconds) {
  if (milliseconds === null || milliseconds === undefined) return "";
  let seconds = Math.floor(milliseconds / 1000);
  const parts = [];
  for (const [unit, size] of [["d", 86_400], ["h", 3600], ["m", 60], ["s", 1]]) {
    if (seconds >= size || (unit === "s" && parts.length === 0)) parts.push(`${Math.floor(seconds / size)} ${unit}`);
    seconds %= size;
  }
  return parts.slice(0, 2).join(" ");
}
