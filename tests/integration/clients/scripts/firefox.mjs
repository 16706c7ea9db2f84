// Debian's Firefox, by WebDriver BiDi: a page of the server's, and in it the browser's EventSource,
// or the generated client.
import { load, names, url } from "./common.mjs";

const puppeteer = (await load("puppeteer-core")).default;
const browser = await puppeteer.launch({
  browser: "firefox", executablePath: process.argv[5], headless: true,
  extraPrefsFirefox: { "network.proxy.type": 0 },
});
try {
  const page = await browser.newPage();
  const mode = process.argv[6]; // of the generated client; otherwise the browser's EventSource reads
  const shown = mode ? `/typed/?${new URLSearchParams({ stream: url, mode })}` : "/blank/";
  await page.goto(new URL(shown, url).href);
  if (!mode) await page.evaluate((address, types) => {
    window.log = [];
    window.ended = false;
    const source = new EventSource(address);
    for (const type of types) {
      source.addEventListener(type, (event) => {
        log.push([event.type, event.data, event.lastEventId]);
        if (type === "end") {
          source.close();
          ended = true;
        }
      });
    }
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) ended = true;
    });
  }, url, names);
  for (let ended = false; !ended; ) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    let text;
    [ended, text] = await page.evaluate("[ended, JSON.stringify(log.splice(0))]");
    for (const event of JSON.parse(text)) console.log(JSON.stringify(event));
  }
} finally {
  await browser.close();
}
