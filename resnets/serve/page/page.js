"use strict";
// One request per image; the newest prediction is shown first.

const byId = (id) => document.getElementById(id);
const [select, status, results, drop] = ["model", "status", "results", "drop"].map(byId);
const SVG = "http://www.w3.org/2000/svg";
const TOP_K = 5;
let models = [];

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function setStatus(text, bad = false) {
  status.textContent = text;
  status.classList.toggle("error", bad);
}

// -- requests

async function ask(path, options = {}) {
  if (window.localFetch) return window.localFetch(path, options); // `resnets export --to web`
  for (;;) {
    const token = sessionStorage.getItem("token");
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    const response = await fetch(path, { ...options, headers });
    if (response.ok) return response;
    if (response.status === 401) { await askToken(); continue; }
    let reason = response.statusText;
    try { reason = (await response.json()).error; } catch { /* not JSON */ }
    throw new Error(reason);
  }
}

let asking = null; // concurrent requests share one dialog
function askToken() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("ask-token");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem("token", byId("token").value.trim());
      byId("token").value = "";
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

async function loadModels() {
  models = await (await ask("models")).json();
  select.replaceChildren(...models.map((model) => {
    const name = `${model.name}@${model.version}`;
    const alone = models.filter((other) => other.name === model.name).length === 1;
    return make("option", { value: name }, alone ? model.name : name);
  }));
  select.disabled = false;
  describeModel();
}

const chosen = () => models[select.selectedIndex];

function describeModel() {
  const { classes, engine } = chosen();
  byId("engine").textContent = `${classes.length.toLocaleString("en")} classes, ${engine}`;
}

// -- prediction of one image

async function take(files) {
  const images = [...files].filter((file) => !file.type || file.type.startsWith("image/"));
  if (!images.length) return setStatus("This file is not an image.", true);
  if (!models.length) return setStatus("The models are still loading; try again.", true);
  setStatus(images.length > 1 ? `Predicting ${images.length} images` : "Predicting");
  let failed = 0;
  let last = "";
  for (const file of images) {
    try { last = await predict(file); } catch (error) {
      failed += 1;
      last = `${file.name || "Image"}: ${error.message}`;
      results.prepend(failure(file, error.message));
    }
  }
  const done = failed ? `${images.length - failed} of ${images.length} images predicted.` : `Done: ${images.length} images.`;
  setStatus(images.length > 1 ? done : last, failed > 0);
}

// The card of an image that the server did not answer.
function failure(file, reason) {
  const name = file.name || "Image";
  return make("article", { class: "answer failed" },
    make("h2", {}, name), make("p", { class: "error" }, reason));
}

// Browsers do not show all formats that the server reads: it converts those to PNG.
function shownImage(file) {
  const image = make("img", { alt: file.name || "image" });
  const show = (blob) => { image.src = image.dataset.plain = URL.createObjectURL(blob); };
  image.addEventListener("error", async () => {
    const send = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
    try { show(await (await ask("preview", send)).blob()); } catch { /* its name is shown */ }
  }, { once: true });
  show(file);
  return image;
}

async function predict(file) {
  const model = chosen();
  const name = `${model.name}@${model.version}`;
  const start = performance.now();
  const query = new URLSearchParams({ model: name, top_k: TOP_K });
  const send = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
  const response = await (await ask(`predict?${query}`, send)).json();
  const elapsed = performance.now() - start;
  const card = show(file, model, response, elapsed);
  results.prepend(card);
  return card.dataset.summary;
}

function show(file, model, response, elapsed) {
  const [seen] = response.predictions;
  const image = shownImage(file);
  const stack = make("div", { class: "stack" }, image);
  const caption = make("figcaption", {}, file.name || "image");
  const list = make("ol");
  const where = window.localFetch ? "in this browser" : "on the server";
  const times = `${Math.round(response.milliseconds.total)} ms ${where}, ${Math.round(elapsed)} ms in total`;
  const words = make("div", {}, make("h2", {}, headline(seen)), list, make("p", { class: "times runtime" }, times));
  if (seen.classes) {
    for (const row of seen.classes) {
      list.append(make("li", {}, classRow(row, file, model, image, caption)));
    }
  } else if (seen.objects) {
    const hue = (name) => color(model.classes.indexOf(name));
    const frames = boxes(seen, hue);
    stack.append(frames);
    seen.objects.forEach((found, place) => {
      const row = fill(toggle(`Show only the box of this ${found.class}`), found.class, found.score, hue(found.class));
      row.addEventListener("click", () => single(list, row, frames, place));
      list.append(make("li", {}, row));
    });
  } else {
    seen.areas.forEach((area) => list.append(make("li", {}, plainRow(area.class, area.share))));
  }
  const hint = seen.classes ? model.explains && "Select a class to see the evidence for it."
    : seen.objects?.length > 1 && "Select an object to see only its box.";
  if (hint) list.before(make("p", { class: "times" }, hint));
  const card = make("article", { class: "answer" }, make("figure", {}, stack, caption), words);
  card.dataset.summary = `${file.name || "Image"}: ${headline(seen)}.`;
  return card;
}

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 || share > 0.9995 ? 1 : 0)} %`;

function headline(seen) {
  if (seen.labels) return seen.labels.length ? seen.labels.join(", ") : "No label";
  if (seen.classes) {
    const best = `${seen.classes[0].class}, ${percent(seen.classes[0].probability)}`;
    return seen.unknown ? `Unknown (nearest: ${best})` : best;
  }
  if (seen.areas) return `${seen.areas.length} classes`;
  if (!seen.objects.length) return "No objects found";
  const counts = new Map();
  for (const found of seen.objects) counts.set(found.class, (counts.get(found.class) ?? 0) + 1);
  const kinds = [...counts].sort((a, b) => b[1] - a[1]);
  const named = kinds.slice(0, 4).map(([name, count]) => `${count} ${name}`).join(", ");
  return kinds.length > 4 ? `${seen.objects.length} objects: ${named}, ...` : named;
}

function fill(row, name, share, shade) {
  const bar = make("span", { class: "bar", "aria-hidden": "true" });
  bar.style.width = `${100 * share}%`;
  row.append(bar);
  if (shade) {
    const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = shade;
    row.append(swatch);
  }
  row.append(make("span", { class: "name" }, name), make("span", { class: "share" }, percent(share)));
  return row;
}

const plainRow = (name, share) => fill(make("div", { class: "row" }), name, share);
const toggle = (title) => make("button", { type: "button", class: "row", "aria-pressed": "false", title });
const isOn = (button) => button.getAttribute("aria-pressed") === "true";

// Press one button of a list, or none, and release the others.
function press(list, chosen) {
  for (const button of list.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button === chosen));
}

// Show only the box of one row; all boxes when it is pressed again.
function single(list, row, frames, place) {
  const alone = !isOn(row);
  press(list, alone ? row : null);
  [...frames.children].forEach((frame, number) => frame.classList.toggle("dim", alone && number !== place));
}

// A class of a checkpoint is a button that shows the Grad-CAM heatmap of the class.
function classRow(row, file, model, image, caption) {
  if (!model.explains) return plainRow(row.class, row.probability);
  const button = fill(toggle(`Show the evidence for ${row.class}`), row.class, row.probability);
  const plain = { alt: image.alt, text: caption.textContent };
  let overlay = null;
  button.addEventListener("click", async () => {
    const pressed = isOn(button);
    press(button.closest("ol"), null);
    if (pressed) {
      Object.assign(image, { src: image.dataset.plain, alt: plain.alt });
      caption.textContent = plain.text;
      return;
    }
    try {
      const query = new URLSearchParams({ model: `${model.name}@${model.version}`, class: row.class });
      overlay ??= URL.createObjectURL(await (await ask(`explain?${query}`, { method: "POST", body: file,
        headers: { "Content-Type": "application/octet-stream" } })).blob());
    } catch (error) { setStatus(error.message, true); return; }
    press(button.closest("ol"), button);
    const text = `Evidence for ${row.class} (Grad-CAM): red is high`;
    Object.assign(image, { src: overlay, alt: text });
    caption.textContent = text;
    setStatus(`${text}.`);
  });
  return button;
}

const color = (place) => `hsl(${(place * 137.5 + 10) % 360} 90% 48%)`;

function boxes(seen, hue) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${seen.width} ${seen.height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const { class: name, box: [left, top, right, bottom] } of seen.objects) {
    const rect = document.createElementNS(SVG, "rect");
    const at = { x: left, y: top, width: right - left, height: bottom - top, stroke: hue(name) };
    for (const [key, value] of Object.entries(at)) rect.setAttribute(key, value);
    svg.append(rect);
  }
  return svg;
}

// -- inputs: files, paste, drop, camera

byId("choose").addEventListener("click", () => byId("files").click());
for (const id of ["files", "snap"]) {
  byId(id).addEventListener("change", (event) => {
    take(event.target.files).then(() => { event.target.value = ""; });
  });
}
addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) { event.preventDefault(); take(files); }
});
addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
});

let stream = null;
byId("camera").addEventListener("click", async () => {
  // Browsers give pages a camera on https and localhost only; a phone's own camera app always works.
  if (!navigator.mediaDevices?.getUserMedia) return byId("snap").click();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return setStatus(`The camera cannot be used (${error.message}). Choose an image instead.`, true);
  }
  byId("video").srcObject = stream;
  byId("viewfinder").showModal();
});
byId("shoot").addEventListener("click", () => {
  const video = byId("video");
  const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    byId("viewfinder").close();
    if (blob) take([new File([blob], "camera.jpg", { type: "image/jpeg" })]);
    else setStatus("The camera has no image yet; try again.", true);
  }, "image/jpeg", 0.92);
});
byId("close-camera").addEventListener("click", () => byId("viewfinder").close());
byId("viewfinder").addEventListener("close", () => {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
});

select.addEventListener("change", describeModel);
loadModels().catch((error) => setStatus(error.message, true));
