// The page: write on from a beginning, and see what the cell does meanwhile.

import { Refused, events, json } from "./api.js";
import { onSchemeChange, paintMap, paintScale, paintText, pointOf, scaleOf } from "./heat.js";

const $ = (id) => document.getElementById(id);
const LONGEST = 4000, NUMBERS = 131072, UNITS = 64; // as the server allows; so many units on a map
const PER_SECOND = 60, LOOK_EVERY = 1500; // characters shown; milliseconds between looks while it writes
const SURPRISE = "surprise";
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let runs = [];
let writing = null; // the AbortController of the text in the making
let given = 0; // how much of the text was given, not written
let seen = null; // the last look: pieces, first_unit, units

const run = () => runs.find((one) => one.name === $("run").value);
const spans = () => [...$("text").children];
const text = () => $("text").textContent;
const visible = (piece) => ({ " ": "blank", "\n": "new line", "\t": "tab" })[piece] ?? piece;

// What a run reads ---------------------------------------------------------------------------------------------------

function showRun() {
  const one = run();
  const bits = one.bits_per_character;
  const quality = bits === null ? "" : `, ${bits.toFixed(2)} bits per character on held-out text`;
  const layers = one.layers > 1 ? `${one.layers} layers of ` : "";
  $("about").textContent =
    `${one.cell}, ${layers}${one.units} units, ${one.parameters.toLocaleString("en")} weights${quality}`;
  $("hint").textContent = one.letters_only ? "This run knows small letters only; anything else becomes a blank." : "";
  $("hint").hidden = !one.letters_only;
  const before = $("value").value;
  const options = one.values.map(({ name, meaning }) => new Option(meaning ? `${name}: ${meaning}` : name, name));
  $("value").replaceChildren(...options, new Option("surprise in bits", SURPRISE));
  $("value").value = one.values.some(({ name }) => name === before) || before === SURPRISE ? before : one.values[0].name;
  showUnits();
}

function showUnits() {
  const value = run().values.find(({ name }) => name === $("value").value);
  const most = (value?.units ?? 1) - 1;
  for (const id of ["unit", "unit-range"]) {
    $(id).max = most;
    $(id).disabled = !value;
  }
  $("unit-most").textContent = value ? `0 to ${most}` : "";
  chooseUnit(Math.min(unit(), most));
}

const unit = () => Math.max(0, Math.min($("unit").valueAsNumber || 0, Number($("unit").max)));

function chooseUnit(number) {
  $("unit").value = $("unit-range").value = number;
}

function asRead(prefix) {
  return run().letters_only ? prefix.toLowerCase().replace(/[^a-z]+/g, " ") : prefix;
}

// Writing ------------------------------------------------------------------------------------------------------------

function settings() {
  const seed = $("seed").value === "" ? Math.floor(Math.random() * 2 ** 53) : $("seed").valueAsNumber;
  return {
    run: run().name,
    temperature: $("temperature").valueAsNumber,
    top_k: $("top-k").valueAsNumber,
    top_p: $("top-p").valueAsNumber,
    seed,
    stream: true,
  };
}

function append(piece, isGiven) {
  const span = document.createElement("span");
  span.textContent = piece;
  if (isGiven) span.className = "given";
  $("text").append(span);
}

async function write(prefix, length, anew) {
  writing?.abort();
  const mine = (writing = new AbortController());
  fail(null);
  busy(true);
  $("status").textContent = "Writing.";
  const queue = [];
  const shown = show(queue, mine.signal, length);
  try {
    const asked = { ...settings(), prefix: prefix || null, length };
    for await (const { name, data } of events("/api/complete", asked, mine.signal)) {
      if (name === "start" && anew) {
        $("text").replaceChildren();
        seen = null;
        for (const piece of data.prefix) append(piece, true);
        given = data.prefix.length;
      }
      if (name === "") queue.push(data.text);
      if (name === "end") queue.ended = data.ended;
    }
    queue.ended ??= "cut";
    await shown;
    if (mine === writing) finish(said(queue.ended));
  } catch (error) {
    mine.abort();
    if (mine !== writing) return; // another has begun
    if (error.name !== "AbortError") fail(error);
    finish("Stopped.");
  }
}

function said(ended) {
  const written = `${text().length - given} characters written`;
  const why = { length: "", time: ": its time was up", shutdown: ": the server stops", error: ": a step failed" };
  return `${written}${why[ended] ?? ": the connection broke"}.`;
}

// Show pieces one after the other, at a pace that can be watched; all at once for those who want no motion.
function show(queue, signal, length) {
  return new Promise((resolve) => {
    let before = performance.now(), due = 0;
    queue.left = length;
    const frame = (now) => {
      if (signal.aborted) return resolve();
      due = Math.min(due + ((now - before) / 1000) * PER_SECOND, PER_SECOND / 4);
      before = now;
      for (; queue.length && (calm.matches || due >= 1); due--, queue.left--) append(queue.shift(), false);
      remaining = queue.left;
      if (queue.ended && !queue.length) return resolve();
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  });
}

let remaining = 0;

function busy(now) {
  const focused = document.activeElement;
  $("text").classList.toggle("writing", now);
  $("text").setAttribute("aria-busy", now);
  $("stop").disabled = !now;
  $("more").disabled = now || !text() || text().length >= LONGEST;
  if (focused === $("stop") && !now) $("write").focus();
  if (focused === $("more") && now) $("stop").focus();
}

function finish(status) {
  writing = null;
  busy(false);
  $("status").textContent = status;
  look();
}

function fail(error) {
  $("error").hidden = !error;
  $("error").textContent = !error ? "" : error instanceof Refused ? error.message : "The server cannot be reached.";
}

const lengthLeft = () => Math.min($("length").valueAsNumber, LONGEST - text().length);

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  write(asRead($("prefix").value), $("length").valueAsNumber, true);
});
$("more").addEventListener("click", () => write(text(), lengthLeft(), false));
$("stop").addEventListener("click", () => writing?.abort());
$("prefix").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
document.addEventListener("keydown", (event) => event.key === "Escape" && writing?.abort());
$("temperature").addEventListener("input", () => {
  $("temperature-shown").value = $("temperature").valueAsNumber.toFixed(2);
});
$("temperature").addEventListener("change", () => {
  if (writing && remaining > 0 && text()) write(text(), remaining, false); // on from here, at the new temperature
});

// Looking ------------------------------------------------------------------------------------------------------------

let looking = null;

async function look() {
  const now = text();
  if (!now) return;
  looking?.abort();
  looking = new AbortController();
  const value = $("value").value;
  const asked = { run: run().name, text: now.slice(-LONGEST) };
  try {
    if (value === SURPRISE) {
      const found = await json("/api/score", asked, looking.signal);
      seen = { ...found, value, first_unit: 0, units: [found.bits] };
    } else {
      const units = Math.max(1, Math.min(UNITS, Math.floor(NUMBERS / now.length)));
      const first_unit = Math.floor(unit() / units) * units;
      seen = await json("/api/activations", { ...asked, value, first_unit, units }, looking.signal);
    }
    paint();
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  }
}

function lookOrPaint() {
  const place = seen && seen.value === $("value").value ? unit() - seen.first_unit : -1;
  if (place >= 0 && place < seen.units.length) paint();
  else look();
}

function paint() {
  if (!seen) return;
  if (!writing) showAsRead();
  const row = seen.value === SURPRISE ? 0 : unit() - seen.first_unit;
  const numbers = seen.units[row] ?? [];
  const scale = scaleOf(seen.units, numbers);
  paintText(spans(), numbers, scale);
  $("legend").hidden = false;
  paintScale($("scale"), scale);
  $("low").textContent = scale.low;
  $("high").textContent = seen.value === SURPRISE ? `${scale.high} bits` : scale.high;
  $("summary").textContent = summary(numbers);
  $("map-figure").hidden = seen.value === SURPRISE;
  if (seen.value !== SURPRISE) {
    const last = seen.first_unit + seen.units.length - 1;
    $("map-title").textContent = `Units ${seen.first_unit} to ${last} (down) over the text (to the right)`;
    paintMap($("map"), seen.units, scale, row);
  }
  $("numbers").hidden = false;
  if ($("numbers").open) fillTable(numbers);
}

// The text in the pieces that the run reads.
function showAsRead() {
  const shown = spans().slice(-seen.pieces.length);
  if (shown.length === seen.pieces.length && shown.every((span, place) => span.textContent === seen.pieces[place])) return;
  $("text").replaceChildren();
  for (const piece of seen.pieces) append(piece, text().length < given);
}

const said3 = (number) => (number === null ? "none" : number.toFixed(3));

// The heat map in words, for those who do not see it.
function summary(numbers) {
  const known = numbers.filter((number) => number !== null);
  if (!known.length) return "";
  const at = (number) => `after ${visible(seen.pieces[numbers.indexOf(number)])} (place ${numbers.indexOf(number) + 1})`;
  const [least, most] = [Math.min(...known), Math.max(...known)];
  const mean = known.reduce((sum, number) => sum + number, 0) / known.length;
  if (seen.value === SURPRISE) {
    const bits = seen.bits_per_character?.toFixed(2) ?? "no";
    return `${bits} bits per character; most surprising: ${visible(seen.pieces[numbers.indexOf(most)])}, ` +
      `${most.toFixed(1)} bits, at place ${numbers.indexOf(most) + 1}.`;
  }
  const name = $("value").selectedOptions[0].text;
  return `${name}, unit ${unit()}: from ${least.toFixed(2)} ${at(least)} to ${most.toFixed(2)} ${at(most)}; ` +
    `mean ${mean.toFixed(2)}.`;
}

function fillTable(numbers) {
  $("rows").replaceChildren(...numbers.map((number, place) => {
    const row = document.createElement("tr");
    for (const words of [place + 1, visible(seen.pieces[place]), said3(number)]) row.insertCell().textContent = words;
    return row;
  }));
}

for (const id of ["unit", "unit-range"]) {
  $(id).addEventListener("input", () => {
    if ($(id).value === "") return;
    chooseUnit(Math.max(0, Math.min($(id).valueAsNumber, Number($(id).max))));
    lookOrPaint();
  });
}
$("value").addEventListener("change", () => {
  showUnits();
  look();
});
$("run").addEventListener("change", () => {
  writing?.abort();
  showRun();
  look();
});
$("numbers").addEventListener("toggle", paint);
$("map").addEventListener("pointermove", (event) => {
  const at = seen && pointOf($("map"), event, seen.units);
  if (!at) return;
  const number = seen.units[at.unit][at.place].toFixed(2);
  $("point").textContent = `unit ${seen.first_unit + at.unit}, after ${visible(seen.pieces[at.place])}: ${number}`;
});
$("map").addEventListener("click", (event) => {
  const at = seen && pointOf($("map"), event, seen.units);
  if (!at) return;
  chooseUnit(seen.first_unit + at.unit);
  paint();
});
addEventListener("resize", paint);
onSchemeChange(paint);
setInterval(() => writing && look(), LOOK_EVERY);

try {
  runs = await json("/api/runs");
  $("run").replaceChildren(...runs.map(({ name }) => new Option(name, name)));
  showRun();
} catch (error) {
  fail(error);
}
