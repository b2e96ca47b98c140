// The data of the runs. Scripts hand it over, since a page opened from disk may load nothing else.
"use strict";

const rayvos = {
  // By address: texts that came before anybody asked, the functions that wait for a script, and
  // promises of what was asked for.
  texts: new Map(),
  waiting: new Map(),
  loaded: new Map(),

  // Called by the scripts in data/.
  arrived(name, text) {
    const { address } = document.currentScript.dataset;
    const waits = rayvos.waiting.get(address);
    if (!waits) {
      rayvos.texts.set(address, text);
      return;
    }
    try {
      waits.resolve(JSON.parse(text));
    } catch (error) {
      waits.reject(error);
    }
  },

  // Return a promise of the value in a script; each is loaded once.
  load(base, name) {
    const address = `${base}data/${encodeURIComponent(name)}.js`;
    if (rayvos.texts.has(address)) {
      const text = rayvos.texts.get(address);
      rayvos.texts.delete(address);
      rayvos.loaded.set(address, Promise.resolve().then(() => JSON.parse(text)));
    }
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

// An episode in the list. All rows have their fields in one order, which browsers make and read fast.
class Row {
  constructor(run, number, columns, line) {
    this.run = run;
    this.number = number;
    this.source = columns.source[number];
    this.step = columns.step[number];
    this.sample = columns.sample[number];
    this.episode = columns.episode[number];
    this.reward = columns.reward[number];
    this.advantage = columns.advantage[number];
    this.end = columns.end[number];
    this.version = columns.version[number];
    this.turns = columns.turns[number];
    this.tokens = columns.tokens[number];
    this.score = columns.score[number];
    this.seconds = columns.seconds[number];
    this.kept = columns.kept[number];
    this.chunk = columns.chunk[number];
    this.line = line;
    // For the search, once it is loaded.
    this.text = "";
  }

  get uid() {
    return this.run.samples[this.sample][0];
  }

  // The name of its group.
  get group() {
    return `${this.run.number}/${this.source}/${this.step}/${this.sample}`;
  }

  isBeside(other) {
    return this.sample === other.sample && this.step === other.step && this.source === other.source;
  }
}

function makeRows(run, packed) {
  const columns = {};
  for (const [name, column] of Object.entries(packed)) {
    columns[name] = unpacked(column);
  }
  const rows = [];
  let line = 0;
  for (let n = 0; n < columns.step.length; n++) {
    const isNew = n === 0 || columns.chunk[n] !== columns.chunk[n - 1] || columns.source[n] !== columns.source[n - 1];
    line = isNew ? 0 : line + 1;
    rows.push(new Row(run, n, columns, line));
  }
  return rows;
}

// Return the values of a column, whose equal neighbours may be written as one value and their number.
function unpacked(column) {
  if (Array.isArray(column)) return column;
  const values = [];
  const { runs } = column;
  for (let n = 0; n < runs.length; n += 2) {
    for (let times = runs[n + 1]; times > 0; times--) values.push(runs[n]);
  }
  return values;
}

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
    this.rows = makeRows(this, index.columns);
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
    return { group, entry: entries.find((each) => object(each).episode === row.episode) || null };
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
