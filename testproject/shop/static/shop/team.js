// Who is here, and what only this user is told.

import { addTo, element, Live, onPress } from "./common.js";

const team = document.getElementById("team");
const members = document.getElementById("members");

function join({ user, name }) {
  const known = members.querySelector(`[data-user="${user}"]`);
  if (known) {
    if (name) known.textContent = name;
    return;
  }
  const item = element("li", { textContent: name ?? `User ${user}` });
  item.dataset.user = user;
  addTo(members, item, { first: false });
}

if (!("locked" in team.dataset)) {
  new Live(team, {
    member: join,
    join,
    leave: ({ user }) => members.querySelector(`[data-user="${user}"]`)?.remove(),
    note: ({ text }) => { document.getElementById("notes").textContent = `${text} (${new Date().toLocaleTimeString()})`; },
    reset: () => members.replaceChildren(),
    revoked: () => {}, // The page's button has cut it: it comes back by itself.
  });
}
onPress("notify", "notes");
