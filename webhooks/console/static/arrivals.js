// Deliveries as they come.

import { $, bytes, element, moment, whole } from "./dom.js";
import { uidButton } from "./lists.js";

const KEPT = 200;
const VERDICTS = ["new", "duplicate", "dead letter", "not kept", "refused"];

export class Arrivals {
  constructor(open, filtered) {
    this.open = open;
    this.filtered = filtered;
    this.rows = [];
    this.waiting = [];
    this.paused = false;
    this.names = new Set();
    this.unspoken = 0;
    this.tools = this.#makeTools();
    this.body = element("tbody", { role: "rowgroup" });
    const heads = [["Time", "time"], ["Verdict", "verdict"], ["Event", null], ["uid", "uid"], ["Size", "number size"], ["Took", "number took"]].map(([heading, name]) => element("th", { role: "columnheader", scope: "col", class: name }, heading));
    this.table = element("table", { role: "table", id: "arrivals" }, element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)), this.body);
    setInterval(() => this.#speak(), 5000);
  }

  get filter() {
    return Object.fromEntries(new FormData(this.form));
  }

  // `rows` come oldest first; a stored event may come twice, from the store and from the listener
  start(rows, seesRefusals) {
    this.rows = [];
    this.waiting = [];
    this.body.replaceChildren();
    this.seesRefusals = seesRefusals;
    this.#add(rows);
  }

  take(rows, leftOut) {
    if (this.paused) {
      this.waiting = [...this.waiting, ...rows].slice(-KEPT);
      this.pauseButton.textContent = `Continue (${whole(this.waiting.length)} new)`;
    } else {
      this.#add(rows);
    }
    this.unspoken += rows.length + leftOut;
    $("note").textContent = leftOut ? `${whole(leftOut)} more arrived at this moment than are shown. Filter to see those of one uid.` : "";
  }

  describe() {
    const set = Object.values(this.filter).some(Boolean);
    $("empty").textContent = this.rows.length ? "" : set ? "Nothing that has arrived matches. Clear the filters to see all." : "Nothing has arrived yet. `webhook-listener trigger` sends a signed sample.";
  }

  #add(rows) {
    for (const row of rows) {
      const stored = row.identity !== null && ["new", "dead letter"].includes(row.verdict);
      const known = stored && this.rows.find((one) => one.row.identity === row.identity && one.stored);
      if (known) {
        if (row.id !== undefined) known.row.id = row.id;
        continue;
      }
      const line = this.#line(row);
      this.rows.unshift({ row, line, stored });
      this.body.prepend(line);
      if (row.event && !this.names.has(row.event) && this.names.size < 50) {
        this.names.add(row.event);
        this.known.append(element("option", { value: row.event }));
      }
    }
    for (const { line } of this.rows.splice(KEPT)) line.remove();
    this.describe();
  }

  #line(row) {
    const why = row.reason && element("small", {}, row.reason);
    const name = row.verdict === "refused" ? [row.path ?? "", element("small", {}, `${row.reason}${row.peer ? ` from ${row.peer}` : ""}`)] : [this.#eventButton(row), why];
    return element(
      "tr",
      { role: "row" },
      element("td", { role: "cell", class: "time" }, moment(row.at)),
      element("td", { role: "cell" }, element("span", { class: `badge ${row.verdict.split(" ")[0]}` }, row.verdict)),
      element("td", { role: "cell", class: "wide" }, ...name),
      element("td", { role: "cell" }, uidButton(row, this.open)),
      element("td", { role: "cell", class: "number" }, bytes(row.bytes)),
      element("td", { role: "cell", class: "number" }, row.ms === null || row.ms === undefined ? "" : `${row.ms} ms`),
    );
  }

  #eventButton(row) {
    return element("button", { class: "link", onclick: (at) => this.open.event(row.id === undefined ? { identity: row.identity, uid: row.uid } : { id: row.id }, at.currentTarget) }, row.event || "(unnamed)");
  }

  #makeTools() {
    this.known = element("datalist", { id: "known-events" });
    const verdict = element("select", { name: "verdict" }, element("option", { value: "" }, "all"), ...VERDICTS.map((one) => element("option", { value: one }, one)));
    this.pauseButton = element("button", { type: "button", "aria-pressed": "false", onclick: () => this.#pause() }, "Pause");
    this.form = element(
      "form",
      { "aria-label": "Filter", onsubmit: (at) => at.preventDefault(), onchange: () => this.filtered() },
      element("label", {}, "Event", element("input", { name: "event", list: "known-events", autocomplete: "off", spellcheck: "false" })),
      element("label", {}, "uid", element("input", { name: "uid", autocomplete: "off", spellcheck: "false" })),
      element("label", {}, "Verdict", verdict),
      element("button", { type: "button", onclick: () => this.#clear() }, "Clear"),
      this.pauseButton,
      this.known,
    );
    return this.form;
  }

  #clear() {
    this.form.reset();
    this.filtered();
  }

  #pause() {
    this.paused = !this.paused;
    this.pauseButton.setAttribute("aria-pressed", String(this.paused));
    this.pauseButton.textContent = this.paused ? "Continue" : "Pause";
    if (!this.paused) this.#add(this.waiting.splice(0));
  }

  #speak() {
    if (this.unspoken && this.table.isConnected && !this.paused) $("spoken").textContent = `${this.unspoken} arrived.`;
    this.unspoken = 0;
  }
}
