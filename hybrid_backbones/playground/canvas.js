// Records strokes of mouse, pen or finger: [[x, ...], [y, ...]] in units of the canvas' side, from 0 to 1.
const canvas = element.querySelector("canvas");
const pen = canvas.getContext("2d");
let strokes = [];
let drawing = null;

function paint() {
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.lineWidth = canvas.width / 60;
  pen.lineCap = pen.lineJoin = "round";
  for (const [xs, ys] of strokes) {
    pen.beginPath();
    pen.moveTo(xs[0] * canvas.width, ys[0] * canvas.height);
    // a single point becomes a dot
    for (let i = 0; i < xs.length; i++) pen.lineTo(xs[i] * canvas.width, ys[i] * canvas.height);
    pen.stroke();
  }
}

function add(event) {
  const box = canvas.getBoundingClientRect();
  drawing[0].push((event.clientX - box.left) / box.width);
  drawing[1].push((event.clientY - box.top) / box.height);
  paint();
}

function say() {
  props.value = JSON.stringify(strokes);
}

canvas.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button) return;
  canvas.setPointerCapture(event.pointerId);
  strokes.push((drawing = [[], []]));
  add(event);
});
canvas.addEventListener("pointermove", (event) => {
  if (!drawing || !event.isPrimary) return;
  // all positions since the last frame, so that quick lines stay round
  for (const one of event.getCoalescedEvents?.() ?? [event]) add(one);
});
for (const end of ["pointerup", "pointercancel"])
  canvas.addEventListener(end, (event) => {
    if (!drawing || !event.isPrimary) return;
    drawing = null;
    say();
  });
element.querySelector(".undo").addEventListener("click", () => {
  strokes.pop();
  paint();
  say();
});
element.querySelector(".clear").addEventListener("click", () => {
  strokes = [];
  paint();
  say();
});
// the page empties the canvas once a sketch is taken
watch("value", () => {
  if (props.value) return;
  strokes = [];
  paint();
});
