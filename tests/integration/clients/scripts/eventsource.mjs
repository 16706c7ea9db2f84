// npm's eventsource. It ends with the event `end`, or when the server says that there is no more.
import { load, names, show, url } from "./common.mjs";

const { EventSource } = await load("eventsource");
const source = new EventSource(url);
for (const name of names) {
  source.addEventListener(name, (event) => {
    show(event.type, event.data, event.lastEventId);
    if (name === "end") source.close();
  });
}
