// One episode: the video, the reward, and the dialogue turn by turn.
"use strict";

// What tokens can be shaded by: the place of the figure in a token of the data, the value that is
// shaded in full, and what it is.
const SHADINGS = {
  "log-prob": {
    place: 1,
    full: -4,
    unit: "",
    about: "log-prob of each token when it was sampled; full colour at −4 or less",
  },
  entropy: {
    place: 2,
    full: 2,
    unit: " nats",
    about: "entropy of the learner's distribution of each token, over all that may be sampled, at the temperature "
      + "of the sampling and before the update of its step; full colour at 2 nats or more",
  },
};

// The shading that was chosen last; "" is none.
const settings = { tokens: "" };

async function episodeView(row, open) {
  const { run } = row;
  const line = object(await run.line(row));
  const { group, entry } = await run.kept(row);
  const view = { element: dom.make("article", {}), stage: null, dialogue: null };
  if (group) {
    try {
      view.stage = new Stage(run, group, entry, line);
    } catch (error) {
      view.element.append(dom.make("p", { class: "note" }, `pictures cannot be shown: ${error.message}`));
    }
  }
  view.dialogue = new Dialogue(row, line, entry, view.stage);
  const left = view.stage
    ? view.stage.element
    : dom.make("p", { class: "note" }, "No pictures were kept of this episode (record.episodes).");
  view.element.append(
    episodeHead(row, line),
    dom.make(
      "div",
      { class: "two" },
      left,
      dom.make(
        "div",
        {},
        dom.guarded("the reward", () => rewardBars(row, line)),
        dom.guarded("the group", () => groupStrip(row, open)),
      ),
    ),
    view.dialogue.element,
    line.error ? dom.make("pre", { class: "error" }, String(line.error)) : "",
    factsTable(line),
  );
  return view;
}

function episodeHead(row, line) {
  const { run } = row;
  const [uid, query, kind] = run.samples[row.sample];
  const end = run.ends[row.end];
  const step = run.steps.get(row.step);
  const seconds = Object.entries(object(step && step.seconds)).filter(([, spent]) => spent > 0.05);
  const spent = seconds.map(([stage, each]) => `${stage} ${fixed(each, 1)} s`).join(" · ");
  const isTraining = !run.sources[row.source].how;
  return dom.make(
    "div",
    { class: "head" },
    dom.make("h2", {}, query || uid),
    dom.make(
      "div",
      { class: "row wrap" },
      dom.chip(run.name),
      run.system ? dom.chip(run.system) : null,
      dom.chip(isTraining ? `step ${row.step}` : run.sourceName(row.source)),
      dom.chip(`sample ${uid}`),
      kind ? dom.chip(kind) : null,
      dom.chip(`episode ${row.episode}`),
      dom.chip(end, end),
      dom.chip(`weights of step ${row.version}`),
      dom.chip(`${counted(row.tokens, "token")} in ${counted(row.turns, "turn")}`),
      row.score === null ? null : dom.chip(`J&F ${fixed(100 * row.score, 1)}`),
      ...secondsChips(object(line.seconds)),
    ),
    isTraining && spent ? dom.make("div", { class: "faint" }, `the whole step: ${spent}`) : null,
  );
}

function secondsChips({ play, score }) {
  const chips = [];
  if (typeof play === "number") {
    const chip = dom.chip(`played in ${duration(play)}`);
    chip.title = "from its first question to its end, while others played beside it";
    chips.push(chip);
  }
  if (typeof score === "number") {
    const chip = dom.chip(`scored in ${duration(score)}`);
    chip.title = "the reward of its whole group, masks included";
    chips.push(chip);
  }
  return chips;
}

function duration(seconds) {
  return seconds < 1 ? `${fixed(1000 * seconds, 0)} ms` : `${fixed(seconds, 1)} s`;
}

function rewardBars(row, line) {
  const weights = row.run.weights;
  const parts = Object.entries(object(line.parts));
  const table = dom.make("div", { class: "bars" });
  const weighted = parts.map(([name, value]) => value * (name in weights ? weights[name] : 1));
  const most = Math.max(1e-9, ...weighted.map(Math.abs));
  parts.forEach(([name, value], n) => {
    const bar = dom.make("div", { class: weighted[n] < 0 ? "bar negative" : "bar" });
    bar.style.width = `${(100 * Math.abs(weighted[n])) / most}%`;
    const weight = name in weights ? ` × ${weights[name]}` : "";
    table.append(
      dom.make("span", {}, name),
      dom.make("div", { class: "bar-space" }, bar),
      dom.make("span", { class: "figure" }, `${fixed(value, 3)}${weight}`),
    );
  });
  const advantage = row.advantage === null ? "" : `advantage ${fixed(row.advantage, 3)}`;
  return dom.make(
    "section",
    {},
    dom.make("h3", {}, `reward ${fixed(row.reward, 3)}`, dom.make("span", { class: "faint" }, ` ${advantage}`)),
    parts.length ? table : dom.make("p", { class: "faint" }, "no parts: this episode has no reward"),
  );
}

// The episodes of the group in order of their reward, this one marked.
function groupStrip(row, open) {
  const others = groupOf(row);
  const chips = others.map((other) =>
    dom.make(
      "button",
      { class: other === row ? "chosen" : "", title: `episode ${other.episode}`, onclick: () => open(other) },
      fixed(other.reward),
    ),
  );
  return dom.make("section", {}, dom.make("h3", {}, "group"), dom.make("div", { class: "row wrap" }, ...chips));
}

function groupOf(row) {
  const others = row.run.rows.filter((other) => other.isBeside(row));
  sortRows(others, "reward-");
  return others;
}

// The turns, with the tokens shaded on demand by what is known of them.
class Dialogue {
  constructor(row, line, entry, stage) {
    Object.assign(this, { row, line, entry, stage });
    const pieces = list(entry && entry.turns).flatMap((turn) => list(object(turn).pieces));
    this.shadings = Object.keys(SHADINGS).filter((name) =>
      pieces.some((piece) => typeof list(piece)[SHADINGS[name].place] === "number"),
    );
    this.element = dom.make("div", {});
    this.draw();
  }

  // Shade by something else, and stay where the reader is.
  shade(name) {
    settings.tokens = name;
    this.draw();
  }

  // Shade by the next figure; after the last one by none.
  next() {
    const names = ["", ...this.shadings];
    this.shade(names[(names.indexOf(this.shading) + 1) % names.length]);
  }

  get shading() {
    return this.shadings.includes(settings.tokens) ? settings.tokens : "";
  }

  draw() {
    const cards = list(this.line.turns).map((turn, number) =>
      dom.guarded(`turn ${number + 1}`, () =>
        turnCard(this.row, object(turn), number, this.entry, this.stage, this.shading),
      ),
    );
    this.element.replaceChildren(...(this.shadings.length ? [this.choice()] : []), ...cards);
  }

  choice() {
    const buttons = ["", ...this.shadings].map((name) =>
      dom.make(
        "button",
        { class: name === this.shading ? "chosen" : "", "data-shading": name, onclick: () => this.shade(name) },
        name || "plain",
      ),
    );
    const about = this.shading ? SHADINGS[this.shading].about : "";
    return dom.make(
      "div",
      { class: "row shading" },
      dom.make("span", { class: "faint", title: "Next (t)" }, "tokens"),
      ...buttons,
      dom.make("span", { class: "faint" }, about),
    );
  }
}

function turnCard(row, turn, number, entry, stage, shading) {
  const kept = object(list(entry && entry.turns)[number]);
  const cut = turn.complete === false ? dom.chip("cut off", "truncated") : null;
  return dom.make(
    "section",
    { class: "turn" },
    dom.make("h3", {}, `turn ${number + 1} `, cut, typeof turn.tokens === "number" ? dom.make("span", { class: "faint" }, ` ${counted(turn.tokens, "token")}`) : null),
    shownStrip(row.run, turn, kept, stage),
    turn.prompt ? promptBox(String(turn.prompt), number) : null,
    completion(String(turn.text || ""), list(kept.pieces), shading),
  );
}

// The pictures as the policy saw them.
function shownStrip(run, turn, kept, stage) {
  const shown = list(kept.shown);
  if (!shown.length) {
    const frames = list(turn.frames);
    return frames.length ? dom.make("div", { class: "faint" }, `shown: frames ${frames.join(", ")}`) : null;
  }
  const strip = dom.make("div", { class: "strip" });
  for (const [frame, digest, height, width] of shown) {
    const image = dom.make("img", { src: run.picture(digest), alt: `frame ${frame}`, loading: "lazy" });
    image.addEventListener("error", () => image.replaceWith(dom.make("span", { class: "missing" }, "not kept")));
    const title = `frame ${frame}, ${width} × ${height}, as the policy saw it`;
    const show = () => stage && stage.show({ frame, digest, height, width });
    strip.append(dom.make("button", { class: "thumb", title, onclick: show }, image, dom.make("small", {}, frame)));
  }
  return strip;
}

function promptBox(text, number) {
  return dom.make(
    "details",
    { open: number === 0 ? false : undefined },
    dom.make("summary", {}, `prompt: ${text.length} characters`),
    dom.make("pre", { class: "prompt" }, text),
  );
}

// The completion with its thinking set apart, or token by token.
function completion(text, pieces, shading) {
  if (shading && pieces.length) {
    return tokensShaded(pieces, shading);
  }
  const box = dom.make("pre", { class: "completion" });
  for (const [part, isThought] of thoughtsApart(text)) {
    box.append(dom.make("span", { class: isThought ? "thought" : "answer" }, part));
  }
  if (!text) {
    box.append(dom.make("span", { class: "faint" }, "(nothing)"));
  }
  return box;
}

// Return [text, whether it is a thought] from first to last; an open thought goes to the end.
function thoughtsApart(text) {
  const parts = [];
  let at = 0;
  while (at < text.length) {
    const begin = text.indexOf("<think>", at);
    if (begin < 0) {
      parts.push([text.slice(at), false]);
      break;
    }
    if (begin > at) parts.push([text.slice(at, begin), false]);
    const close = text.indexOf("</think>", begin);
    at = close < 0 ? text.length : close + "</think>".length;
    parts.push([text.slice(begin, at), true]);
  }
  return parts;
}

function tokensShaded(pieces, shading) {
  const { place, full } = SHADINGS[shading];
  const box = dom.make("pre", { class: `completion tokens by-${shading}` });
  for (const piece of pieces) {
    const value = piece[place];
    const share = typeof value === "number" ? Math.min(1, value / full) : 0;
    const token = dom.make("span", { title: figuresOf(piece) }, String(piece[0]));
    token.style.setProperty("--share", fixed(Math.max(0, share), 3));
    box.append(token);
  }
  return box;
}

// Return all that is known of a token, as text.
function figuresOf(piece) {
  return Object.entries(SHADINGS)
    .filter(([, { place }]) => typeof piece[place] === "number")
    .map(([name, { place, unit }]) => `${name} ${fixed(piece[place], 3)}${unit}`)
    .join(" · ");
}

function factsTable(line) {
  const facts = Object.entries(object(line.facts));
  if (!facts.length) return "";
  const rows = facts.map(([name, value]) =>
    dom.make("tr", {}, dom.make("td", {}, name), dom.make("td", {}, JSON.stringify(value))),
  );
  return dom.make("details", {}, dom.make("summary", {}, "what was read from the answers"), dom.make("table", {}, ...rows));
}
