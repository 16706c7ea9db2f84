// The present users, and the notifications of this user.

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
    revoked: () => {}, // The page's button has cut the stream. The client reconnects by itself.
  });
}
onPress("notify", "notes");
