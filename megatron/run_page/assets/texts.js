"use strict";

// Texts: what models wrote while they were trained, and samples from the easiest to the hardest.

let chosenStep = null; // of the slider; null follows the newest

function writersOf(view) {
  return view.arms.flatMap((arm) => {
    const run = arm.runs.find((one) => one.texts.length);
    return run ? [{ arm, run }] : [];
  });
}

function drawWritten(container, view) {
  const writers = writersOf(view);
  container.closest("section").hidden = !writers.length;
  const steps = [...new Set(writers.flatMap(({ run }) => run.texts.map((one) => one.step)))].sort((a, b) => a - b);
  const slider = byId("writing");
  slider.max = Math.max(0, steps.length - 1);
  const place = chosenStep === null ? steps.length - 1 : Math.max(0, steps.findLastIndex((step) => step <= chosenStep));
  slider.value = place;
  slider.oninput = () => {
    chosenStep = Number(slider.value) === steps.length - 1 ? null : steps[slider.value];
    drawWritten(container, view);
  };
  const step = steps[place];
  byId("writing-step").textContent = step === undefined ? "" : `step ${step}`;
  const prompts = new Map();
  for (const { arm, run } of writers) {
    const written = run.texts.findLast((one) => one.step <= step);
    for (const { prompt, continuation } of written ? written.texts : []) {
      if (!prompts.has(prompt)) prompts.set(prompt, []);
      const label = written.step === step ? "" : `step ${written.step}`;
      prompts.get(prompt).push(element("article", { class: "card" },
        element("h3", {}, swatch(arm.colour), element("span", { class: "name" }, run.name), element("span", { class: "quiet" }, label)),
        element("p", { class: "text" }, element("span", { class: "given" }, prompt), continuation)));
    }
  }
  container.replaceChildren(...[...prompts].flatMap(([prompt, cards]) => [
    element("p", { class: "prompt" }, "after ", element("b", {}, prompt)),
    element("div", { class: "cards" }, ...cards),
  ]));
}

/** Difficulty that a run accepts now, on the axis of an index's values. */
function acceptedBy(run, index) {
  for (const [metric, { folder, by }] of Object.entries(run.indexes)) {
    const difficulty = last(run.train[`difficulty/${metric}`]);
    if (folder !== index.folder || difficulty === null) continue;
    const place = Math.min(100, Math.max(0, Math.round(difficulty)));
    return by === "percentile" ? index.percentiles[place] : difficulty;
  }
  return null;
}

function drawHistogram(chart, index, view) {
  const style = getComputedStyle(document.documentElement);
  const middles = index.counts.map((_, place) => (index.edges[place] + index.edges[place + 1]) / 2);
  const bars = { type: "bar", x: middles, y: index.counts, marker: { color: style.getPropertyValue("--strong-line").trim() }, hovertemplate: "%{y} samples near %{x:.4~g}<extra></extra>" };
  const marks = view.arms.flatMap((arm) => {
    const accepted = arm.runs.length ? acceptedBy(arm.runs[0], index) : null;
    return accepted === null ? [] : [{ type: "line", x0: accepted, x1: accepted, y0: 0, y1: 1, yref: "paper", line: { color: arm.colour, width: 0.7 * arm.width } }];
  });
  Plotly.react(chart, [bars], layoutOf("difficulty", { bargap: 0.04, shapes: marks, uirevision: "index", xaxis: { rangemode: "normal" } }), PLOT_OPTIONS);
}

function sampleCard({ place, sample, difficulty, text }) {
  return element("article", { class: "card" },
    element("h3", { title: `sample ${sample}` }, element("span", { class: "name" }, place), element("span", { class: "quiet" }, formatDifficulty(difficulty))),
    element("p", { class: "text" }, text));
}

function formatDifficulty(difficulty) {
  return Number.isInteger(difficulty) ? difficulty.toLocaleString() : Number(difficulty.toPrecision(5)).toString();
}

function drawDifficulty(container, view) {
  container.closest("section").hidden = !view.indexes.length;
  for (const index of view.indexes) {
    let place = [...container.children].find((child) => child.dataset.folder === index.folder);
    if (!place) {
      const cards = (index.samples || []).map(sampleCard);
      const problem = index.problem ? [element("p", { class: "problem" }, index.problem)] : [];
      place = element("div", { class: "index", "data-folder": index.folder }, element("div", {}), ...problem, element("div", { class: "cards" }, ...cards));
      container.append(place);
    }
    if (index.counts) {
      drawHistogram(chartIn(place.firstChild, "histogram", index.metric, `${index.num_samples.toLocaleString()} samples; lines: accepted now`), index, view);
    }
  }
}
