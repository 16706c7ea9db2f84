"use strict";

// Each section with data-stream holds one EventSource. What it shows of a connection is the same
// for all; what it shows of an event is looked up in `shown` by the section's id.

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
const RETRY_REFUSED = 5000; // milliseconds
const PAUSE_HIDDEN = 2000; // milliseconds

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const wire = document.getElementById("wire");

function find(section, name) {
  return section.querySelector(`[data-${name}]`);
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function setState(section, state) {
  const shownState = find(section, "state");
  shownState.dataset.state = state;
  // A screen reader says it again only when it is new.
  if (shownState.textContent !== LABELS[state]) shownState.textContent = LABELS[state];
}

function addTo(list, item, { kept = ROWS_KEPT, first = true } = {}) {
  if (first) list.prepend(item);
  else list.append(item);
  while (list.children.length > kept) (first ? list.lastElementChild : list.firstElementChild).remove();
  if (!calm.matches) item.classList.add("arriving");
}

function logOnWire(stream, event) {
  const type = element("span", { className: "type", textContent: event.type });
  type.dataset.type = event.type;
  const row = element(
    "tr",
    {},
    element("td", { textContent: new Date().toLocaleTimeString([], { hour12: false }) }),
    element("td", { textContent: stream }),
    element("td", {}, type),
    element("td", { textContent: event.lastEventId || "–" }),
    element("td", {}, element("code", { textContent: event.data })),
  );
  row.dataset.stream = stream;
  row.dataset.event = event.type;
  addTo(wire, row, { kept: 60 });
}

class Live {
  constructor(section) {
    this.section = section;
    this.count = 0;
    this.opened = 0;
    this.lastId = "";
    this.connect();
  }

  connect() {
    clearTimeout(this.timer);
    this.source?.close();
    setState(this.section, this.opened ? "reconnecting" : "connecting");
    const address = new URL(this.section.dataset.stream, location);
    // The browser sends the id itself when it reconnects, a new EventSource does not.
    if (this.lastId) address.searchParams.set("last_event_id", this.lastId);
    const source = (this.source = new EventSource(address));
    source.onopen = () => this.onOpen();
    source.onerror = () => this.onError();
    for (const type of this.section.dataset.events.split(" ")) {
      source.addEventListener(type, (event) => this.onEvent(event));
    }
  }

  onOpen() {
    this.opened += 1;
    find(this.section, "reconnects").textContent = this.opened - 1;
    setState(this.section, "open");
    // What was said while the server was away.
    if (this.section.id === "orders") complain("order-problem", "");
  }

  onError() {
    if (this.source.readyState === EventSource.CONNECTING) {
      setState(this.section, "reconnecting");
      return;
    }
    // The server has answered with something else than a stream, and the browser has given up.
    setState(this.section, "refused");
    this.timer = setTimeout(() => this.connect(), RETRY_REFUSED);
  }

  onEvent(event) {
    this.count += 1;
    find(this.section, "count").textContent = this.count;
    if (event.lastEventId) {
      this.lastId = event.lastEventId;
      find(this.section, "last-id").textContent = event.lastEventId;
    }
    logOnWire(this.section.id, event);
    shown[this.section.id](this.section, event);
  }

  close() {
    clearTimeout(this.timer);
    this.source.close();
  }

  pause() {
    if (this.source.readyState === EventSource.CLOSED) return;
    this.close();
    this.paused = true;
    setState(this.section, "paused");
  }

  resume() {
    if (this.paused) this.connect();
    this.paused = false;
  }
}

// A stream that ends is not to be opened again and again by the browser.
class LiveOnce extends Live {
  onError() {
    this.source.close();
    setState(this.section, this.opened ? "finished" : "failed");
  }

  connect() {
    this.opened = 0;
    super.connect();
  }
}

const money = new Intl.NumberFormat(undefined, { style: "currency", currency: "EUR" });

const shown = {
  clock(section, event) {
    if (event.type === "heartbeat") {
      const beats = find(section, "beats");
      beats.textContent = Number(beats.textContent) + 1;
      if (!calm.matches) {
        section.querySelector(".heart").animate(
          [{ transform: "scale(1)" }, { transform: "scale(1.7)" }, { transform: "scale(1)" }],
          { duration: 500, easing: "ease-out" },
        );
      }
      return;
    }
    const { time } = JSON.parse(event.data);
    const shownTime = find(section, "time");
    const date = new Date(time);
    shownTime.dateTime = time;
    shownTime.textContent = date.toLocaleTimeString([], { hour12: false });
    find(section, "arc").style.strokeDasharray = `${date.getSeconds()} 60`;
  },

  orders(section, event) {
    if (event.type === "reset") {
      // Events were missed that nobody holds any more: what follows is the state of now.
      find(section, "list").replaceChildren();
      return;
    }
    if (event.type === "revoked") {
      // Logged out, in another tab: the page that is loaded now asks for the log-in.
      location.reload();
      return;
    }
    const order = JSON.parse(event.data);
    const status = element("span", { className: "status", textContent: order.status });
    status.dataset.status = order.status;
    const item = element(
      "li",
      {},
      element("span", { className: "number", textContent: `#${order.id}` }),
      element(
        "span",
        { className: "what" },
        element("strong", { textContent: `${order.quantity} × ${order.product}` }),
        element("span", { textContent: `for ${order.customer}` }),
      ),
      status,
      element("span", { className: "total", textContent: money.format(order.total) }),
    );
    item.dataset.event = event.type;
    item.dataset.id = order.id;
    // A changed order takes the place of what it was.
    section.querySelector(`[data-list] > [data-id="${order.id}"]`)?.remove();
    addTo(find(section, "list"), item);
    find(section, "empty").hidden = true;
  },

  serialization(section, event) {
    const object = JSON.parse(event.data);
    const facts = element("dl");
    for (const [name, value] of Object.entries(object)) {
      facts.append(
        element("dt", { textContent: name }),
        element("dd", { textContent: JSON.stringify(value) }),
      );
    }
    const kind = "prices" in object ? "Product" : "Customer";
    const item = element("li", {}, element("strong", { textContent: kind }), facts);
    item.dataset.event = event.type;
    item.dataset.object = kind.toLowerCase();
    addTo(find(section, "list"), item, { first: false, kept: 2 });
  },
};

const lives = new Map();
for (const section of document.querySelectorAll("[data-stream]")) {
  if ("locked" in section.dataset) continue;
  const Kind = "once" in section.dataset ? LiveOnce : Live;
  lives.set(section.id, new Kind(section));
}
// A browser opens six connections to a server at most: none is kept for a page that is left.
addEventListener("pagehide", () => lives.forEach((live) => live.close()));
addEventListener("pageshow", (event) => {
  if (event.persisted) lives.forEach((live) => live.connect());
});

// Nor for a tab that nobody sees: with a few of them, the next one could not even be loaded.
let hiding;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(() => lives.forEach((live) => live.pause()), PAUSE_HIDDEN);
  else lives.forEach((live) => live.resume());
});

document.getElementById("serialize-again").addEventListener("click", () => {
  const live = lives.get("serialization");
  find(live.section, "list").replaceChildren();
  live.connect();
});

function post(url, body) {
  return fetch(url, {
    method: "POST",
    headers: {
      "Content-Type": "application/json",
      "X-CSRFToken": document.querySelector("meta[name=csrf-token]").content,
    },
    body: JSON.stringify(body),
  });
}

function complain(id, problem) {
  const place = document.getElementById(id);
  place.textContent = problem;
  place.hidden = !problem;
}

async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  const reasons = Object.values(body).flat();
  return reasons.join(" ") || `The server answered ${response.status}.`;
}

document.getElementById("place-order")?.addEventListener("click", async ({ currentTarget }) => {
  currentTarget.disabled = true;
  complain("order-problem", "");
  try {
    // The answer is not shown: the order arrives through the stream.
    const response = await post(currentTarget.dataset.url, {});
    if (response.status === 403) location.reload(); // Logged out meanwhile.
    else if (!response.ok) complain("order-problem", await refusal(response));
  } catch {
    complain("order-problem", "The server cannot be reached.");
  }
  currentTarget.disabled = false;
});

// An EventSource can only GET. What a POST streams is read from its body, block by block.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (pending + value).split("\n\n");
    pending = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data:"));
      if (data.length) yield data.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
    }
  }
}

document.getElementById("prompt-form").addEventListener("submit", async (submit) => {
  submit.preventDefault();
  const form = submit.currentTarget;
  const section = document.getElementById("generate");
  const answer = document.getElementById("answer");
  const button = form.querySelector("button");
  let count = 0;
  button.disabled = true;
  complain("prompt-problem", "");
  answer.replaceChildren();
  // So that a screen reader reads the answer when it is whole.
  answer.ariaBusy = "true";
  setState(section, "connecting");
  try {
    const response = await post(form.dataset.url, { prompt: form.prompt.value });
    if (!response.ok) {
      complain("prompt-problem", await refusal(response));
      setState(section, "refused");
      return;
    }
    setState(section, "open");
    let last = "";
    for await (last of events(response)) {
      find(section, "count").textContent = count += 1;
      logOnWire("generate", { type: "message", data: last });
      if (last === "[DONE]") break;
      const token = element("span", { textContent: JSON.parse(last).token });
      if (!calm.matches) token.className = "token";
      answer.append(token);
    }
    setState(section, last === "[DONE]" ? "finished" : "failed");
    if (last !== "[DONE]") complain("prompt-problem", "The answer was cut off.");
  } catch {
    complain("prompt-problem", "The server cannot be reached.");
    setState(section, "failed");
  } finally {
    answer.ariaBusy = "false";
    button.disabled = false;
  }
});
