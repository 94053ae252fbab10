// The reading room: two systems on one turn. All state is in the URL's hash; every text of the data
// is put in as text, never as markup.
"use strict";

const received = new Map();

// Called by every data file: scripts load from a folder, where browsers refuse to fetch.
function receive(name, text) {
  received.set(name, JSON.parse(text));
}

function load(name) {
  if (received.has(name)) return Promise.resolve(received.get(name));
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `data/${encodeURIComponent(name)}.js`;
    script.addEventListener("load", () => resolve(received.get(name)));
    script.addEventListener("error", () => reject(new Error(`data/${name}.js cannot be loaded`)));
    document.head.append(script);
  });
}

function make(tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

// --- texts -------------------------------------------------------------------------------------

// As SQuAD's token F1 sees a word: no case, punctuation or article.
const normal = (word) => {
  const bare = word.toLowerCase().replace(/[!-/:-@[-`{-~]/g, "");
  return ["a", "an", "the"].includes(bare) ? "" : bare;
};
const words = (text) => text.split(/\s+/).map(normal).filter(Boolean);

function counted(text) {
  const counts = new Map();
  for (const word of words(text)) counts.set(word, (counts.get(word) ?? 0) + 1);
  return counts;
}

function overlap(answer, reference) {
  const left = counted(reference);
  let common = 0;
  for (const word of words(answer)) {
    if (left.get(word) > 0) {
      left.set(word, left.get(word) - 1);
      common += 1;
    }
  }
  return (2 * common) / (words(answer).length + words(reference).length || 1);
}

// An answer whose words are marked as far as the nearest reference has them.
function marked(answer, references) {
  const nearest = [...references].sort((one, other) => overlap(answer, other) - overlap(answer, one))[0];
  const left = counted(nearest ?? "");
  const shown = make("p", "", "answer");
  for (const piece of answer.split(/(\s+)/)) {
    const word = normal(piece);
    const hit = word && left.get(word) > 0;
    if (hit) left.set(word, left.get(word) - 1);
    shown.append(hit ? make("mark", piece) : piece);
  }
  return shown;
}

// --- what is shown -----------------------------------------------------------------------------

function conversation(turn) {
  const parts = [make("h2", `Turn ${turn.id}`)];
  if (turn.query === undefined) return parts;
  const said = make("ol", "", "said");
  for (const [role, text] of [...turn.history, ["user", turn.query]]) {
    const line = make("li", "", role);
    line.append(make("b", role === "user" ? "User: " : "Assistant: "), text);
    said.append(line);
  }
  parts.push(said, make("h3", turn.references.length === 1 ? "Reference" : "References"));
  if (!turn.references.length) parts.push(make("p", "none: answers are not judged here"));
  for (const reference of turn.references) parts.push(make("p", reference, "reference"));
  return parts;
}

function scoresOf(data, row) {
  const list = make("dl", "", "scores");
  data.labels.forEach((label, i) => {
    const score = row.scores[i];
    const pair = make("div");
    pair.append(make("dt", label), make("dd", score === null ? "not judged" : (100 * score).toFixed(1)));
    list.append(pair);
  });
  return list;
}

function rankingOf(data, row) {
  if (row.ranking === null) return [make("p", "The ranking is not at hand: scores alone.")];
  const list = make("ol", "", "ranking");
  for (const [number, score, gold] of row.ranking) {
    const [id, title, text] = data.passages[number];
    const item = make("li", "", gold ? "gold" : "");
    const details = make("details");
    const summary = make("summary");
    if (gold) summary.append(make("strong", "gold "));
    summary.append(title || make("code", id), " ", make("small", score.toPrecision(4)));
    details.append(summary);
    if (title) details.append(make("p", id, "notes"));
    if (text !== undefined) details.append(make("p", text));
    details.open = gold;
    item.append(details);
    list.append(item);
  }
  const ranks = row.gold.length ? `at rank ${row.gold.join(", ")}` : "not in the ranking";
  return [list, make("p", `Gold passages: ${ranks}.`, "notes")];
}

function system(title, data, row, turn) {
  const parts = [make("h2", title), scoresOf(data, row), make("h3", "Answer")];
  if (row.answer === null) parts.push(make("p", "Not at hand: scores alone."));
  else if (row.answer === "") parts.push(make("p", "empty", "notes"));
  else parts.push(marked(row.answer, turn.references ?? []));
  parts.push(make("h3", "Passages"), ...rankingOf(data, row));
  return parts;
}

// --- what is chosen ----------------------------------------------------------------------------

const form = document.getElementById("controls");
const field = (name) => form.elements.namedItem(name);

function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
  if (pairs.some(([value]) => value === chosen)) select.value = chosen;
}

function choose(changes) {
  const state = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of Object.entries(changes)) state.set(name, value);
  location.hash = state;
}

// Positions of the turns in the order chosen.
function ordered(turns, a, b, metric, order) {
  const positions = turns.map((_, i) => i);
  if (order === "data") return positions;
  const score = (data, i) => data.turns[i].scores[data.metrics.indexOf(metric)] ?? 0;
  const lead = (i) => (score(a, i) - score(b, i)) * (order === "a" ? 1 : -1);
  return positions.sort((one, other) => lead(other) - lead(one) || one - other);
}

// The systems asked for; in place of one that is not, another with the most to read.
function pair(index, task, a, b) {
  const scored = index.filter(([, [, of]]) => of.includes(task));
  const amount = ([, [, , read]]) => (read.includes(task) ? 1 : 0);
  const keys = scored.sort((one, other) => amount(other) - amount(one)).map(([key]) => key);
  const first = a ?? keys.find((key) => key !== b) ?? keys[0];
  return [first, b ?? keys.find((key) => key !== first) ?? keys[0]];
}

async function show() {
  const state = new URLSearchParams(location.hash.slice(1));
  const index = Object.entries(await load("index"));
  const tasks = [...field("task").options].map((option) => option.value);
  const task = state.get("task") ?? tasks[0];
  if (!tasks.includes(task)) throw new Error(`there is no task ${task} here`);
  field("task").value = task;
  const systems = index.filter(([, [, of]]) => of.includes(task)).map(([key, [title]]) => [key, title]);
  if (!systems.length) throw new Error(`no system has scores by turn of ${task}`);
  const chosen = pair(index, task, state.get("a"), state.get("b"));
  options(field("a"), systems, chosen[0]);
  options(field("b"), systems, chosen[1]);
  const unknown = chosen.find((key) => systems.every(([other]) => other !== key));
  if (unknown !== undefined) throw new Error(`${task} has no system ${unknown}`);
  const [turns, a, b] = await Promise.all([
    load(task).then((data) => data.turns),
    load(`${task}.${field("a").value}`),
    load(`${task}.${field("b").value}`),
  ]);
  const measures = a.metrics.map((metric, i) => [metric, a.labels[i]]);
  options(field("by"), measures.filter(([metric]) => b.metrics.includes(metric)), state.get("by"));
  const order = field("order");
  order.value = ["a", "b"].includes(state.get("order")) ? state.get("order") : "data";
  const positions = ordered(turns, a, b, field("by").value, order.value);
  const asked = state.get("turn") ?? turns[positions[0]].id;
  field("turn").value = asked;
  const at = positions.findIndex((i) => turns[i].id === asked);
  if (at < 0) throw new Error(`${task} has no turn ${asked}`);
  const position = positions[at];
  const turn = turns[position];
  document.getElementById("conversation").replaceChildren(...conversation(turn));
  for (const [side, data] of [["a", a], ["b", b]]) {
    const title = field(side).selectedOptions[0].textContent;
    document.getElementById(side).replaceChildren(...system(title, data, data.turns[position], turn));
  }
  form.querySelector("output").textContent = `${at + 1} of ${turns.length}`;
  for (const [id, step] of [["previous", -1], ["next", 1]]) {
    const to = positions[at + step];
    const button = document.getElementById(id);
    button.setAttribute("aria-disabled", String(to === undefined)); // disabled, it would lose focus
    button.onclick = () => { if (to !== undefined) choose({ turn: turns[to].id }); };
  }
}

async function update() {
  const problem = document.getElementById("problem");
  try {
    await show();
    problem.textContent = "";
  } catch (error) {
    problem.textContent = error.message;
  }
}

form.addEventListener("change", (event) => {
  const { name, value } = event.target;
  if (name === "task") {
    const { index } = Object.fromEntries(received);
    const kept = ["a", "b"].map((side) => [side, field(side).value]);
    const there = kept.filter(([, key]) => index[key]?.[1].includes(value));
    location.hash = new URLSearchParams([["task", value], ...there]);
  } else if (name === "order") {
    const state = new URLSearchParams(location.hash.slice(1));
    state.set("order", value);
    state.delete("turn"); // begin with the first in the new order
    location.hash = state;
  } else choose({ [name]: value.trim() });
});
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", update);
form.hidden = false;
update();
