"use strict";

// Numbers and elements, for all that the page shows. Text enters the page as text, never as HTML.

const PREFIXES = [[1e21, "Z"], [1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

/** A number in at most five characters and a prefix. */
function formatCount(number) {
  if (number === null || number === undefined) return "";
  for (const [size, prefix] of PREFIXES) {
    if (Math.abs(number) >= 0.9995 * size) return `${Number((number / size).toPrecision(3))}${prefix}`;
  }
  return `${Number(number.toPrecision(3))}`;
}

/** A time span in the two largest units that matter. */
function formatSeconds(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.round(seconds), two = (number) => String(number).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h ${two(Math.floor(whole / 60) % 60)}m`;
  return `${Math.floor(whole / 86400)}d ${two(Math.floor(whole / 3600) % 24)}h`;
}

function formatLoss(loss) {
  return loss === null || loss === undefined ? "" : loss.toFixed(4);
}

/** An element with attributes and children, which are elements or texts. */
function element(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A coloured stroke that stands for an arm. */
function swatch(colour) {
  const made = element("span", { class: "swatch" });
  made.style.color = colour;
  return made;
}

/** A name as plotly shows it: it takes texts for a kind of HTML. */
function plain(name) {
  return name.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function byId(id) {
  return document.getElementById(id);
}

function last(values) {
  return values && values.length ? values[values.length - 1] : null;
}
