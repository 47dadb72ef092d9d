// Build elements from text only: nothing here, or anywhere on the page, parses markup.

export const $ = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

export function drawing(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const badge = (word, name = word.split(" ")[0]) => element("span", { class: `badge ${name}` }, word);

// a table whose rows stay rows for screen readers when a narrow page stacks their cells; `headings` are pairs of a name and a class
export function tableOf(headings, body, attributes = {}) {
  const heads = headings.map(([heading, name]) => element("th", { role: "columnheader", scope: "col", class: name }, heading));
  const head = element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads));
  return element("table", { role: "table", ...attributes }, head, body);
}

// a command with a button that copies it, and what it does if that is not plain
export function command(text, what = "") {
  const words = text.split(" ").flatMap((word, place) => [place ? " " : null, element("span", {}, word)]); // broken between words only
  const code = element("code", { tabindex: "0" }, ...words);
  const button = element("button", { class: "copy", "aria-label": `Copy: ${text}`, onclick: () => copy(text, code, button) }, "Copy");
  return element("div", { class: "command" }, what && element("span", { class: "what" }, what), code, button);
}

async function copy(text, code, button) {
  let done = "Copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    getSelection().selectAllChildren(code); // a page on another machine without TLS may not write to the clipboard
    done = "Selected";
  }
  button.textContent = $("spoken").textContent = done;
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

// replace what is shown, and leave the focus where it was: on the same part, or one of its name, or else on what stands in its place
export function replace(container, ...parts) {
  const focused = container.contains(document.activeElement) ? document.activeElement : null;
  const named = (one) => one.ariaLabel ?? one.textContent;
  const alike = () => [...container.querySelectorAll(focused.tagName)].filter((one) => one.className === focused.className);
  const same = () => alike().filter((one) => named(one) === named(focused));
  const places = focused && [same().indexOf(focused), alike().indexOf(focused)];
  container.replaceChildren(...parts);
  if (focused) (focused.isConnected ? focused : (same()[places[0]] ?? alike()[places[1]]))?.focus();
}

export const isSelecting = (container) => !getSelection().isCollapsed && container.contains(getSelection().anchorNode);

// numbers and times

const count = new Intl.NumberFormat("en");
export const whole = (value) => count.format(value);
export const counted = (value, one, many = `${one}s`) => `${count.format(value)} ${value === 1 ? one : many}`;

export function bytes(value) {
  if (value === null || value === undefined) return "";
  return value < 1024 ? `${value} B` : `${count.format(Math.round(value / 1024))} KiB`;
}

function clock(seconds) {
  const at = new Date(seconds * 1000);
  const two = (part) => String(part).padStart(2, "0");
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

export function moment(seconds) {
  const at = new Date(seconds * 1000);
  const day = at.toDateString() === new Date().toDateString() ? "" : `${at.toISOString().slice(0, 10)} `;
  return element("time", { datetime: at.toISOString(), title: at.toISOString() }, day + clock(seconds));
}

export function duration(seconds) {
  const size = Math.abs(seconds);
  if (size < 1) return `${Math.round(seconds * 1000)} ms`;
  if (size < 120) return `${Math.round(seconds * 10) / 10} s`;
  if (size < 7200) return `${Math.round(seconds / 60)} min`;
  return size < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}
