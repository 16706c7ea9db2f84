// What the pages of the demo share: a section that follows a stream, and the timeline of the page.

import { connect } from "./streams.js";

const LABELS = {
  connecting: "Connecting",
  open: "Open",
  reconnecting: "Reconnecting",
  finished: "Finished",
  refused: "Refused",
  idle: "Idle",
  failed: "Failed",
  paused: "Paused",
};
const ROWS_KEPT = 30;
export const calm = matchMedia("(prefers-reduced-motion: reduce)");

export const find = (section, name) => section.querySelector(`[data-${name}]`);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function setState(section, state) {
  const shown = find(section, "state");
  shown.dataset.state = state;
  // A screen reader says it again only when it is new.
  if (shown.textContent !== LABELS[state]) shown.textContent = LABELS[state];
}

// A custom property as a color for a canvas.
const probe = element("span", { hidden: true });
document.body.append(probe);
export function color(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

export function addTo(list, item, { kept = ROWS_KEPT, first = true } = {}) {
  if (first) list.prepend(item);
  else list.append(item);
  while (list.children.length > kept) (first ? list.lastElementChild : list.firstElementChild).remove();
  if (!calm.matches) item.classList.add("arriving");
}

// The timeline: a lane for each stream, a mark for each event, and a band while there is no connection.

const canvas = document.getElementById("timeline");
const MINUTE = 60_000;
const LATE = 1500; // milliseconds after which an event has been replayed
const MARKS = 4000;
const lanes = new Map();

function lane(name) {
  if (!lanes.has(name)) lanes.set(name, { marks: [], away: [], since: null });
  return lanes.get(name);
}

function mark(name, event, id) {
  const now = Date.now();
  // The ids of topics begin with the milliseconds at which they were published.
  const sent = /^(\d{13})-\d+$/.exec(id)?.[1];
  let kind = "live";
  if (event === "reset") kind = "reset";
  else if (sent && now - sent > LATE && now - sent < MINUTE && lane(name).opened > 1) kind = "replayed";
  const { marks } = lane(name);
  marks.push({ at: now, kind });
  if (kind === "replayed") marks.push({ at: Number(sent), kind: "missed" });
  if (marks.length > MARKS) marks.splice(0, marks.length - MARKS);
}

function connected(name, isOpen) {
  const its = lane(name);
  if (isOpen) its.opened = (its.opened ?? 0) + 1;
  if (isOpen && its.since !== null) {
    its.away.push([its.since, Date.now()]);
    its.since = null;
  } else if (!isOpen && its.since === null) its.since = Date.now();
}

function draw() {
  const now = Date.now();
  const scale = devicePixelRatio || 1;
  const names = [...lanes.keys()];
  const height = 26;
  canvas.style.height = `${Math.max(1, names.length) * height}px`;
  canvas.width = canvas.clientWidth * scale;
  canvas.height = canvas.clientHeight * scale;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const colors = { live: color("--green"), replayed: color("--amber"), missed: color("--amber"), reset: color("--red") };
  const left = 96;
  const width = canvas.clientWidth - left - 6;
  const x = (at) => left + width * (1 - (now - at) / MINUTE);
  context.font = "12px system-ui, sans-serif";
  names.forEach((name, index) => {
    const its = lanes.get(name);
    const middle = index * height + height / 2;
    context.fillStyle = color("--soft");
    context.fillText(name, 0, middle + 4, left - 10);
    context.fillStyle = color("--line");
    context.fillRect(left, middle, width, 1);
    its.away = its.away.filter(([, until]) => now - until < MINUTE);
    context.fillStyle = color("--away");
    for (const [since, until] of [...its.away, ...(its.since === null ? [] : [[its.since, now]])]) {
      const from = Math.max(left, x(since));
      context.fillRect(from, middle - 10, Math.max(2, x(until) - from), 20);
    }
    its.marks = its.marks.filter(({ at }) => now - at < MINUTE);
    let last = null;
    for (const { at, kind } of its.marks) {
      const place = Math.round(x(at));
      if (kind === "live" && place === last) continue; // Thousands of events are one line.
      last = place;
      context.fillStyle = context.strokeStyle = colors[kind];
      context.beginPath();
      if (kind === "missed") {
        context.arc(place, middle, 3.5, 0, 7);
        context.stroke();
      } else {
        context.rect(place - 1.5, middle - (kind === "reset" ? 10 : 6), 3, kind === "reset" ? 20 : 12);
        context.fill();
      }
    }
  });
  const count = (kind) => names.reduce((sum, it) => sum + lanes.get(it).marks.filter((m) => m.kind === kind).length, 0);
  canvas.setAttribute("aria-label", `The last minute: ${count("live")} events sent, ${count("replayed")} replayed, ${count("reset")} resets`);
}

if (canvas) setInterval(draw, 250);

// A section with the state of its stream, and the numbers of what has arrived.
export class Live {
  constructor(section, handlers, { options = {}, onEvent = () => {}, onOpen = () => {}, address } = {}) {
    this.section = section;
    this.handlers = handlers;
    this.options = options;
    this.onEvent = onEvent;
    this.onOpen = onOpen;
    this.count = 0;
    this.open(address);
  }

  open(address = this.address(), options = {}) {
    this.stream?.close();
    this.at = address;
    this.opened = 0;
    setState(this.section, "connecting");
    const told = {};
    for (const [name, handler] of Object.entries(this.handlers)) {
      told[name] = (data, event) => {
        this.arrived(event);
        handler(data, event);
      };
    }
    const stream = connect(address, told, {
      ...this.options,
      ...options,
      onState: (state, error) => {
        if (stream === undefined || stream === this.stream) this.onState(state, error);
      },
    });
    this.stream = stream;
  }

  // The page's id lets its button cut the streams of this page alone.
  address() {
    const address = new URL(this.section.dataset.stream, location);
    if (canvas?.dataset.page) address.searchParams.set("page", canvas.dataset.page);
    return address;
  }

  arrived(event) {
    this.count += 1;
    find(this.section, "count").textContent = this.count;
    const lastId = find(this.section, "last-id");
    if (event.id && lastId) lastId.textContent = event.id;
    mark(this.section.id, event.event, event.id);
    this.onEvent(event);
  }

  onState(state, error) {
    const name = this.section.id;
    if (state === "open") {
      this.opened += 1;
      const reconnects = find(this.section, "reconnects");
      if (reconnects) reconnects.textContent = this.opened - 1;
      setState(this.section, "open");
      connected(name, true);
      this.onOpen();
    } else if (state === "closed") {
      setState(this.section, !error ? "finished" : error.status ? "refused" : "failed");
      if (this.options.reconnect !== false) connected(name, false);
    } else {
      setState(this.section, state === "paused" ? "paused" : this.opened ? "reconnecting" : "connecting");
      if (this.opened) connected(name, false);
    }
  }
}

export const csrfToken = () => document.querySelector("meta[name=csrf-token]").content;

export function post(url, body = {}) {
  return fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRFToken": csrfToken() },
    body: JSON.stringify(body),
  });
}

export function complain(id, problem) {
  const place = document.getElementById(id);
  if (!place) return;
  place.textContent = problem;
  place.hidden = !problem;
}

// Return in words why a request was refused, from the text of its answer.
export function refusal(status, text) {
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // A page of HTML says nothing to a user.
  }
  return Object.values(body).flat().join(" ") || `The server answered ${status}.`;
}

// A button that posts, and says what went wrong.
export function onPress(id, problem, done = () => {}) {
  document.getElementById(id)?.addEventListener("click", async ({ currentTarget }) => {
    currentTarget.disabled = true;
    complain(problem, "");
    try {
      // The answer is not shown: what it changes arrives through the stream.
      const response = await post(currentTarget.dataset.url);
      if (response.status === 403) location.reload(); // Logged out meanwhile.
      else if (!response.ok) complain(problem, refusal(response.status, await response.text()));
      else done(response);
    } catch {
      complain(problem, "The server cannot be reached.");
    }
    currentTarget.disabled = false;
  });
}

document.getElementById("breaks")?.addEventListener("click", async ({ target }) => {
  if (!target.dataset.break) return;
  const told = document.getElementById("broken");
  try {
    const response = await post(`/break/${target.dataset.break}/`, { page: canvas.dataset.page });
    told.textContent = response.ok ? (await response.json()).text : `The server answered ${response.status}.`;
  } catch {
    told.textContent = "The server cannot be reached.";
  }
});
