/** The events of a stream that declares none. */
export type AnyEvents = Record<string, any>;

/** What this project's streams send, by path: `manage.py sse_client` writes it. */
export type EventsOf<Path extends string> = AnyEvents;

/** The events whose data is text and not JSON, by the end of a path. */
const TEXT: [RegExp, string[]][] = [];

// ---- what follows is the same for all projects

/** An event, as it has arrived: its name, its parsed data, and the last id of the stream. */
export type EventOf<Events> = {
  [Name in keyof Events & string]: { readonly event: Name; readonly data: Events[Name]; readonly id: string };
}[keyof Events & string];

/** A function for each name of an event; events without a name are called `message`. */
export type Handlers<Events> = {
  [Name in keyof Events & string]?: (
    data: Events[Name],
    event: { readonly event: Name; readonly data: Events[Name]; readonly id: string },
  ) => void;
};

/** `waiting` is the time before the next attempt, `paused` that in which the page is hidden. */
export type State = "connecting" | "open" | "waiting" | "paused" | "closed";

export interface Options {
  /** Other methods than GET are sent once, unless `reconnect` says otherwise. */
  method?: string;
  /** With `ticket`, these go to the request for the ticket. */
  headers?: Record<string, string> | (() => Record<string, string> | Promise<Record<string, string>>);
  /** Sent as JSON, with POST unless `method` says otherwise. */
  json?: unknown;
  body?: BodyInit;
  credentials?: RequestCredentials;
  /** Resume behind this id. */
  lastEventId?: string;
  /** `true`: use `fetch` where an `EventSource` would do; it sees heartbeats, and so a dead connection. */
  fetch?: boolean;
  /** Connect again when the connection ends. The default is `true` for GET. */
  reconnect?: boolean;
  /** Milliseconds before the first reconnection, until the server says otherwise: 3000. */
  retry?: number;
  /** Milliseconds without a byte after which a connection by `fetch` counts as lost: 45000. 0 is never. */
  timeout?: number;
  /** What a stream does in a hidden tab: `"pause"` closes it after two seconds, and resumes it. */
  hidden?: "pause" | "stay";
  /** The address that gives tickets (`TicketView`). A new one is fetched before the old one expires. */
  ticket?: string | URL;
  /** One connection for all tabs that name the same address and key, such as the user's id. */
  shared?: string;
  /** The address of this file as a script, for a `SharedWorker` that holds the shared connection. */
  worker?: string | URL;
  /** Events that wait for `for await`, before `fetch` reads no more: 1000. */
  buffer?: number;
  /** Called with each new state; `closed` comes last, with the error if there was one. */
  onState?: (state: State, error?: StreamError) => void;
}

export interface Stream<Events> extends AsyncIterable<EventOf<Events>> {
  readonly state: State;
  readonly lastEventId: string;
  close(): void;
}

/** An answer that is no stream, and that asking again would not change; or a stream that broke off. */
export class StreamError extends Error {
  /** `status` is that of the answer, 0 without one; `body` is its text. */
  constructor(message: string, readonly status = 0, readonly body = "") {
    super(message);
    this.name = "StreamError";
  }
}

type Received = { event: string; data: any; id: string };
type Message = { event?: string | undefined; text?: string; id?: string; hello?: 1; at?: string; state?: State; end?: [string, number, string] | null };

// Ids of topics are two numbers. Others cannot be compared, and count as newer.
const isNewer = (id: string, than: string) => {
  const [a, b] = [id, than].map((it) => /^(\d+)-(\d+)$/.exec(it)?.slice(1).map(Number));
  return !a || !b || a[0]! > b[0]! || (a[0] === b[0] && a[1]! > b[1]!);
};

const sleep = (milliseconds: number, signal: AbortSignal) =>
  new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); });
    if (signal.aborted) resolve();
  });

/**
 * Open a stream, and keep it open: it reconnects with the last id, so that no event is lost.
 *
 * `handlers` has a function for each event. Without handlers, iterate: `for await (const event of stream)`;
 * events then wait for you, and so does the server.
 */
export function connect<Path extends string>(
  address: Path | URL, handlers?: Handlers<EventsOf<Path>>, options: Options = {},
): Stream<EventsOf<Path>> {
  const base = globalThis.location?.href;
  const url = new URL(address, base);
  const { timeout = 45_000, buffer = 1000, ticket, shared } = options;
  const body = options.body ?? ("json" in options ? JSON.stringify(options.json) : undefined);
  const method = (options.method ?? (body === undefined ? "GET" : "POST")).toUpperCase();
  const reconnects = options.reconnect ?? method === "GET";
  const page = globalThis.document as Document | undefined;
  const texts = TEXT.filter(([path]) => path.test(url.pathname)).flatMap(([, names]) => names);
  // An EventSource tells neither events without a handler, nor ids alone, nor why it was refused, and
  // it always reconnects.
  let usesFetch = options.fetch || !handlers || !!shared || method !== "GET" || !reconnects
    || (!!options.headers && !ticket) || !globalThis.EventSource;

  let state: State | undefined;
  let id = options.lastEventId ?? "";
  let retry = options.retry ?? 3000;
  let failures = 0;
  let isClosed = false;
  let ticketed: { url: string; expires: number } | undefined;
  let isFresh = false; // the ticket
  let session = new AbortController(); // of the time in which the page is visible
  let attempt = new AbortController(); // of one connection, and the pause after it
  let tell = (_: Message) => {}; // tells the other tabs

  // Events for `for await`.
  let waits = !handlers;
  const queue: Received[] = [];
  let wake = () => {};
  let drained = () => {};
  let failed: StreamError | undefined;

  const set = (next: State) => {
    if (next === state || isClosed) return;
    state = next;
    tell({ state, at: id });
    options.onState?.(state, failed);
  };

  const close = (error?: StreamError) => {
    if (isClosed) return;
    failed = error;
    set("closed");
    isClosed = true;
    for (const remove of removals) remove();
    session.abort();
    attempt.abort();
    wake();
    drained();
    resume();
  };

  // The server has said that there will be no more, or why there is none: that holds for all tabs.
  const end = (error?: StreamError) => {
    tell({ end: error ? [error.message, error.status, error.body] : null });
    close(error);
  };

  const take = (event: string, text: string) => {
    let data: any = text;
    if (!texts.includes(event)) {
      try {
        data = text === "" ? null : JSON.parse(text);
      } catch {
        // Text, which a stream that declares no events may send.
      }
    }
    const received: Received = { event, data, id };
    if (waits) {
      queue.push(received);
      wake();
    }
    try {
      (handlers as any)?.[event]?.(data, received);
    } catch (error) {
      setTimeout(() => { throw error; }); // As an EventSource does: later events come all the same.
    }
  };

  const receive = ({ event, text, id: next }: Message) => {
    if (next !== undefined) id = next;
    if (text !== undefined) take(event || "message", text);
  };

  const headersNow = async () =>
    typeof options.headers === "function" ? await options.headers() : options.headers;

  const addressNow = async (signal: AbortSignal) => {
    const now = new URL(url);
    if (ticket) {
      isFresh = !ticketed || ticketed.expires < Date.now() + 60_000;
      if (isFresh) {
        const answer = await fetch(ticket, {
          method: "POST", signal, body: JSON.stringify({ path: url.pathname }),
          headers: { "Content-Type": "application/json", ...(await headersNow()) },
        });
        await check(answer, "application/json");
        const { url: its, expires } = await answer.json();
        ticketed = { url: its, expires: Date.parse(expires) };
      }
      new URL(ticketed!.url, url).searchParams.forEach((value, name) => now.searchParams.set(name, value));
    }
    return now;
  };

  // Throws a StreamError for an answer that is final, and an Error for one that will change.
  const check = async (answer: Response, type: string) => {
    const { status } = answer;
    if (answer.ok && answer.headers.get("Content-Type")?.startsWith(type)) return;
    if (status === 429 || status >= 500) {
      const after = Number(answer.headers.get("Retry-After"));
      throw Object.assign(new Error(`${status}`), { after: after > 0 ? after * 1000 : 0 });
    }
    if (ticketed && !isFresh && (status === 401 || status === 403)) {
      ticketed = undefined; // Perhaps it is only old.
      throw new Error(`${status}`);
    }
    throw new StreamError(`${answer.url} answers ${status}, and no event stream`, status, await answer.text());
  };

  const viaEventSource = async (signal: AbortSignal) => {
    const now = await addressNow(signal);
    if (id) now.searchParams.set("last_event_id", id);
    await new Promise<void>((resolve) => {
      const source = new EventSource(now, { withCredentials: options.credentials === "include" });
      const finish = () => { source.close(); resolve(); };
      signal.addEventListener("abort", finish);
      if (signal.aborted) finish();
      source.onopen = () => { failures = 0; set("open"); };
      for (const name of Object.keys(handlers!)) {
        source.addEventListener(name, ({ data, lastEventId }: MessageEvent) => {
          if (data !== undefined && !signal.aborted) receive({ event: name, text: data, id: lastEventId });
        });
      }
      source.addEventListener("error", (error) => {
        if ("data" in error) return; // An event of that name.
        if (source.readyState === source.CONNECTING) return set("connecting");
        usesFetch = true; // It was refused, and only fetch learns why.
        finish();
      });
    });
  };

  // Resolves at the end of the stream; `sink` takes what arrives.
  const viaFetch = async (signal: AbortSignal, sink: (message: Message) => void, from: string) => {
    const dead = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const abort = () => dead.abort();
    const alive = () => {
      clearTimeout(timer);
      if (timeout) timer = setTimeout(abort, timeout);
    };
    signal.addEventListener("abort", abort);
    if (signal.aborted) abort();
    try {
      alive();
      const now = await addressNow(dead.signal);
      const answer = await fetch(now, {
        method, body: body ?? null, signal: dead.signal, cache: "no-store",
        credentials: options.credentials ?? "same-origin",
        headers: {
          Accept: "text/event-stream",
          ...("json" in options && { "Content-Type": "application/json" }),
          ...(!ticket && (await headersNow())),
          // A header's characters are bytes: an id's others leave as UTF-8.
          ...(from && { "Last-Event-ID": String.fromCharCode(...new TextEncoder().encode(from)) }),
        },
      });
      if (answer.status === 204) return end();
      await check(answer, "text/event-stream");
      set("open");
      const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      let afterReturn = false;
      let block: { event?: string; text?: string; id?: string } = {};
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        alive();
        if (!value) continue;
        const lines = (afterReturn && value[0] === "\n" ? value.slice(1) : value).split(/\r\n|\n|\r/);
        afterReturn = value.endsWith("\r");
        lines[0] = rest + lines[0];
        rest = lines.pop()!;
        for (const line of lines) {
          if (!line) {
            if (block.text !== undefined) failures = 0;
            if (block.text !== undefined || block.id !== undefined) sink(block);
            if (signal.aborted) return;
            block = {};
            continue;
          }
          const [, field, content = ""] = /^([^:]*)(?:: ?([^]*))?$/.exec(line)!;
          if (field === "data") block.text = block.text === undefined ? content : `${block.text}\n${content}`;
          else if (field === "event") block.event = content;
          else if (field === "id" && !content.includes("\0")) block.id = content;
          else if (field === "retry" && /^\d+$/.test(content)) retry = Number(content);
        }
        while (waits && queue.length > buffer && !signal.aborted) {
          clearTimeout(timer); // The server waits for us now.
          await new Promise<void>((resolve) => { drained = resolve; });
          alive();
        }
      }
    } finally {
      clearTimeout(timer);
      abort(); // Closes the connection, also where an event could not be read.
    }
  };

  // Connect again and again, until the signal says stop or the stream ends for good.
  const run = async (signal: AbortSignal) => {
    signal.addEventListener("abort", () => attempt.abort());
    while (!signal.aborted) {
      attempt = new AbortController();
      set("connecting");
      let after = 0;
      let broke = "";
      try {
        const fetches = usesFetch;
        await (usesFetch ? viaFetch(attempt.signal, pass, id) : viaEventSource(attempt.signal));
        if (fetches !== usesFetch) continue;
      } catch (error: any) {
        if (error instanceof StreamError) return end(error);
        broke = `${error.message ?? error}`;
        after = error.after ?? 0;
      }
      if (signal.aborted) return;
      if (!reconnects) return end(broke ? new StreamError(`The stream broke off: ${broke}`) : undefined);
      if (attempt.signal.aborted) continue; // The network is back.
      set("waiting");
      const pause = Math.min(retry * 2 ** Math.min(failures++, 10), Math.max(retry, 60_000));
      await sleep(Math.max(pause * (1 + Math.random() / 2), after), attempt.signal);
    }
  };

  const pass = (message: Message) => {
    receive(message);
    tell(message);
  };

  // One tab leads: it holds the connection, and tells the others what arrives.
  const share = async (signal: AbortSignal) => {
    const name = `django_sse ${shared} ${url}`;
    const channel = new BroadcastChannel(name);
    const held: Message[] = [];
    let isJoined = false;
    let isLeading = false;
    const join = () => {
      isJoined = true;
      for (const message of held.splice(0)) follow(message);
    };
    const follow = (message: Message) => {
      // After a change of the leader, some of it was here before.
      if (message.id !== undefined && !isNewer(message.id, id)) return;
      receive(message);
    };
    let catching = false;
    const catchUp = async (to: string) => {
      if (isJoined || catching) return;
      catching = true;
      const own = new AbortController();
      signal.addEventListener("abort", () => own.abort());
      while (!own.signal.aborted && (!id || (id !== to && isNewer(to, id)))) {
        await viaFetch(own.signal, (message) => {
          receive(message);
          if (id && !(id !== to && isNewer(to, id))) own.abort();
        }, id).catch((error) => error instanceof StreamError ? end(error) : sleep(retry, own.signal));
      }
      join();
    };
    channel.onmessage = ({ data: message }: MessageEvent<Message>) => {
      if (signal.aborted) return;
      if (isLeading) {
        if (message.hello) channel.postMessage({ at: id, state });
        return;
      }
      if (message.state && message.state !== "closed") set(message.state);
      if (message.end !== undefined) close(message.end ? new StreamError(...message.end) : undefined);
      // Nothing has come yet that this tab does not have.
      else if (message.state === "connecting" && message.at === id) join();
      else if (message.at) void catchUp(message.at);
      else if (message.text !== undefined || message.id !== undefined) {
        if (isJoined) follow(message);
        else held.push(message);
        // The leader has its first id: the snapshot before it is what this tab has missed.
        if (message.id) void catchUp(message.id);
      }
    };
    const lead = () => navigator.locks.request(name, { signal }, async () => {
      isLeading = true;
      join();
      tell = (message) => channel.postMessage(message);
      await run(signal);
      tell = () => {};
    }).catch(() => {}); // Aborted while it waited.
    let leave = () => {};
    if (options.worker && globalThis.SharedWorker) {
      const worker = new SharedWorker(options.worker, { name, type: "module" });
      worker.onerror = lead;
      const { onState: _, worker: __, headers: ___, ...rest } = options;
      worker.port.postMessage([url.href, { ...rest, headers: await headersNow(), hidden: "stay" }]);
      leave = () => worker.port.postMessage(0);
    } else void lead();
    channel.postMessage({ hello: 1 });
    // A stream without ids has nothing to catch up with.
    void sleep(5000, signal).then(() => { if (!isJoined && !catching) join(); });
    await new Promise<void>((resolve) => { signal.addEventListener("abort", () => resolve()); });
    leave();
    channel.close();
  };

  const removals: (() => void)[] = [];
  const on = (target: any, type: string, action: (event: any) => void) => {
    target?.addEventListener?.(type, action);
    removals.push(() => target?.removeEventListener?.(type, action));
  };
  let resume = () => {};
  let isLeft = false; // the page, for another one
  const isPaused = () => isLeft || (reconnects && options.hidden !== "stay" && !!page?.hidden);
  const pause = () => {
    if (isPaused() && !isClosed) {
      session.abort();
      set("paused");
    }
  };
  let timer: ReturnType<typeof setTimeout>;
  on(page, "visibilitychange", () => {
    clearTimeout(timer);
    if (page!.hidden) timer = setTimeout(pause, 2000);
    else resume();
  });
  if (page) {
    on(globalThis, "pagehide", () => {
      isLeft = true;
      if (reconnects) pause();
      else close(new StreamError("The stream broke off: the page was left"));
    });
    on(globalThis, "pageshow", () => { isLeft = false; resume(); });
  }
  let wasOffline = false;
  on(globalThis, "offline", () => { wasOffline = true; });
  on(globalThis, "online", () => {
    // A connection of the old network may look open for minutes.
    if (reconnects && (wasOffline || state === "waiting")) attempt.abort();
    wasOffline = false;
  });

  const live = async () => {
    await Promise.resolve(); // The caller has the stream before its first event.
    while (!isClosed) {
      if (isPaused()) {
        set("paused");
        await new Promise<void>((resolve) => { resume = resolve; });
        continue;
      }
      session = new AbortController();
      await (shared && globalThis.BroadcastChannel && navigator.locks ? share(session.signal) : run(session.signal));
    }
  };
  live().catch((error) => close(new StreamError(`${error}`)));

  return {
    get state() { return state ?? "connecting"; },
    get lastEventId() { return id; },
    close: () => close(),
    [Symbol.asyncIterator]() {
      waits = true;
      return {
        async next(): Promise<IteratorResult<any>> {
          for (;;) {
            const value = queue.shift();
            if (queue.length <= buffer / 2) drained();
            if (value) return { value, done: false };
            if (isClosed) {
              if (failed) throw failed;
              return { value: undefined, done: true };
            }
            await new Promise<void>((resolve) => { wake = resolve; });
          }
        },
        async return() {
          close();
          return { value: undefined, done: true };
        },
      };
    },
  };
}

// As a SharedWorker, this file holds the shared connections of all tabs.
const worker = globalThis as any;
if ("onconnect" in worker && !worker.document) {
  const streams = new Map<string, [Stream<any>, Set<MessagePort>]>();
  worker.onconnect = ({ ports: [port] }: { ports: [MessagePort] }) => {
    let key = "";
    port.onmessage = ({ data }: MessageEvent<[string, Options] | 0>) => {
      if (data) {
        key = `${data[1].shared} ${data[0]}`;
        if (!streams.has(key)) streams.set(key, [connect(data[0], {}, data[1]), new Set()]);
        streams.get(key)![1].add(port);
      } else {
        const [stream, tabs] = streams.get(key)!;
        tabs.delete(port);
        if (!tabs.size) {
          stream.close();
          streams.delete(key);
        }
      }
    };
  };
}
