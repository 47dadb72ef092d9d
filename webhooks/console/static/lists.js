// The lists that are asked for while their tab is shown.

import { command, counted, duration, element, moment, whole } from "./dom.js";

const act = (row) => (row.command ? command(row.command) : "");
const eventButton = (row, open) => element("button", { class: "link", onclick: (at) => open.event({ id: row.id }, at.currentTarget) }, row.event || "(unnamed)");
export const uidButton = (row, open) => (row.uid === null ? "" : element("button", { class: "link", onclick: (at) => open.operation(row.uid, at.currentTarget) }, row.uid || '""'));

export const LISTS = {
  pending: {
    title: "Pending",
    empty: "No operation is pending. One is from the moment at which a caller waits for it, or an event mentions it, until it settles.",
    columns: ["Since", "Operation", "Next poll", "To stop polling it"],
    cells: (row, open) => [
      moment(row.at),
      [uidButton(row, open), element("small", {}, `${row.kind}${row.scope === "default" ? "" : `, scope ${row.scope}`}`)],
      [row.due_in > 0 ? `in ${duration(row.due_in)}` : "due", element("small", {}, `${row.why}; polled ${counted(row.polls, "time")}`)],
      act(row),
    ],
  },
  "dead-letters": {
    title: "Dead letters",
    empty: "No dead letters: every event could be read, and no handler has given up on one.",
    columns: ["Received", "Event", "Why", "To process it again"],
    cells: (row, open) => [
      moment(row.at),
      [eventButton(row, open), element("small", {}, `event ${row.id}${row.uid === null ? "" : `, uid ${row.uid}`}`)],
      row.reason ?? "",
      act(row),
    ],
  },
  refused: {
    title: "Refused",
    empty: "The listener has refused nothing since it started.",
    columns: ["Last", "Why", "What to do", "Request"],
    cells: (row) => [
      moment(row.last_at),
      [element("span", { class: "badge refused" }, row.reason), element("small", {}, `${counted(row.count, "time")}, ${row.status === null ? "closed without an answer" : `answered ${row.status}`}`)],
      [row.advice, act(row)],
      [[row.method, row.path].filter(Boolean).join(" "), element("small", {}, [row.peer && `from ${row.peer}`, row.length !== null && counted(row.length, "byte"), row.key_ids.length && `claims key ${row.key_ids.join(", ")}`].filter(Boolean).join(", "))],
    ],
  },
  handlers: {
    title: "Handlers",
    empty: "No handler is registered. Events are stored all the same; an application registers handlers when it starts.",
    named: true,
    columns: ["Handler", "Events", "Jobs", "State"],
    cells: (row) => [
      [row.handler, element("small", {}, [row.service === "default" ? "" : `service ${row.service}`, row.scope === "default" ? "" : `scope ${row.scope}`].filter(Boolean).join(", "))],
      row.patterns.join(", "),
      `${whole(row.ready)} waiting, ${whole(row.dead)} dead`,
      [row.served ? (row.differing ? "running, but processes want different events" : "running") : "no process serves it; to end it:", act(row)],
    ],
  },
};

export function table(list, rows, open) {
  const body = rows.map((row) => element("tr", { role: "row" }, ...list.cells(row, open).map((cell, place) => element("td", { role: "cell", class: place === 0 && !list.named ? "time" : "wide" }, ...[cell].flat()))));
  const heads = list.columns.map((heading, place) => element("th", { role: "columnheader", scope: "col", class: place === 0 && !list.named ? "time" : null }, heading));
  return element("table", { role: "table" }, element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)), element("tbody", { role: "rowgroup" }, ...body));
}
