// The strip of figures, and the two charts.

import { $, drawing, duration, element, replace, whole } from "./dom.js";

const SECONDS = 60;
const WIDTH = 300;
const HEIGHT = 56;
const SHORTEST = 0.0005;
const LONGEST = 60;

const arrived = Array.from({ length: SECONDS }, () => ({ taken: 0, refused: 0 }));
let second = Math.floor(Date.now() / 1000);

// each figure: name, value, words, mood, and the list that it leads to
export function showStatus(status, seesListener, choose) {
  const held = status.store;
  const mood = status.ready ? (status.reasons.length ? "warn" : "good") : "bad";
  const figures = [
    [seesListener ? "Ready" : "Store answers", status.ready ? "yes" : "no", status.reasons.join("; "), mood],
    ["Arrivals", "", "", "", "arrivals"],
  ];
  if (held) {
    const budget = held.budgets.map(budgetWords).join("; ");
    const refused = held.budgets.some((one) => one.refused);
    const waits = held.ready ? `${whole(held.ready)} ${held.ready === 1 ? "waits" : "wait"} for handlers` : "no event waits";
    figures.push(
      ["Waiters", whole(held.waiting), "operations that callers wait for"],
      ["Pending", whole(held.pending), held.lookups ? `${whole(held.lookups)} to look up` : "not settled yet", "", "pending"],
      ["Inbox lag", duration(held.lag), waits, held.lag > 60 ? "warn" : ""],
      ["Dead letters", whole(held.dead), held.dead ? "" : "none", held.dead ? "warn" : "", "dead-letters"],
      ["Conflicts", whole(held.conflicts), held.conflicts ? "" : "none", held.conflicts ? "bad" : "", "conflicts"],
      ["Polls", whole(held.polls), budget || "nobody polls", refused ? "bad" : ""],
      status.workers ? workers(status.workers) : ["Processes", whole(held.processes), "share the store"],
    );
  }
  const tiles = figures.map((figure) => tile(figure, choose));
  if ($("strip").textContent !== tiles.map((one) => one.textContent).join("")) replace($("strip"), ...tiles);
  showRate();
  if (held) showWakes(held.wakes);
}

function workers(states) {
  const others = Object.entries(states).filter(([state, number]) => state !== "ready" && number);
  const words = others.map(([state, number]) => `${number} ${state}`).join(", ");
  return ["Workers", `${states.ready} ready`, words, others.length ? "warn" : ""];
}

function budgetWords({ scope, per_second, paused_for, refused }) {
  const name = scope === "default" ? "" : `${scope}: `;
  if (refused) return `${name}refused, one at a time`;
  if (paused_for > 0) return `${name}paused for ${duration(paused_for)}`;
  return `${name}${per_second === null ? "nobody polls" : `at most ${per_second}/s`}`;
}

function tile([name, value, words = "", mood = "", list = ""], choose) {
  const figure = element("dd", { id: name === "Arrivals" ? "rate" : null }, value);
  const link = list && element("button", { class: "link", onclick: () => choose(list) }, name);
  return element("div", { class: `tile ${mood}` }, element("dt", {}, link || name), figure, element("dd", { class: "words" }, words));
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
    const tall = (taken / most) * (HEIGHT - 2);
    const more = (refused / most) * (HEIGHT - 2);
    const bar = (y, height, name) => drawing("rect", { x: place * wide, y, width: wide - 1, height, class: name });
    return [...(taken ? [bar(HEIGHT - tall, tall, "taken")] : []), ...(refused ? [bar(HEIGHT - tall - more, more, "refused")] : [])];
  });
  const all = (name) => arrived.reduce((sum, one) => sum + one[name], 0);
  draw("arrivals-chart", `In the last minute ${all("taken")} taken and ${all("refused")} refused, at most ${most} in a second`, bars);
}

// from settled to waiter

function showWakes(wakes) {
  const wide = WIDTH / SECONDS;
  const place = (seconds) => {
    const share = Math.log(Math.min(Math.max(seconds, SHORTEST), LONGEST) / SHORTEST) / Math.log(LONGEST / SHORTEST);
    return HEIGHT - 4 - share * (HEIGHT - 8);
  };
  const dots = wakes.map(({ seconds, via }, number) =>
    drawing("path", { d: `M${(SECONDS - wakes.length + number + 0.5) * wide} ${place(seconds)}h0`, class: via }),  // a round dot at any width
  );
  const marks = [0.001, 0.1, 10];
  const line = (seconds) => ({ x1: 0, x2: WIDTH, y1: place(seconds), y2: place(seconds), class: "grid" });
  const lines = marks.map((seconds) => drawing("line", line(seconds)));
  const sorted = wakes.map(({ seconds }) => seconds).sort((one, other) => one - other);
  const middle = sorted.length ? `half within ${duration(sorted[Math.floor(sorted.length / 2)])}` : "no caller was woken yet";
  $("wakes-now").textContent = middle;
  const slowest = sorted.length ? `, slowest ${duration(sorted[sorted.length - 1])}` : "";
  draw("wakes-chart", `The last ${wakes.length} callers: ${middle}${slowest}`, [...lines, ...dots]);
  $("wakes-chart").append(...marks.map((seconds) => element("span", { class: `mark at${seconds * 1000}` }, duration(seconds))));
}

function draw(id, words, shapes) {
  const view = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": words };
  $(id).replaceChildren(drawing("svg", view, ...shapes));
}
