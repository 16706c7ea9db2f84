// Several tabs of one browser, Debian's Chromium or Firefox, that share one connection.
import { load, url } from "./common.mjs";

const [kind, executablePath, key, mode] = process.argv.slice(5);
const puppeteer = (await load("puppeteer-core")).default;
const browser = await puppeteer.launch({
  browser: kind, executablePath, headless: true,
  args: kind === "chrome" ? ["--no-sandbox"] : [],
  extraPrefsFirefox: { "network.proxy.type": 0 },
});

const say = (text) => fetch(new URL(`/scribble/?${new URLSearchParams({ key, text })}`, url));
const hide = (hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
};

async function open() {
  const page = await browser.newPage();
  await page.goto(new URL("/blank/", url).href);
  await page.evaluate(async (path, worker) => {
    const { connect } = await import("/typed.js");
    window.log = [];
    const options = worker ? { shared: "a", worker: "/typed.js" } : { shared: "a" };
    window.stream = connect(path, {
      snapshot: () => log.push("snapshot"), line: (text) => log.push(text), reset: () => log.push("reset"),
    }, options);
  }, `/scribbles/?key=${key}`, mode === "worker");
  return page;
}

// Puppeteer's own waiting stands still in tabs that are not in front.
async function until(page, condition) {
  for (let tries = 0; tries < 200; tries += 1) {
    if (await page.evaluate(condition)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`never ${condition}: ${await page.evaluate("log + stream.state")}`);
}

async function has(page, text) {
  await until(page, `log.includes("${text}")`);
  return page.evaluate("log");
}

try {
  const first = await open();
  await has(first, "snapshot");
  const second = await open();
  await has(second, "snapshot");
  await say("one");
  const a = await has(first, "one");
  await has(second, "one");
  // The tab that leads is closed.
  await first.close();
  await say("two");
  await has(second, "two");
  const third = await open();
  await has(third, "snapshot");
  await say("three");
  await has(third, "three");
  // A hidden tab pauses, and gets what it missed.
  await second.evaluate(hide, true);
  await until(second, "stream.state === 'paused'");
  await say("four");
  await has(third, "four");
  await second.evaluate(hide, false);
  await say("five");
  const c = await has(third, "five");
  const b = await has(second, "five");
  console.log(JSON.stringify([a, b, c]));
} finally {
  await browser.close();
}
