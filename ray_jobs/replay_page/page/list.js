// The list of episodes: filters, order, and only the rows in sight as elements.
"use strict";

const ROW_HEIGHT = 46;

// Ten thousand rows are filtered while somebody types, on a busy machine too. So a filter is one pass
// over rows that are in order already, the elements of the rows in sight stay and get other texts,
// and nothing asks the browser for sizes, which it would have to lay the page out for.
class EpisodeList {
  constructor(runs, choose) {
    this.runs = runs;
    this.choose = choose;
    this.all = runs.length === 1 ? runs[0].rows : runs.flatMap((run) => run.rows);
    // All rows by each order that was asked for.
    this.orders = new Map([["", this.all]]);
    this.shown = this.all;
    this.chosen = null;
    this.box = dom.byId("list");
    this.space = dom.byId("list-space");
    this.window = dom.byId("list-window");
    this.items = [];
    // Episodes whose texts could not be loaded for the search.
    this.missing = 0;
    this.top = 0;
    this.height = this.box.clientHeight;
    this.range = rewardRange(this.all);
    this.box.addEventListener("scroll", () => {
      this.top = this.box.scrollTop;
      this.draw();
    });
    new ResizeObserver(() => {
      this.height = this.box.clientHeight;
      this.draw();
    }).observe(this.box);
    this.fillChoices();
    const filters = dom.byId("filters");
    filters.addEventListener("input", () => this.filter());
    filters.addEventListener("submit", (event) => event.preventDefault());
    this.filter();
    // Before somebody asks for them.
    for (const { value } of dom.byId("sort").options) {
      requestIdleCallback(() => this.inOrder(value));
    }
  }

  fillChoices() {
    const { runs } = this;
    const names = runs.map((run) => [String(run.number), `${run.name} (${run.system || "?"})`]);
    fillSelect("run", runs.length > 1 ? "both runs" : "this run", runs.length > 1 ? names : []);
    const sources = runs.flatMap((run) => run.sources.map((_, n) => run.sourceName(n)));
    fillSelect("source", "all sources", unique(sources).map((name) => [name, name]));
    const kinds = unique(runs.flatMap((run) => run.samples.map((about) => about[2]))).sort();
    fillSelect("kind", "all kinds", kinds.filter(Boolean).map((name) => [name, name]));
    const ends = unique(runs.flatMap((run) => run.ends)).sort();
    fillSelect("end", "all ends", ends.map((name) => [name, name]));
  }

  // Read the filters and show what passes.
  filter() {
    const began = performance.now();
    const wanted = this.wanted();
    const gates = this.runs.map((run) => gatesOf(run, wanted));
    this.shown = this.inOrder(dom.byId("sort").value).filter((row) => passes(row, gates[row.run.number], wanted));
    if (this.top) {
      this.box.scrollTop = 0;
      this.top = 0;
    }
    this.draw();
    this.filterMs = performance.now() - began;
    this.count();
    if (wanted.inTexts && wanted.search) {
      this.searchTexts();
    }
  }

  inOrder(order) {
    if (!this.orders.has(order)) {
      this.orders.set(order, sortRows([...this.all], order));
    }
    return this.orders.get(order);
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
      this.missing += await run.loadTexts(said);
      run.complete = true;
    }
    this.isLoading = false;
    this.filter();
  }

  count() {
    const all = this.all.length.toLocaleString("en");
    const shown = this.shown.length.toLocaleString("en");
    const missing = this.missing ? `, texts of ${counted(this.missing, "episode")} are missing` : "";
    dom.byId("count").textContent = `${shown} of ${all} episodes${missing}`;
  }

  draw() {
    const first = Math.max(0, Math.floor(this.top / ROW_HEIGHT) - 4);
    const last = Math.min(this.shown.length, first + Math.ceil(this.height / ROW_HEIGHT) + 8);
    this.space.style.height = `${this.shown.length * ROW_HEIGHT}px`;
    this.window.style.transform = `translateY(${first * ROW_HEIGHT}px)`;
    while (this.items.length < last - first) {
      const item = new ListItem(this);
      this.items.push(item);
      this.window.append(item.element);
    }
    this.items.forEach((item, n) => item.show(first + n < last ? this.shown[first + n] : null));
  }

  // Mark a row and bring it in sight.
  mark(row) {
    this.chosen = row;
    const place = this.shown.indexOf(row);
    const top = place * ROW_HEIGHT;
    if (place >= 0 && top < this.top) {
      this.top = top;
      this.box.scrollTop = top;
    } else if (place >= 0 && top + ROW_HEIGHT > this.top + this.height) {
      this.top = top + ROW_HEIGHT - this.height;
      this.box.scrollTop = this.top;
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

// An element of the list, which shows one row after another.
class ListItem {
  constructor(list) {
    this.list = list;
    this.row = null;
    this.head = dom.make("div", { class: "item-head" });
    this.letter = list.runs.length > 1 ? dom.chip("") : null;
    this.where = dom.make("span", {});
    this.end = dom.chip("");
    this.kept = dom.make("span", { title: "with pictures" });
    this.bar = dom.make("i", {});
    this.reward = dom.make("b", {});
    this.element = dom.make(
      "div",
      { role: "option", onclick: () => list.choose(this.row) },
      this.head,
      dom.make(
        "div",
        { class: "item-foot" },
        this.letter,
        this.where,
        this.end,
        this.kept,
        dom.make("span", { class: "grow" }),
        dom.make("span", { class: "item-bar" }, this.bar),
        this.reward,
      ),
    );
  }

  // Show a row; null hides the element.
  show(row) {
    const { element, list } = this;
    const chosen = row !== null && row === list.chosen;
    element.hidden = row === null;
    element.className = chosen ? "item chosen" : "item";
    element.setAttribute("aria-selected", String(chosen));
    if (row !== null && row !== this.row) {
      this.write(row);
    }
    this.row = row;
  }

  write(row) {
    const [low, high] = this.list.range;
    const { run } = row;
    const end = run.ends[row.end];
    const { how, predicted } = run.sources[row.source];
    const where = predicted ? "prediction" : `${how ? "eval" : "step"} ${row.step}`;
    const share = row.reward === null ? 0 : (row.reward - low) / (high - low || 1);
    this.head.textContent = readable(run.samples[row.sample][1] || row.uid);
    if (this.letter) {
      this.letter.textContent = "AB"[run.number] || String(run.number);
    }
    this.where.textContent = `${where} · #${row.episode}`;
    this.end.textContent = readable(end);
    this.end.className = `chip ${end}`;
    this.kept.textContent = row.kept ? "▣" : "";
    this.bar.style.width = `${Math.round(100 * share)}%`;
    this.reward.textContent = fixed(row.reward);
  }
}

// Return what the filters let through in a run, by number: rows are looked up there.
function gatesOf(run, wanted) {
  const isRun = wanted.run === "" || run.number === Number(wanted.run);
  return {
    sources: run.sources.map((_, n) => isRun && (!wanted.source || run.sourceName(n) === wanted.source)),
    ends: run.ends.map((end) => !wanted.end || end === wanted.end),
    kinds: run.samples.map((about) => !wanted.kind || about[2] === wanted.kind),
    // Nothing is in all words.
    words: run.words.map((words) => words.includes(wanted.search)),
  };
}

function passes(row, gates, wanted) {
  if (!gates.sources[row.source] || !gates.ends[row.end] || !gates.kinds[row.sample]) return false;
  if (row.step < wanted.steps[0] || row.step > wanted.steps[1]) return false;
  if (wanted.onlyKept && !row.kept) return false;
  if (!wanted.anyReward) {
    if (row.reward === null) return false;
    if (row.reward < wanted.rewards[0] || row.reward > wanted.rewards[1]) return false;
  }
  if (gates.words[row.sample]) return true;
  return wanted.inTexts && row.text.includes(wanted.search);
}

// Sort rows in place, equal ones as they came; those without the figure come last either way.
function sortRows(rows, order) {
  const name = order.slice(0, -1);
  const sign = order.endsWith("-") ? -1 : 1;
  const keyed = rows.map((row) => ({ row, key: row[name] === null ? Infinity : sign * row[name] }));
  keyed.sort((a, b) => (a.key === b.key ? 0 : a.key - b.key));
  keyed.forEach(({ row }, n) => {
    rows[n] = row;
  });
  return rows;
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
