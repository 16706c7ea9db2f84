// A long job: a new page gets its progress from the database, and then from a stream.

import { calm, complain, csrfToken, element, Live, onPress, post, refusal, setState } from "./common.js";

const section = document.getElementById("imports");
const list = document.getElementById("jobs");

function show(job) {
  let item = list.querySelector(`[data-id="${job.id}"]`);
  if (!item) {
    const cancel = element("button", { className: "quiet", textContent: "Cancel" });
    cancel.addEventListener("click", () => post(`/work/imports/${job.id}/cancel/`));
    item = element(
      "li",
      {},
      element("span", { className: "number", textContent: `Import ${job.id}` }),
      element("progress"),
      element("span", { className: "percent" }),
      cancel,
    );
    item.dataset.id = job.id;
    item.querySelector("progress").setAttribute("aria-label", `Import ${job.id}`);
    list.prepend(item);
    while (list.children.length > 3) list.lastElementChild.remove();
  }
  Object.assign(item.querySelector("progress"), { max: job.total, value: job.done });
  const isDone = job.done >= job.total;
  item.querySelector(".percent").textContent = job.cancelled
    ? "cancelled"
    : isDone ? "done" : `${Math.floor((100 * job.done) / job.total)} %`;
  item.querySelector("button").hidden = isDone || job.cancelled;
  item.dataset.progress = job.cancelled ? "cancelled" : isDone ? "done" : "running";
  document.getElementById("no-jobs").hidden = true;
}

new Live(section, { progress: show, reset: () => list.replaceChildren() });
onPress("start-import", "import-problem");

// An answer: a POST starts it, and the page follows it by its id, also after a reload.

const asked = document.getElementById("answer");
const words = document.getElementById("words");
const buttons = [document.getElementById("leave"), document.getElementById("cancel")];
let live;

function follow(id) {
  const address = new URL(`${asked.dataset.stream}${id}/`, location);
  words.replaceChildren();
  const handlers = {
    word: ({ text }) => words.append(element("span", { textContent: text, className: calm.matches ? "" : "token" })),
    reset: () => words.replaceChildren(),
    end: ({ state }) => {
      live.stream.close();
      setState(asked, state === "failed" ? "failed" : "finished");
      if (state === "failed") complain("ask-problem", "The worker that wrote this answer was ended.");
      for (const button of buttons) button.disabled = true;
    },
  };
  for (const button of buttons) button.disabled = false;
  if (live) live.open(address);
  else live = new Live(asked, handlers, { address });
}

document.getElementById("ask").addEventListener("submit", async (submit) => {
  submit.preventDefault();
  complain("ask-problem", "");
  try {
    const response = await post(asked.dataset.stream, { prompt: submit.target.prompt.value });
    if (response.ok) {
      response.body.cancel(); // The answer continues, and the page follows it by its id.
      location.hash = response.headers.get("SSE-Job");
      follow(location.hash.slice(1));
    } else complain("ask-problem", refusal(response.status, await response.text()));
  } catch {
    complain("ask-problem", "The server cannot be reached.");
  }
});

buttons[0].addEventListener("click", () => {
  const { stream } = live;
  stream.close();
  live.isAway("paused");
  // A page that resumes needs the answer's id, and the id of the last event.
  setTimeout(() => live.open(live.at, { lastEventId: stream.lastEventId }), 5000);
});
buttons[1].addEventListener("click", () =>
  fetch(`${asked.dataset.stream}${location.hash.slice(1)}/`, {
    method: "DELETE", headers: { "X-CSRFToken": csrfToken() },
  }));
setState(asked, "idle");
if (/^#[\w-]{16,100}$/.test(location.hash)) follow(location.hash.slice(1));
