// The strip of figures, and the two charts.

import { $, drawing, duration, element, whole } from "./dom.js";

const SECONDS = 60;
const WIDTH = 300;
const HEIGHT = 56;
const SHORTEST = 0.0005;
const LONGEST = 60;

const arrived = Array.from({ length: SECONDS }, () => ({ taken: 0, refused: 0 }));
let second = Math.floor(Date.now() / 1000);

export function showStatus(status) {
  const held = status.store;
  const figures = [
    ["Ready", status.ready ? "yes" : "no", status.reasons.join("; "), status.ready ? (status.reasons.length ? "warn" : "good") : "bad"],
    ["Arrivals", "", "", ""],
  ];
  if (held) {
    const budget = held.budgets.map(budgetWords).join("; ");
    figures.push(
      ["Waiters", whole(held.waiting), "operations that callers wait for"],
      ["Pending", whole(held.pending), held.lookups ? `${whole(held.lookups)} to look up` : "not settled yet"],
      ["Inbox lag", duration(held.lag), held.ready ? `${whole(held.ready)} wait for handlers` : "no event waits", held.lag > 60 ? "warn" : ""],
      ["Dead letters", whole(held.dead), held.dead ? "see the tab" : "none", held.dead ? "warn" : ""],
      ["Conflicts", whole(held.conflicts), held.conflicts ? "later answers that differ" : "none", held.conflicts ? "bad" : ""],
      ["Polls", whole(held.polls), budget || "nobody polls", held.budgets.some((one) => one.refused) ? "bad" : ""],
    );
    figures.push(status.workers ? workers(status.workers) : ["Processes", whole(held.processes), "share the store"]);
  }
  $("strip").replaceChildren(...figures.map(tile));
  showRate();
  if (held) showWakes(held.wakes);
}

function workers(states) {
  const others = Object.entries(states).filter(([state, number]) => state !== "ready" && number);
  return ["Workers", `${states.ready} ready`, others.map(([state, number]) => `${number} ${state}`).join(", "), others.length ? "warn" : ""];
}

function budgetWords({ scope, per_second, paused_for, refused }) {
  const name = scope === "default" ? "" : `${scope}: `;
  if (refused) return `${name}refused, one at a time`;
  if (paused_for > 0) return `${name}paused for ${duration(paused_for)}`;
  return `${name}${per_second === null ? "nobody polls" : `at most ${per_second}/s`}`;
}

function tile([name, value, words = "", mood = ""]) {
  const id = name === "Arrivals" ? "rate" : null;
  return element("div", { class: `tile ${mood}` }, element("dt", {}, name), element("dd", { id }, value), element("dd", { class: "words" }, words));
}

// arrivals

export function count(counts) {
  const refused = counts.refused ?? 0;
  const all = Object.values(counts).reduce((sum, one) => sum + one, 0);
  pass();
  arrived[SECONDS - 1].taken += all - refused;
  arrived[SECONDS - 1].refused += refused;
}

function pass() {
  const now = Math.floor(Date.now() / 1000);
  for (; second < now; second += 1) {
    arrived.shift();
    arrived.push({ taken: 0, refused: 0 });
    if (now - second > SECONDS) second = now - SECONDS;
  }
}

function showRate() {
  const last = arrived.slice(-11, -1).reduce((sum, one) => sum + one.taken + one.refused, 0) / 10;
  const shown = last && last < 10 ? last.toFixed(1) : whole(Math.round(last));
  if ($("rate")) $("rate").textContent = `${shown}/s`;
  $("arrivals-now").textContent = `${shown}/s over 10 s`;
}

export function showArrivals() {
  pass();
  showRate();
  const most = Math.max(4, ...arrived.map((one) => one.taken + one.refused));
  const wide = WIDTH / SECONDS;
  const bars = arrived.flatMap(({ taken, refused }, place) => {
    const [tall, taller] = [(taken / most) * (HEIGHT - 2), (refused / most) * (HEIGHT - 2)];
    const bar = (y, height, name) => drawing("rect", { x: place * wide, y, width: wide - 1, height, class: name });
    return [...(taken ? [bar(HEIGHT - tall, tall, "taken")] : []), ...(refused ? [bar(HEIGHT - tall - taller, taller, "refused")] : [])];
  });
  const total = arrived.reduce((sum, one) => ({ taken: sum.taken + one.taken, refused: sum.refused + one.refused }), { taken: 0, refused: 0 });
  draw("arrivals-chart", `In the last minute ${total.taken} taken and ${total.refused} refused, at most ${most} in a second`, bars);
}

// from received to waiter

function showWakes(wakes) {
  const wide = WIDTH / SECONDS;
  const place = (seconds) => {
    const share = Math.log(Math.min(Math.max(seconds, SHORTEST), LONGEST) / SHORTEST) / Math.log(LONGEST / SHORTEST);
    return HEIGHT - 4 - share * (HEIGHT - 8);
  };
  const dots = wakes.map(({ seconds, via }, number) =>
    drawing("path", { d: `M${(SECONDS - wakes.length + number + 0.5) * wide} ${place(seconds)}h0`, class: via }),  // a round dot at any width
  );
  const lines = [0.001, 0.1, 10].map((seconds) => drawing("line", { x1: 0, x2: WIDTH, y1: place(seconds), y2: place(seconds), class: "grid" }));
  const sorted = wakes.map(({ seconds }) => seconds).sort((one, other) => one - other);
  const middle = sorted.length ? `half within ${duration(sorted[Math.floor(sorted.length / 2)])}` : "no caller was woken yet";
  $("wakes-now").textContent = middle;
  const slowest = sorted.length ? `, slowest ${duration(sorted[sorted.length - 1])}` : "";
  draw("wakes-chart", `The last ${wakes.length} callers: ${middle}${slowest}`, [...lines, ...dots]);
}

function draw(id, words, shapes) {
  $(id).replaceChildren(drawing("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": words }, ...shapes));
}
