// Code that the demo's pages share: a section that follows a stream, and the timeline of the page.

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
  // Set the text only when it changes. Otherwise a screen reader would repeat it.
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

// The timeline: a lane for each stream, a bar for the events of a fifth of a second, and a band while
// there is no connection. It stores counts and not events, because thousands may come each second.

const canvas = document.getElementById("timeline");
const MINUTE = 60_000;
const SLOT = 200; // milliseconds
const SKEW = 20; // milliseconds that the clocks of server and browser may differ
const KINDS = ["sent", "replayed", "missed", "skipped", "reset"];
const lanes = new Map();
const pressed = []; // times at which a button cut a connection or ended a worker

function lane(name) {
  if (!lanes.has(name)) lanes.set(name, { slots: new Map(), away: [], since: null, opened: 0 });
  return lanes.get(name);
}

function count(name, kind, at = Date.now(), number = 1) {
  const { slots } = lane(name);
  const slot = Math.floor(at / SLOT);
  if (!slots.has(slot)) slots.set(slot, Object.fromEntries(KINDS.map((it) => [it, 0])));
  slots.get(slot)[kind] += number;
}

function mark(name, event, id) {
  const its = lane(name);
  // The ids of topics begin with the milliseconds at which they were published.
  const published = Number(/^(\d{13})-\d+$/.exec(id)?.[1] ?? NaN);
  if (event === "reset") count(name, "reset");
  else if (its.opened > 1 && published < its.openedAt - SKEW && Date.now() - published < MINUTE) {
    count(name, "replayed");
    count(name, "missed", published);
  } else count(name, "sent");
}

// Events that the server has left out, as newer ones were there.
export const markSkipped = (name, number) => count(name, "skipped", Date.now(), number);

// A line through all lanes, where a button was pressed.
export const markPressed = () => pressed.push(Date.now());

function connected(name, isOpen) {
  const its = lane(name);
  if (isOpen) {
    its.opened += 1;
    its.openedAt = Date.now();
    if (its.since !== null) its.away.push([its.since, its.openedAt]);
    its.since = null;
  } else its.since ??= Date.now();
}

function draw() {
  const now = Date.now();
  const scale = devicePixelRatio || 1;
  const height = 28;
  canvas.style.height = `${Math.max(1, lanes.size) * height}px`;
  canvas.width = canvas.clientWidth * scale;
  canvas.height = canvas.clientHeight * scale;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const [green, amber, red, blue] = ["--green", "--amber", "--red", "--blue"].map(color);
  const left = canvas.clientWidth < 500 ? 68 : 96;
  const width = canvas.clientWidth - left - 6;
  const x = (at) => left + width * (1 - (now - at) / MINUTE);
  const total = Object.fromEntries(KINDS.map((it) => [it, 0]));
  context.font = "12px system-ui, sans-serif";
  let middle = height / 2;
  for (const [name, its] of lanes) {
    context.fillStyle = color("--soft");
    context.fillText(name, 0, middle + 4, left - 8);
    context.fillStyle = color("--line");
    context.fillRect(left, middle, width, 1);
    its.away = its.away.filter(([, until]) => now - until < MINUTE);
    context.fillStyle = color("--away");
    for (const [since, until] of [...its.away, ...(its.since === null ? [] : [[its.since, now]])]) {
      const from = Math.max(left, x(since));
      context.fillRect(from, middle - 11, Math.max(2, x(until) - from), 22);
    }
    const bar = (place, number, direction, fill) => {
      if (!number) return;
      const size = direction * Math.min(13, 9 + 1.5 * Math.log10(number));
      context.fillStyle = fill;
      context.fillRect(place - 1.5, middle, 3, size);
    };
    for (const [slot, counts] of its.slots) {
      if (now - slot * SLOT > MINUTE) {
        its.slots.delete(slot);
        continue;
      }
      for (const kind of KINDS) total[kind] += counts[kind];
      const place = Math.round(x((slot + 1) * SLOT));
      bar(place, counts.sent, -1, green);
      bar(place, counts.replayed, -1, amber);
      bar(place, counts.skipped, 1, blue);
      if (counts.missed) {
        context.strokeStyle = amber;
        context.beginPath();
        context.arc(place, middle, 3.5, 0, 7);
        context.stroke();
      }
      if (counts.reset) {
        context.fillStyle = red;
        context.fillRect(place - 1.5, middle - 12, 3, 24);
      }
    }
    middle += height;
  }
  while (pressed.length && now - pressed[0] > MINUTE) pressed.shift();
  context.strokeStyle = color("--text");
  context.setLineDash([2, 3]);
  for (const at of pressed) {
    context.beginPath();
    context.moveTo(Math.round(x(at)) + 0.5, 0);
    context.lineTo(Math.round(x(at)) + 0.5, lanes.size * height);
    context.stroke();
  }
  canvas.setAttribute(
    "aria-label",
    `The last minute: ${total.sent} events sent, ${total.replayed} replayed, ${total.skipped} left out, ${total.reset} resets`,
  );
}

if (canvas) setInterval(draw, SLOT);

// A section that shows the state of its stream, and the numbers of what has arrived.
export class Shown {
  constructor(section) {
    this.section = section;
    this.count = 0;
    this.opened = 0;
  }

  show(name, text) {
    const place = find(this.section, name);
    if (place) place.textContent = text;
  }

  arrived(event) {
    this.count += 1;
    this.show("count", this.count);
    if (event.id) this.show("last-id", event.id);
    mark(this.section.id, event.event, event.id);
  }

  isOpen() {
    this.opened += 1;
    this.show("reconnects", this.opened - 1);
    setState(this.section, "open");
    connected(this.section.id, true);
  }

  isAway(state = "reconnecting") {
    setState(this.section, this.opened ? state : "connecting");
    if (this.opened) connected(this.section.id, false);
  }
}

// A section that follows its stream with the generated client.
export class Live extends Shown {
  constructor(section, handlers, { options = {}, onEvent = () => {}, onOpen = () => {}, address } = {}) {
    super(section);
    this.handlers = handlers;
    this.options = options;
    this.onEvent = onEvent;
    this.onOpen = onOpen;
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

  // With the page's id, its button can cut the streams of this page and of no other.
  address() {
    const address = new URL(this.section.dataset.stream, location);
    if (canvas?.dataset.page) address.searchParams.set("page", canvas.dataset.page);
    return address;
  }

  arrived(event) {
    super.arrived(event);
    this.onEvent(event);
  }

  onState(state, error) {
    if (state === "open") {
      this.isOpen();
      this.onOpen();
    } else if (state === "closed") {
      setState(this.section, !error ? "finished" : error.status ? "refused" : "failed");
      if (error && this.options.reconnect !== false) connected(this.section.id, false);
    } else this.isAway(state === "paused" ? "paused" : "reconnecting");
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

// Return the reason of a refusal, from the text of the response.
export function refusal(status, text) {
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // The body is not JSON, but for example an HTML page, which would not help the user.
  }
  return Object.values(body).flat().join(" ") || `The server answered ${status}.`;
}

// Let a button send a POST, and show an error if it fails.
export function onPress(id, problem, done = () => {}) {
  document.getElementById(id)?.addEventListener("click", async ({ currentTarget }) => {
    currentTarget.disabled = true;
    complain(problem, "");
    try {
      // Do not show the response: the stream brings the change.
      const response = await post(currentTarget.dataset.url);
      if (response.status === 403) location.reload(); // The user has logged out meanwhile.
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
  markPressed();
  try {
    const response = await post(`/break/${target.dataset.break}/`, { page: canvas.dataset.page });
    told.textContent = response.ok ? (await response.json()).text : `The server answered ${response.status}.`;
  } catch {
    told.textContent = "The server cannot be reached.";
  }
});
