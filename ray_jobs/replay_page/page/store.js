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
    const address = `${base}data/${encodeURIComponent(name)}.js`;
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
  }

  makeRows(columns) {
    const rows = [];
    for (let n = 0; n < columns.step.length; n++) {
      const row = { run: this, number: n };
      for (const name of Object.keys(columns)) {
        row[name] = columns[name][n];
      }
      // For the search, once it is loaded.
      row.text = "";
      row.uid = this.samples[row.sample][0];
      row.group = `${this.number}/${row.source}/${row.step}/${row.sample}`;
      rows.push(row);
    }
    return rows;
  }

  // Return "training" or the name of an evaluation.
  sourceName(source) {
    const { how, step, predicted } = this.sources[source];
    if (predicted) {
      return "predictions";
    }
    return how ? `evaluation at ${step}, ${how}` : "training";
  }

  textsName(source, chunk) {
    return `episodes_${this.sources[source].name}_${chunk}`;
  }

  async line(row) {
    const lines = await rayvos.load(this.base, this.textsName(row.source, row.chunk));
    return lines[row.line];
  }

  // Return { group, entry } of an episode: what was kept of its sample, and of itself; null where
  // nothing was. An evaluation keeps the last of several repeats.
  async kept(row) {
    if (!row.kept) {
      return { group: null, entry: null };
    }
    const { name, how, predicted } = this.sources[row.source];
    const file = how ? name : `step_${row.step}`;
    const groups = await rayvos.load(this.base, `kept_${predicted ? `${name}_${row.chunk}` : file}`);
    const group = groups[row.uid] || null;
    const entries = list(group && group.episodes);
    return { group, entry: entries.find((each) => each.episode === row.episode) || null };
  }

  picture(digest) {
    return `${this.base}pictures/${encodeURIComponent(digest)}.jpg`;
  }

  // Load all texts for the search, a script after the other; return how many are missing.
  async loadTexts(progress) {
    let done = 0;
    let missing = 0;
    for (const row of this.rows) {
      try {
        row.text = wordsOf(object(await this.line(row)));
      } catch {
        missing += 1;
      }
      done += 1;
      if (row.line === 0) progress(done, this.rows.length);
    }
    return missing;
  }
}

function wordsOf(line) {
  const texts = [];
  for (const turn of list(line.turns)) {
    texts.push(turn.prompt || "", turn.text || "");
  }
  return texts.join("\n").toLowerCase();
}
