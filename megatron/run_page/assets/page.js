"use strict";

// What is shown, and when: the view is made of the newest snapshot and of what the reader chose.

const PAUSE_MILLISECONDS = 2000;
const settings = JSON.parse(byId("settings").textContent);
const chosen = { axis: remembered("axis") || "corpus_tokens", theme: remembered("theme"), hidden: new Set() };
let newest = null; // snapshot
let tag = null;

function remembered(name) {
  try {
    return localStorage.getItem(`run-page-${name}`);
  } catch {
    return null;
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(`run-page-${name}`, value);
  } catch {
    // Not remembered, then.
  }
}

function theme() {
  return chosen.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

/** The snapshot as it is to be drawn: arms with their colours, the hidden ones left out. */
function viewOf(snapshot) {
  const colours = settings.colours[theme()];
  const isBaseline = (name) => name === "baseline" || name.endsWith("/baseline");
  let number = 0;
  const arms = snapshot.arms.map((arm, place) => {
    const colour = isBaseline(arm.name) || snapshot.arms.length === 1 ? colours[0] : colours[1 + (number++ % (colours.length - 1))];
    const width = WIDEST - ((WIDEST - NARROWEST) * place) / Math.max(1, snapshot.arms.length - 1);
    return { ...arm, colour, width, runs: snapshot.runs.filter((run) => run.arm === arm.name) };
  });
  const shown = arms.filter((arm) => !chosen.hidden.has(arm.name));
  const axes = snapshot.axes.filter(({ key }) => snapshot.runs.some((run) => run.train[key] || (run.valid[key] || []).some((one) => one !== null)));
  const axis = axes.some(({ key }) => key === chosen.axis) ? chosen.axis : "step";
  return { ...snapshot, axes: axes.length ? axes : snapshot.axes, axis, allArms: arms, arms: shown, runs: shown.flatMap((arm) => arm.runs) };
}

function drawHead(view) {
  byId("title").textContent = settings.title;
  const states = new Map();
  for (const run of newest.runs) states.set(run.state, (states.get(run.state) || 0) + 1);
  const facts = newest.runs.length ? newest.runs[0].facts : {};
  const words = [
    `${newest.runs.length} ${newest.runs.length === 1 ? "run" : "runs"}: ${[...states].map(([state, number]) => `${number} ${state}`).join(", ") || "none yet"}`,
    facts.num_parameters && `${formatCount(facts.num_parameters)} parameters`,
    facts.num_layers && `${facts.num_layers} layers`,
    facts.global_batch_size && facts.sequence_length && `${facts.global_batch_size} x ${facts.sequence_length} tokens a step at most`,
    facts.num_samples && `${facts.num_samples.toLocaleString()} samples`,
  ];
  byId("summary").textContent = words.filter(Boolean).join(" · ");
  byId("theme").textContent = theme() === "dark" ? "light" : "dark";
  byId("arms").replaceChildren(...view.allArms.map((arm) => {
    const chip = element("button", { class: "chip", type: "button", "aria-pressed": String(!chosen.hidden.has(arm.name)), title: "show or hide" }, swatch(arm.colour), arm.name);
    chip.onclick = () => {
      if (!chosen.hidden.delete(arm.name)) chosen.hidden.add(arm.name);
      draw();
    };
    return chip;
  }));
  byId("axes").replaceChildren(...view.axes.map(({ key, name }) => {
    const button = element("button", { type: "button", role: "radio", "aria-checked": String(key === view.axis) }, name);
    button.onclick = () => {
      chosen.axis = key;
      remember("axis", key);
      draw();
    };
    return button;
  }));
  const hasBands = view.arms.some((arm) => Object.keys(arm.bands.valid || {}).length || Object.keys(arm.bands.train || {}).length);
  byId("band-note").textContent = hasBands ? "Thick lines: means over the seeds; shaded: their 95 % intervals; thin lines: single seeds." : "";
  const hasPlan = view.runs.some((run) => run.plan.columns);
  const hasSeeds = view.arms.some((arm) => arm.runs.length > 1);
  byId("pacing-note").textContent = [hasSeeds && "The first seed of each arm.", hasPlan && "Dotted: the plan."].filter(Boolean).join(" ");
  byId("footer").textContent = settings.written ? `Written ${settings.written} from the runs' logs.` : "";
}

function draw() {
  document.documentElement.dataset.theme = theme();
  if (!newest) return;
  const view = viewOf(newest);
  drawHead(view);
  drawLosses(byId("losses"), view);
  drawRuns(byId("runs"), view);
  drawPacing(byId("pacing"), view);
  drawPlan(byId("plan"), view);
  drawWritten(byId("written"), view);
  drawDifficulty(byId("difficulty"), view);
  document.documentElement.dataset.drawn = String(Number(document.documentElement.dataset.drawn || 0) + 1);
}

function sayLive(state, words) {
  byId("live").dataset.state = state;
  byId("live").textContent = words;
}

async function look() {
  try {
    const answer = await fetch("snapshot.json", { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
    if (answer.status === 200) {
      newest = await answer.json();
      tag = answer.headers.get("ETag");
      draw();
    } else if (answer.status !== 304) {
      throw new Error(await answer.text());
    }
    sayLive("live", "live");
  } catch (error) {
    sayLive("lost", error instanceof TypeError ? "the server does not answer" : String(error.message));
  }
  setTimeout(look, PAUSE_MILLISECONDS);
}

byId("theme").onclick = () => {
  chosen.theme = theme() === "dark" ? "light" : "dark";
  remember("theme", chosen.theme);
  draw();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
document.documentElement.dataset.theme = theme();
const whole = byId("snapshot");
if (whole) {
  newest = JSON.parse(whole.textContent);
  draw();
} else {
  sayLive("", "looking");
  look();
}
