// Classifies images in the browser or, if model.json sets `endpoint`, on the server (`feathervit serve`).
// The graph includes all preprocessing except decoding; see docs/deploying.md.
import { levelsOf } from "./png.js";

const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2", "#999999"]; // Okabe and Ito
const [SHORT, LONG] = [2048, 8192]; // maximum pixels of the short and long side; larger images are halved first
const [RUNS, BUDGET] = [10, 500]; // runs or milliseconds per timing; the mean is shown, because the clock is coarse
const NAMED = 12; // number of classes in the first line
const $ = (id) => document.getElementById(id);

let model, ort, session, last; // last: the outputs of the graph for the current image
let turn = 0; // counts images, so that a new image ends the timing of the previous one
let least = 0.5; // confidence below which an answer is unsure; exact, because the slider has steps

async function start() {
  model = await (await fetch("model.json")).json();
  if (!model.endpoint) {
    ort = await import("./ort.js");
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.proxy = false;
    ort.env.wasm.wasmPaths = { mjs: new URL("ort-wasm.js", import.meta.url).href, wasm: new URL("ort-wasm.wasm", import.meta.url).href };
    const bytes = new Uint8Array(await (await fetch("model.onnx")).arrayBuffer());
    session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    await run(new Uint8Array(model.img_size ** 2 * model.channels), model.img_size, model.img_size); // warms up
  }
  describe();
  listen();
}

function describe() {
  const count = (n) => n.toLocaleString("en");
  const megabytes = (n) => `${(n / 1e6).toFixed(n < 1e6 ? 2 : 1)}\u00a0MB`;
  const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
  const names = model.class_names;
  const more = names.length > NAMED ? ` and ${names.length - NAMED} more` : "";
  document.title = $("title").textContent = model.task || model.model;
  $("task").textContent = `Recognises ${names.length} classes: ${names.slice(0, NAMED).join(", ")}${more}.`;
  const facts = [`${model.model}: ${count(model.parameters)} parameters, input of ${model.img_size} × ${model.img_size} pixels.`];
  const kind = model.held_out == null ? "images" : model.held_out ? "images that it was not trained on" : "training images";
  if (model.n) facts.push(`Correct on ${percent(model.top1)} of ${count(model.n)} ${kind}.`);
  if (model.agreement !== undefined) {
    const bits = model.precision === "int8" ? "In eight bits: the" : "The";
    facts.push(`${bits} same answer as the trained model on ${percent(model.agreement)} of them.`);
  }
  if (model.model_bytes) {
    const packed = model.runtime_packed ? `, ${megabytes(model.runtime_packed)} compressed` : "";
    facts.push(`Model ${megabytes(model.model_bytes)}, runtime ${megabytes(model.runtime_bytes)}${packed}, full page ${megabytes(model.page_bytes)}.`);
  }
  facts.push(model.endpoint ? "The model runs on the server of this page; images are not sent anywhere else." : "The model runs in this browser; images never leave it.");
  $("facts").replaceChildren(...facts.map((fact) => element("li", "", fact)));
  $("layer").max = model.routed?.length || 1;
  $("routes").hidden = $("routing").hidden = !model.routed?.length;
  $("views").classList.toggle("alone", !model.routed?.length);
  $("shipped").hidden = !model.samples?.length;
  $("shipped-note").textContent = `Or try one of these${model.held_out ? ". The model was not trained on them" : ""}.`;
  $("samples").replaceChildren(...(model.samples ?? []).map(sampleButton));
  if (model.threshold != null) $("threshold").value = 100 * (least = model.threshold);
  trade();
}

function sampleButton({ file, label }) {
  const button = element("button", "");
  const image = element("img", "");
  image.src = file;
  image.alt = label;
  button.type = "button";
  button.title = label;
  button.append(image);
  button.onclick = async () => take(new File([await (await fetch(file)).blob()], file.split("/").pop()), null, label);
  return button;
}

// Images -----------------------------------------------------------------------------------------------------------

function listen() {
  $("choose").disabled = false;
  $("choose").onclick = () => $("file").click();
  $("file").onchange = () => take($("file").files[0]).then(() => ($("file").value = ""));
  addEventListener("paste", (event) => take(imageIn(event.clipboardData), event));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => take(imageIn(event.dataTransfer), event));
  for (const name of ["dragenter", "dragover"]) $("drop").addEventListener(name, () => $("drop").classList.add("over"));
  for (const name of ["dragleave", "drop"]) $("drop").addEventListener(name, () => $("drop").classList.remove("over"));
  $("layer").oninput = drawExperts;
  $("threshold").oninput = () => {
    least = Number($("threshold").value) / 100;
    trade();
  };
  $("camera").onclick = () => ($("video").srcObject ? closeCamera() : openCamera());
  $("shoot").onclick = shoot;
  navigator.mediaDevices?.enumerateDevices().then((all) => ($("camera").hidden = !all.some((d) => d.kind === "videoinput")));
}

const imageIn = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));

async function take(file, event, truth = "") {
  event?.preventDefault();
  if (!file) return event?.type === "drop" && complain("That is not an image file.");
  let bitmap;
  try {
    const deep = model.scale && (await levelsOf(file, model.scale));
    const source = deep ? new ImageData(deep.data, deep.width) : file;
    bitmap = await createImageBitmap(source, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    return complain(`${file.name || "The image"} cannot be read as an image.`);
  }
  closeCamera();
  await classify(bitmap, bitmap.width, bitmap.height, file.name || "pasted image", file, truth);
  bitmap.close();
}

async function openCamera() {
  try {
    $("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return complain(`The camera cannot be used: ${error.message}`);
  }
  await $("video").play();
  $("drop").classList.add("full");
  $("video").hidden = $("shoot").hidden = false;
  $("image").hidden = true;
  $("camera").textContent = "Close the camera";
}

function closeCamera() {
  if (!$("video").srcObject) return;
  for (const track of $("video").srcObject.getTracks()) track.stop();
  $("video").srcObject = null;
  $("video").hidden = $("shoot").hidden = true;
  $("image").hidden = !last;
  $("drop").classList.toggle("full", Boolean(last));
  $("camera").textContent = "Camera";
}

async function shoot() {
  await classify($("video"), $("video").videoWidth, $("video").videoHeight, "photo from the camera");
}

function complain(text) {
  $("error").textContent = text;
}

/** Draws the full `source` on white and returns the canvas, halved until its sides are at most SHORT and LONG. */
function drawn(source, width, height) {
  const canvas = $("image");
  const excess = Math.max(Math.min(width, height) / SHORT, Math.max(width, height) / LONG);
  const halvings = Math.max(0, Math.ceil(Math.log2(excess)));
  canvas.width = Math.max(1, width >> halvings);
  canvas.height = Math.max(1, height >> halvings);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** Returns the pixels of a canvas as [height, width, channels]; grey with the weights of Pillow. */
function pixelsOf(canvas) {
  const rgba = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const out = new Uint8Array((rgba.length / 4) * model.channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const [r, g, b] = [rgba[from], rgba[from + 1], rgba[from + 2]];
    if (model.channels === 1) out[to++] = (19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16;
    else [out[to++], out[to++], out[to++]] = [r, g, b];
  }
  return out;
}

// The model ----------------------------------------------------------------------------------------------------------

/** Runs the graph on 8-bit levels. A model trained on images of more bits receives their values instead. */
function run(levels, width, height) {
  const values = model.scale ? Float32Array.from(levels, (level) => (level * model.scale) / 255) : levels;
  return session.run({ image: new ort.Tensor(model.scale ? "float32" : "uint8", values, [1, height, width, model.channels]) });
}

/** Classifies `source` and shows the answer. `file`: the original file, for the server; `truth`: the true class, if known. */
async function classify(source, width, height, name, file = null, truth = "") {
  const mine = ++turn;
  complain("");
  try {
    const canvas = drawn(source, width, height);
    const once = model.endpoint ? await asked(canvas, file) : ran(canvas);
    const found = await once();
    if (mine !== turn) return;
    last = found;
    present(canvas, `${name}, ${width} by ${height} pixels`, truth);
    await time(once, mine);
  } catch (error) {
    if (mine !== turn) return;
    clear();
    complain(`${name} could not be classified: ${error.message ?? error}`);
  }
}

/** Removes the image and the answer, which would not belong together. */
function clear() {
  last = undefined;
  $("image").hidden = $("truth").hidden = $("sight").hidden = true;
  $("drop").classList.toggle("full", Boolean($("video").srcObject));
  $("answer").textContent = "No image yet.";
  $("answer").className = "";
  $("classes").replaceChildren();
  $("time").textContent = $("spoken").textContent = "";
}

/** Returns a call that runs the graph on the content of the canvas. */
function ran(canvas) {
  const pixels = pixelsOf(canvas);
  return () => run(pixels, canvas.width, canvas.height);
}

/** Returns a call that sends a file, or else the content of the canvas, to the server. */
async function asked(canvas, file) {
  const body = file ?? (await new Promise((done) => canvas.toBlob(done, "image/png")));
  return async () => {
    const answer = await fetch(`predict?top=${model.class_names.length}`, { method: "POST", body });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    const { classes, probabilities } = found.predictions[0];
    const share = new Map(classes.map((name, i) => [name, probabilities[i]]));
    return { probabilities: { data: Float32Array.from(model.class_names, (name) => share.get(name)) } };
  };
}

/** Shows the mean time of `once` after the result is on the screen, unless a new image is given. */
async function time(once, mine) {
  $("time").textContent = "Timing…";
  await new Promise((done) => setTimeout(done, 30));
  const begin = performance.now();
  let runs = 0;
  while (mine === turn && runs < RUNS && (!runs || performance.now() - begin < BUDGET)) {
    await once();
    runs++;
  }
  const milliseconds = (performance.now() - begin) / runs;
  if (mine === turn) $("time").textContent = `${milliseconds.toFixed(milliseconds < 10 ? 2 : 0)} ms per image${model.endpoint ? "" : ", resizing included; one thread"}.`;
}

function present(canvas, description, truth) {
  canvas.hidden = Boolean($("video").srcObject);
  canvas.classList.toggle("small", canvas.width < 200);
  canvas.setAttribute("aria-label", description);
  $("drop").classList.add("full");
  $("truth").hidden = !truth;
  $("truth").textContent = `True class: ${truth}`;
  $("sight").hidden = !last.seen;
  answer();
  if (last.seen) drawSeen();
  if (last.seen && model.routed.length) drawExperts();
  $("result").scrollIntoView({ block: "nearest", behavior: "smooth" });
}

/** Shows the five most probable classes with bars, and whether the first one exceeds the threshold. */
function answer() {
  const shares = last.probabilities.data;
  const best = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, 5);
  const percent = (i) => `${(100 * shares[i]).toFixed(1)} %`;
  const unsure = shares[best[0]] < least;
  $("answer").textContent = unsure ? `Unsure. Best guess: ${model.class_names[best[0]]}` : model.class_names[best[0]];
  $("answer").className = unsure ? "unsure" : "sure";
  $("classes").replaceChildren(
    ...best.map((i) => {
      const row = element("li", "");
      const bar = element("span", "bar");
      bar.append(element("span", "fill"));
      bar.firstChild.style.width = `${100 * shares[i]}%`;
      row.append(element("span", "name", model.class_names[i]), element("span", "share", percent(i)), bar);
      return row;
    }),
  );
  const first = `${model.class_names[best[0]]}, ${percent(best[0])}`;
  $("spoken").textContent = `${unsure ? "Unsure, best guess" : "Most likely"} ${first}; then ${model.class_names[best[1]]}, ${percent(best[1])}.`;
}

/** Shows the effect of the threshold on the images of the check. */
function trade() {
  const value = Math.round(1000 * least);
  $("threshold-value").textContent = `${Number((100 * least).toFixed(2))} %`;
  if (last) answer();
  if (!model.thresholds) return;
  const { answered, right } = model.thresholds;
  const whole = (share) => `${Math.round(100 * share)} %`;
  $("trade").textContent = answered[value]
    ? `${whole(answered[value])} of the ${model.n.toLocaleString("en")} images of the check are then answered, ${whole(right[value])} of these correctly.`
    : "Then no image is answered.";
}

// Input of the model, and the experts of its patches ---------------------------------------------------------------

function drawSeen() {
  const size = model.img_size;
  const pixels = new ImageData(size, size);
  const planes = last.seen.data;
  for (let i = 0; i < size * size; i++)
    for (let c = 0; c < 4; c++) pixels.data[4 * i + c] = c === 3 ? 255 : planes[(model.channels === 3 ? c * size * size : 0) + i];
  const small = new OffscreenCanvas(size, size);
  small.getContext("2d").putImageData(pixels, 0, 0);
  for (const canvas of [$("seen"), $("routes")]) {
    canvas.width = canvas.height = size * Math.ceil(640 / size);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
  }
  $("seen").setAttribute("aria-label", `The image at ${size} by ${size} pixels, as the model sees it`);
}

function drawExperts() {
  const output = model.routed[Number($("layer").value) - 1];
  const layer = `${output.split(".")[1]} of ${model.depth}`; // not all layers have experts
  const { data, dims } = last[output];
  const [tokens, experts] = dims.slice(1);
  const grid = Math.round(Math.sqrt(tokens - model.prefix_tokens));
  const context = $("routes").getContext("2d");
  const side = $("routes").width / grid;
  const counts = new Array(experts).fill(0);
  context.drawImage($("seen"), 0, 0);
  context.font = `600 ${side * 0.5}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let patch = 0; patch < grid * grid; patch++) {
    const gates = data.subarray((patch + model.prefix_tokens) * experts, (patch + model.prefix_tokens + 1) * experts);
    const first = gates.indexOf(Math.max(...gates));
    const [x, y] = [(patch % grid) * side, Math.floor(patch / grid) * side];
    counts[first]++;
    context.globalAlpha = 0.7;
    context.fillStyle = COLOURS[first % COLOURS.length];
    context.fillRect(x, y, side, side);
    context.globalAlpha = 1;
    context.fillStyle = "#000";
    context.fillText(String(first + 1), x + side / 2, y + side / 2); // not everybody can distinguish the colours
  }
  const shares = counts.map((count, i) => `Expert ${i + 1}: ${Math.round((100 * count) / (grid * grid))} %`);
  $("layer-number").textContent = layer;
  $("layer").setAttribute("aria-valuetext", layer);
  $("routes").setAttribute("aria-label", `The experts of layer ${layer} over the image. ${shares.join(", ")}`);
  $("experts").replaceChildren(
    ...shares.map((share, i) => {
      const swatch = element("span", "swatch");
      swatch.style.background = COLOURS[i % COLOURS.length];
      const row = element("li", "");
      row.append(swatch, share);
      return row;
    }),
  );
}

function element(tag, className, text = "") {
  const out = document.createElement(tag);
  out.className = className;
  out.textContent = text;
  return out;
}

start().catch((error) => {
  $("task").textContent = "The model could not be loaded.";
  complain(`${error.message ?? error} (this page must be served, also locally: python -m http.server)`);
});
