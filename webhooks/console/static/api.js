// Ask the listener. The token travels in a header, never in an address.

export class Refused extends Error {}

export class Api {
  constructor(token) {
    this.token = token;
  }

  async get(name, query = {}) {
    const reply = await this.#fetch(name, query);
    return reply.json();
  }

  // Call `on(name, data)` with each event of a stream until it ends. `EventSource` could not send the header.
  async stream(name, query, on, signal) {
    const reply = await this.#fetch(name, query, signal);
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const lines = text.slice(0, end).split("\n");
        text = text.slice(end + 2);
        const fields = Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
        if (fields.event) on(fields.event, JSON.parse(fields.data)); // otherwise it only says that the listener lives
      }
    }
  }

  async #fetch(name, query, signal) {
    const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
    const asked = new URLSearchParams(given.map(([key, value]) => [key, String(value)]));
    let reply;
    try {
      reply = await fetch(`${name}?${asked}`, {
        headers: { Authorization: `Bearer ${this.token}` },
        cache: "no-store",
        credentials: "omit",
        referrerPolicy: "no-referrer",
        signal,
      });
    } catch (error) {
      throw error.name === "AbortError" ? error : new Error("The listener does not answer.");
    }
    if (reply.status === 401) throw new Refused("The token was not accepted.");
    if (reply.ok) return reply;
    const isJson = reply.headers.get("Content-Type") === "application/json";
    throw new Error(isJson ? (await reply.json()).problem : `The listener answered ${reply.status}.`);
  }
}
