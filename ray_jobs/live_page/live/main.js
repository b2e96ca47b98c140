// The page: asks for the state every few seconds, and for the curves when they have changed.
"use strict";

const EVERY_MS = 2000;
const shown = { mark: null };

async function asked(name) {
  const answer = await fetch(name, { cache: "no-store" });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

async function look() {
  try {
    const now = object(await asked("now.json"));
    showNow(now);
    if (now.mark !== shown.mark) {
      const { charts, others } = object(await asked("curves.json"));
      fill("charts", charts, "no step is finished yet");
      fill("others", others, "none");
      shown.mark = now.mark;
    }
    document.body.dataset.ready = "yes";
  } catch (error) {
    dom.byId("state").replaceChildren(dom.chip("no answer", "failed"));
    dom.byId("notes").replaceChildren(note(`The server of this page does not answer as it should (${error.message}); `
      + "what is below is what it said last. It is asked again."));
    document.body.dataset.ready = document.body.dataset.ready || "failed";
  }
  setTimeout(look, EVERY_MS);
}

function note(text) {
  return dom.make("p", { class: "note" }, text);
}

function fill(id, charts, nothing) {
  const cards = list(charts).map((chart) => dom.guarded(String(object(chart).title), () => chartCard(chart)));
  dom.byId(id).replaceChildren(...(cards.length ? cards : [dom.make("p", { class: "faint" }, nothing)]));
}

function showNow(now) {
  const state = object(now.state);
  document.title = `${now.name}: step ${now.step}`;
  dom.byId("title").textContent = readable(String(now.name));
  dom.byId("state").replaceChildren(dom.make("span", { class: `chip state-${state.word}`, title: state.more }, state.word));
  const parts = [now.system, now.policy, now.steps ? `step ${now.step} of ${now.steps}` : `step ${now.step}`];
  if (state.word === "runs" && now.left_s) parts.push(`about ${duration(now.left_s)} of steps left`);
  parts.push(state.more);
  dom.byId("subtitle").textContent = readable(parts.filter(Boolean).join(" · "));
  const notes = [];
  if (now.config) notes.push(note(now.config));
  if (now.broken) notes.push(note(`${counted(now.broken, "line")} of metrics.jsonl cannot be read and are left out`));
  dom.byId("notes").replaceChildren(...notes);
  const table = now.live ? [dom.guarded("what the processes do", () => processTable(now.live))] : [];
  dom.byId("now").replaceChildren(...table);
}

// A row for each process: what it does, since when, and its memory.
function processTable(live) {
  const rows = list(live.processes).map((each) => {
    const process = object(each);
    return dom.make("tr", {},
      dom.make("td", {}, String(process.name)),
      dom.make("td", {}, String(process.doing)),
      dom.make("td", { class: "figure" }, process.seconds ? duration(process.seconds) : ""),
      dom.make("td", { class: "figure" }, fixed(process.memory_gib)),
      dom.make("td", { class: "figure" }, typeof process.gpu_gib === "number" ? fixed(process.gpu_gib, 1) : ""),
      dom.make("td", { class: "faint" }, process.pid ? `pid ${process.pid} on ${process.host}` : ""));
  });
  const heads = ["process", "does", "since", "GiB", "GPU GiB", "where"].map((head) => dom.make("th", {}, head));
  return dom.make("div", { class: "card" },
    dom.make("h3", {}, "Now ", dom.make("span", { class: "faint" }, `${duration(live.age_s)} ago`)),
    dom.make("table", { class: "wide" }, dom.make("tr", {}, ...heads), ...rows));
}

function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(0)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

look();
