// Views of many episodes: a run, a group, one sample over the steps, two runs.
"use strict";

const COLOURS = ["var(--first)", "var(--second)"];

function overviewView(runs) {
  const cards = runs.map((run) => {
    const ends = new Map();
    for (const row of run.rows) {
      const end = run.ends[row.end];
      ends.set(end, (ends.get(end) || 0) + 1);
    }
    const chips = [...ends].map(([end, count]) => dom.chip(`${end} ${count.toLocaleString("en")}`, end));
    const kept = run.rows.filter((row) => row.kept).length;
    return dom.make(
      "section",
      { class: "card" },
      dom.make("h2", {}, run.name),
      dom.make("p", {}, `${run.system || "unknown system"} · ${counted(run.steps.size, "step")} · `
        + `${counted(run.rows.length, "episode")} of ${counted(run.samples.length, "sample")}, `
        + `${kept.toLocaleString("en")} with pictures`),
      dom.make("div", { class: "row wrap" }, ...chips),
      run.broken ? dom.make("p", { class: "note" }, `${run.broken} lines of its files are broken and left out`) : null,
    );
  });
  return dom.make(
    "article",
    {},
    dom.make("h2", {}, "Reward by step"),
    curves(runs),
    ...cards,
    dom.make("p", { class: "faint" }, "Choose an episode on the left, or press j. Press ? for all keys."),
  );
}

// Mean reward of each step as a line for each run.
function curves(runs) {
  const width = 860;
  const height = 220;
  const points = runs.map((run) => [...run.steps.values()].filter((step) => step.reward !== null));
  const all = points.flat();
  if (!all.length) return dom.make("p", { class: "faint" }, "no step is finished yet");
  const most = Math.max(...all.map((step) => step.step), 1);
  const low = Math.min(...all.map((step) => step.reward));
  const high = Math.max(...all.map((step) => step.reward));
  const x = (step) => 44 + ((width - 54) * step) / most;
  const y = (reward) => height - 24 - ((height - 40) * (reward - low)) / (high - low || 1);
  const chart = dom.svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img" });
  for (const value of [low, (low + high) / 2, high]) {
    chart.append(
      dom.svg("line", { x1: 44, x2: width - 10, y1: y(value), y2: y(value), class: "grid" }),
      dom.svg("text", { x: 4, y: y(value) + 4 }, fixed(value)),
    );
  }
  chart.append(
    dom.svg("text", { x: 44, y: height - 4 }, "step 0"),
    dom.svg("text", { x: width - 10, y: height - 4, "text-anchor": "end" }, `step ${most}`),
  );
  points.forEach((steps, number) => {
    const line = steps.map((step) => `${x(step.step).toFixed(1)},${y(step.reward).toFixed(1)}`).join(" ");
    const path = dom.svg("polyline", { points: line, class: "curve" });
    path.style.stroke = COLOURS[number % COLOURS.length];
    chart.append(path);
  });
  const names = runs.map((run, number) => {
    const name = dom.make("span", { class: "legend" }, run.name);
    name.style.setProperty("--colour", COLOURS[number % COLOURS.length]);
    return name;
  });
  return dom.make("div", { class: "card" }, chart, dom.make("div", { class: "row wrap" }, ...names));
}

// The episodes of one prompt side by side, by their reward.
async function groupView(row, open) {
  const cards = [];
  for (const other of groupOf(row)) {
    const line = object(await other.run.line(other));
    const { group, entry } = await other.run.kept(other);
    cards.push(dom.guarded(`episode ${other.episode}`, () => groupCard(other, line, group, entry, other === row, open)));
  }
  const [uid, query] = row.run.samples[row.sample];
  const [first] = groupOf(row);
  return dom.make(
    "article",
    {},
    dom.make("h2", {}, query || uid),
    dom.make("p", { class: "faint" }, `${row.run.name} · ${row.run.sourceName(row.source)} · step ${row.step} · `
      + `${counted(cards.length, "episode")}, the best first (${fixed(first.reward, 3)})`),
    dom.make("div", { class: "cards" }, ...cards),
  );
}

function groupCard(row, line, group, entry, isChosen, open) {
  const end = row.run.ends[row.end];
  const turns = list(line.turns).map((turn) => String(object(turn).text || ""));
  const picture = group ? stillOf(row.run, group, entry, line) : null;
  return dom.make(
    "section",
    { class: `card link${isChosen ? " chosen" : ""}`, tabindex: 0, onclick: () => open(row, "episode") },
    dom.make(
      "div",
      { class: "row" },
      dom.make("b", {}, fixed(row.reward, 3)),
      dom.chip(end, end),
      dom.make("span", { class: "grow" }),
      dom.make("span", { class: "faint" }, `#${row.episode} · adv ${fixed(row.advantage)}`),
    ),
    picture,
    rewardBars(row, line),
    dom.make("pre", { class: "completion short" }, turns.join("\n\n") || "(nothing)"),
  );
}

// The keyframe of an answer with all that is drawn over it.
function stillOf(run, group, entry, line) {
  const stage = new Stage(run, group, entry, line);
  return stage.canvas;
}

// One sample over the steps, in all runs: how the answers changed.
async function sampleView(row, runs, open) {
  const columns = [];
  for (const run of runs) {
    const rows = run.rows.filter((other) => other.uid === row.uid);
    columns.push(await sampleColumn(run, rows, row, open));
  }
  const [uid, query] = row.run.samples[row.sample];
  return dom.make(
    "article",
    {},
    dom.make("h2", {}, query || uid),
    dom.make("p", { class: "faint" }, `sample ${uid} at each step that played it; a dot is an episode`),
    dom.make("div", { class: runs.length > 1 ? "two even" : "" }, ...columns),
  );
}

async function sampleColumn(run, rows, chosen, open) {
  const column = dom.make("div", {}, dom.make("h3", {}, run.name));
  if (!rows.length) {
    column.append(dom.make("p", { class: "faint" }, "this run never played it"));
  }
  const groups = new Map();
  for (const row of rows) {
    groups.set(row.group, [...(groups.get(row.group) || []), row]);
  }
  const ordered = [...groups.values()].sort((a, b) => a[0].step - b[0].step || a[0].source - b[0].source);
  const range = rewardRange(rows);
  for (const group of ordered) {
    sortRows(group, "reward-");
    const best = group[0];
    const line = object(await run.line(best));
    const kept = await run.kept(best);
    const texts = list(line.turns).map((turn) => String(object(turn).text || ""));
    const still = kept.group
      ? dom.guarded("the picture", () => stillOf(run, kept.group, kept.entry, line))
      : null;
    column.append(
      dom.make(
        "section",
        { class: `card link${best.group === chosen.group ? " chosen" : ""}`, onclick: () => open(best, "episode") },
        dom.make("div", { class: "row" },
          dom.make("b", {}, run.sources[best.source].how ? run.sourceName(best.source) : `step ${best.step}`),
          dom.make("span", { class: "grow" }),
          dots(group, range),
          dom.make("span", { class: "faint" }, `mean ${fixed(mean(group))}`)),
        dom.make("div", { class: "beside" },
          still,
          dom.make("pre", { class: "completion short" }, texts.join("\n\n") || "(nothing)")),
      ),
    );
  }
  return column;
}

function dots(rows, [low, high]) {
  const chart = dom.svg("svg", { viewBox: "0 0 200 20", class: "dots", role: "img" });
  chart.append(dom.svg("line", { x1: 6, x2: 194, y1: 10, y2: 10, class: "grid" }));
  for (const { reward } of rows) {
    if (reward !== null) {
      const x = 6 + (188 * (reward - low)) / (high - low || 1);
      chart.append(dom.svg("circle", { cx: x.toFixed(1), cy: 10, r: 4 }));
    }
  }
  return chart;
}

function mean(rows) {
  const rewards = rows.map((row) => row.reward).filter((reward) => reward !== null);
  if (!rewards.length) return null;
  return rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
}

// Two runs: their curves, and the samples whose rewards differ most.
function compareView(runs, shown, open) {
  if (runs.length < 2) {
    return dom.make(
      "article",
      {},
      dom.make("p", { class: "note" }, "One run is open. Two are compared by: python -m ray_jobs.replay runs/NAME runs/OTHER"),
    );
  }
  const pairs = pairsOf(runs, shown);
  const rows = pairs.slice(0, 300).map(({ uid, about, means, rows: of }) =>
    dom.make(
      "tr",
      { class: "link", onclick: () => open(of[0], "sample") },
      dom.make("td", {}, about || uid),
      dom.make("td", { class: "figure" }, fixed(means[0])),
      dom.make("td", { class: "figure" }, fixed(means[1])),
      dom.make("td", { class: "figure" }, fixed(means[1] - means[0])),
    ),
  );
  return dom.make(
    "article",
    {},
    dom.make("h2", {}, `${runs[0].name} and ${runs[1].name}`),
    curves(runs.slice(0, 2)),
    dom.make("p", { class: "faint" }, `${pairs.length} samples of the list are in both runs; mean reward, `
      + "the largest differences first. Filter on the left, for example to one evaluation."),
    dom.make("table", { class: "wide" },
      dom.make("tr", {}, ...["sample", runs[0].name, runs[1].name, "difference"].map((head) => dom.make("th", {}, head))),
      ...rows),
  );
}

function pairsOf(runs, shown) {
  const bySample = new Map();
  for (const row of shown) {
    if (!bySample.has(row.uid)) bySample.set(row.uid, [[], []]);
    if (row.run.number < 2) bySample.get(row.uid)[row.run.number].push(row);
  }
  const pairs = [];
  for (const [uid, [first, second]] of bySample) {
    const means = [mean(first), mean(second)];
    if (means[0] === null || means[1] === null) continue;
    const about = first[0].run.samples[first[0].sample][1];
    pairs.push({ uid, about, means, rows: [...second, ...first] });
  }
  pairs.sort((a, b) => Math.abs(b.means[1] - b.means[0]) - Math.abs(a.means[1] - a.means[0]));
  return pairs;
}
