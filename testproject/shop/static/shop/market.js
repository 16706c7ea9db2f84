// Thousands of prices a second: the page stores them, and draws ten times a second.

import { color, element, Live, markPressed, markSkipped } from "./common.js";

const section = document.getElementById("prices");
const POINTS = 120;
const FRAME = 100; // milliseconds between two points of a chart
const tiles = new Map();
let arrived = 0;
let skipped = 0;
let last = null; // the number of the newest price: each change has the next one
let newest = null; // the time of the newest price

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

function take({ name, price, number, time }) {
  arrived += 1;
  if (last !== null && number > last + 1) {
    skipped += number - last - 1;
    markSkipped(section.id, number - last - 1);
  }
  last = number;
  newest = time;
  tile(name).now = price;
}

const slow = document.getElementById("slow");
const isSlow = () => slow.ariaPressed === "true";

// The address of a slow client has a parameter, for which the demo's server sends slowly.
class Prices extends Live {
  address() {
    const address = super.address();
    if (isSlow()) address.searchParams.set("slow", "1");
    return address;
  }
}
const prices = new Prices(section, { price: take, reset: () => { last = null; } }, { options: { fetch: true } });
slow.addEventListener("click", () => {
  slow.ariaPressed = String(!isSlow());
  slow.textContent = isSlow() ? "Speed my client up" : "Slow my client down";
  last = null;
  markPressed();
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
  const show = (id, text) => { document.getElementById(id).textContent = text; };
  show("rate", arrived.toLocaleString());
  show("skipped", skipped.toLocaleString());
  if (arrived) show("behind", `${Math.max(0, (Date.now() - Date.parse(newest)) / 1000).toFixed(1)} s`);
  arrived = skipped = 0;
}, 1000);
