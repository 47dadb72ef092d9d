// The lists that are asked for while their tab is shown.

import { badge, command, counted, duration, element, moment, tableOf, whole } from "./dom.js";

const small = (...words) => element("small", {}, words.filter(Boolean).join(", "));
const scope = (row) => (row.scope === "default" ? "" : `scope ${row.scope}`);
const answer = (row) => (row.status === null ? "closed without an answer" : `answered ${row.status}`);
const operation = (row, open) => [uidButton(row, open), small(row.kind, scope(row))];

function eventButton(row, open) {
  return element("button", { class: "link", onclick: (at) => open.event({ id: row.id }, at.currentTarget) }, row.event || "(unnamed)");
}

export function uidButton(row, open) {
  if (row.uid === null || row.uid === undefined) return "";
  return element("button", { class: "link", onclick: (at) => open.operation(row.uid, at.currentTarget) }, row.uid || '""');
}

// `cells` gives the parts of each column; a row's command stands on a line of its own below it
export const LISTS = {
  pending: {
    title: "Pending",
    empty:
      "No operation is pending. One is from the moment at which a caller waits for it, or an event mentions it, until it settles.",
    columns: ["Since", "Operation", "Next poll"],
    what: "Stop polling it",
    cells: (row, open) => [
      moment(row.at),
      operation(row, open),
      [row.due_in > 0 ? `in ${duration(row.due_in)}` : "due", small(row.why, `polled ${counted(row.polls, "time")}`)],
    ],
  },
  "dead-letters": {
    title: "Dead letters",
    empty: "No dead letters: every event could be read, and no handler has given up on one.",
    columns: ["Received", "Event", "Why"],
    what: "Process it again",
    cells: (row, open) => [
      moment(row.at),
      [eventButton(row, open), small(`event ${row.id}`, row.uid !== null && `uid ${row.uid}`)],
      row.reason ?? "",
    ],
  },
  conflicts: {
    title: "Conflicts",
    empty: "No conflicts: the vendor has never said two things about one operation.",
    columns: ["Settled", "Operation", "What was said"],
    what: "Show both",
    cells: (row, open) => [
      moment(row.at),
      operation(row, open),
      [
        badge(row.status),
        " first, then ",
        ...row.others.flatMap((one) => [badge(one), " "]),
        small("The first stays. Ask the vendor which is true."),
      ],
    ],
  },
  refused: {
    title: "Refused",
    empty: "The listener has refused nothing since it started.",
    columns: ["Last", "Why", "What to do", "Request"],
    what: "List them",
    cells: (row) => [
      moment(row.last_at),
      [badge("refused"), " ", row.reason, small(counted(row.count, "time"), answer(row))],
      row.advice,
      [
        [row.method, row.path].filter(Boolean).join(" "),
        small(
          row.peer && `from ${row.peer}`,
          row.length !== null && counted(row.length, "byte"),
          row.key_ids.length && `claims key ${row.key_ids.join(", ")}`,
        ),
      ],
    ],
  },
  handlers: {
    title: "Handlers",
    empty: "No handler is registered. Events are stored all the same; an application registers handlers when it starts.",
    columns: ["Handler", "Events", "Jobs", "State"],
    what: "End it",
    named: true,
    cells: (row) => [
      [row.handler, small(row.service === "default" ? "" : `service ${row.service}`, scope(row))],
      row.events.join(", "),
      `${whole(row.ready)} waiting, ${whole(row.dead)} dead`,
      row.served ? (row.differing ? "running, but processes want different events" : "running") : "no process serves it",
    ],
  },
};

export function table(list, rows, open) {
  const name = (place) => (place === 0 && !list.named ? "time" : null);
  const cell = (parts, place) => element("td", { role: "cell", class: name(place) ?? "wide" }, ...[parts].flat());
  const lines = rows.flatMap((row) => {
    const line = element("tr", { role: "row", class: row.command ? "first" : null }, ...list.cells(row, open).map(cell));
    if (!row.command) return [line];
    const below = element("td", { role: "cell", class: "wide", colspan: list.columns.length }, command(row.command, list.what));
    return [line, element("tr", { role: "row" }, below)];
  });
  const headings = list.columns.map((heading, place) => [heading, name(place)]);
  return tableOf(headings, element("tbody", { role: "rowgroup" }, ...lines));
}
