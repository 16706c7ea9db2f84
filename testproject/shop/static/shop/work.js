// A long job: its progress comes from a stream, and from the database where the page is new.

import { element, Live, onPress, post } from "./common.js";

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
