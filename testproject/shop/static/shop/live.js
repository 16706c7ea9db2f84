// The first page: each section follows a stream, with the client that `manage.py sse_client` has
// generated from the streams' declarations.

import { connect } from "./streams.js";
import { addTo, calm, complain, csrfToken, element, find, Live, onPress, refusal, setState } from "./common.js";

const at = (id) => document.getElementById(id);
const money = new Intl.NumberFormat(undefined, { style: "currency", currency: "EUR" });

function logOnWire(stream, { event, id, data }) {
  const type = element("span", { className: "type", textContent: event });
  type.dataset.type = event;
  const text = typeof data === "string" ? data : JSON.stringify(data);
  const row = element(
    "tr",
    {},
    element("td", { textContent: new Date().toLocaleTimeString([], { hour12: false }) }),
    element("td", { textContent: stream }),
    element("td", {}, type),
    element("td", { textContent: id || "–" }),
    element("td", {}, element("code", { textContent: text })),
  );
  row.dataset.stream = stream;
  row.dataset.event = event;
  addTo(at("wire"), row, { kept: 60 });
}

const logs = (section) => (event) => logOnWire(section.id, event);

// The clock.

const clock = at("clock");
new Live(clock, {
  tick({ time }) {
    const date = new Date(time);
    const shown = find(clock, "time");
    shown.dateTime = time;
    shown.textContent = date.toLocaleTimeString([], { hour12: false });
    find(clock, "arc").style.strokeDasharray = `${date.getSeconds()} 60`;
  },
  heartbeat() {
    const beats = find(clock, "beats");
    beats.textContent = Number(beats.textContent) + 1;
    if (calm.matches) return;
    clock.querySelector(".heart").animate(
      [{ transform: "scale(1)" }, { transform: "scale(1.7)" }, { transform: "scale(1)" }],
      { duration: 500, easing: "ease-out" },
    );
  },
}, { onEvent: logs(clock) });

// The orders.

const orders = at("orders");

function showOrder(order, { event }) {
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
  item.dataset.event = event;
  item.dataset.id = order.id;
  // A changed order replaces the old one.
  orders.querySelector(`[data-list] > [data-id="${order.id}"]`)?.remove();
  addTo(find(orders, "list"), item);
  find(orders, "empty").hidden = true;
}

if (!("locked" in orders.dataset)) {
  new Live(orders, {
    snapshot: showOrder,
    created: showOrder,
    changed: showOrder,
    // Events that the client has missed are no longer stored: a snapshot of the current state follows.
    reset: () => find(orders, "list").replaceChildren(),
    // The user has logged out in another tab. Load the page again: it then shows the login form.
    revoked: () => location.reload(),
  }, {
    onEvent: logs(orders),
    onOpen: () => complain("order-problem", ""), // removes an error of the time without a server
  });
}
onPress("place-order", "order-problem");

// Objects of two types. The stream ends, so do not reconnect.

const serialization = at("serialization");
const once = new Live(serialization, {
  message(object, { event }) {
    const facts = element("dl");
    for (const [name, value] of Object.entries(object)) {
      facts.append(element("dt", { textContent: name }), element("dd", { textContent: JSON.stringify(value) }));
    }
    const kind = "prices" in object ? "Product" : "Customer";
    const item = element("li", {}, element("strong", { textContent: kind }), facts);
    item.dataset.event = event;
    item.dataset.object = kind.toLowerCase();
    addTo(find(serialization, "list"), item, { first: false, kept: 2 });
  },
}, { options: { reconnect: false }, onEvent: logs(serialization) });
at("serialize-again").addEventListener("click", () => {
  find(serialization, "list").replaceChildren();
  once.open();
});

// The stream that answers a POST.

at("prompt-form").addEventListener("submit", async (submit) => {
  submit.preventDefault();
  const form = submit.currentTarget;
  const section = at("generate");
  const answer = at("answer");
  const button = form.querySelector("button");
  button.disabled = true;
  complain("prompt-problem", "");
  answer.replaceChildren();
  // A screen reader waits until the answer is complete.
  answer.ariaBusy = "true";
  setState(section, "connecting");
  let count = 0;
  let isWhole = false;
  try {
    const stream = connect(form.dataset.url, undefined, {
      json: { prompt: form.prompt.value },
      headers: { "X-CSRFToken": csrfToken() },
      onState: (state) => state === "open" && setState(section, "open"),
    });
    for await (const event of stream) {
      find(section, "count").textContent = count += 1;
      logOnWire("generate", event);
      if ((isWhole = event.data === "[DONE]")) break;
      const token = element("span", { textContent: event.data.token });
      if (!calm.matches) token.className = "token";
      answer.append(token);
    }
    setState(section, isWhole ? "finished" : "failed");
    if (!isWhole) complain("prompt-problem", "The answer was cut off.");
  } catch (error) {
    setState(section, error.status ? "refused" : "failed");
    complain("prompt-problem", error.status ? refusal(error.status, error.body) : "The server cannot be reached.");
  } finally {
    answer.ariaBusy = "false";
    button.disabled = false;
  }
});
