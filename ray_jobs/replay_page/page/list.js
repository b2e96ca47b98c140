// The list of episodes: filters, order, and only the rows in sight as elements.
"use strict";

const ROW_HEIGHT = 46;

class EpisodeList {
  constructor(runs, choose) {
    this.runs = runs;
    this.choose = choose;
    this.all = runs.flatMap((run) => run.rows);
    this.shown = this.all;
    this.chosen = null;
    this.box = dom.byId("list");
    this.space = dom.byId("list-space");
    this.range = rewardRange(this.all);
    this.box.addEventListener("scroll", () => this.draw());
    window.addEventListener("resize", () => this.draw());
    this.fillChoices();
    const filters = dom.byId("filters");
    filters.addEventListener("input", () => this.filter());
    filters.addEventListener("submit", (event) => event.preventDefault());
    this.filter();
  }

  fillChoices() {
    const { runs } = this;
    const names = runs.map((run) => [String(run.number), `${run.name} (${run.system || "?"})`]);
    fillSelect("run", runs.length > 1 ? "both runs" : "this run", runs.length > 1 ? names : []);
    const sources = runs.flatMap((run) => run.sources.map((_, n) => run.sourceName(n)));
    fillSelect("source", "training and evaluations", unique(sources).map((name) => [name, name]));
    const kinds = unique(runs.flatMap((run) => run.samples.map((about) => about[2]))).sort();
    fillSelect("kind", "all kinds", kinds.filter(Boolean).map((name) => [name, name]));
    const ends = unique(runs.flatMap((run) => run.ends)).sort();
    fillSelect("end", "all ends", ends.map((name) => [name, name]));
  }

  // Read the filters and show what passes.
  filter() {
    const began = performance.now();
    const wanted = this.wanted();
    const shown = [];
    for (const row of this.all) {
      if (passes(row, wanted)) {
        shown.push(row);
      }
    }
    sortRows(shown, dom.byId("sort").value);
    this.shown = shown;
    this.box.scrollTop = 0;
    this.draw();
    this.filterMs = performance.now() - began;
    this.count(wanted);
    if (wanted.inTexts && wanted.search) {
      this.searchTexts();
    }
  }

  wanted() {
    const value = (id) => dom.byId(id).value;
    const number = (id, otherwise) => (value(id) === "" ? otherwise : Number(value(id)));
    return {
      search: value("search").trim().toLowerCase(),
      inTexts: dom.byId("in-texts").checked,
      run: value("run"),
      source: value("source"),
      kind: value("kind"),
      end: value("end"),
      steps: [number("step-from", -Infinity), number("step-to", Infinity)],
      rewards: [number("reward-from", -Infinity), number("reward-to", Infinity)],
      anyReward: value("reward-from") === "" && value("reward-to") === "",
      onlyKept: dom.byId("only-kept").checked,
    };
  }

  // Load the texts that are not there yet, then filter again with them.
  async searchTexts() {
    const lacking = this.runs.filter((run) => !run.complete);
    if (!lacking.length || this.isLoading) {
      return;
    }
    this.isLoading = true;
    for (const run of lacking) {
      const said = (done, all) => {
        dom.byId("count").textContent = `reading texts of ${run.name}: ${done} of ${all}`;
      };
      try {
        await run.loadTexts(said);
      } catch (error) {
        dom.byId("count").textContent = error.message;
      }
      run.complete = true;
    }
    this.isLoading = false;
    this.filter();
  }

  count() {
    const all = this.all.length.toLocaleString("en");
    const shown = this.shown.length.toLocaleString("en");
    dom.byId("count").textContent = `${shown} of ${all} episodes`;
  }

  draw() {
    this.space.style.height = `${this.shown.length * ROW_HEIGHT}px`;
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW_HEIGHT) - 4);
    const last = Math.min(this.shown.length, first + Math.ceil(this.box.clientHeight / ROW_HEIGHT) + 8);
    const items = [];
    for (let n = first; n < last; n++) {
      items.push(this.item(this.shown[n], n));
    }
    this.space.replaceChildren(...items);
  }

  item(row, place) {
    const [low, high] = this.range;
    const share = row.reward === null ? 0 : (row.reward - low) / (high - low || 1);
    const end = row.run.ends[row.end];
    const { how, predicted } = row.run.sources[row.source];
    const where = predicted ? "prediction" : `${how ? "eval" : "step"} ${row.step}`;
    const item = dom.make(
      "div",
      {
        class: `item${row === this.chosen ? " chosen" : ""}`,
        role: "option",
        "aria-selected": row === this.chosen,
        onclick: () => this.choose(row),
      },
      dom.make("div", { class: "item-head" }, row.run.samples[row.sample][1] || row.uid),
      dom.make(
        "div",
        { class: "item-foot" },
        this.runs.length > 1 ? dom.chip("AB"[row.run.number] || String(row.run.number)) : null,
        dom.make("span", {}, `${where} · #${row.episode}`),
        dom.chip(end, end),
        row.kept ? dom.make("span", { title: "with pictures" }, "▣") : null,
        dom.make("span", { class: "grow" }),
        dom.make("meter", { min: 0, max: 1, value: share, "aria-label": "reward" }),
        dom.make("b", {}, fixed(row.reward)),
      ),
    );
    item.style.top = `${place * ROW_HEIGHT}px`;
    return item;
  }

  // Mark a row and bring it in sight.
  mark(row) {
    this.chosen = row;
    const place = this.shown.indexOf(row);
    if (place >= 0) {
      const top = place * ROW_HEIGHT;
      const { scrollTop, clientHeight } = this.box;
      if (top < scrollTop) {
        this.box.scrollTop = top;
      } else if (top + ROW_HEIGHT > scrollTop + clientHeight) {
        this.box.scrollTop = top + ROW_HEIGHT - clientHeight;
      }
    }
    this.draw();
  }

  // Return the row some places behind the chosen one.
  beside(places) {
    const now = this.shown.indexOf(this.chosen);
    const next = Math.min(Math.max(now + places, 0), this.shown.length - 1);
    return this.shown[next] || null;
  }
}

function passes(row, wanted) {
  const { run } = row;
  if (wanted.run !== "" && run.number !== Number(wanted.run)) return false;
  if (wanted.end && run.ends[row.end] !== wanted.end) return false;
  if (wanted.kind && run.samples[row.sample][2] !== wanted.kind) return false;
  if (wanted.source && run.sourceName(row.source) !== wanted.source) return false;
  if (row.step < wanted.steps[0] || row.step > wanted.steps[1]) return false;
  if (wanted.onlyKept && !row.kept) return false;
  if (!wanted.anyReward) {
    if (row.reward === null) return false;
    if (row.reward < wanted.rewards[0] || row.reward > wanted.rewards[1]) return false;
  }
  if (!wanted.search) return true;
  if (run.words[row.sample].includes(wanted.search)) return true;
  return wanted.inTexts && run.text(row).includes(wanted.search);
}

function sortRows(rows, order) {
  if (!order) return;
  const name = order.slice(0, -1);
  const sign = order.endsWith("-") ? -1 : 1;
  // Rows without the figure come last either way.
  const key = (row) => (row[name] === null ? Infinity : sign * row[name]);
  rows.sort((a, b) => {
    const first = key(a);
    const second = key(b);
    return first === second ? 0 : first - second;
  });
}

function rewardRange(rows) {
  let low = Infinity;
  let high = -Infinity;
  for (const { reward } of rows) {
    if (reward !== null) {
      low = Math.min(low, reward);
      high = Math.max(high, reward);
    }
  }
  return low <= high ? [Math.min(low, 0), high] : [0, 1];
}

function unique(values) {
  return [...new Set(values)];
}

function fillSelect(id, all, options) {
  const select = dom.byId(id);
  select.append(dom.make("option", { value: "" }, all));
  for (const [value, name] of options) {
    select.append(dom.make("option", { value }, name));
  }
}
