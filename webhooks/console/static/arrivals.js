// Deliveries as they come.

import { $, badge, bytes, command, counted, element, moment, replace, tableOf, whole } from "./dom.js";
import { uidButton } from "./lists.js";

const KEPT = 1000;
const SHOWN = 200;
const NAMES = 50;
const SPOKEN_EVERY = 5000;
const VERDICTS = ["new", "duplicate", "dead letter", "not kept", "refused"];
const HEADINGS = [
  ["Time", "time"],
  ["Verdict", "verdict"],
  ["Event", null],
  ["uid", "uid"],
  ["Size", "number size"],
  ["Took", "number took"],
];

export class Arrivals {
  // `open` shows an event or an operation; `filtered` asks the listener for what the filter wants
  constructor(open, filtered) {
    this.open = open;
    this.filtered = filtered;
    this.kept = []; // the newest first, whatever the filter
    this.waiting = [];
    this.paused = false;
    this.names = new Set();
    this.unspoken = 0;
    this.tools = this.#makeTools();
    this.body = element("tbody", { role: "rowgroup" });
    this.table = tableOf(HEADINGS, this.body, { id: "arrivals" });
    setInterval(() => this.#speak(), SPOKEN_EVERY);
  }

  get filter() {
    return Object.fromEntries([...new FormData(this.tools)].map(([name, value]) => [name, value.trim()]));
  }

  // what the store and the listener know already, oldest first; what was seen before stays
  start(rows) {
    this.#setPaused(false);
    const isFirst = !this.kept.length;
    for (const row of rows) if (isFirst || row.verdict !== "refused") this.#keep(row);
    this.kept.sort((one, other) => other.at - one.at);
    this.#showAll();
  }

  take(rows, leftOut) {
    if (this.paused) {
      this.waiting.push(...rows);
      this.waiting = this.waiting.slice(-KEPT);
      this.pauseButton.textContent = `Continue (${whole(this.waiting.length)} new)`;
    } else {
      if (leftOut) this.#show(this.#keep({ at: rows[0]?.at ?? Date.now() / 1000, verdict: "left out", leftOut }));
      for (const row of rows) this.#show(this.#keep(row));
      this.#trim();
    }
    this.unspoken += rows.length + leftOut;
  }

  describe() {
    const set = Object.values(this.filter).some(Boolean);
    const nothing = set
      ? ["Nothing that has arrived matches. Clear the filters to see all."]
      : ["Nothing has arrived yet. This sends a signed sample:", command("webhook-listener trigger")];
    replace($("empty"), ...(this.body.children.length ? [] : nothing));
  }

  // return the row if it is new; a stored event may come twice, from the store and from the listener
  #keep(row) {
    const isStored = row.identity && ["new", "dead letter"].includes(row.verdict);
    const known = isStored && this.kept.find((one) => one.identity === row.identity && one.verdict === row.verdict);
    if (known) {
      known.id ??= row.id;
      return null;
    }
    this.kept.unshift(row);
    if (row.event && !this.names.has(row.event) && this.names.size < NAMES) {
      this.names.add(row.event);
      this.known.append(element("option", { value: row.event }));
    }
    return row;
  }

  #fits(row) {
    const { event, uid, verdict } = this.filter;
    if (row.verdict === "left out") return true;
    return [[event, row.event], [uid, row.uid], [verdict, row.verdict]].every(([wanted, found]) => !wanted || wanted === found);
  }

  #show(row) {
    if (row && this.#fits(row)) this.body.prepend(this.#line(row));
  }

  #showAll() {
    replace(this.body, ...this.kept.filter((row) => this.#fits(row)).slice(0, SHOWN).map((row) => this.#line(row)));
    this.describe();
  }

  #trim() {
    this.kept = this.kept.slice(0, KEPT);
    while (this.body.children.length > SHOWN) this.body.lastChild.remove();
    this.describe();
  }

  // each row has one line for good: the focus, and the pane that was opened from it, find it again
  #line(row) {
    return (row.line ??= this.#makeLine(row));
  }

  #makeLine(row) {
    const cell = (name, ...parts) => element("td", { role: "cell", class: name }, ...parts);
    if (row.verdict === "left out") {
      const words = `${counted(row.leftOut, "more delivery", "more deliveries")} arrived here. Filter to see those of one uid.`;
      const wide = { role: "cell", class: "wide", colspan: HEADINGS.length };
      return element("tr", { role: "row" }, element("td", wide, element("small", {}, words)));
    }
    const from = row.peer ? ` from ${row.peer}` : "";
    const times = row.count > 1 ? `, ${counted(row.count, "time")}` : "";
    const what = row.verdict === "refused"
      ? [row.path ?? "", element("small", {}, `${row.reason}${from}${times}`)]
      : [this.#eventButton(row), element("small", {}, [row.path, row.reason].filter(Boolean).join(": "))];
    return element(
      "tr",
      { role: "row" },
      cell("time", moment(row.at)),
      cell(null, badge(row.verdict)),
      cell("wide", ...what),
      cell(null, uidButton(row, this.open)),
      cell("number", bytes(row.bytes)),
      cell("number", row.ms === null || row.ms === undefined ? "" : `${row.ms} ms`),
    );
  }

  #eventButton(row) {
    const which = () => (row.id === undefined ? { identity: row.identity, uid: row.uid } : { id: row.id });
    const open = (at) => this.open.event(which(), at.currentTarget);
    return element("button", { class: "link", onclick: open }, row.event || "(unnamed)");
  }

  #makeTools() {
    const field = { autocomplete: "off", spellcheck: "false" };
    const verdicts = VERDICTS.map((one) => element("option", { value: one }, one));
    this.known = element("datalist", { id: "known-events" });
    this.pauseButton = element("button", { type: "button", "aria-pressed": "false", onclick: () => this.#pause() }, "Pause");
    return element(
      "form",
      { "aria-label": "Filter", onsubmit: (at) => at.preventDefault(), onchange: () => this.#filter() },
      element("label", {}, "Event", element("input", { name: "event", list: "known-events", ...field })),
      element("label", {}, "uid", element("input", { name: "uid", ...field })),
      element("label", {}, "Verdict", element("select", { name: "verdict" }, element("option", { value: "" }, "all"), ...verdicts)),
      element("button", { type: "button", onclick: () => this.#clear() }, "Clear"),
      this.pauseButton,
      this.known,
    );
  }

  #filter() {
    this.#showAll();
    this.filtered();
  }

  #clear() {
    this.tools.reset();
    this.#filter();
  }

  #pause() {
    this.#setPaused(!this.paused);
  }

  #setPaused(paused) {
    this.paused = paused;
    this.pauseButton.setAttribute("aria-pressed", String(paused));
    this.pauseButton.textContent = paused ? "Continue" : "Pause";
    if (!paused) this.take(this.waiting.splice(0), 0);
  }

  #speak() {
    if (this.unspoken && this.table.isConnected && !this.paused) $("spoken").textContent = `${this.unspoken} arrived.`;
    this.unspoken = 0;
  }
}
