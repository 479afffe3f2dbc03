// Numbers as colours: of the characters of a text, and of a map of units over characters.

const dark = matchMedia("(prefers-color-scheme: dark)");
const ENDS = { low: [194, 65, 12], high: [29, 78, 216] };
const LIGHT_ENDS = { low: [251, 146, 60], high: [96, 150, 255] };

const paper = () => (dark.matches ? [20, 22, 26] : [255, 255, 255]);
const ends = () => (dark.matches ? LIGHT_ENDS : ENDS);
const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

export const onSchemeChange = (repaint) => dark.addEventListener("change", repaint);

// The range of colours: from 0, or as far below it as above where any number is negative, to what the chosen numbers
// reach, at least 1.
export function scaleOf(rows, chosen) {
  const most = chosen.reduce((far, number) => Math.max(far, Math.abs(number)), 1);
  const high = Math.ceil(most * 10) / 10;
  return { low: rows.some((row) => row.some((number) => number < 0)) ? -high : 0, high };
}

export function colour(number, { high }) {
  const share = Math.min(Math.abs(number) / high, 1);
  const end = number < 0 ? ends().low : ends().high;
  return paper().map((from, place) => Math.round(from + (end[place] - from) * share));
}

// Black or white, whichever stands out more.
function inkOn(rgb) {
  const [r, g, b] = rgb.map((part) => {
    const c = part / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

export function paintText(spans, numbers, scale) {
  spans.forEach((span, place) => {
    const number = numbers?.[place];
    const background = number == null ? null : colour(number, scale);
    span.style.backgroundColor = background ? css(background) : "";
    span.style.color = background ? inkOn(background) : "";
  });
}

export function paintScale(canvas, { low, high }) {
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x++) {
    context.fillStyle = css(colour(low + ((high - low) * x) / (canvas.width - 1), { high }));
    context.fillRect(x, 0, 1, canvas.height);
  }
}

const ROW = 5;

// Units downwards, characters to the right; the chosen unit lies between two lines.
export function paintMap(canvas, rows, scale, chosen) {
  const columns = rows[0].length;
  const wide = Math.max(3, Math.min(16, Math.floor(canvas.parentElement.clientWidth / columns)));
  canvas.width = columns * wide;
  canvas.height = rows.length * ROW;
  const context = canvas.getContext("2d");
  rows.forEach((row, unit) =>
    row.forEach((number, place) => {
      context.fillStyle = css(colour(number, scale));
      context.fillRect(place * wide, unit * ROW, wide, ROW);
    }));
  if (chosen < 0 || chosen >= rows.length) return;
  context.fillStyle = dark.matches ? "#fff" : "#000";
  context.fillRect(0, chosen * ROW - 1, canvas.width, 1);
  context.fillRect(0, chosen * ROW + ROW, canvas.width, 1);
}

export function pointOf(canvas, event, rows) {
  const box = canvas.getBoundingClientRect();
  const place = Math.floor(((event.clientX - box.left) / box.width) * rows[0].length);
  const unit = Math.floor(((event.clientY - box.top) / box.height) * rows.length);
  return rows[unit]?.[place] === undefined ? null : { unit, place };
}
