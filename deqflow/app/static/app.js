"use strict";
const $ = id => document.getElementById(id);
const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const MILLISECONDS = 300; // between questions how far a job is
let chosen = null; // {files: [File, ...]} or {example: name}
let job = null; // the name of the one that is shown
let settings = null;

async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Error("the app does not answer: has it been ended in its terminal?");
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.error || `the app answers ${answer.status}`);
  return said;
}

function complain(error) {
  $("error").textContent = error.message || String(error);
  $("error").hidden = false;
  $("progress").hidden = true;
  working(false);
}

function working(busy) {
  $("go").disabled = busy || !chosen;
  $("cancel").hidden = !busy;
}

function choose(what, told) {
  chosen = what;
  $("chosen").textContent = told;
  $("error").hidden = true;
  for (const button of $("examples").children)
    button.setAttribute("aria-pressed", String(button.value === (what && what.example)));
  if ($("cancel").hidden) working(false);
}

function take(list) {
  const files = [...list].sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  const most = settings.max_megabytes * 1e6;
  const large = files.find(file => file.size > most);
  const images = files.filter(file => file.type.startsWith("image/")).length;
  choose(null, "");
  if (!files.length) return;
  if (large) complain(new Error(`${large.name} is larger than ${settings.max_megabytes} MB, the most that is taken`));
  else if (files.length > 2) complain(new Error("expected one clip or two frames, not " + files.length + " files"));
  else if (files.length === 2 && images < 2 && files.some(file => file.type.startsWith("video/")))
    complain(new Error("expected one clip or two images, not two clips"));
  else if (files.length === 1 && images === 1 && !/\.(gif|webp|a?png|avif)$/i.test(files[0].name))
    complain(new Error("flow needs two frames: drop two images together"));
  else choose({ files }, files.map(file => file.name).join(" and "));
}

async function run(event) {
  event.preventDefault();
  const layouts = [...document.querySelectorAll("#layouts input:checked")].map(box => box.value);
  $("error").hidden = $("results").hidden = true;
  $("progress").hidden = false;
  $("bar").removeAttribute("value");
  $("status").textContent = "sending";
  working(true);
  const before = job;
  let name = null;
  try {
    if (before) await fetch(`jobs/${before}`, { method: "DELETE" }).catch(() => {});
    name = job = (await ask("jobs", { method: "POST" })).job;
    const wanted = {
      layouts, numbers: $("numbers").checked,
      max_side: Number($("max_side").value), max_frames: Number($("max_frames").value),
    };
    if (chosen.example) wanted.example = chosen.example;
    else
      for (const [index, file] of chosen.files.entries())
        await ask(`jobs/${name}/uploads/${index + 1}?name=${encodeURIComponent(file.name)}`,
          { method: "PUT", body: file });
    await ask(`jobs/${name}/start`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wanted),
    });
    while (job === name) {
      const found = await ask(`jobs/${name}`);
      if (job !== name) return;
      if (found.stage === "failed") throw new Error(found.error);
      if (found.stage === "done") { show(found); break; }
      if (found.total) { $("bar").max = found.total; $("bar").value = Math.min(found.pairs, found.total); }
      $("status").textContent = found.stage === "waiting" ? `waiting, ${found.ahead} before this one`
        : `${found.pairs}${found.total ? " of " + found.total : ""} pairs`;
      await new Promise(resolve => setTimeout(resolve, MILLISECONDS));
    }
    if (job === name) { $("progress").hidden = true; working(false); }
  } catch (error) {
    if (job === name) complain(error);
  }
}

function cancel() {
  if (job) fetch(`jobs/${job}`, { method: "DELETE" }).catch(() => {});
  job = null;
  $("progress").hidden = true;
  working(false);
}

function show(found) {
  const pictures = $("pictures");
  pictures.replaceChildren();
  const all = [["frames", found.clip], ...Object.entries(found.pictures)].filter(([, name]) => name);
  for (const [label, name] of all) {
    const address = `jobs/${job}/${name}`;
    const moving = name.endsWith(".mp4");
    const picture = moving
      ? element("video", { src: address, muted: true, loop: true, controls: true, playsInline: true, preload: "auto" })
      : element("img", { src: address, alt: label });
    const link = element("a", { href: `${address}?download`, textContent: "download" });
    pictures.append(element("figure", {}, picture, element("figcaption", {}, label, link)));
  }
  $("notes").replaceChildren(...found.notes.map(note => element("li", { textContent: note })));
  $("notes").hidden = !found.notes.length;
  $("everything").href = `jobs/${job}/deqflow.zip`;
  $("files-of").replaceChildren(...found.files.filter(name => name.match(/^(frames\.csv|manifest\.json)$/)).flatMap(name =>
    [element("a", { href: `jobs/${job}/${name}?download`, textContent: name }), " "]));
  const videos = [...pictures.querySelectorAll("video")];
  $("play").hidden = !videos.length;
  $("play").textContent = "Play all";
  $("play").onclick = () => {
    const playing = $("play").textContent === "Pause all";
    for (const video of videos) {
      if (playing) video.pause();
      else { video.currentTime = 0; video.play(); }
    }
    $("play").textContent = playing ? "Play all" : "Pause all";
  };
  for (const video of videos) // what is looked for in one is shown in all
    video.onseeked = () => {
      if (video.paused) for (const other of videos)
        if (other !== video && Math.abs(other.currentTime - video.currentTime) > 0.02) other.currentTime = video.currentTime;
    };
  $("results").hidden = false;
}

async function begin() {
  settings = await ask("settings");
  for (const { name, summary } of settings.layouts)
    $("layouts").append(element("label", {},
      element("input", { type: "checkbox", value: name, checked: name === "color" }), ` ${name} `,
      element("small", { textContent: summary })));
  for (const name of settings.examples)
    $("examples").append(element("button",
      { type: "button", value: name, onclick: () => choose({ example: name }, name) },
      element("video", { src: `examples/${name}`, muted: true, preload: "auto" }), name));
  $("max_side").max = settings.max_side;
  $("max_side").value = Math.min(480, settings.max_side);
  $("max_frames").max = settings.max_frames;
  $("max_frames").value = Math.min(100, settings.max_frames);
  $("limits").textContent =
    `up to ${settings.max_megabytes} MB, ${settings.max_frames} frames of ${settings.max_side} pixels`;
  $("files").onchange = event => { take(event.target.files); event.target.value = ""; };
  for (const kind of ["dragover", "dragleave", "drop"])
    document.addEventListener(kind, event => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files);
    });
  $("form").onsubmit = run;
  $("cancel").onclick = cancel;
  addEventListener("pagehide", () => job && fetch(`jobs/${job}`, { method: "DELETE", keepalive: true }));
}

begin().catch(complain);
