"use strict";

// The line charts: losses over a cost, with bands over seeds, and what changes step by step, with its plan.

const WIDEST = 4.4, NARROWEST = 1.8;
const PLOT_OPTIONS = {
  responsive: true,
  displaylogo: false,
  displayModeBar: matchMedia("(hover: none)").matches ? false : "hover",
  modeBarButtons: [["toImage", "zoom2d", "resetScale2d"]],
  toImageButtonOptions: { format: "svg" },
};
// Key, title, unit, and the value of a row.
const PACING = [
  ["sequence_length", "Sequence length", "tokens", (row) => row("sequence_length")],
  ["kept_length", "Seen by layers that drop tokens", "% of a row", (row) => keptPercent(row)],
  ["pool_size", "Pool a batch is drawn from", "% of the samples", (row, run) => share(row("pool_size"), run.facts.num_samples)],
  ["learning_rate", "Learning rate", "", (row) => row("learning_rate")],
  ["tokens_per_second", "Throughput", "corpus tokens/s", (row) => row("tokens_per_second")],
  ["grad_norm", "Norm of the gradient", "before clipping", (row) => row("grad_norm")],
];

function share(part, whole) {
  return part === null || part === undefined || !whole ? null : (100 * part) / whole;
}

function keptPercent(row) {
  const kept = row("kept_length"), length = row("sequence_length");
  return kept === null || kept === undefined ? null : Math.min(100, share(kept, length));
}

// A chart that comes or goes changes the others' widths, which plotly does not see by itself.
const resizes = new ResizeObserver((changes) => {
  for (const { target } of changes) {
    if (target.isConnected && target.classList.contains("js-plotly-plot")) Plotly.Plots.resize(target);
  }
});

/** The chart's place in a container; made where it is not there yet. */
function chartIn(container, key, title, unit) {
  let figure = [...container.children].find((child) => child.dataset.key === key);
  if (!figure) {
    figure = element("figure", { "data-key": key },
      element("figcaption", {}, element("span", {}), element("span", { class: "quiet" })),
      element("div", { class: "chart" }));
    container.append(figure);
    resizes.observe(figure.querySelector(".chart"));
  }
  figure.querySelector("figcaption span").textContent = title;
  figure.querySelector("figcaption .quiet").textContent = unit;
  return figure.querySelector(".chart");
}

/** Remove the charts of a container that are not among the keys, and set the others in their order. */
function keepCharts(container, keys) {
  for (const figure of [...container.children]) {
    if (!keys.has(figure.dataset.key)) {
      Plotly.purge(figure.querySelector(".chart"));
      figure.remove();
    }
  }
  const places = [...keys];
  const inOrder = [...container.children].sort((a, b) => places.indexOf(a.dataset.key) - places.indexOf(b.dataset.key));
  if (inOrder.some((figure, place) => figure !== container.children[place])) container.append(...inOrder);
}

function layoutOf(xTitle, more) {
  const style = getComputedStyle(document.documentElement);
  const ink = (name) => style.getPropertyValue(name).trim();
  const axis = {
    gridcolor: ink("--line"), zerolinecolor: ink("--line"), linecolor: ink("--strong-line"),
    tickfont: { color: ink("--quiet"), size: 11 }, exponentformat: "SI", automargin: true,
  };
  const { xaxis = {}, yaxis = {}, ...rest } = more;
  return {
    margin: { l: 46, r: 12, t: 8, b: 40 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", color: ink("--ink"), size: 12 },
    showlegend: false, hovermode: "closest",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink("--quiet"), activecolor: ink("--ink") },
    hoverlabel: { bgcolor: ink("--card"), bordercolor: ink("--strong-line"), font: { color: ink("--ink") }, namelength: -1 },
    xaxis: { ...axis, title: { text: xTitle, font: { color: ink("--quiet"), size: 12 }, standoff: 8 }, rangemode: "tozero", ...xaxis },
    yaxis: { ...axis, ...yaxis },
    ...rest,
  };
}

function line(x, y, style, more = {}) {
  return { type: "scatter", mode: "lines", x, y, line: style, hoverinfo: "skip", ...more };
}

function transparent(colour, alpha) {
  const number = parseInt(colour.slice(1), 16);
  return `rgba(${number >> 16},${(number >> 8) & 255},${number & 255},${alpha})`;
}

/** The traces of one arm in a chart of losses. */
function lossTraces(arm, runs, chart, axis) {
  const value = chart === "valid" ? "value" : "smoothed_loss";
  const band = (arm.bands[chart] || {})[axis];
  const width = 0.6 * arm.width;
  const hover = (name) => ({ name: plain(name), hoverinfo: "all", hovertemplate: "%{y:.4f} at %{x:.3s}<extra>%{fullData.name}</extra>" });
  const traces = [];
  for (const run of runs) {
    const x = run[chart][axis], y = run[chart][value];
    if (!x || !y || !y.length) continue;
    if (chart === "train" && runs.length === 1) {
      traces.push(line(x, run.train.loss, { color: transparent(arm.colour, 0.25), width: 1 }));
    }
    const alone = !band;
    traces.push(line(x, y, { color: alone ? arm.colour : transparent(arm.colour, 0.4), width: alone ? width : 0.9 }, alone ? hover(run.name) : {}));
    if (alone && y.length === 1) Object.assign(last(traces), { mode: "markers", marker: { color: arm.colour, size: 7 } });
  }
  if (band) {
    traces.push(line(band.x, band.low, { width: 0 }));
    traces.push(line(band.x, band.high, { width: 0 }, { fill: "tonexty", fillcolor: transparent(arm.colour, 0.16) }));
    traces.push(line(band.x, band.mean, { color: arm.colour, width }, hover(`${arm.name}, mean of its seeds`)));
    traces.push(line([last(band.x)], [last(band.mean)], {}, { mode: "markers", marker: { color: arm.colour, size: 8, line: { color: "white", width: 1 } } }));
  }
  return traces;
}

/** Ends of the value's axis: the first tenth of each curve, a steep fall, is left out of view. */
function lossRange(runs, chart) {
  const values = runs.flatMap((run) => {
    const own = (run[chart][chart === "valid" ? "value" : "smoothed_loss"] || []).filter((value) => value !== null);
    return own.slice(Math.min(own.length - 1, Math.ceil(own.length / 10)));
  });
  if (!values.length) return undefined;
  const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  const margin = Math.max(0.02, 0.08 * (high - low));
  return [low - margin, high + margin];
}

function drawLosses(container, view) {
  const charts = new Map();
  for (const run of view.runs) {
    const { name, unit } = run.measure;
    charts.set(`valid ${name}`, { chart: "valid", title: name[0].toUpperCase() + name.slice(1), unit, of: (one) => one.measure.name === name });
  }
  charts.set("train", { chart: "train", title: "Training loss, smoothed", unit: "nats per token", of: () => true });
  const axisName = view.axes.find((axis) => axis.key === view.axis).name;
  const drawn = new Set();
  for (const [key, { chart, title, unit, of }] of charts) {
    const traces = [], shown = [];
    for (const arm of view.arms) {
      const runs = arm.runs.filter(of);
      if (runs.length) traces.push(...lossTraces(arm, runs, chart, view.axis));
      shown.push(...runs);
    }
    if (!traces.length) continue;
    drawn.add(key);
    const range = lossRange(shown, chart);
    Plotly.react(chartIn(container, key, title, unit), traces,
      layoutOf(axisName, { uirevision: view.axis, yaxis: range ? { range } : {} }), PLOT_OPTIONS);
  }
  keepCharts(container, drawn);
}

/** A column's values as the chart shows them, by a function of a row. */
function derived(columns, run, value) {
  const places = columns.step || [];
  return places.map((_, place) => value((name) => (columns[name] ? columns[name][place] : null), run));
}

/** What is planned beyond the last logged step; all of it where the log says otherwise than the plan. */
function ahead(run, planned) {
  const differs = (run.plan.beside || []).some((one) => one.planned !== one.logged);
  const now = last(run.train.step) || 0;
  return planned.map((one, place) => (differs || run.plan.columns.step[place] >= now ? one : null));
}

function pacingTraces(arm, run, key, value) {
  const traces = [];
  const own = run.train[key] ? derived(run.train, run, value) : [];
  const planned = run.plan.columns && run.plan.columns[key] ? ahead(run, derived(run.plan.columns, run, value)) : [];
  const isRough = key === "tokens_per_second" || key === "grad_norm";
  if (own.some((one) => one !== null)) {
    traces.push(line(run.train.step, own, { color: arm.colour, width: isRough ? 1.2 : 0.8 * arm.width, shape: isRough || key === "learning_rate" ? "linear" : "hv" },
      { name: plain(run.name), hoverinfo: "all", hovertemplate: "%{y:.4~g} at step %{x}<extra>%{fullData.name}</extra>" }));
  }
  if (planned.some((one) => one !== null)) {
    traces.push(line(run.plan.columns.step, planned, { color: arm.colour, width: 1.6, dash: "dot", shape: "hv" },
      { name: `${plain(run.name)}, planned`, hoverinfo: "all", hovertemplate: "%{y:.4~g} at step %{x}<extra>%{fullData.name}</extra>" }));
  }
  return traces;
}

function drawPacing(container, view) {
  const drawn = new Set();
  for (const [key, title, unit, value] of PACING) {
    const traces = view.arms.flatMap((arm) => (arm.runs.length ? pacingTraces(arm, arm.runs[0], key, value) : []));
    if (!traces.length) continue;
    drawn.add(key);
    Plotly.react(chartIn(container, key, title, unit), traces,
      layoutOf("step", { uirevision: "pacing", yaxis: { rangemode: "tozero" } }), PLOT_OPTIONS);
  }
  keepCharts(container, drawn);
  container.closest("section").hidden = !drawn.size;
}
