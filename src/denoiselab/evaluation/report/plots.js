// The page: list, plot, samples, training, configuration.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const manyRuns = new Set(data.cells.map(c => c.run)).size > 1;
const colors = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22"];
const number = v => v === null || v === undefined ? "" : typeof v === "number" ? String(+v.toPrecision(5)) : String(v);
// A budget that is not rounded below the cost that it is of, so that the cell of that cost is within it.
const enough = v => +number(v) >= v ? number(v) : number(+number(v) + 10 ** (Math.floor(Math.log10(v)) - 4));
const element = (tag, text, parent, cls) => {
  const e = document.createElement(tag);
  if (text !== null) e.textContent = text;
  if (cls) e.className = cls;
  if (parent) parent.appendChild(e);
  return e;
};
const option = (select, value, text) => { element("option", text, select).value = value; };

// The cells shown: one way of measuring; of each run the checkpoint that was measured last, or all of them.
// Cells are in the order in which they were measured.
function shown() {
  const cells = data.cells.filter(c => c.group === $("measure").value);
  if ($("history").checked) return cells;
  const latest = new Map(cells.map(c => [c.run, c.images_seen]));
  return cells.filter(c => c.images_seen === latest.get(c.run));
}

// Cells by the name of their line. A name may be any text, "__proto__" too.
function lines(cells) {
  const groups = new Map();
  for (const c of cells) groups.set(label(c), [...(groups.get(label(c)) ?? []), c]);
  return [...groups];
}

function label(cell) {
  const parts = [cell.series];
  if ($("history").checked) parts.unshift(`${cell.images_seen.toLocaleString("en")} images`);
  if (manyRuns) parts.unshift(cell.run);
  return parts.join(" · ");
}

// Ticks of a logarithmic axis in plain numbers; more to a decade where there are few decades. A lone value has two
// decades around it, and its own tick; those near each other have plotly's ticks, which are finer.
function logTicks(values) {
  const low = Math.min(...values), high = Math.max(...values), decades = Math.log10(high / low);
  if (low === high) return {tickvals: [low], ticktext: [number(low)]};
  if (!(low > 0) || decades > 4 || decades < 0.1) return {};
  const steps = decades < 0.7 ? [1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9] : decades < 1.5 ? [1, 2, 3, 5, 7] : decades < 2.5 ? [1, 2, 5] : [1];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)) - 1; power <= Math.ceil(Math.log10(high)); power++)
    for (const step of steps) ticks.push(+(step * 10 ** power).toPrecision(2));
  return {tickvals: ticks, ticktext: ticks.map(number)};
}

// The costs that cells have, without those whose labels would run into another's.
function costTicks(values, log) {
  const all = [...new Set(values)].sort((a, b) => a - b), place = v => log ? Math.log(v) : v;
  const room = (place(all.at(-1)) - place(all[0])) * 24 / Math.max(240, $("frontier").clientWidth - 80);
  const kept = [];
  for (const v of all.reverse()) if (!kept.length || place(kept.at(-1)) - place(v) >= room) kept.push(v);
  return {tickvals: kept, ticktext: kept.map(number)};
}

// Whether an axis is logarithmic: values that have no logarithm would be missing without a word.
function isLog(box, values) {
  const possible = values.every(v => v > 0);
  $(box).disabled = !possible;
  $(box).parentElement.classList.toggle("off", !possible);
  $(box).parentElement.title = possible ? "" : "Some values are not positive: the axis is linear.";
  return possible && $(box).checked;
}

function protocol(cell, metric) {
  const score = scoreOf(cell, metric);
  const error = score.standard_error === null ? "" : ` ± ${number(score.standard_error)}`;
  return [
    ["run", cell.run], ["sampler", cell.sampler], ...(cell.stopped ? [["samples", `${cell.n.toLocaleString("en")}: ${cell.stopped}`]] : []), ...(cell.settings ? [["settings", cell.settings]] : []), ["NFE", cell.nfe], ["steps", cell.steps],
    ["evaluations", cell.network_evaluations + (cell.guide_evaluations ? `, of the guide ${cell.guide_evaluations}` : "")], ...time(cell), [metric, number(score.value) + error],
    ["weights", cell.weights], ["guidance", cell.guidance === null ? "none" : cell.guided || cell.guidance], ...(cell.strength ? [["guidance", cell.strength]] : []),
    ["images seen", cell.images_seen === null ? "" : cell.images_seen.toLocaleString("en")], ["measure", ["metric", "n", "data", "seed", "extractor", "reference"].map(key => cell.measure[key]).join(", ")],
    ["s per 1,000", number(cell.seconds_per_1k_images) + (cell.devices ? ` on ${cell.devices} × ${cell.device_name || cell.device}` : "")],
    ["peak memory", `${number(cell.peak_memory_mb)} MB (${cell.device})`],
    ["weights sha256", cell.weights_sha256.slice(0, 16)], ["protocol", cell.cell.slice(0, 16)],
    ...(cell.measure.options ? [["metric options", cell.measure.options]] : []), ["code", cell.code], ...(cell.versions ? [["versions", cell.versions]] : []),
    ...(cell.git ? [["git", cell.git.slice(0, 12) + (cell.git_changes ? " with changes" : "")]] : []),
  ];
}

// What was measured of a cell's time and operations.
function time(cell) {
  if (cell.ms_per_sample === null) return [];
  const guided = cell.evaluation_ms === null ? "" : `, one evaluation ${number(cell.evaluation_ms)}`;
  return [
    ["ms a sample", number(cell.ms_per_sample)],
    [`ms of ${cell.timed_batch}`, `call ${number(cell.call_ms)}${guided}; step without calls ${number(cell.rule_ms)}; decoding ${number(cell.decode_ms)}`],
    ...(cell.flops_per_sample === null ? [] : [["GFLOPs a sample", number(cell.flops_per_sample / 1e9)]]),
  ];
}

function detail(cell) {
  const box = $("detail");
  box.replaceChildren();
  if (cell.picture) element("img", null, box).src = cell.picture;
  const table = element("table", null, box);
  for (const [key, value] of protocol(cell, $("metric").value)) {
    const row = element("tr", null, table);
    element("td", key, row); element("td", String(value), row);
  }
}

const font = {family: "system-ui, sans-serif", size: 12, color: "#1f2328"};
const escaped = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");

// The colour of each line, the same in the list and in the plot.
const colorOf = cells => new Map(lines(cells).map(([name], i) => [name, colors[i % colors.length]]));

const MARKS = {
  sure: {symbol: "circle", size: 10, opacity: 1, says: unit => `surely better than all cells of no more ${unit}`},
  tied: {symbol: "circle-open", size: 10, opacity: 1, says: unit => `ties with a cell of no more ${unit}`},
  dominated: {symbol: "circle", size: 7, opacity: 0.35, says: unit => `surely worse than a cell of no more ${unit}`},
  lowest: {symbol: "diamond", size: 10, opacity: 1, says: unit => `best value for its ${unit}, not tested`},
  higher: {symbol: "circle", size: 7, opacity: 0.35, says: unit => `not the best value for its ${unit}, not tested`},
};

// Draw everything for the present choices.
function draw() {
  const metric = $("metric").value, cost = $("cost").value;
  const all = shown(), scored = all.filter(c => scoreOf(c, metric).value !== null);
  const cells = scored.filter(c => costOf(c, cost) !== null);
  const palette = colorOf(scored), ranked = rank(cells, metric, cost, palette);
  plot(cells, metric, cost, palette, ranked);
  count(all, cells, scored, metric, cost);
  grids(all, metric, new Set(ranked.rows[0]?.cells));
  papers(metric);
}

// Verdicts of a training are no verdicts on methods.
const oneTraining = data.panels.length ? "" : ` One training${manyRuns ? " each" : ""}: verdicts are about ${manyRuns ? "these models" : "this model"}; a page of runs with other seeds is about methods.`;

// Sentence, list and pictures of the chosen budget.
function rank(cells, metric, cost, palette) {
  const steps = budgets(cells, cost), field = $("budget"), slide = $("slide");
  if (field.value === "" || !(+field.value >= 0))
    field.value = enough(steps.includes(10) || cost !== "nfe" ? Math.max(...steps.filter(s => cost !== "nfe" || s <= 10)) : steps.findLast(s => s <= 10) ?? steps[0] ?? 10);
  const budget = +field.value;
  slide.max = Math.max(0, steps.length - 1);
  slide.value = Math.max(0, steps.findLastIndex(s => s <= budget * (1 + 1e-9)));
  const panel = panelOf(cells, metric), ranked = panel ? meanRanking(panel, cells, metric, cost, budget) : ranking(cells, metric, cost, budget);
  const said = answer(ranked, metric, cost, budget), sureness = panel?.level ?? (ranked.rows.length ? levelOf(ranked.rows[0].cell, metric) : 0.05);
  $("headline").textContent = said.headline; $("sure").textContent = said.sure + (data.panels.length && !panel ? " This is about these trained models; samplers over seeds of training are compared below." : "");
  const table = $("ranking"), three = $("three"), {rows} = ranked, most = window.innerWidth < 720 ? 6 : 8;
  table.replaceChildren(); three.replaceChildren();
  const head = element("tr", null, table);
  for (const [text, cls] of [[`within ${atCost(budget, cost)}`], [`${panel ? "mean" : metric} ± s.e.`, "figure"], [`minus the best, ${number(100 - 100 * sureness)} %`, "figure"], [""]]) element("th", text, head, cls);
  for (const row of rows.slice(0, most)) {
    const {cell, against, verdict} = row, line = element("tr", null, table, {best: "best", tie: "tie", "surely worse": "worse"}[verdict] ?? "");
    const name = element("td", null, line);
    element("span", null, name, "swatch").style.background = palette.get(label(cell));
    element("span", row.name, name);
    if (costOf(cell, cost) < budget * (1 - 1e-9)) element("span", ` at ${atCost(costOf(cell, cost), cost)}`, name, "note");
    if (cell.stopped) element("div", `n = ${cell.n.toLocaleString("en")}, ${cell.stopped.replace(/ (than|after) .*/, "")}`, name, "note");
    element("td", give(row.value, row.error), line, "figure");
    const apart = element("td", against ? giveDifference(against) : "", line, "figure");
    for (const note of differenceNotes(row)) element("div", note, apart, "note");
    element("span", verdict, element("td", null, line), "verdict");
    line.tabIndex = 0;
    for (const event of ["click", "focus"]) line.addEventListener(event, () => detail(cell));
  }
  if (rows.length > most) {
    const rest = rows.slice(most), line = element("tr", null, table), same = new Set(rest.map(r => r.verdict)).size === 1;
    element("td", `and ${rest.length} more${same ? `: ${rest[0].verdict}` : ""}`, line, "note").colSpan = 4;
  }
  // The three best, side by side.
  for (const {name, cell} of rows.slice(0, 3).filter(r => r.cell.picture)) {
    const figure = element("figure", null, three);
    const image = element("img", null, figure); image.src = cell.picture; image.alt = `samples of ${name}`;
    element("figcaption", `${name}, ${panel ? `${cell.run}: ` : ""}${digits(scoreOf(cell, metric).value)}`, figure);
  }
  if (rows.length) detail(rows[0].cell); else $("detail").replaceChildren();
  return ranked;
}

function plot(cells, metric, cost, palette, ranked) {
  const kinds = marks(cells, metric, cost), verdicts = new Map(ranked.rows.flatMap(r => ranked.panel ? [] : [[r.cell, r.verdict]]));
  const traces = lines(cells).map(([line, group], i) => {
    group.sort((a, b) => costOf(a, cost) - costOf(b, cost));
    const color = palette.get(line), kind = group.map(c => MARKS[kinds.get(c)]);
    return {
      name: escaped(line), type: "scatter", mode: "lines+markers", showlegend: false, legendgroup: `line ${i}`,
      x: group.map(c => costOf(c, cost)), y: group.map(c => scoreOf(c, metric).value),
      customdata: group.map(c => data.cells.indexOf(c)), line: {color},
      marker: {symbol: kind.map(k => k.symbol), size: kind.map(k => k.size), opacity: kind.map(k => k.opacity), color, line: {width: 2, color}},
      error_y: {type: "data", visible: $("errors").checked, array: group.map(c => scoreOf(c, metric).standard_error ?? 0), thickness: 1.2, width: 3},
      hoverlabel: {bordercolor: color},
      text: group.map(c => `${escaped(line)}, ${atCost(costOf(c, cost), cost)}: ${digits(scoreOf(c, metric).value)}`
        + (verdicts.has(c) ? `, ${verdicts.get(c)}` : "") + `<br>${MARKS[kinds.get(c)].says(COSTS[cost].unit)}`),
      hovertemplate: "%{text}<extra></extra>",
    };
  });
  // The legend would show a trace's first marker, whatever its kind.
  const keys = traces.map(t => ({
    name: t.name, legendgroup: t.legendgroup, type: "scatter", mode: "lines+markers", x: [null], y: [null], line: t.line,
    marker: {symbol: "circle", size: 8, color: t.line.color},
  }));
  for (const kind of Object.keys(MARKS).filter(k => [...kinds.values()].includes(k)))
    keys.push({
      name: MARKS[kind].says(COSTS[cost].unit), type: "scatter", mode: "markers", x: [null], y: [null],
      marker: {symbol: MARKS[kind].symbol, size: MARKS[kind].size, opacity: MARKS[kind].opacity, color: "#222", line: {width: 2, color: "#222"}},
    });
  keys.push(...theirs(cells, metric, cost));
  const shapes = [], floor = floorOf(cells, metric), budget = +$("budget").value;
  if (floor !== null) shapes.push({type: "line", xref: "paper", x0: 0, x1: 1, y0: floor, y1: floor, line: {dash: "dash", width: 1, color: "#888"}});
  const xs = cells.map(c => costOf(c, cost)), ys = cells.map(c => scoreOf(c, metric).value);
  const xlog = isLog("xlog", xs), ylog = isLog("ylog", ys);
  if (budget > 0 && xs.length && budget <= Math.max(...xs) * 1.5)
    shapes.push({type: "line", yref: "paper", x0: budget, x1: budget, y0: 0, y1: 1, line: {dash: "dot", width: 1, color: "#57606a"}});
  const axis = {gridcolor: "#e8ecf0", linecolor: "#8c959f", showline: true, ticks: "outside", tickcolor: "#8c959f", zeroline: false};
  const continuous = !["nfe", "network_evaluations"].includes(cost);
  const lower = cells.length === 0 || scoreOf(cells[0], metric).lower_is_better !== false;
  const xTicks = xs.length === 0 ? {} : !continuous ? costTicks(xs, xlog) : xlog ? logTicks(xs) : {};
  Plotly.react("frontier", [...traces, ...keys], {
    font, margin: {l: 64, r: 12, t: 10, b: 50}, hovermode: "closest", shapes,
    hoverlabel: {align: "left", bgcolor: "#fff", font: {size: 11, color: "#1f2328"}},
    xaxis: {...axis, title: {text: COSTS[cost].axis, standoff: 12}, type: xlog ? "log" : "linear", automargin: true, ...xTicks},
    yaxis: {
      ...axis, title: {text: `${escaped(metric)} (${lower ? "lower" : "higher"} is better)`, standoff: 12}, automargin: true,
      type: ylog ? "log" : "linear", ...(ylog && ys.length ? logTicks(floor === null ? ys : [...ys, floor]) : {}),
    },
    legend: {orientation: "h", x: 0, y: $("frontier").clientWidth < 500 ? -0.3 : -0.18, yanchor: "top"}, showlegend: true,
  }, {responsive: true, displaylogo: false, displayModeBar: false});
}

// The score of fresh data, or of the codec's reconstructions, by the primary metric.
function floorOf(cells, metric) {
  const floor = cells.map(c => c.floor ?? c.codec_score).find(f => f !== null && f !== undefined);
  return floor === undefined || cells[0].metric !== metric ? null : floor;
}

function count(all, cells, scored, metric, cost) {
  const without = all.filter(c => !c.error && scoreOf(c, metric).value === null);
  const reasons = [...new Set(without.map(c => scoreOf(c, metric).reason).filter(Boolean))];
  const comparison = cells.map(c => comparisonOf(c, metric)).find(Boolean)?.comparison;
  const ys = cells.map(c => scoreOf(c, metric).value);
  $("count").textContent = `${cells.length} of ${data.cells.length} cells shown.`
    + (comparison ? ` Verdicts are of all pairs at once, ${comparison.at === "infinity" ? "on the values at infinite n" : "at this n"}; the dotted line is the budget.${oneTraining}` : "")
    + (scored.length > cells.length ? ` ${scored.length - cells.length} have no ${COSTS[cost].unit}: they were scored before it was measured.` : "")
    + (without.length ? ` ${without.length} without a value of ${metric}${reasons.length ? ": " + reasons.join(" ") : "."}` : "")
    + (ys.every(v => v > 0) || !$("ylog").checked ? "" : " Some values are not positive: the axis is linear.")
    + (floorOf(cells, metric) === null ? "" : cells.some(c => c.codec_score) ? ` Dashed: the codec's reconstructions of held-out images.` : " Dashed: fresh data.")
    + (!cells.some(c => c.other_code) ? "" : cells.every(c => c.other_code) ? " Another version of the code scored these cells."
      : " code=...: scored by another version of the code, and compared among themselves.");
}

// The measure that most runs share comes first, and of those the one that was measured last. Each is named by what
// differs between them.
const runsOf = c => new Set(data.cells.filter(d => d.group === c.group).map(d => d.run)).size;
const measures = [...new Map(data.cells.map(c => [c.group, c])).values()];
measures.sort((a, b) => runsOf(b) - runsOf(a) || data.cells.lastIndexOf(b) - data.cells.lastIndexOf(a));
const differing = Object.keys(measures[0].measure).filter(key => new Set(measures.map(c => c.measure[key])).size > 1);
for (const c of measures) {
  const parts = (differing.length ? differing : ["metric", "n"]).map(key => c.measure[key] || `no ${key}`);
  const count = data.cells.filter(d => d.group === c.group).length;
  option($("measure"), c.group, `${parts.join(", ")}: ${count} cell${count === 1 ? "" : "s"}`);
}
metrics();
for (const [cost, {unit}] of Object.entries(COSTS))
  if (data.cells.some(c => costOf(c, cost) !== null)) option($("cost"), cost, `${unit} a sample`.replace("1,000 a sample", "1,000 samples"));
for (const id of ["history", "metric", "xlog", "ylog", "errors", "budget"]) $(id).addEventListener("change", draw);
$("measure").addEventListener("change", () => { metrics(); $("budget").value = ""; draw(); });
// In another unit the budget becomes what the best cell within the former one costs.
let unit = $("cost").value;
$("cost").addEventListener("change", () => {
  const metric = $("metric").value, {rows} = ranking(shown(), metric, unit, +$("budget").value);
  unit = $("cost").value;
  const own = rows.length ? costOf(rows[0].cell, unit) : null;
  $("budget").value = own === null ? "" : enough(own);
  draw();
});
$("slide").addEventListener("input", () => {
  const cells = shown().filter(c => scoreOf(c, $("metric").value).value !== null && costOf(c, $("cost").value) !== null);
  $("budget").value = enough(budgets(cells, $("cost").value)[+$("slide").value]);
  draw();
});
for (const {run, text} of data.configs) {
  const box = element("details", null, $("configs"));
  element("summary", run, box); element("pre", text, box);
}
draw();
$("frontier").on("plotly_hover", event => {
  const cell = data.cells[event.points[0].customdata];
  if (cell) detail(cell);
});
spent(); curve();
profiles();
trainings();
$("split").style.display = data.errors.length ? "" : "none";
for (const {run, picture} of data.errors) {
  if (manyRuns) element("p", run, $("errorsplit"));
  const image = element("img", null, $("errorsplit")); image.src = picture; image.alt = `error of solver and model, ${run}`;
}
