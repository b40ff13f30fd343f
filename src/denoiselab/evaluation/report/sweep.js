// The page of a sweep: the best job, parallel coordinates, and tables of seeds, jobs and what was lost.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);

function element(tag, text, parent, name) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  if (name) made.className = name;
  parent?.append(made);
  return made;
}

function table(box, heads, rows) {
  const made = element("table", null, box), head = element("tr", null, made);
  for (const text of heads) element("th", text, head);
  return rows.map(({texts, name, link}) => {
    const row = element("tr", null, made, name);
    texts.forEach((text, place) => {
      const cell = element("td", link && place === 0 ? null : text, row);
      if (link && place === 0) element("a", text, cell).href = link;
    });
    return row;
  });
}

// plotly reads some tags in its texts.
const escaped = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = text => text.length > 22 ? `${text.slice(0, 21)}…` : text;

// Coordinates of the jobs, as the picture of the sweep has them: the best one on top, those without a value dotted.
function draw(rows) {
  const last = data.axes.length - 1, narrow = window.innerWidth < 720, count = data.jobs.filter(job => job.final).length;
  const colour = order => `hsl(${265 - 205 * order / Math.max(1, count - 1)}, 60%, ${34 + 20 * order / Math.max(1, count - 1)}%)`;
  const look = place => !data.jobs[place].final ? {color: "#b6bec6", width: 1, dash: "dot"}
    : place === 0 ? {color: "#c8372d", width: 4} : {color: colour(place), width: 1.3};
  const traces = data.jobs.map((job, place) => {
    const points = data.axes.map((axis, x) => [x, axis.places[place]]).filter(([, y]) => y !== null);
    if (!job.final) points.push([last, -0.1]);
    return {
      type: "scatter", mode: "lines+markers", x: points.map(p => p[0]), y: points.map(p => p[1]), line: look(place),
      marker: {size: place === 0 && job.final ? 7 : 4}, hoverinfo: "text", text: points.map(() => escaped(job.hover)),
    };
  });
  const label = (x, y, text, other) => ({x, y, text: escaped(text), showarrow: false, font: {size: narrow ? 9 : 12}, ...other});
  const names = data.axes.map((axis, x) => label(x, 1.04, short(axis.name), {yanchor: "bottom", textangle: narrow ? -25 : 0, xanchor: x === last ? "right" : x ? "center" : "left"}));
  const ticks = data.axes.flatMap((axis, x) => axis.ticks.map(([y, text]) => label(x, y, short(text), {
    xanchor: "left", xshift: 5, bgcolor: "rgba(255,255,255,0.8)", borderpad: 0,
  })));
  const lost = data.jobs.some(job => !job.final) ? [label(last, -0.1, "no value", {xanchor: "left", xshift: 5})] : [];
  const shapes = data.axes.map((_, x) => ({type: "line", x0: x, x1: x, y0: 0, y1: 1, line: {color: "#57606a", width: 1}, layer: "below"}));
  const hidden = {visible: false, fixedrange: true};
  Plotly.newPlot("lines", traces.reverse(), {
    height: narrow ? 360 : 430, margin: {l: 12, r: narrow ? 50 : 80, t: 12, b: 6}, showlegend: false, hovermode: "closest", shapes,
    annotations: [...names, ...ticks, ...lost], xaxis: {...hidden, range: [-0.02, last + 0.02]}, yaxis: {...hidden, range: [lost.length ? -0.14 : -0.04, narrow ? 1.24 : 1.12]},
    font: {family: "system-ui, sans-serif", color: "#1f2328"},
  }, {responsive: true, displayModeBar: false});
  const traceOf = place => data.jobs.length - 1 - place;
  rows.forEach((row, place) => {
    row.onmouseenter = () => Plotly.restyle("lines", {line: {...look(place), color: "#1f2328", width: 4}}, [traceOf(place)]);
    row.onmouseleave = () => Plotly.restyle("lines", {line: look(place)}, [traceOf(place)]);
  });
  $("lines").on("plotly_hover", ({points}) => rows[traceOf(points[0].curveNumber)].classList.add("near"));
  $("lines").on("plotly_unhover", () => rows.forEach(row => row.classList.remove("near")));
}

function panels() {
  $("trainings").style.display = data.panels.length ? "" : "none";
  for (const panel of data.panels) {
    element("p", panel.title, $("panels"));
    table($("panels"), panel.heads, panel.rows.map(texts => ({texts})));
    for (const text of panel.sentences) element("div", text, $("panels"), "note");
  }
}

$("headline").textContent = data.headline;
for (const text of data.remarks) element("div", text, $("sure"));
$("counts").textContent = data.counts;
$("over").style.display = data.groups.length ? "" : "none";
table($("groups"), data.group_heads, data.groups.map((texts, place) => ({texts, name: place ? "" : "best"})));
const rows = table($("jobs"), data.job_heads, data.jobs.map((job, place) => ({texts: job.texts, link: job.link, name: job.final && place === 0 ? "best" : ""})));
$("lost").style.display = data.reasons.length ? "" : "none";
for (const text of data.reasons) element("div", text, $("reasons"));
$("again").style.display = data.commands.length ? "" : "none";
$("commands").textContent = data.commands.join("\n");
panels();
draw(rows);
