// The data of the runs. Scripts hand it over, since a page opened from disk may load nothing else.
"use strict";

const rayvos = {
  // By address: the functions that wait for a script, and what has arrived.
  waiting: new Map(),
  loaded: new Map(),

  // Called by the scripts in data/.
  arrived(name, text) {
    const address = document.currentScript.dataset.address;
    const waits = rayvos.waiting.get(address);
    try {
      waits.resolve(JSON.parse(text));
    } catch (error) {
      waits.reject(error);
    }
  },

  // Return a promise of the value in a script; each is loaded once.
  load(base, name) {
    const address = `${base}data/${name}.js`;
    if (!rayvos.loaded.has(address)) {
      const promise = new Promise((resolve, reject) => {
        rayvos.waiting.set(address, { resolve, reject });
        const script = document.createElement("script");
        script.dataset.address = address;
        script.src = address;
        script.onerror = () => reject(new Error(`${address} is missing`));
        script.onload = () => script.remove();
        document.head.append(script);
      });
      rayvos.loaded.set(address, promise);
    }
    return rayvos.loaded.get(address);
  },
};

// One run of the page.
class Run {
  constructor(number, base, index) {
    this.number = number;
    this.base = base;
    this.name = index.name;
    this.system = index.system;
    this.weights = index.weights;
    this.sources = index.sources;
    this.samples = index.samples;
    this.ends = index.ends;
    this.broken = index.broken;
    this.steps = new Map(index.steps.map((step) => [step.step, step]));
    this.words = this.samples.map((about) => about.join("\n").toLowerCase());
    this.rows = this.makeRows(index.columns);
    this.texts = [];
  }

  makeRows(columns) {
    const rows = [];
    for (let n = 0; n < columns.step.length; n++) {
      const row = { run: this, number: n };
      for (const name of Object.keys(columns)) {
        row[name] = columns[name][n];
      }
      row.uid = this.samples[row.sample][0];
      row.group = `${this.number}/${row.source}/${row.step}/${row.sample}`;
      rows.push(row);
    }
    return rows;
  }

  // Return "training" or the name of an evaluation.
  sourceName(source) {
    const { how, step } = this.sources[source];
    return how ? `evaluation at ${step}, ${how}` : "training";
  }

  async line(row) {
    const lines = await rayvos.load(this.base, `episodes_${row.chunk}`);
    return lines[row.line];
  }

  // Return { group, entry } of an episode: what was kept of its sample, and of itself; null where
  // nothing was. An evaluation keeps the last of several repeats.
  async kept(row) {
    if (!row.kept) {
      return { group: null, entry: null };
    }
    const { how, step } = this.sources[row.source];
    const name = how ? `kept_eval_${step}_${how}` : `kept_step_${row.step}`;
    const group = (await rayvos.load(this.base, name))[row.uid] || null;
    const entries = list(group && group.episodes);
    return { group, entry: entries.find((each) => each.episode === row.episode) || null };
  }

  picture(digest) {
    return `${this.base}pictures/${encodeURIComponent(digest)}.jpg`;
  }

  // Load all texts for the search, a script after the other.
  async loadTexts(progress) {
    const chunks = 1 + Math.max(-1, ...new Set(this.rows.map((row) => row.chunk)));
    for (let chunk = this.texts.length; chunk < chunks; chunk++) {
      const lines = await rayvos.load(this.base, `episodes_${chunk}`);
      this.texts.push(lines.map(wordsOf));
      progress(chunk + 1, chunks);
    }
  }

  // Return the text of a row for the search; "" before it is loaded.
  text(row) {
    const chunk = this.texts[row.chunk];
    return chunk ? chunk[row.line] : "";
  }
}

function wordsOf(line) {
  const texts = [];
  for (const turn of list(line.turns)) {
    texts.push(turn.prompt || "", turn.text || "");
  }
  return texts.join("\n").toLowerCase();
}
