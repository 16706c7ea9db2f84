// The live page of a stream: reads the stream with fetch() and shows what arrives.
"use strict";

(() => {
  const config = JSON.parse(document.getElementById("config").textContent);
  const texts = config.texts;
  const at = (id) => document.getElementById(id);

  const KEPT = 10_000; // events that the page keeps for the filter and the download
  const KEPT_CHARACTERS = 50_000_000; // of their data
  const SHOWN = 200; // rows of the table
  const FRAME = 200; // milliseconds between two changes of the table
  const SHORT = 300; // characters of data that a row shows
  const CHILDREN = 200; // entries that one level of an unfolded value shows
  const FIRST_RETRY = 3_000; // milliseconds, until the stream says otherwise
  const LONGEST_RETRY = 30_000;

  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);
  const number = new Intl.NumberFormat(config.language || undefined, { maximumFractionDigits: 1 });
  const clock = new Intl.DateTimeFormat(config.language || undefined, {
    hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hour12: false,
  });

  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  function bytesIn(text) {
    // eslint-disable-next-line no-control-regex
    return /^[\x00-\x7f]*$/.test(text) ? text.length : new TextEncoder().encode(text).length;
  }

  function size(bytes) {
    if (bytes < 1000) return `${number.format(bytes)} B`;
    if (bytes < 1e6) return `${number.format(bytes / 1e3)} kB`;
    return `${number.format(bytes / 1e6)} MB`;
  }

  // WHATWG HTML, 9.2.6. Unlike an EventSource, it also tells comments and reconnection times.
  class Decoder {
    constructor() {
      this.lastId = null;
      this.rest = "";
      this.afterReturn = false;
      this.begin();
    }

    begin() {
      this.block = { id: null, event: "", data: null, retry: null, comments: [], bytes: 0 };
    }

    get isInside() {
      return this.rest !== "" || this.block.bytes > 0;
    }

    feed(text) {
      const blocks = [];
      let from = 0;
      if (this.afterReturn && text.startsWith("\n")) from = 1;
      if (text) this.afterReturn = false;
      const ends = /\r\n|\n|\r/g;
      ends.lastIndex = from;
      for (let end; (end = ends.exec(text)); from = ends.lastIndex) {
        this.take(this.rest + text.slice(from, end.index), blocks);
        this.rest = "";
        this.afterReturn = end[0] === "\r" && ends.lastIndex === text.length;
      }
      this.rest += text.slice(from);
      return blocks;
    }

    take(line, blocks) {
      const block = this.block;
      if (line === "") {
        if (block.bytes) {
          block.bytes += 1;
          blocks.push(block);
        }
        this.begin();
        return;
      }
      block.bytes += bytesIn(line) + 1;
      const colon = line.indexOf(":");
      if (colon === 0) {
        block.comments.push(line.slice(line[1] === " " ? 2 : 1));
        return;
      }
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
      if (field === "data") block.data = block.data === null ? value : `${block.data}\n${value}`;
      else if (field === "event") block.event = value;
      else if (field === "id" && !value.includes("\0")) this.lastId = block.id = value;
      else if (field === "retry" && /^\d+$/.test(value)) block.retry = Number(value);
    }
  }

  // What has arrived.

  const entries = [];
  let characters = 0;
  let total = 0;
  let totalBytes = 0;
  let lastEventAt = null;
  const names = new Map();
  const seconds = new Map(); // events in each of the last seconds, by its number

  function isHeartbeat(block) {
    const beat = config.heartbeat;
    if (!beat) return false;
    if (block.data === null) return block.comments.length > 0 && beat.comments === block.comments.join("\n");
    return Boolean(beat.event) && beat.event === block.event;
  }

  function kindOf(block) {
    if (isHeartbeat(block)) return "heartbeat";
    if (block.data !== null) return ["reset", "dropped", "revoked"].includes(block.event) ? block.event : "event";
    if (block.retry !== null) return "retry";
    if (block.id !== null) return "cursor";
    return "comment";
  }

  function keep(entry) {
    entries.push(entry);
    characters += entry.text.length;
    while (entries.length > KEPT || (characters > KEPT_CHARACTERS && entries.length > 1)) {
      characters -= entries.shift().text.length;
    }
    fresh += 1;
    plan();
  }

  function note(text, kind = "note") {
    keep({ kind, text, time: Date.now(), id: null, event: "", bytes: null, after: null, data: null });
  }

  function arrived(block) {
    const time = Date.now();
    const kind = kindOf(block);
    if (block.retry !== null) retry = block.retry;
    if (block.data === null && !block.comments.join("") && block.id === null && block.retry === null) return;
    if (block.data !== null) {
      total += 1;
      const second = Math.floor(time / 1000);
      seconds.set(second, (seconds.get(second) ?? 0) + 1);
      if (!names.has(block.event)) addName(block.event);
      names.set(block.event, names.get(block.event) + 1);
    }
    totalBytes += block.bytes;
    let text = block.data ?? block.comments.join("\n");
    if (kind === "retry") text = fill(texts.retry, { ms: block.retry });
    keep({
      kind, text, time, id: block.id, event: block.event, bytes: block.bytes, data: block.data,
      retry: block.retry, comments: block.comments,
      after: block.data === null || lastEventAt === null ? null : time - lastEventAt,
    });
    if (block.data !== null) lastEventAt = time;
  }

  function addName(name) {
    names.set(name, 0);
    at("name").append(make("option", { value: `=${name}` }, name || texts.noName));
    at("names").textContent = [...names.keys()].map((it) => it || texts.noName).join(", ");
    writeSnippets();
  }

  // The table.

  let fresh = 0; // entries since the table was drawn
  let planned = false;
  let paused = false;
  let drawnAll = false;

  function plan() {
    if (planned) return;
    planned = true;
    setTimeout(draw, FRAME);
  }

  function matches(entry) {
    if (entry.kind === "note") return true;
    const quiet = entry.data === null || entry.kind === "heartbeat";
    if (quiet && !at("beats").checked) return false;
    const name = at("name").value;
    if (name && (entry.data === null || `=${entry.event}` !== name)) return false;
    const text = at("text").value.toLowerCase();
    return !text || entry.text.toLowerCase().includes(text) || (entry.id ?? "").toLowerCase().includes(text);
  }

  function draw() {
    planned = false;
    at("totals").textContent = `${number.format(total)} · ${size(totalBytes)}`;
    if (paused) {
      at("pause").textContent = fill(texts.paused, { count: number.format(fresh) });
      return;
    }
    const rows = at("rows");
    const found = [];
    const oldest = drawnAll ? Math.max(0, entries.length - fresh) : 0;
    for (let index = entries.length - 1; index >= oldest && found.length < SHOWN; index -= 1) {
      if (matches(entries[index])) found.push(row(entries[index]));
    }
    if (!drawnAll || found.length >= SHOWN) rows.replaceChildren(...found);
    else rows.prepend(...found);
    while (rows.children.length > SHOWN) rows.lastElementChild.remove();
    at("empty").hidden = rows.children.length > 0;
    fresh = 0;
    drawnAll = true;
  }

  function drawAnew() {
    drawnAll = false;
    plan();
  }

  function row(entry) {
    const { kind } = entry;
    const line = make("tr", { "data-kind": kind });
    const id = make("td");
    if (entry.id) {
      const button = make("button", { type: "button", title: texts.useId }, entry.id);
      button.addEventListener("click", () => {
        at("from-id").value = entry.id;
        at("from-id").focus();
      });
      id.append(button);
    }
    const event = make("td", {}, entry.event);
    const marks = { heartbeat: texts.heartbeat, comment: texts.comment, cursor: texts.cursor };
    if (marks[kind]) event.append(" ", make("span", { class: "mark" }, marks[kind]));
    const data = make("td", { class: "data" });
    const explained = { reset: texts.reset, dropped: texts.dropped, revoked: texts.revoked }[kind];
    if (explained) data.append(make("div", {}, explained));
    data.append(entry.data === null ? entry.text : value(entry.data));
    const after = entry.after === null ? "" : duration(entry.after);
    line.append(
      make("td", {}, clock.format(entry.time)), id, event, data,
      make("td", { class: "number" }, entry.bytes === null ? "" : size(entry.bytes)),
      make("td", { class: "number" }, after),
    );
    return line;
  }

  function duration(milliseconds) {
    if (milliseconds < 1000) return `${number.format(milliseconds)} ms`;
    return `${number.format(milliseconds / 1000)} s`;
  }

  function value(text) {
    const first = text.trimStart()[0];
    if (first === "{" || first === "[") {
      try {
        return folded(JSON.parse(text), text);
      } catch {
        // Text that only looks like JSON.
      }
    }
    if (text.length <= SHORT && !text.includes("\n")) return text;
    return foldable(shortened(text), () => make("pre", {}, text));
  }

  const shortened = (text) => (text.length > SHORT ? `${text.slice(0, SHORT)} …` : text);

  function foldable(title, content) {
    const details = make("details", { class: "tree" }, make("summary", {}, title));
    // Only what somebody unfolds is built.
    details.addEventListener("toggle", () => details.append(content()), { once: true });
    return details;
  }

  function folded(parsed, text) {
    return foldable(shortened(text), () => tree(parsed));
  }

  function tree(parsed) {
    const list = make("ul");
    const isArray = Array.isArray(parsed);
    const pairs = Object.entries(parsed);
    for (const [key, child] of pairs.slice(0, CHILDREN)) {
      const label = make("span", { class: "key" }, isArray ? `${key}: ` : `${JSON.stringify(key)}: `);
      if (child !== null && typeof child === "object" && Object.keys(child).length) {
        const details = folded(child, JSON.stringify(child));
        details.querySelector("summary").prepend(label);
        list.append(make("li", {}, details));
      } else {
        const kind = { string: "string", number: "number" }[typeof child] ?? "word";
        list.append(make("li", {}, label, make("span", { class: kind }, JSON.stringify(child))));
      }
    }
    if (pairs.length > CHILDREN) {
      list.append(make("li", {}, fill(texts.more, { count: number.format(pairs.length - CHILDREN) })));
    }
    return list;
  }

  // The chart of the last minute.

  function drawChart() {
    const canvas = at("chart");
    const now = Math.floor(Date.now() / 1000);
    for (const second of seconds.keys()) if (second < now - 60) seconds.delete(second);
    const bars = Array.from({ length: 60 }, (_, index) => seconds.get(now - 60 + index) ?? 0);
    const most = Math.max(1, ...bars);
    const scale = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    const context = canvas.getContext("2d");
    context.fillStyle = getComputedStyle(canvas).getPropertyValue("--accent");
    const width = canvas.width / bars.length;
    bars.forEach((count, index) => {
      const height = (count / most) * canvas.height;
      context.fillRect(index * width, canvas.height - height, Math.max(1, width - scale), height);
    });
    const last = bars[bars.length - 1];
    at("rate").textContent = number.format(last);
    canvas.setAttribute("aria-label", fill(texts.rate, { now: last, most: Math.max(...bars) }));
  }

  // The connection.

  let connection = null; // the AbortController of the one that is open
  let timer = null;
  let lastId = null;
  let retry = FIRST_RETRY;

  function show(state, text) {
    const element = at("state");
    element.dataset.state = state;
    if (element.textContent !== text) element.textContent = text;
    const active = ["open", "connecting", "waiting"].includes(state);
    at("disconnect").disabled = !active;
  }

  function disconnect() {
    clearTimeout(timer);
    if (connection !== null) connection.abort();
    connection = null;
  }

  // `body`: what a POST sends; without one, the stream is opened by GET and reconnects.
  async function connect(body = null, failures = 0) {
    disconnect();
    const mine = (connection = new AbortController());
    const headers = { Accept: "text/event-stream", ...body?.headers };
    if (lastId) headers["Last-Event-ID"] = lastId;
    show("connecting", texts.connecting);
    showAnswer("");
    let opened = false;
    let problem = "";
    const decoder = new Decoder();
    decoder.lastId = lastId;
    try {
      const response = await fetch(config.url, {
        method: body ? "POST" : "GET", headers, body: body?.content, signal: mine.signal,
        cache: "no-store",
      });
      if (response.status === 204) {
        connection = null;
        return show("finished", texts.finished);
      }
      const type = response.headers.get("Content-Type") ?? "";
      if (!response.ok || !type.startsWith("text/event-stream")) {
        const answer = await response.text();
        connection = null;
        if (response.ok) return show("refused", fill(texts.noStream, { type }));
        show("refused", fill(texts.refused, { status: response.status }));
        return showAnswer(answer, response.status === 400 && body?.isForm);
      }
      opened = true;
      show("open", texts.open);
      note(lastId ? fill(texts.resumedFrom, { id: lastId }) : texts.connected);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value: text, done } = await reader.read();
        if (done) break;
        for (const block of decoder.feed(text)) arrived(block);
        lastId = decoder.lastId;
      }
    } catch (error) {
      if (mine.signal.aborted) return;
      problem = String(error.message ?? error);
    }
    if (mine !== connection) return;
    if (decoder.isInside) note(texts.unfinished);
    connection = null;
    if (body) return show("closed", problem || texts.ended);
    if (opened) note(texts.lost);
    const attempts = opened ? 0 : failures + 1;
    reconnect(Math.min(retry * 2 ** Math.max(0, attempts - 1), Math.max(retry, LONGEST_RETRY)), attempts);
  }

  function reconnect(delay, failures) {
    const end = Date.now() + delay;
    const tick = () => {
      const left = end - Date.now();
      if (left <= 0) return connect(null, failures);
      const element = at("state");
      const text = fill(texts.waiting, { seconds: Math.ceil(left / 1000) });
      // A screen reader hears it once, not each second.
      if (element.dataset.state !== "waiting") show("waiting", text);
      timer = setTimeout(tick, Math.min(left, 1000));
    };
    tick();
  }

  function showAnswer(text, isForm = false) {
    for (const element of document.querySelectorAll(".problem[id$='-problem']")) element.textContent = "";
    const answer = at("answer");
    let parsed = null;
    try {
      parsed = JSON.parse(text);
    } catch {
      // Shown as it is.
    }
    if (isForm && parsed !== null && typeof parsed === "object") {
      for (const [name, problems] of Object.entries(parsed)) {
        const place = at(`field-${name}-problem`);
        if (!place) continue;
        place.textContent = [problems].flat().map((it) => (typeof it === "string" ? it : JSON.stringify(it))).join(" ");
        delete parsed[name];
      }
      if (!Object.keys(parsed).length) text = "";
    }
    answer.textContent = parsed !== null && text ? JSON.stringify(parsed, null, 2) : text.slice(0, 5_000);
    answer.hidden = !answer.textContent;
  }

  // The request of a view that answers a POST.

  function post(content, mediaType, isForm) {
    lastId = at("from-id").value || null;
    const headers = {};
    if (mediaType) headers["Content-Type"] = mediaType;
    if (config.csrf) headers[config.csrf.header] = config.csrf.token;
    connect({ content, headers, isForm });
  }

  function valuesOf(form) {
    const values = {};
    for (const field of form.querySelectorAll("[name]")) {
      const { name, value: text } = field;
      const { kind } = field.dataset;
      if (kind === "checkbox") values[name] = field.checked;
      else if (kind === "choices") values[name] = [...field.selectedOptions].map((it) => it.value);
      else if (text === "" && !field.required) continue;
      else if (kind === "number") values[name] = text === "" ? null : Number(text);
      else if (kind === "json") {
        try {
          values[name] = text === "" ? null : JSON.parse(text);
        } catch (error) {
          at(`field-${name}-problem`).textContent = fill(texts.invalidJson, { problem: error.message });
          field.focus();
          return null;
        }
      } else values[name] = text;
    }
    return values;
  }

  function sendFields(event) {
    event.preventDefault();
    const values = valuesOf(at("fields"));
    if (values === null) return;
    const types = [...at("media-type").options].map((it) => it.value);
    if (types.includes("application/json") || !types.length) {
      at("body").value = JSON.stringify(values, null, 2);
      post(JSON.stringify(values), "application/json", true);
    } else if (types.includes("application/x-www-form-urlencoded")) {
      post(new URLSearchParams(new FormData(at("fields"))), null, true);
    } else post(new FormData(at("fields")), null, true);
  }

  function sendRaw(event) {
    event.preventDefault();
    const mediaType = at("media-type").value;
    const content = at("body").value;
    if (mediaType === "application/json") {
      try {
        JSON.parse(content);
      } catch (error) {
        at("body-problem").textContent = fill(texts.invalidJson, { problem: error.message });
        at("body").focus();
        return;
      }
    }
    post(content, mediaType, false);
  }

  // Snippets.

  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

  function writeSnippets() {
    const address = new URL(config.url, location.href).href;
    const login = config.withLogin ? `# ${texts.withLogin}\n` : "";
    const literal = JSON.stringify(address);
    if (config.opens) {
      at("curl").textContent = `${login}curl -N -H 'Accept: text/event-stream' ${quoted(address)}`;
      const named = [...names.keys()].filter(Boolean);
      at("javascript").textContent = [
        `const source = new EventSource(${literal});`,
        "source.onmessage = (event) => console.log(event.lastEventId, event.data);",
        ...named.map((name) => `source.addEventListener(${JSON.stringify(name)}, (event) => console.log(event.type, event.data));`),
      ].join("\n");
      return;
    }
    const body = at("body")?.value || "{}";
    const type = at("media-type")?.value || "application/json";
    at("curl").textContent = `${login}curl -N -H 'Content-Type: ${type}' --data-binary ${quoted(body)} ${quoted(address)}`;
    at("javascript").textContent = [
      `const response = await fetch(${literal}, {`,
      `  method: "POST", headers: { "Content-Type": ${JSON.stringify(type)} }, body: ${JSON.stringify(body)},`,
      "});",
      "const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();",
      "for (let piece; !(piece = await reader.read()).done; ) console.log(piece.value);",
    ].join("\n");
  }

  async function copy(button) {
    const source = at(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(source.textContent);
      at("copied").textContent = texts.copied;
    } catch {
      getSelection().selectAllChildren(source);
      at("copied").textContent = texts.notCopied;
    }
  }

  function download() {
    const lines = entries.filter((entry) => entry.kind !== "note" && matches(entry)).map((entry) => JSON.stringify({
      time: new Date(entry.time).toISOString(), event: entry.event || "message", id: entry.id,
      data: entry.data, retry: entry.retry, comments: entry.comments?.length ? entry.comments : null,
    }));
    const address = URL.createObjectURL(new Blob([lines.map((line) => `${line}\n`).join("")], { type: "application/jsonl" }));
    const name = config.url.split("?")[0].split("/").filter(Boolean).join("-") || "events";
    make("a", { href: address, download: `${name}.jsonl` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  // Buttons.

  at("reconnect").addEventListener("submit", (event) => {
    event.preventDefault();
    lastId = at("from-id").value.trim() || null;
    connect();
  });
  at("disconnect").addEventListener("click", () => {
    disconnect();
    show("closed", texts.closed);
  });
  at("pause").addEventListener("click", () => {
    paused = !paused;
    at("pause").dataset.paused = String(paused);
    at("pause").textContent = paused ? texts.resume : texts.pause;
    if (!paused) drawAnew();
  });
  at("clear").addEventListener("click", () => {
    entries.length = 0;
    characters = total = totalBytes = fresh = 0;
    lastEventAt = null;
    drawAnew();
  });
  at("download").addEventListener("click", download);
  for (const id of ["name", "beats"]) at(id).addEventListener("change", drawAnew);
  at("text").addEventListener("input", drawAnew);
  for (const button of document.querySelectorAll("[data-copies]")) {
    button.addEventListener("click", () => copy(button));
  }
  at("fields")?.addEventListener("submit", sendFields);
  at("raw")?.addEventListener("submit", sendRaw);
  at("body")?.addEventListener("input", writeSnippets);
  at("media-type")?.addEventListener("change", writeSnippets);

  writeSnippets();
  setInterval(drawChart, 1000);
  drawChart();
  // A stream that only answers a POST waits for its form, and cannot be resumed from here by GET.
  at("reconnect").hidden = !config.opens;
  if (config.opens) connect();
})();
