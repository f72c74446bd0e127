"use strict";

// The tables: how far each run is, and what was planned beside what was logged.

const STATE_NOTES = {
  waiting: "not begun",
  silent: "its log has not grown for long: stopped from outside, or stuck",
};

function row(cells) {
  return element("tr", {}, ...cells.map(([name, ...content]) => element("td", { "data-name": name }, ...content)));
}

function table(titles, rows) {
  const head = element("tr", {}, ...titles.map((title) => element("th", { scope: "col" }, title)));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
}

function progressOf(run) {
  if (run.fraction === null || run.fraction === undefined) return [""];
  const bar = element("span", { class: "bar" }, element("span", {}));
  bar.firstChild.style.width = `${(100 * run.fraction).toFixed(1)}%`;
  return [element("span", {}, bar, `${Math.floor(100 * run.fraction)}%`)];
}

function stateOf(run) {
  const note = run.reason || STATE_NOTES[run.state] || "";
  const changed = run.changed ? `; last line ${new Date(1000 * run.changed).toLocaleString()}` : "";
  return element("span", { class: "state", "data-state": run.state, title: note + changed }, run.state);
}

function drawRuns(container, view) {
  const titles = ["run", "state", "done", "left", "step", "corpus tokens", "effective", "length", "training loss", "validation", "tokens/s"];
  const rows = view.arms.flatMap((arm) => arm.runs.map((run) => {
    const step = formatCount(run.last.step) && String(run.last.step);
    const resumed = run.resumes.length ? element("span", { class: "quiet", title: `after step ${run.resumes.join(", ")}` }, ` resumed ${run.resumes.length}x`) : null;
    const damaged = run.num_damaged ? element("span", { class: "quiet" }, ` ${run.num_damaged} lines unreadable`) : null;
    const cells = [
      [null, swatch(arm.colour), run.name, resumed, damaged],
      ["state", stateOf(run)],
      ["done", ...progressOf(run)],
      ["left", formatSeconds(run.seconds_left)],
      ["step", step],
      ["corpus tokens", formatCount(run.last.corpus_tokens)],
      ["effective tokens", formatCount(run.last.effective_tokens)],
      ["length", formatCount(run.last.sequence_length)],
      ["training loss", formatLoss(last(run.train.smoothed_loss))],
      [run.measure.name, formatLoss(run.last_valid)],
      ["tokens/s", formatCount(run.last.tokens_per_second)],
    ];
    return row(cells);
  }));
  const made = table(titles, rows);
  container.replaceChildren(made);
  withoutEmptyColumns(made);
}

/** Remove the columns in which no row says anything. */
function withoutEmptyColumns(made) {
  const rows = [...made.rows];
  for (let place = made.tHead.rows[0].cells.length - 1; place > 0; place--) {
    if (made.tBodies[0].rows.length && rows.slice(1).every((one) => !one.cells[place].textContent)) {
      rows.forEach((one) => one.cells[place].remove());
    }
  }
}

function planCell({ name, planned, logged }) {
  if (planned === logged) return [name, element("span", { class: "same", title: `${logged.toLocaleString()}, as planned` }, `${formatCount(logged)} =`)];
  const off = (100 * (logged / planned - 1)).toFixed(2);
  return [name, element("span", { class: "differs", title: `planned ${planned.toLocaleString()}, logged ${logged.toLocaleString()}` }, `${formatCount(logged)} (${off > 0 ? "+" : ""}${off} %)`)];
}

function drawPlan(container, view) {
  const rows = [], problems = new Map();
  const titles = new Map();
  const planned = view.arms.flatMap((arm) => arm.runs.slice(0, 1).map((run) => [arm, run]));
  for (const [, run] of planned) for (const one of run.plan.beside || []) titles.set(one.name, true);
  for (const [arm, run] of planned) {
    if (run.plan.problem) {
      if (!problems.has(run.plan.problem)) problems.set(run.plan.problem, []);
      problems.get(run.plan.problem).push(run.name);
      continue;
    }
    const found = new Map((run.plan.beside || []).map((one) => [one.name, planCell(one)]));
    rows.push(row([
      [null, swatch(arm.colour), run.name],
      ["step", `${run.plan.step ?? 0} of ${run.plan.last_step}`],
      ...[...titles.keys()].map((name) => found.get(name) || [name, ""]),
    ]));
  }
  const head = ["run", "step", ...titles.keys()];
  const told = [...problems].map(([problem, names]) => element("p", { class: "problem" }, `${names.join(", ")}: ${problem}`));
  container.replaceChildren(...(rows.length ? [table(head, rows)] : []), ...told);
}
