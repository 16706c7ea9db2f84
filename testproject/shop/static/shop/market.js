// Thousands of prices a second: what arrives is kept, and drawn once a frame.

import { color, element, Live } from "./common.js";

const section = document.getElementById("prices");
const POINTS = 120;
const FRAME = 100; // milliseconds between two points of a chart
const tiles = new Map();
let arrived = 0;
let last = null;
let skipped = 0;

function tile(name) {
  if (!tiles.has(name)) {
    const price = element("span", { className: "price" });
    const canvas = element("canvas");
    const item = element("li", {}, element("strong", { textContent: name }), price, canvas);
    document.getElementById("tiles").append(item);
    tiles.set(name, { price, canvas, points: [], now: 0 });
  }
  return tiles.get(name);
}

function take({ name, price, number }) {
  arrived += 1;
  if (last !== null && number > last + 1) skipped += number - last - 1;
  last = number;
  tile(name).now = price;
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const slow = document.getElementById("slow");

// Iterated, the stream waits for the page, and the server for both.
class Prices extends Live {
  open(address) {
    super.open(address);
    const { stream } = this;
    (async () => {
      for await (const event of stream) {
        if (stream !== this.stream) return;
        this.arrived(event);
        if (event.event === "price") take(event.data);
        if (slow.checked && this.count % 40 === 0) await sleep(50);
      }
    })().catch(() => {}); // The section's state tells of it.
  }
}
const prices = new Prices(section, {}, { options: { fetch: true, buffer: 50 } });
// A new connection: the kernel would keep the large buffer of the fast one.
slow.addEventListener("change", () => {
  skipped = 0;
  last = null;
  prices.open();
});

setInterval(() => {
  const [green, red] = [color("--green"), color("--red")];
  for (const its of tiles.values()) {
    its.points.push(its.now);
    if (its.points.length > POINTS) its.points.shift();
    its.price.textContent = its.now.toFixed(2);
    const { canvas, points } = its;
    const scale = devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    const context = canvas.getContext("2d");
    const low = Math.min(...points);
    const range = Math.max(...points) - low || 1;
    context.lineWidth = 1.5 * scale;
    context.strokeStyle = points.at(-1) >= points[0] ? green : red;
    context.beginPath();
    points.forEach((value, index) => {
      const x = (canvas.width * index) / (POINTS - 1);
      context.lineTo(x, canvas.height - 3 - ((canvas.height - 6) * (value - low)) / range);
    });
    context.stroke();
  }
}, FRAME);

setInterval(() => {
  document.getElementById("rate").textContent = arrived.toLocaleString();
  document.getElementById("skipped").textContent = skipped.toLocaleString();
  arrived = 0;
}, 1000);
