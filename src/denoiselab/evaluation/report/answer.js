// Which sampler is best at a budget, and how sure that is: from the comparisons of pairs that the page holds.
"use strict";

const COSTS = {
  nfe: {unit: "calls", axis: "NFE (network calls a sample)", scale: 1},
  network_evaluations: {unit: "evaluations", axis: "network evaluations a sample", scale: 1},
  ms_per_sample: {unit: "ms", axis: "milliseconds a sample, in batches on one device", scale: 1},
  flops_per_sample: {unit: "GFLOPs", axis: "GFLOPs a sample (the network's calls)", scale: 1e-9},
  seconds_per_1k_images: {unit: "s per 1,000", axis: "seconds per 1,000 samples, by the clock, all devices", scale: 1},
};
const costOf = (cell, cost) => cell[cost] === null || cell[cost] === undefined ? null : cell[cost] * COSTS[cost].scale;

// The budgets at which something changes: the costs of the cells.
const budgets = (cells, cost) => [...new Set(cells.map(c => costOf(c, cost)))].sort((a, b) => a - b);

const scoreOf = (cell, metric) => (cell.scores || {})[metric] || {value: null, standard_error: null};
const lossOf = (cell, metric) => {
  const {value, lower_is_better} = scoreOf(cell, metric);
  return value === null ? null : lower_is_better === false ? -value : value;
};

// The comparison of all pairs that a cell is one of, as it was computed when the page was written, and its place there.
function comparisonOf(cell, metric) {
  const number = data.cells.indexOf(cell);
  const comparison = data.comparisons.find(c => c.metric === metric && c.cells.includes(number));
  return comparison ? {comparison, place: comparison.cells.indexOf(number)} : null;
}

// What is compared of a cell, its sign changed where more is better: at infinite n, or at n. Cells of different n have
// different biases at n.
function comparedLoss(cell, metric) {
  const found = comparisonOf(cell, metric);
  if (!found) return lossOf(cell, metric);
  const value = found.comparison.values[found.place];
  return scoreOf(cell, metric).lower_is_better === false ? -value : value;
}

// The loss of a minus that of b, with its standard error and the verdict of a; null where the two were not compared.
function versus(a, b, metric) {
  const first = comparisonOf(a, metric), second = comparisonOf(b, metric);
  if (!first || first.comparison !== second?.comparison) return null;
  const {comparison, place: i} = first, j = second.place;
  if (i === j) return {difference: 0, error: 0, half: 0, paired: true, verdict: "tie"};
  const [low, high] = i < j ? [i, j] : [j, i];
  const at = low * (2 * comparison.cells.length - low - 1) / 2 + high - low - 1;  // upper triangle, by rows
  const error = comparison.error[at], difference = (i < j ? 1 : -1) * comparison.difference[at], own = comparison.verdict[at];
  if (error === null) return null;
  const verdict = i < j ? own : {better: "worse", worse: "better"}[own] ?? own;
  return {difference, error, half: comparison.critical * error, paired: comparison.paired[at] === 1, verdict, n: comparison.n?.[at]};
}

// The kind of each cell's mark: its standing, or lowest and higher where cells were not compared and only values decide.
function marks(cells, metric, cost) {
  return new Map(cells.map(cell => {
    const found = comparisonOf(cell, metric), standing = found?.comparison.standings[cost]?.[found.place];
    const rivals = cells.filter(c => c !== cell && !c.other_code === !cell.other_code && costOf(c, cost) <= costOf(cell, cost));
    const lowest = rivals.every(c => lossOf(c, metric) > lossOf(cell, metric)) ? "lowest" : "higher";
    return [cell, standing ?? (rivals.length ? lowest : "sure")];
  }));
}

// The best cell within a budget, those that tie with it, and those that another is surely better than: one cell a line.
function ranking(cells, metric, cost, budget) {
  const within = cells.filter(c => lossOf(c, metric) !== null && costOf(c, cost) !== null && costOf(c, cost) <= budget * (1 + 1e-9));
  const present = within.filter(c => !c.other_code), fair = present.length ? present : within;
  const rows = [];
  for (const [name, group] of lines(fair)) {
    const cell = group.reduce((a, b) => comparedLoss(b, metric) < comparedLoss(a, metric) ? b : a);
    rows.push({name, cell, cells: [cell], value: scoreOf(cell, metric).value, error: scoreOf(cell, metric).standard_error});
  }
  rows.sort((a, b) => comparedLoss(a.cell, metric) - comparedLoss(b.cell, metric) || costOf(a.cell, cost) - costOf(b.cell, cost));
  const beaten = row => rows.find(other => versus(row.cell, other.cell, metric)?.verdict === "worse");
  for (const row of rows) {
    row.against = row === rows[0] ? null : versus(row.cell, rows[0].cell, metric);
    row.verdict = row === rows[0] ? "best" : row.against === null ? "not compared" : beaten(row) ? "surely worse" : "tie";
    const than = row.verdict === "surely worse" ? beaten(row) : rows[0];
    if (than !== rows[0]) row.than = {name: than.name, against: versus(row.cell, than.cell, metric)};  // the best one ties
  }
  // Cheaper cells, of any line, that are not told from the best.
  const cheaper = rows.length === 0 ? [] : fair.filter(c => {
    const against = costOf(c, cost) < costOf(rows[0].cell, cost) ? versus(c, rows[0].cell, metric) : null;
    return against !== null && against.verdict !== "worse";
  });
  cheaper.sort((a, b) => costOf(a, cost) - costOf(b, cost));
  return {rows, cheaper: cheaper[0] ?? null};
}

// The panel of trainings that has all runs of the cells, if any: its means are ranked, as ranking seeds says nothing.
const panelOf = (cells, metric) => data.panels.find(p => new Set(cells.map(c => c.run)).size > 1
  && cells.every(c => p.runs.includes(c.run)) && p.cells.some(row => isOf(row, metric)));
const isOf = (row, metric) => [metric, `${metric}_infinity`].includes(row.metric);

// As `ranking`, of the means over the trainings of a panel, each line at the most calls within the budget, as a panel
// compares cells of equal calls. Samples and details are those of the first training.
function meanRanking(panel, cells, metric, cost, budget) {
  const best = new Map();
  for (const mean of panel.cells.filter(row => isOf(row, metric))) {
    const own = cells.filter(c => mean.cells.includes(c.cell)), costs = own.map(c => costOf(c, cost));
    if (!own.length || costs.some(v => v === null || v > budget * (1 + 1e-9))) continue;
    const sign = scoreOf(own[0], metric).lower_is_better === false ? -1 : 1, name = own[0].series;
    const row = {name, cell: own[0], cells: own, value: mean.mean, error: mean.standard_error, loss: sign * mean.mean, mean, sign};
    if (!best.has(name) || mean.nfe > best.get(name).mean.nfe) best.set(name, row);
  }
  const rows = [...best.values()].sort((a, b) => a.loss - b.loss);
  const same = (a, b) => ["sampler", "nfe", "weights", "guided"].every(key => a[key] === b[key]);
  for (const row of rows) {
    const found = panel.differences.find(d => isOf(d, metric) && same(d.best, rows[0].mean) && same(d.other, row.mean));
    row.against = found ? {difference: row.sign * found.mean, half: (found.interval[1] - found.interval[0]) / 2, paired: true, seeds: found.seeds_needed} : null;
    row.verdict = row === rows[0] ? "best" : !found ? "not compared" : found.sure ? "surely worse" : "tie";
  }
  return {rows, cheaper: null, panel};
}

// How sure the answer over trainings is.
function sureOfMeans(rows, panel) {
  const of = verdict => rows.filter(r => r.verdict === verdict), listed = part => part.map(r => r.name).join(", ");
  const ties = of("tie"), worse = of("surely worse"), unknown = of("not compared");
  const seeds = ties.length && ties.every(r => r.against.seeds) ? Math.max(...ties.map(r => r.against.seeds)) : null;
  return (rows.length === 1 ? "There is no other line to compare it with."
    : unknown.length === rows.length - 1 ? "" : (ties.length ? "Not sure over trainings which of them" : `Sure over trainings at the ${number(100 * panel.level)} % level`)
      + (worse.length ? `${ties.length ? "; surely worse" : ": better than"}${ties.length ? ":" : ""} ${listed(worse)}` : "") + "."
      + (seeds ? ` Some ${seeds.toLocaleString("en")} trainings would tell them apart, if the differences stay.` : ""))
    + (unknown.length ? ` Not compared, as they take other numbers of calls: ${listed(unknown)}.` : "")
    + (rows[0].mean.metric.endsWith("_infinity") ? " Means are of values at infinite n." : "");
}

// What is below the difference of a line from the best.
const differenceNotes = ({against, than}) => [...(against?.n ? [`at n = ${against.n.toLocaleString("en")}`] : []),
  ...(than ? [`minus ${than.name}: ${giveDifference(than.against)}`] : [])];

// Samples a cell that would tell a pair apart, if the difference stays as it is.
function samplesToDecide(cell, against) {
  if (!against || against.difference === 0) return null;
  return cell.n * (against.half / against.difference) ** 2;
}

const atCost = (value, cost) => cost === "nfe" && value === 1 ? "1 call" : `${number(+value.toPrecision(3))} ${COSTS[cost].unit}`;
const called = ({name, cell}) => cell.grid && !name.includes("@") ? `${name} on ${cell.grid}` : name;

// The answer in words: a sentence, and how sure it is.
function answer({rows, cheaper, panel}, metric, cost, budget) {
  if (rows.length === 0) return {headline: `At ${atCost(budget, cost)}: no cell costs so little.`, sure: ""};
  const best = rows[0], own = costOf(best.cell, cost), mean = panel ? `, mean of ${panel.trainings} trainings` : "";
  const ties = rows.filter(r => r.verdict === "tie"), worse = rows.filter(r => r.verdict === "surely worse");
  const unknown = rows.filter(r => r.verdict === "not compared");
  const listed = part => part.map(r => r.name + (r.than ? ` (than ${r.than.name})` : "")).join(", ");
  let headline = `At ${atCost(budget, cost)}${mean}: ${called(best)}, ${give(best.value, best.error)}`;
  if (Math.abs(own - budget) > 1e-6 * budget) headline += ` (it takes ${atCost(own, cost)})`;
  if (ties.length) headline += `; ties: ${listed(ties)}`;
  headline += ".";
  if (panel) return {headline, sure: sureOfMeans(rows, panel)};
  let sure;
  if (rows.length === 1) sure = "There is no other line to compare it with.";
  else if (unknown.length) sure = `Not known to be sure: no standard error of ${metric} for ${listed(unknown)}.`;
  else if (ties.length === 0) sure = `Sure at the ${level(best.cell, metric)} level of all pairs at once: better than ${listed(worse)}.`;
  else {
    const needed = Math.max(...ties.map(r => samplesToDecide(r.cell, r.against) ?? Infinity));
    sure = "Not sure which of them" + (worse.length ? `; surely worse: ${listed(worse)}` : "") + "."
      + (needed > 1e6 && Number.isFinite(needed) ? " More than a million samples a cell would have to tell them apart, if the differences stay."
        : Number.isFinite(needed) ? ` About ${(+needed.toPrecision(2)).toLocaleString("en")} samples a cell would tell them apart, if the differences stay.` : "");
  }
  const against = rows.map(r => r.against).filter(Boolean), unpaired = against.filter(a => !a.paired).length;
  if (new Set(rows.map(r => r.cell.n)).size > 1) sure += " Cells have different n: they are ranked by their values at infinite n, and a difference is at the n that both have.";
  if (unpaired) sure += ` ${unpaired === against.length ? "The" : "Some"} differences are unpaired: cells have no stored influences.`;
  if (cheaper) sure += ` As good for less: ${cheaper.series} at ${atCost(costOf(cheaper, cost), cost)}, ${digits(scoreOf(cheaper, metric).value)}.`;
  return {headline, sure};
}

const levelOf = (cell, metric) => comparisonOf(cell, metric)?.comparison.level ?? 0.05;
const level = (cell, metric) => `${number(100 * levelOf(cell, metric))} %`;

// A score with two or more significant digits.
function digits(score) {
  const size = Math.abs(score);
  return size >= 0.1 ? score.toFixed(2) : size >= 0.001 || size === 0 ? score.toFixed(4) : score.toPrecision(2);
}

// A value with its error, to as many decimals; to more where the error has no digit then.
function give(value, error) {
  const text = digits(value), decimals = (text.split(".")[1] ?? "").length;
  if (error === null) return text;
  const shown = error.toFixed(decimals);
  return `${text} ± ${+shown === 0 && error > 0 ? error.toPrecision(1) : shown}`;
}

// A difference to as many decimals as the half width of its interval.
function giveDifference({difference, half}) {
  const text = digits(half), decimals = (text.split(".")[1] ?? "").length;
  return `${difference < 0 ? "−" : "+"}${Math.abs(difference).toFixed(Math.min(decimals, 8))} ± ${text}`;
}
