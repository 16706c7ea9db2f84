// event-source-polyfill, which has no fetch() of its own in node.
import { load, names, show, url } from "./common.mjs";

const { EventSourcePolyfill } = (await load("event-source-polyfill")).default;
const source = new EventSourcePolyfill(url, { fetch });
for (const name of names) {
  source.addEventListener(name, (event) => {
    show(event.type, event.data, event.lastEventId);
    if (name === "end") source.close();
  });
}
