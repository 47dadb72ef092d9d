// The page: it signs in with the token of the link, follows the feed, and shows one list at a time. It changes nothing.

import { Api, Refused } from "./api.js";
import { Arrivals } from "./arrivals.js";
import { $, element, isSelecting, replace, whole } from "./dom.js";
import { LISTS, table } from "./lists.js";
import { Pane } from "./pane.js";
import { count, showArrivals, showStatus } from "./strip.js";

const KEPT_TOKEN = `token ${location.pathname}`;
const TABS = { arrivals: { title: "Arrivals" }, ...LISTS };
const REFRESH = 3000;
const SHORTEST_PAUSE = 500;
const LONGEST_PAUSE = 10000;

const api = new Api(signedIn());
const pane = new Pane(api);
const arrivals = new Arrivals(pane, follow);
let tab = "arrivals";
let following = null;
let counts = {};
let seesListener = true;
let cursors = [];
let asked = 0;

// the token

function signedIn() {
  const given = location.hash.slice(1);
  if (given) {
    sessionStorage.setItem(KEPT_TOKEN, given);
    history.replaceState(null, "", location.pathname);  // so that nobody reads it from the address
  }
  return given || sessionStorage.getItem(KEPT_TOKEN) || "";
}

addEventListener("hashchange", () => {
  api.token = signedIn();
  begin();
});

function askForToken(problem) {
  following?.abort();
  sessionStorage.removeItem(KEPT_TOKEN);
  $("page").hidden = $("find").hidden = true;
  $("token").hidden = false;
  $("token-problem").textContent = problem;
  connection("", "Not connected");
  $("token-text").focus();
}

$("token").addEventListener("submit", (at) => {
  at.preventDefault();
  const given = $("token-text").value.trim();
  api.token = given.slice(given.indexOf("#") + 1);
  sessionStorage.setItem(KEPT_TOKEN, api.token);
  $("token-text").value = "";
  begin();
});

// the feed

function connection(state, words) {
  $("connection").className = state;
  $("connection").textContent = words;
}

async function follow() {
  following?.abort();
  const mine = (following = new AbortController());
  for (let pause = SHORTEST_PAUSE; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
    let problem = "The feed ended.";
    const on = (name, data) => {
      if (mine.signal.aborted) return;
      if (name === "full") problem = data.reason;
      else pause = SHORTEST_PAUSE;
      try {
        hear(name, data);
      } catch (error) {
        reportError(error); // a fault of the page does not end the feed
      }
    };
    try {
      await api.stream("feed", arrivals.filter, on, mine.signal);
    } catch (error) {
      if (mine.signal.aborted) return;
      if (error instanceof Refused) return askForToken(error.message);
      problem = error.message;
    }
    if (mine.signal.aborted) return;
    connection("lost", `${problem} Trying again…`);
    await new Promise((resolve) => setTimeout(resolve, pause));
    if (mine.signal.aborted) return;
  }
}

function hear(name, data) {
  if (name === "hello") {
    connection("live", data.sees_refusals ? "Live" : "Live, beside a store");
    seesListener = data.sees_refusals;
    arrivals.start(data.rows);
  } else if (name === "deliveries") {
    count(data.counts);
    arrivals.take(data.rows, data.left_out);
    showArrivals();
  } else if (name === "status") {
    showStatus(data, seesListener, choose);
    showTabs(data.store);
    pane.refresh();
    document.title = `${data.ready ? "" : "Not ready · "}Console · rewards-async`;
  }
}

// the lists

function showTabs(held) {
  if (held) counts = { pending: held.pending, "dead-letters": held.dead, conflicts: held.conflicts };
  for (const [name, { title }] of Object.entries(TABS)) {
    const label = counts[name] ? `${title} ${whole(counts[name])}` : title;
    const button = $(`tab-${name}`) ?? $("tabs").appendChild(makeTab(name));
    if (button.textContent !== label) button.textContent = label;
    button.setAttribute("aria-selected", String(name === tab));
    button.tabIndex = name === tab ? 0 : -1;
  }
  $("panel").setAttribute("aria-labelledby", `tab-${tab}`);
}

function makeTab(name) {
  return element("button", { id: `tab-${name}`, role: "tab", "aria-controls": "panel", onclick: () => choose(name) });
}

function choose(name) {
  tab = name;
  cursors = [];
  showTabs();
  $("note").textContent = $("empty").textContent = "";
  $("more").hidden = true;
  const live = name === "arrivals";
  $("tools").replaceChildren(...(live ? [arrivals.tools] : []));
  $("rows").replaceChildren(...(live ? [arrivals.table] : []));
  if (live) arrivals.describe();
  else showList();
}

$("tabs").addEventListener("keydown", (at) => {
  const names = Object.keys(TABS);
  const place = names.indexOf(tab);
  const to = { ArrowRight: place + 1, ArrowLeft: place - 1 + names.length, Home: 0, End: names.length - 1 }[at.key];
  if (to === undefined) return;
  at.preventDefault();
  choose(names[to % names.length]);
  $(`tab-${tab}`).focus();
});

async function showList() {
  const list = LISTS[tab];
  const number = (asked += 1);
  try {
    const pages = [await api.get(tab)];
    for (const cursor of cursors) pages.push(await api.get(tab, cursor));
    if (number !== asked || list !== LISTS[tab]) return;
    const rows = pages.flatMap((page) => page.rows);
    const { more = null, note } = pages[pages.length - 1];
    $("note").textContent = note;
    $("empty").textContent = rows.length || (tab === "refused" && note) ? "" : list.empty;
    const shown = rows.length ? [table(list, rows, pane)] : [];
    const words = shown.map((one) => one.textContent).join("");
    if ($("rows").textContent !== words && !isSelecting($("rows"))) replace($("rows"), ...shown);
    $("more").hidden = more === null;
    $("more").onclick = () => {
      cursors.push(tab === "pending" ? more : { before: more });
      showList();
    };
  } catch (problem) {
    if (problem instanceof Refused) askForToken(problem.message);
    else if (number === asked) $("note").textContent = problem.message;
  }
}

$("find").addEventListener("submit", (at) => {
  at.preventDefault();
  pane.operation($("find-uid").value.trim(), $("find-uid"));
});

function begin() {
  $("token").hidden = true;
  $("page").hidden = $("find").hidden = false;
  choose(tab);
  follow();
}

setInterval(() => {
  if ($("page").hidden || document.hidden) return;
  showArrivals();
  if (LISTS[tab]) showList();
}, REFRESH);

if (api.token) begin();
else askForToken("");
