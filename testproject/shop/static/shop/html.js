// HTML over the wire. The libraries read the streams, and this only shows what they do.

import "./vendor/datastar.js";
import * as Turbo from "./vendor/turbo.js";
import { csrfToken, onPress, Shown } from "./common.js";

const at = (id) => document.getElementById(id);

// Links and forms of the page stay the browser's, but for those that ask for Turbo.
Turbo.config.drive.enabled = false;
document.addEventListener("turbo:before-fetch-request", ({ detail }) => {
  detail.fetchOptions.headers["X-CSRFToken"] = csrfToken();
});
onPress("place-order", "order-problem");

// htmx says when it connects, and what arrives.
const sales = new Shown(at("sales"));
const htmxStream = sales.section.querySelector("[hx-swap]");
htmxStream.addEventListener("htmx:after:sse:connection", () => sales.isOpen());
htmxStream.addEventListener("htmx:before:sse:connection", () => sales.isAway());
htmxStream.addEventListener("htmx:before:sse:message", ({ detail }) => sales.arrived(detail.message));

// Turbo's element has an EventSource. After an HTTP error, that gives up: the element is put in again.
const tickets = new Shown(at("tickets"));
const turboStream = document.querySelector("turbo-stream-source");
function watch() {
  const source = turboStream.streamSource;
  source.addEventListener("open", () => tickets.isOpen());
  source.addEventListener("message", (event) => tickets.arrived({ id: event.lastEventId }));
  source.addEventListener("error", () => {
    tickets.isAway();
    if (source.readyState !== EventSource.CLOSED) return;
    setTimeout(() => {
      const place = turboStream.parentNode;
      turboStream.remove();
      place.append(turboStream);
      watch();
    }, 3000);
  });
}
watch();

// Datastar tells of its requests and of each event, but not of ids.
const revenue = new Shown(at("revenue"));
let isOpen = false;
document.addEventListener("datastar-fetch", ({ detail: { type, el } }) => {
  if (!revenue.section.contains(el)) return;
  if (type.startsWith("datastar-")) {
    if (!isOpen) revenue.isOpen();
    isOpen = true;
    revenue.arrived({});
  } else if (type === "retrying" || type === "finished") {
    isOpen = false;
    revenue.isAway();
  }
});
