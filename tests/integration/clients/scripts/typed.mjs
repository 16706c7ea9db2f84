// The client that `manage.py sse_client` generates, in node: with fetch, and iterated.
import { show, url } from "./common.mjs";

const source = await (await fetch(new URL("/typed.js", url))).text();
const { connect } = await import(`data:text/javascript,${encodeURIComponent(source)}`);
for await (const { event, data, id } of connect(url)) {
  show(event, typeof data === "string" ? data : JSON.stringify(data), id);
  if (event === "end") break;
}
