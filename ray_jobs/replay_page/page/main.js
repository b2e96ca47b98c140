// The page: which view is open, of which episode, and the keys.
"use strict";

const page = { runs: [], list: null, view: "overview", stage: null, dialogue: null, opened: 0 };

async function start() {
  rememberedTheme();
  const site = await rayvos.load("", "site");
  const indices = await Promise.all(site.map(({ base }) => rayvos.load(base, "index")));
  page.runs = indices.map((index, number) => new Run(number, site[number].base, index));
  dom.byId("title").textContent = page.runs.map((run) => run.name).join(" and ");
  dom.byId("subtitle").textContent = unique(page.runs.map((run) => run.system)).join(", ");
  document.title = `Replay: ${page.runs.map((run) => run.name).join(" and ")}`;
  page.list = new EpisodeList(page.runs, (row) => open(row));
  dom.byId("filters").addEventListener("input", () => page.view === "compare" && show());
  dom.byId("views").addEventListener("click", (event) => {
    if (event.target.dataset.view) open(page.list.chosen, event.target.dataset.view);
  });
  dom.byId("theme").addEventListener("click", changeTheme);
  dom.byId("help-open").addEventListener("click", () => dom.byId("help").showModal());
  document.addEventListener("keydown", pressed);
  window.addEventListener("hashchange", fromAddress);
  await fromAddress();
  document.body.dataset.ready = "yes";
}

// Open a view of an episode; a list that is asked for an episode gives its view first.
async function open(row, view) {
  page.view = view || (["group", "sample"].includes(page.view) ? page.view : "episode");
  const needsRow = ["episode", "group", "sample"].includes(page.view);
  const chosen = row || (needsRow ? page.list.shown[0] : null) || null;
  if (chosen) page.list.mark(chosen);
  const where = chosen ? `#${page.view}/${chosen.run.number}/${chosen.number}` : `#${page.view}`;
  if (location.hash !== where) history.replaceState(null, "", where);
  await show();
}

async function fromAddress() {
  const [view, run, number] = location.hash.slice(1).split("/");
  const known = ["overview", "episode", "group", "sample", "compare"].includes(view);
  const rows = page.runs[Number(run)] ? page.runs[Number(run)].rows : [];
  await open(rows[Number(number)] || null, known ? view : "overview");
}

async function show() {
  const mine = ++page.opened;
  const row = page.list.chosen;
  let stage = null;
  let dialogue = null;
  let element = null;
  try {
    if (page.view === "overview" || (!row && page.view !== "compare")) {
      element = overviewView(page.runs);
    } else if (page.view === "compare") {
      element = compareView(page.runs, page.list.shown, open);
    } else if (page.view === "group") {
      element = await groupView(row, open);
    } else if (page.view === "sample") {
      element = await sampleView(row, page.runs, open);
    } else {
      ({ element, stage, dialogue } = await episodeView(row, open));
    }
  } catch (error) {
    element = dom.make("p", { class: "note" }, `This cannot be shown: ${error.message}`);
  }
  // Another view may have been opened while this one loaded.
  if (mine !== page.opened) return;
  if (page.stage) page.stage.stop();
  page.stage = stage;
  page.dialogue = dialogue;
  for (const button of dom.byId("views").children) {
    button.classList.toggle("chosen", button.dataset.view === page.view);
  }
  dom.byId("main").replaceChildren(element);
  dom.byId("main").scrollTop = 0;
}

const KEYS = {
  j: () => open(page.list.beside(1)),
  k: () => open(page.list.beside(-1)),
  ArrowDown: () => open(page.list.beside(1)),
  ArrowUp: () => open(page.list.beside(-1)),
  b: () => ofGroup((rows) => rows[0]),
  w: () => ofGroup((rows) => rows[rows.length - 1]),
  B: () => open(extreme(1)),
  W: () => open(extreme(-1)),
  " ": () => page.stage && page.stage.toggle(),
  ArrowLeft: () => page.stage && page.stage.go(page.stage.at - 1),
  ArrowRight: () => page.stage && page.stage.go(page.stage.at + 1),
  t: () => page.dialogue && page.dialogue.next(),
  o: () => open(page.list.chosen, "overview"),
  e: () => open(page.list.chosen, "episode"),
  g: () => open(page.list.chosen, "group"),
  s: () => open(page.list.chosen, "sample"),
  c: () => open(page.list.chosen, "compare"),
  d: () => changeTheme(),
  "/": () => dom.byId("search").focus(),
  "?": () => dom.byId("help").showModal(),
};

function pressed(event) {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName)
    && !["range", "checkbox"].includes(event.target.type);
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || dom.byId("help").open) return;
  const act = Object.hasOwn(KEYS, event.key) ? KEYS[event.key] : null;
  if (act) {
    event.preventDefault();
    act();
  }
}

function ofGroup(pick) {
  if (page.list.chosen) open(pick(groupOf(page.list.chosen).filter((row) => row.reward !== null)));
}

// Return the row of the list with the highest reward (sign 1) or the lowest (-1).
function extreme(sign) {
  let found = null;
  for (const row of page.list.shown) {
    if (row.reward !== null && (found === null || sign * row.reward > sign * found.reward)) found = row;
  }
  return found;
}

function rememberedTheme() {
  try {
    const theme = localStorage.getItem("theme");
    if (theme) document.documentElement.dataset.theme = theme;
  } catch {
    // Some browsers give no storage to a page from disk.
  }
}

function changeTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // As above.
  }
}

function failed(error) {
  const advice = "write the page again with python -m ray_jobs.replay runs/NAME";
  dom.byId("main").replaceChildren(dom.make("p", { class: "note" }, `${error.message}: ${advice}`));
  document.body.dataset.ready = "failed";
}

// By then the scripts of the page's own data have run.
document.addEventListener("DOMContentLoaded", () => start().catch(failed));
