// Ask the listener. The token travels in a header, never in an address.

export class Refused extends Error {}

export class Api {
  constructor(token) {
    this.token = token;
  }

  async get(name, query = {}) {
    const reply = await this.#fetch(name, query);
    if (reply.ok) return reply.json();
    let problem = `The listener answered ${reply.status}.`;
    if (reply.headers.get("Content-Type") === "application/json") problem = (await reply.json()).problem;
    throw new Error(problem);
  }

  // Call `on(name, data)` with each event of a stream until it ends. `EventSource` could not send the header.
  async stream(name, query, on, signal) {
    const reply = await this.#fetch(name, query, signal);
    if (!reply.ok) throw new Error(`The listener answered ${reply.status}.`);
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const quiet = text.startsWith(":");
        const fields = Object.fromEntries(text.slice(0, end).split("\n").map((line) => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)]));
        text = text.slice(end + 2);
        if (!quiet) on(fields.event, JSON.parse(fields.data));
      }
    }
  }

  async #fetch(name, query, signal) {
    const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
    const asked = new URLSearchParams(given.map(([key, value]) => [key, String(value)]));
    const reply = await fetch(`${name}?${asked}`, {
      headers: { Authorization: `Bearer ${this.token}` },
      cache: "no-store",
      credentials: "omit",
      referrerPolicy: "no-referrer",
      signal,
    });
    if (reply.status === 401) throw new Refused("The token was not accepted.");
    return reply;
  }
}
