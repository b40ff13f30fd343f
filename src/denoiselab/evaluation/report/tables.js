// Below the plot: published values, samples, panels, training curves, the table of all scores.
"use strict";

const publishedOf = metric => data.published.filter(p => p.metric === metric && p.groups.includes($("measure").value));

// Published curves of the same protocol and model, near the costs of own cells; one key of the legend stands for all.
function theirs(cells, metric, cost) {
  const found = cost !== "nfe" ? [] : publishedOf(metric).filter(p => p.differs.length === 0);
  const own = cells.map(c => costOf(c, cost)), near = x => x >= Math.min(...own) / 1.5 && x <= Math.max(...own) * 1.5;
  const look = {
    type: "scatter", mode: "lines+markers", legendgroup: "published", line: {color: "#57606a", dash: "dot", width: 1},
    marker: {symbol: "x-thin", size: 7, line: {width: 1, color: "#57606a"}},
  };
  const traces = found.map(({name, points}) => [name, points.filter(([x]) => near(x))]).filter(([, points]) => points.length);
  return traces.map(([name, points]) => ({
    ...look, name: `${escaped(name)} (published)`, showlegend: false, x: points.map(p => p[0]), y: points.map(p => p[1]),
    hovertemplate: `${escaped(name)}, published: %{y}<extra></extra>`,
  })).concat(traces.length ? [{...look, name: "published, same protocol and model", x: [null], y: [null]}] : []);
}

// Published values: those of the same protocol are in the plot too, of the others it says what differs.
function papers(metric) {
  const found = publishedOf(metric), box = $("papers");
  $("published").style.display = found.length ? "" : "none";
  box.replaceChildren();
  const table = element("table", null, box), head = element("tr", null, table);
  for (const text of ["curve", `${metric} at NFE`, "source", "what differs from these cells"]) element("th", text, head);
  for (const one of found) {
    const row = element("tr", null, table);
    element("td", one.name, row);
    element("td", one.points.map(([nfe, value]) => `${nfe}: ${value}`).join(", "), row);
    element("td", one.source, row);
    const unknown = one.unknown.length ? ` Not recorded: ${one.unknown.join(", ")}.` : "";
    element("td", (one.differs.length ? `${one.differs.join("; ")}.` : "Nothing that is recorded: it is in the plot.") + unknown, row);
  }
}

function grids(cells, metric, best) {
  const box = $("grids"), failed = $("failed");
  box.replaceChildren(); failed.replaceChildren();
  const costs = [...new Set(cells.map(c => c.nfe))].sort((a, b) => a - b);
  const table = element("table", null, box), head = element("tr", null, table);
  element("th", "NFE", head);
  for (const nfe of costs) element("th", String(nfe), head);
  for (const [name, group] of lines(cells)) {
    const row = element("tr", null, table);
    element("td", name, row);
    for (const nfe of costs) {
      const box = element("td", null, row), cell = group.find(c => c.nfe === nfe);
      if (!cell) continue;
      if (cell.picture) {
        const prompts = cell.columns ?? [], width = `${Math.max(148, 56 * prompts.length)}px`;
        const words = element("div", null, box, "columns");  // the prompts, each above its images
        for (const text of prompts) element("span", text, words).title = text;
        const img = element("img", null, box); img.src = cell.picture; img.loading = "lazy";
        words.style.width = img.style.width = width;
      }
      element("span", cell.error ? "failed" : number(scoreOf(cell, metric).value), box, best.has(cell) ? "best" : "");
    }
  }
  for (const name of new Set(cells.filter(c => c.strength).map(label))) element("div", `${name}: ${cells.find(c => label(c) === name).strength}`, failed);
  const broken = cells.filter(c => c.error);
  if (broken.length) element("h2", "Failed cells", failed);
  for (const c of broken) element("div", `${label(c)}, NFE ${c.nfe}: ${c.error}`, failed);
}

// Scores over trainings that differ by their seed alone, and what they say of differences.
function trainings() {
  const box = $("panels"), interval = row => `[${row.interval.map(digits).join(", ")}]`;
  const cell = c => `${[c.sampler, c.guided].filter(Boolean).join(" ")}@${c.nfe}`;
  $("trainings").style.display = data.panels.length ? "" : "none";
  for (const panel of data.panels) {
    element("p", `${panel.trainings} trainings${data.panels.length > 1 ? ` of ${panel.what}` : ""}: ${panel.runs.join(", ")}`, box);
    const table = element("table", null, box), head = element("tr", null, table);
    const names = ["cell", "metric", "n", "mean", `${number(100 - 100 * panel.level)} % interval`, "sd of training", "sd of draws"];
    for (const text of names) element("th", text, head);
    for (const row of panel.cells) {
      const sd = v => v === null || v === undefined ? "" : digits(v), line = element("tr", null, table);
      const texts = [cell(row), row.metric, String(row.n), digits(row.mean), interval(row), sd(row.training_sd), sd(row.draw_sd)];
      for (const text of texts) element("td", text, line);
    }
    for (const one of panel.differences) {
      const needed = one.seeds_needed ? `; some ${one.seeds_needed.toLocaleString("en")} seeds would show a difference of this size` : "";
      const verdict = one.sure ? "sure over trainings" : `undecided${needed}`;
      element("div", `${cell(one.other)} less ${cell(one.best)}: ${digits(one.mean)}, interval ${interval(one)}: ${verdict}`, box);
    }
    for (const one of panel.left_out || []) element("div", `${cell(one)} is left out: ${one.why}.`, box);
  }
}

// What trainings spent, and which scores are of features that the training saw.
function spent() {
  const box = $("spent"), known = data.spent;
  if (!known.length) return;
  const table = element("table", null, box), head = element("tr", null, table);
  const columns = [["run", "run"], ["training_images", "images"], ["training_calls", "network calls"], ["teacher_calls", "a teacher's calls"],
    ["models_before", "teachers' and the start's own training"], ["before_sampling", "all together"]];
  for (const [, text] of columns) element("th", text, head);
  for (const one of known) {
    const row = element("tr", null, table);
    for (const [key] of columns) element("td", (key === "run" ? one.run : one[key]?.toLocaleString("en")) ?? "not recorded", row);
  }
  for (const one of known) for (const why of one.circular) element("div", `${one.run}: ${why}; do not rank it with the others by that score.`, box);
}

function curve() {
  const traces = [];
  let second = false;
  for (const {run, lines} of data.curves)
    for (const [name, {x, y}] of Object.entries(lines)) {
      const score = name !== "train/loss";
      second ||= score;
      traces.push({x, y, name: escaped(manyRuns ? `${run} · ${name}` : name), type: "scatter", mode: score || x.length === 1 ? "lines+markers" : "lines", yaxis: score ? "y2" : "y"});
    }
  if (!traces.length) { $("training").style.display = data.spent.length ? "" : "none"; return; }
  const values = right => traces.filter(t => (t.yaxis === "y2") === right).flatMap(t => t.y);
  const axis = (right, title) => {
    const ys = values(right), log = ys.length > 0 && ys.every(v => v > 0);
    return {title: {text: title, standoff: 10}, automargin: true, type: log ? "log" : "linear", gridcolor: "#e8ecf0", ...(log ? logTicks(ys) : {})};
  };
  Plotly.newPlot("curve", traces, {
    font, margin: {l: 64, r: 64, t: 30, b: 50}, xaxis: {title: {text: "images seen", standoff: 12}, gridcolor: "#e8ecf0", rangemode: "tozero"},
    yaxis: axis(false, "train/loss"),
    ...(second ? {yaxis2: {...axis(true, "score"), overlaying: "y", side: "right", showgrid: false}} : {}),
    legend: {orientation: "h", x: 0, y: -0.25, yanchor: "top"}, showlegend: true, hovermode: "closest",
  }, {responsive: true, displaylogo: false});
}

// The losses of models by noise level.
function profiles() {
  if (!data.profiles.length) { $("profiles").style.display = "none"; return; }
  const traces = data.profiles.map(({name, lam, loss, error}) => ({
    name: escaped(name), type: "scatter", mode: "lines+markers", x: lam, y: loss,
    error_y: {type: "data", array: error, thickness: 1.2, width: 3},
  }));
  Plotly.newPlot("losses", traces, {
    font, margin: {l: 64, r: 12, t: 10, b: 50}, hovermode: "closest", showlegend: true, legend: {orientation: "h", x: 0, y: -0.25, yanchor: "top"},
    xaxis: {title: {text: "half log-SNR (left: noise)", standoff: 12}, gridcolor: "#e8ecf0", zeroline: false},
    yaxis: {title: {text: "loss of v", standoff: 10}, automargin: true, type: "log", gridcolor: "#e8ecf0", ...logTicks(traces.flatMap(t => t.y))},
  }, {responsive: true, displaylogo: false, displayModeBar: false});
}

function metrics() {
  const cells = data.cells.filter(c => c.group === $("measure").value), names = [...new Set(cells.flatMap(c => Object.keys(c.scores || {})))];
  const before = $("metric").value;
  $("metric").replaceChildren();
  for (const name of names) option($("metric"), name, name);
  // Decided cells are compared by the metric that decided.
  const own = cells.find(c => c.stopped)?.metric;
  if (names.includes(own ?? before)) $("metric").value = own ?? before;
}
