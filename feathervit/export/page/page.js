// An image to class names, in the browser. The graph does all that happens to pixels but decoding; see docs/deploying.md.
import * as ort from "./ort.js";
import { levelsOf } from "./png.js";

const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2", "#999999"]; // Okabe and Ito
const [SHORT, LONG] = [2048, 8192]; // pixels at most of an image's sides; what is larger is halved first
const [RUNS, BUDGET] = [10, 500]; // runs and milliseconds at most of which the time is the mean: a browser's clock is coarse
const $ = (id) => document.getElementById(id);

let model, session, last; // last: what the graph gave out for the image that is shown
let turn = 0; // counts images, so that an earlier one's timing ends when another comes

async function start() {
  model = await (await fetch("model.json")).json();
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.proxy = false;
  ort.env.wasm.wasmPaths = { mjs: new URL("ort-wasm.js", import.meta.url).href, wasm: new URL("ort-wasm.wasm", import.meta.url).href };
  const bytes = new Uint8Array(await (await fetch("model.onnx")).arrayBuffer());
  session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  await run(new Uint8Array(model.img_size ** 2 * model.channels), model.img_size, model.img_size); // warms up
  describe();
  listen();
}

function describe() {
  const count = (n) => n.toLocaleString("en");
  const megabytes = (n) => `${(n / 1e6).toFixed(n < 1e6 ? 2 : 1)} MB`;
  document.title = $("title").textContent = `${model.model}: ${model.class_names.length} classes`;
  $("about").textContent =
    `${count(model.parameters)} parameters, ${model.img_size} × ${model.img_size} pixels, ${model.precision}. ` +
    `${(100 * model.top1).toFixed(1)} % right on ${count(model.n)} images of ${model.split}; ` +
    `${(100 * model.agreement).toFixed(1)} % answered as the trained model does.`;
  $("sizes").textContent = `Model ${megabytes(model.model_bytes)}, whole page ${megabytes(model.page_bytes)}.`;
  $("layer").max = model.routed.length;
  $("routes").hidden = $("routing").hidden = !model.routed.length;
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
  $("camera").onclick = () => ($("video").srcObject ? closeCamera() : openCamera());
  $("shoot").onclick = shoot;
  navigator.mediaDevices?.enumerateDevices().then((all) => ($("camera").hidden = !all.some((d) => d.kind === "videoinput")));
}

const imageIn = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));

async function take(file, event) {
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
  await classify(bitmap, bitmap.width, bitmap.height, file.name || "pasted image");
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

/** Draws `source` whole over white and returns the canvas, halved until its sides are at most SHORT and LONG. */
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

/** The pixels of a canvas, height before width before channels; grey as Pillow weighs it. */
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

/** The graph's outputs for 8-bit levels. A model that was trained on images of more bits takes their values instead. */
function run(levels, width, height) {
  const values = model.scale ? Float32Array.from(levels, (level) => (level * model.scale) / 255) : levels;
  return session.run({ image: new ort.Tensor(model.scale ? "float32" : "uint8", values, [1, height, width, model.channels]) });
}

async function classify(source, width, height, name) {
  const mine = ++turn;
  complain("");
  try {
    const canvas = drawn(source, width, height);
    const pixels = pixelsOf(canvas);
    const found = await run(pixels, canvas.width, canvas.height);
    if (mine !== turn) return;
    last = found;
    present(canvas, `${name}, ${width} by ${height} pixels`);
    await time(() => run(pixels, canvas.width, canvas.height), mine);
  } catch (error) {
    complain(`${name} could not be classified: ${error.message ?? error}`);
  }
}

/** The mean time of `once` after the result is on the screen, unless another image comes. */
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
  if (mine === turn) $("time").textContent = `${milliseconds.toFixed(milliseconds < 10 ? 2 : 0)} ms an image, resizing included; one thread.`;
}

function present(canvas, description) {
  canvas.hidden = Boolean($("video").srcObject);
  canvas.classList.toggle("small", canvas.width < 200);
  canvas.setAttribute("aria-label", description);
  $("drop").classList.add("full");
  $("waiting").hidden = true;
  $("sight").hidden = false;
  tell();
  drawSeen();
  if (model.routed.length) drawExperts();
}

function tell() {
  const best = [...last.probabilities.data.keys()].sort((a, b) => last.probabilities.data[b] - last.probabilities.data[a]).slice(0, 5);
  const percent = (i) => `${(100 * last.probabilities.data[i]).toFixed(1)} %`;
  $("classes").replaceChildren(
    ...best.map((i) => {
      const row = element("li", "");
      const bar = element("span", "bar");
      bar.style.width = `${100 * last.probabilities.data[i]}%`;
      row.append(bar, element("span", "name", model.class_names[i]), element("span", "share", percent(i)));
      return row;
    }),
  );
  $("spoken").textContent = `Most likely ${model.class_names[best[0]]}, ${percent(best[0])}; then ${model.class_names[best[1]]}, ${percent(best[1])}.`;
}

// What the model sees, and the experts its patches chose ---------------------------------------------------------------

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
    context.fillText(String(first + 1), x + side / 2, y + side / 2); // colour alone is not for everybody
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
  $("about").textContent = "The model could not be loaded.";
  complain(`${error.message ?? error} (this page must be served, also locally: python -m http.server)`);
});
