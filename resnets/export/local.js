"use strict";
// Answers what page.js asks of a server: onnxruntime-web runs the model in this browser.

const LARGEST = 2048; // px of the longer side; larger images are reduced before the model sees them
ort.env.wasm.numThreads = 1; // more need headers that simple web servers do not send
ort.env.wasm.wasmPaths = "./";
let opened = null;

function openModel() {
  opened ??= Promise.all([
    fetch("model.onnx.json").then((response) => response.json()),
    ort.InferenceSession.create("model.onnx"),
  ]);
  return opened;
}

// uint8 (1, height, width, channels) of an encoded image, upright.
async function pixelsOf(blob, channels, least) {
  let image;
  try {
    image = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Error("this browser cannot read it as an image");
  }
  const short = Math.min(image.width, image.height);
  const scale = Math.min(1, Math.max(LARGEST / Math.max(image.width, image.height), least / short));
  const [width, height] = [image.width, image.height].map((side) => Math.round(side * scale));
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  const rgba = context.getImageData(0, 0, width, height).data;
  const values = new Uint8Array(width * height * channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const [red, green, blue] = [rgba[from], rgba[from + 1], rgba[from + 2]];
    if (channels === 3) {
      values[to++] = red;
      values[to++] = green;
      values[to++] = blue;
    } else { // luma as Pillow computes it
      values[to++] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
    }
  }
  return new ort.Tensor("uint8", values, [1, height, width, channels]);
}

async function logitsOf(blob) {
  const [manifest, session] = await openModel();
  const { shape, name } = manifest.input;
  const images = await pixelsOf(blob, shape[3], manifest.preprocess.resize);
  return [...(await session.run({ [name]: images })).logits.data];
}

// Probabilities and decisions, as `Postprocess` defines them.
function decide(logits, { activation, temperature, thresholds, min_score: least }, classes) {
  const highest = Math.max(...logits);
  const sum = (values) => values.reduce((total, each) => total + each, 0);
  const powers = logits.map((each) => Math.exp((each - highest) / temperature));
  const shares = activation === "sigmoid"
    ? logits.map((each) => 1 / (1 + Math.exp(-each / temperature)))
    : powers.map((each) => each / sum(powers));
  const seen = { classes: classes.map((name, index) => ({ class: name, probability: shares[index] })) };
  if (activation === "sigmoid") seen.labels = classes.filter((_, index) => shares[index] >= thresholds[index]);
  if (least !== null) {
    seen.unknown = highest + Math.log(sum(logits.map((each) => Math.exp(each - highest)))) < least;
  }
  seen.classes.sort((a, b) => b.probability - a.probability);
  return seen;
}

window.localFetch = async (path, options) => {
  const [manifest] = await openModel();
  const { model, classes, postprocess, runtime, precision, sha256 } = manifest;
  let answer;
  if (path === "models") {
    const version = sha256["model.onnx"].slice(0, 12);
    const engine = `${runtime} ${precision}, in this browser`;
    answer = [{ name: model, version, task: "classify", engine, explains: false, classes }];
  } else {
    const start = performance.now();
    const seen = decide(await logitsOf(options.body), postprocess, classes);
    const top = Number(new URLSearchParams(path.split("?")[1]).get("top_k"));
    seen.classes = seen.classes.slice(0, top);
    answer = { predictions: [seen], milliseconds: { total: performance.now() - start } };
  }
  return new Response(JSON.stringify(answer));
};

document.addEventListener("DOMContentLoaded", () => {
  document.querySelector(".drop .note").textContent =
    "Images stay in this browser; the model runs in it.";
  document.querySelector("footer").remove();
});

// `resnets export` opens the page with ?proof=N: the logits of images proof/0.png to N-1.
const proof = new URLSearchParams(location.search).get("proof");
if (proof !== null) {
  (async () => {
    const found = [];
    for (let index = 0; index < Number(proof); index++) {
      found.push(await logitsOf(await (await fetch(`proof/${index}.png`)).blob()));
    }
    return { logits: found };
  })().catch((error) => ({ error: String(error) })).then(
    (result) => fetch("proof", { method: "POST", body: JSON.stringify(result) }),
  );
}
