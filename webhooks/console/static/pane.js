// The side pane: one event, or the story of one operation.

import { $, badge, bytes, command, counted, duration, element, isSelecting, moment, replace } from "./dom.js";

const COVERING = matchMedia("(max-width: 60rem)");

export class Pane {
  constructor(api) {
    this.api = api;
    this.number = 0;
    document.addEventListener("keydown", (at) => {
      if (at.key === "Escape" && !$("pane").hidden) this.close();
    });
  }

  event(which, from) {
    this.#open(from, "Event", async () => {
      const found = await this.api.get("event", which);
      return [found.event || "(unnamed)", this.#eventParts(found)];
    });
  }

  operation(uid, from) {
    this.#open(from, uid, async () => {
      const stories = await this.api.get("operation", { uid });
      const nothing = element("p", {}, "The store knows no operation with this uid: no event has named it, and nobody waits for it.");
      return [uid, stories.length ? stories.flatMap((one) => this.#storyParts(one)) : [nothing]];
    });
  }

  close() {
    this.number += 1;
    this.load = null;
    $("pane").hidden = true;
    $("columns").classList.remove("open");
    $("pane").replaceChildren();
    this.#cover();
    if (this.from?.isConnected) this.from.focus();
    else $("panel").focus();
  }

  // look again, as something may have happened meanwhile
  async refresh() {
    if (!this.load || this.bodyShown || isSelecting($("pane"))) return;
    const number = this.number;
    try {
      const [heading, parts] = await this.load();
      if (number === this.number && this.load && !this.bodyShown) this.#show(heading, parts);
    } catch {
      // what is shown stays; the state of the connection stands at the top
    }
  }

  async #open(from, title, load) {
    if (!$("pane").contains(from)) this.from = from;
    const number = (this.number += 1);
    this.load = null;
    this.bodyShown = false;
    this.#show(title, [element("p", { role: "status" }, "Loading…")]);
    $("pane").focus();
    try {
      const [heading, parts] = await load();
      if (number !== this.number) return;
      this.load = load;
      this.#show(heading, parts);
    } catch (problem) {
      if (number === this.number) this.#show(title, [element("p", { role: "alert" }, problem.message)]);
    }
  }

  #show(title, parts) {
    const close = element("button", { onclick: () => this.close() }, "Close");
    const head = element("div", { class: "head" }, element("h2", { id: "pane-title" }, title), close);
    const made = element("div", {}, head, ...parts);
    if (made.textContent !== $("pane").textContent || $("pane").hidden) replace($("pane"), ...made.children);
    $("pane").hidden = false;
    $("columns").classList.add("open");
    this.#cover();
  }

  // what the pane covers cannot be reached behind it
  #cover() {
    const covers = COVERING.matches && !$("pane").hidden;
    for (const id of ["strip", "charts", "lists", "find"]) $(id).inert = covers;
  }

  #eventParts(found) {
    const parts = [
      facts([
        ["Received", moment(found.at)],
        ["Event", String(found.id)],
        ["Handlers", found.state],
        ["Why", found.reason],
        ["Vendor's time", found.occurred_at],
        ["Correlation id", found.correlation_id],
        ["Attempt", found.attempt],
        ["Scope", found.scope],
        ["Size", found.bytes ? bytes(found.bytes) : "erased"],
      ]),
      element("h3", {}, "Operations"),
      ...(found.operations.length ? found.operations.map((one) => this.#operationLine(one)) : [element("p", {}, "It names none.")]),
      element("h3", {}, "Handlers"),
      ...(found.jobs.length ? found.jobs.map(jobLine) : [element("p", {}, found.state === "done" ? "No job is left to do." : "None.")]),
      ...todo(found.commands, found.note),
      element("h3", {}, "Body"),
    ];
    const show = element("button", { onclick: () => this.#body(found.id, show) }, "Show the body");
    return [...parts, found.bytes ? show : element("p", {}, "It was erased.")];
  }

  #operationLine(one) {
    const button = element("button", { class: "link", onclick: () => this.operation(one.uid, button) }, one.uid);
    return element("p", {}, badge(one.status), ` ${one.kind} `, button);
  }

  async #body(id, button) {
    const number = this.number;
    this.bodyShown = true;
    button.disabled = true;
    let shown;
    try {
      const { text } = await this.api.get("body", { id });
      shown = element("pre", { tabindex: "0", "aria-label": "Body" }, text ?? "It was erased.");
    } catch (problem) {
      shown = element("p", { role: "alert" }, problem.message);
    }
    if (number !== this.number) return;
    button.replaceWith(shown);
    shown.focus();
  }

  #storyParts(story) {
    const conflicts = story.conflicts ? badge(counted(story.conflicts, "conflict"), "conflict") : "";
    const steps = story.steps.map((step) => {
      const after = step.after === null ? "" : `, ${duration(step.after)} after ${SINCE[step.since]}`;
      const show = (at) => this.event({ id: step.event_id }, at.currentTarget);
      const open = step.event_id === null ? "" : element("button", { class: "link", onclick: show }, "Show");
      const when = element("div", { class: "when" }, moment(step.at), after);
      return element("li", { class: step.name }, element("strong", {}, NAMES[step.name]), " ", step.words, " ", open, when);
    });
    const scope = story.scope === "default" ? "" : `, scope ${story.scope}`;
    return [
      element("p", {}, badge(story.status), ` ${story.kind}${scope} `, conflicts),
      element("ol", { class: "story" }, ...steps),
      element("p", {}, story.next),
      ...todo(story.commands, ""),
    ];
  }
}

const SINCE = { chain: "the vendor's time", settled: "it settled", delivered: "it was delivered" };
const NAMES = {
  asked: "Asked.",
  chain: "On the chain.",
  delivered: "Delivered.",
  settled: "Settled.",
  awake: "Awake.",
  conflict: "Conflict.",
};

function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return element("dl", { class: "facts" }, ...shown.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function jobLine(job) {
  const waits = job.due_in > 0 ? `next in ${duration(job.due_in)}` : "waiting";
  const state = job.state === "dead" ? "dead" : job.running ? "running" : waits;
  const why = job.why ? `: ${job.why}` : "";
  return element("p", {}, badge(state, job.state), ` ${job.handler}, ${counted(job.attempts, "attempt")}${why}`);
}

function todo(commands, note) {
  if (!commands.length && !note) return [];
  return [element("h3", {}, "What to do"), ...(note ? [element("p", {}, note)] : []), ...commands.map((one) => command(one.command, one.label))];
}
