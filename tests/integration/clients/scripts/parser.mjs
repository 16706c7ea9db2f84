// eventsource-parser with fetch().
import { load, show, url } from "./common.mjs";

const { EventSourceParserStream } = await load("eventsource-parser/stream");
const aborter = new AbortController();
const response = await fetch(url, { headers: { Accept: "text/event-stream" }, signal: aborter.signal });
const events = response.body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
for await (const event of events) {
  show(event.event ?? "message", event.data, event.id);
  if (event.event === "end") break;
}
process.exit();
