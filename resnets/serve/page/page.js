"use strict";
// One request for each picture; the newest answer stands on top.

const byId = (id) => document.getElementById(id);
const [select, status, results, drop] = ["model", "status", "results", "drop"].map(byId);
const SVG = "http://www.w3.org/2000/svg";
const SHOWN = 5;
let models = [];

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function say(text, bad = false) {
  status.textContent = text;
  status.classList.toggle("error", bad);
}

// -- talking to the server

async function ask(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem("token");
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    const answer = await fetch(path, { ...options, headers });
    if (answer.ok) return answer;
    if (answer.status === 401) { await askToken(); continue; }
    let reason = answer.statusText;
    try { reason = (await answer.json()).error; } catch { /* no JSON came */ }
    throw new Error(reason);
  }
}

let asking = null; // several requests share one question
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

// -- one picture

async function take(files) {
  const pictures = [...files].filter((file) => !file.type || file.type.startsWith("image/"));
  if (!pictures.length) return say("That is not a picture.", true);
  if (!models.length) return say("The models are not loaded yet; try again.", true);
  say(pictures.length > 1 ? `Looking at ${pictures.length} pictures` : "Looking");
  let failed = "";
  let last = "";
  for (const file of pictures) {
    try { last = await look(file); } catch (error) { failed = `${file.name || "picture"}: ${error.message}`; }
  }
  if (failed) say(failed, true);
  else say(pictures.length > 1 ? `Done: ${pictures.length} pictures.` : last);
}

async function look(file) {
  const model = chosen();
  const name = `${model.name}@${model.version}`;
  const start = performance.now();
  const query = new URLSearchParams({ model: name, top_k: SHOWN });
  const send = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
  const said = await (await ask(`predict?${query}`, send)).json();
  const spent = performance.now() - start;
  const card = show(file, model, said, spent);
  results.prepend(card);
  return card.dataset.said;
}

function show(file, model, said, spent) {
  const [seen] = said.predictions;
  const picture = make("img", { alt: file.name || "the picture", src: URL.createObjectURL(file) });
  const stack = make("div", { class: "stack" }, picture);
  const caption = make("figcaption", {}, file.name || "picture");
  const list = make("ol");
  const times = `${Math.round(said.milliseconds.total)} ms on the server, ${Math.round(spent)} ms in all`;
  const words = make("div", {}, make("h2", {}, headline(seen)), list, make("p", { class: "times" }, times));
  if (seen.classes) {
    for (const row of seen.classes) {
      list.append(make("li", {}, classRow(row, file, model, picture, caption)));
    }
  } else if (seen.objects) {
    const hue = (name) => colour(model.classes.indexOf(name));
    const frames = boxes(seen, hue);
    stack.append(frames);
    seen.objects.forEach((found, place) => {
      const row = fill(toggle(`Show this ${found.class} alone`), found.class, found.score, hue(found.class));
      row.addEventListener("click", () => single(list, row, frames, place));
      list.append(make("li", {}, row));
    });
  } else {
    seen.areas.forEach((area) => list.append(make("li", {}, plainRow(area.class, area.share))));
  }
  const hint = seen.classes ? model.explains && "Choose a class to see what speaks for it."
    : seen.objects?.length > 1 && "Choose an object to see it alone.";
  if (hint) list.before(make("p", { class: "times" }, hint));
  const card = make("article", { class: "answer" }, make("figure", {}, stack, caption), words);
  card.dataset.said = `${file.name || "Picture"}: ${headline(seen)}.`;
  return card;
}

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 || share > 0.9995 ? 1 : 0)} %`;

function headline(seen) {
  if (seen.classes) return `${seen.classes[0].class}, ${percent(seen.classes[0].probability)}`;
  if (seen.areas) return `${seen.areas.length} kinds of area`;
  if (!seen.objects.length) return "Nothing it knows";
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

// Press one button of a list, or none, and let go of the others.
function press(list, chosen) {
  for (const button of list.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button === chosen));
}

// Show the box of one row alone; all of them again when it is pressed twice.
function single(list, row, frames, place) {
  const alone = !isOn(row);
  press(list, alone ? row : null);
  [...frames.children].forEach((frame, number) => frame.classList.toggle("dim", alone && number !== place));
}

// A class of a checkpoint is a button: it shows what in the picture spoke for it.
function classRow(row, file, model, picture, caption) {
  if (!model.explains) return plainRow(row.class, row.probability);
  const button = fill(toggle(`Show what speaks for ${row.class}`), row.class, row.probability);
  const plain = { src: picture.src, alt: picture.alt, text: caption.textContent };
  let overlay = null;
  button.addEventListener("click", async () => {
    const pressed = isOn(button);
    press(button.closest("ol"), null);
    if (pressed) {
      Object.assign(picture, { src: plain.src, alt: plain.alt });
      caption.textContent = plain.text;
      return;
    }
    try {
      const query = new URLSearchParams({ model: `${model.name}@${model.version}`, class: row.class });
      overlay ??= URL.createObjectURL(await (await ask(`explain?${query}`, { method: "POST", body: file,
        headers: { "Content-Type": "application/octet-stream" } })).blob());
    } catch (error) { say(error.message, true); return; }
    press(button.closest("ol"), button);
    const text = `What speaks for ${row.class}: the redder, the more`;
    Object.assign(picture, { src: overlay, alt: text });
    caption.textContent = text;
    say(`${text}.`);
  });
  return button;
}

const colour = (place) => `hsl(${(place * 137.5 + 10) % 360} 90% 48%)`;

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

// -- ways to give pictures

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
    return say(`The camera cannot be used (${error.message}). Choose a picture instead.`, true);
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
    else say("The camera gave no picture yet; try again.", true);
  }, "image/jpeg", 0.92);
});
byId("close-camera").addEventListener("click", () => byId("viewfinder").close());
byId("viewfinder").addEventListener("close", () => {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
});

select.addEventListener("change", describeModel);
loadModels().catch((error) => say(error.message, true));
