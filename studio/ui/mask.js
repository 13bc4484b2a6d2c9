// Paints a mask over a picture: `studio.ui.masking` says what the value is. element, props, trigger, watch are Gradio's.
// Strokes are kept as lines, so that undoing is leaving one out; on the canvas they are opaque where is to be repainted.

const MAX_SIDE = 2048; // of a canvas that telephones draw on fluently; the server stretches the mask over its picture
const COLOUR = '#cc6238';
const part = (name) => element.querySelector(`[data-part=${name}]`);
const [board, picture, canvas, ring, size] = ['board', 'picture', 'canvas', 'ring', 'size'].map(part);
const pen = canvas.getContext('2d', { willReadFrequently: true });
let shown = null; // address of the picture
let told = null; // address of the mask that the form has
let turns = 0;
let base = null; // a mask that came from elsewhere, as a canvas
let strokes = [];
let current = null;

async function show() {
  const value = { picture: null, mask: null, ...props.value };
  if (value.picture === shown && value.mask === told) return;
  const isForAnother = value.picture !== shown && value.mask !== null && value.mask === told && strokes.length > 0;
  const turn = ++turns;
  shown = value.picture;
  base = current = null;
  strokes = [];
  element.hidden = shown === null;
  if (isForAnother) tell(null);
  else told = value.mask;
  const [image, mask] = await Promise.all([shown, told].map(opened));
  if (turn !== turns) return;
  element.hidden = image === null;
  if (image === null) return;
  const scale = Math.min(1, MAX_SIDE / Math.max(image.naturalWidth, image.naturalHeight));
  canvas.width = Math.round(image.naturalWidth * scale);
  canvas.height = Math.round(image.naturalHeight * scale);
  picture.src = shown;
  board.style.setProperty('--ratio', canvas.width / canvas.height);
  base = mask && strokesOf(mask);
  draw();
}

async function opened(address) {
  if (address === null) return null;
  const image = new Image();
  image.src = address;
  return image.decode().then(() => image, () => null);
}

function blank() {
  const other = document.createElement('canvas');
  [other.width, other.height] = [canvas.width, canvas.height];
  return [other, other.getContext('2d')];
}

// As the server reads masks: what is light is repainted, or, if any of it is transparent, what is opaque.
function strokesOf(mask) {
  const [other, brush] = blank();
  brush.drawImage(mask, 0, 0, other.width, other.height);
  const pixels = brush.getImageData(0, 0, other.width, other.height);
  const data = pixels.data;
  let isTransparent = false;
  for (let at = 3; at < data.length && !isTransparent; at += 4) isTransparent = data[at] < 255;
  for (let at = 0; at < data.length; at += 4) {
    if (!isTransparent) data[at + 3] = (299 * data[at] + 587 * data[at + 1] + 114 * data[at + 2]) / 1000;
    [data[at], data[at + 1], data[at + 2]] = [204, 98, 56];
  }
  brush.putImageData(pixels, 0, 0);
  return other;
}

function draw() {
  pen.globalCompositeOperation = 'source-over';
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (base) pen.drawImage(base, 0, 0);
  for (const stroke of strokes) {
    if (stroke.points) line(stroke, 0);
    else pen.clearRect(0, 0, canvas.width, canvas.height);
  }
  part('undo').disabled = strokes.length === 0;
}

function line(stroke, from) {
  pen.globalCompositeOperation = stroke.erases ? 'destination-out' : 'source-over';
  pen.strokeStyle = COLOUR;
  pen.lineWidth = stroke.width;
  pen.lineCap = pen.lineJoin = 'round';
  pen.beginPath();
  const [first, ...rest] = stroke.points.slice(from);
  pen.moveTo(...first);
  pen.lineTo(first[0] + 0.01, first[1]); // or a dot would be a line of no length, which is not drawn
  for (const point of rest) pen.lineTo(...point);
  pen.stroke();
}

function isEmpty() {
  const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  for (let at = 3; at < data.length; at += 4) if (data[at]) return false;
  return true;
}

// White on black; nothing at all, if nothing is painted.
function exported() {
  if (isEmpty()) return null;
  const [other, brush] = blank();
  brush.drawImage(canvas, 0, 0);
  brush.globalCompositeOperation = 'source-in';
  brush.fillStyle = 'white';
  brush.fillRect(0, 0, other.width, other.height);
  brush.globalCompositeOperation = 'destination-over';
  brush.fillStyle = 'black';
  brush.fillRect(0, 0, other.width, other.height);
  return other.toDataURL('image/png');
}

function tell(mask) {
  told = mask;
  props.value = { picture: shown, mask };
  trigger('input');
}

function change(stroke) {
  if (stroke) strokes.push(stroke);
  else strokes.pop();
  draw();
  tell(exported());
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [
    ((event.clientX - box.left) * canvas.width) / box.width,
    ((event.clientY - box.top) * canvas.height) / box.height,
  ];
}

function width() {
  return Math.max(1, (size.value / 100) * Math.min(canvas.width, canvas.height));
}

function point(event) {
  const box = canvas.getBoundingClientRect();
  const side = (width() * box.width) / canvas.width;
  ring.style.width = ring.style.height = `${side}px`;
  ring.style.left = `${event.clientX - box.left - side / 2}px`;
  ring.style.top = `${event.clientY - box.top - side / 2}px`;
}

canvas.addEventListener('pointerdown', (event) => {
  if (event.button !== 0 || !event.isPrimary) return;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  current = { erases: part('eraser').checked, width: width(), points: [place(event)] };
  line(current, 0);
  point(event);
});
canvas.addEventListener('pointermove', (event) => {
  point(event);
  if (current === null || !event.isPrimary) return;
  current.points.push(place(event));
  line(current, current.points.length - 2);
});
canvas.addEventListener('pointerup', (event) => {
  if (current === null || !event.isPrimary) return;
  const stroke = current;
  current = null;
  change(stroke);
});
canvas.addEventListener('pointercancel', () => { // two fingers: the page is moved, not painted on
  current = null;
  draw();
});
part('undo').addEventListener('click', () => change(null));
part('clear').addEventListener('click', () => isEmpty() || change({}));
part('large').addEventListener('click', (event) => {
  const isLarge = element.classList.toggle('large');
  event.target.textContent = isLarge ? 'Done' : 'Larger';
});
watch('value', show);
show();
