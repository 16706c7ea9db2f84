// HTML over the wire. The libraries read the streams; this script only shows what they do.

import "./vendor/datastar.js";
import * as Turbo from "./vendor/turbo.js";
import { csrfToken, onPress, Shown } from "./common.js";

const at = (id) => document.getElementById(id);

// The browser handles links and forms, except those with data-turbo="true".
Turbo.config.drive.enabled = false;
document.addEventListener("turbo:before-fetch-request", ({ detail }) => {
  detail.fetchOptions.headers["X-CSRFToken"] = csrfToken();
});
onPress("place-order", "order-problem");

// htmx dispatches an event when it connects, and for each event of the stream.
const sales = new Shown(at("sales"));
const htmxStream = sales.section.querySelector("[hx-swap]");
htmxStream.addEventListener("htmx:after:sse:connection", () => sales.isOpen());
htmxStream.addEventListener("htmx:before:sse:connection", () => sales.isAway());
htmxStream.addEventListener("htmx:before:sse:message", ({ detail }) => sales.arrived(detail.message));

// Turbo's element has an EventSource, which gives up after an HTTP error. Then insert the element again.
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

// Datastar dispatches events for its requests and for each event of the stream, but without ids.
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
