// Charts of curves over the steps, with the values under the pointer in the legend.
"use strict";

const COLOURS = 8;
const WIDTH = 420;
const HEIGHT = 170;
const LEFT = 62;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 20;

// A number in few characters.
function short(value) {
  if (typeof value !== "number") return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return size >= 100 ? value.toFixed(1) : value.toPrecision(3);
}

// The curves of a chart that have a number, without what its axis cannot show.
function visible(chart) {
  const curves = [];
  for (const curve of list(chart.curves)) {
    const points = [];
    list(curve.steps).forEach((step, place) => {
      const value = list(curve.values)[place];
      const fits = typeof value === "number" && (!chart.log || value > 0);
      points.push({ step, value: fits ? value : null });
    });
    curves.push({ name: String(curve.name), points });
  }
  return curves;
}

// Where steps and values are on the picture.
function scales(chart, curves) {
  const points = curves.flatMap((curve) => curve.points);
  const steps = points.map((point) => point.step);
  const values = points.map((point) => point.value).filter((value) => value !== null);
  const first = Math.min(...steps);
  const last = Math.max(...steps);
  const scaled = chart.log ? Math.log10 : Number;
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (low === high && !chart.log) {
    // A level line in the middle.
    low -= Math.abs(low) / 10 || 1;
    high += Math.abs(high) / 10 || 1;
  }
  const span = scaled(high) - scaled(low) || 1;
  return {
    first,
    last,
    marks: chart.log ? [low, Math.sqrt(low * high), high] : [low, (low + high) / 2, high],
    x: (step) => LEFT + ((WIDTH - LEFT - RIGHT) * (step - first)) / (last - first || 1),
    y: (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * (scaled(value) - scaled(low))) / span,
    hasValues: values.length > 0,
  };
}

function drawCurve(svg, curve, number, at) {
  const colour = `var(--c${number % COLOURS})`;
  let line = [];
  const flush = () => {
    if (line.length === 1) {
      const [x, y] = line[0].split(",");
      const dot = dom.svg("circle", { cx: x, cy: y, r: 2.5 });
      dot.style.fill = colour;
      svg.append(dot);
    } else if (line.length) {
      const path = dom.svg("polyline", { points: line.join(" "), class: "curve" });
      path.style.stroke = colour;
      // More curves than colours: the next ones are dashed.
      if (number >= COLOURS) path.style.strokeDasharray = "5 3";
      svg.append(path);
    }
    line = [];
  };
  // A step without a number is a gap.
  for (const { step, value } of curve.points) {
    if (value === null) flush();
    else line.push(`${at.x(step).toFixed(1)},${at.y(value).toFixed(1)}`);
  }
  flush();
}

function chartCard(chart) {
  const curves = visible(chart);
  const at = scales(chart, curves);
  const head = dom.make("h3", {}, String(chart.title));
  if (!at.hasValues) {
    return dom.make("div", { class: "card" }, head, dom.make("p", { class: "faint" }, "no number yet"));
  }
  const svg = dom.svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": chart.title });
  for (const value of at.marks) {
    const y = at.y(value).toFixed(1);
    svg.append(
      dom.svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y, class: "grid" }),
      dom.svg("text", { x: LEFT - 6, y: Number(y) + 4, "text-anchor": "end" }, short(value)),
    );
  }
  svg.append(
    dom.svg("text", { x: LEFT, y: HEIGHT - 4 }, `step ${at.first}`),
    dom.svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, `${at.last}`),
  );
  curves.forEach((curve, number) => drawCurve(svg, curve, number, at));
  const legend = dom.make("div", { class: "legends" });
  const tell = (step) => legend.replaceChildren(...legendOf(curves, step));
  tell(null);
  follow(svg, at, curves, tell);
  return dom.make("div", { class: "card" }, head, svg, legend);
}

// Names of the curves with their values at a step; null is each one's last value.
function legendOf(curves, step) {
  const entries = curves.map((curve, number) => {
    const known = curve.points.filter((point) => point.value !== null);
    const found = step === null ? known[known.length - 1] : known.find((point) => point.step === step);
    const entry = dom.make("span", { class: "legend" }, `${curve.name} `, dom.make("b", {}, short(found && found.value)));
    entry.style.setProperty("--colour", `var(--c${number % COLOURS})`);
    return entry;
  });
  if (step !== null) entries.push(dom.make("span", { class: "faint" }, `at step ${step}`));
  return entries;
}

function follow(svg, at, curves, tell) {
  const steps = [...new Set(curves.flatMap((curve) => curve.points.map((point) => point.step)))];
  const cursor = dom.svg("line", { y1: TOP, y2: HEIGHT - BOTTOM, class: "cursor", visibility: "hidden" });
  svg.append(cursor);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) * WIDTH) / box.width;
    let nearest = steps[0];
    for (const step of steps) {
      if (Math.abs(at.x(step) - x) < Math.abs(at.x(nearest) - x)) nearest = step;
    }
    cursor.setAttribute("x1", at.x(nearest));
    cursor.setAttribute("x2", at.x(nearest));
    cursor.setAttribute("visibility", "visible");
    tell(nearest);
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    tell(null);
  });
}
