// The page for people: twelve files in, progress, the mesh and the report. It knows nothing that the API does not say.

const NAMES = ["front", "back", "left", "right", "top", "bottom"];
const FIELDS = { multi_views: "views", depth_renders: "depth_renders" };
const ENDED = ["completed", "failed", "cancelled"];
const POLL_MS = 1500;

const at = (id) => document.getElementById(id);
let chosen = null; // the files by field and view
let shownJob = location.hash.slice(1) || null;
let shownState = ""; // of the job in detail, so that a mesh is loaded once

// -- talking to the API ---------------------------------------------------------------------------------------------------

const headers = () => (at("token").value ? { Authorization: `Bearer ${at("token").value}` } : {});

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  throw Object.assign(new Error(body?.error?.message ?? `The service answered ${answer.status}.`), { record: body?.error });
}

function explain(error) {
  const record = error.record;
  if (!record) return error.message;
  const faults = (record.details?.faults ?? []).slice(1).map((f) => `• ${f.file || f.field} ${f.message}`);
  return [`${record.code}: ${record.message}`, ...faults, record.suggestion].join("\n");
}

// -- choosing files -------------------------------------------------------------------------------------------------------

function fieldOf(path) {
  const name = path.toLowerCase();
  return /(^|\/)depth_renders\//.test(name) || /(^|[\/_.-])depth/.test(name) ? "depth_renders" : "multi_views";
}

// 1 where the numbered files of a field count from one to six, else 0.
function firstOf(field, files) {
  const names = files.map(({ path }) => path.toLowerCase()).filter((path) => fieldOf(path) === field);
  return names.some((name) => /_0*6\.png$/.test(name)) && !names.some((name) => /_0+\.png$/.test(name)) ? 1 : 0;
}

function viewOf(path, first) {
  const stem = path.toLowerCase().split("/").pop().replace(/\.png$/, "");
  const named = NAMES.findIndex((name) => stem.split(/[_.-]/).includes(name));
  const number = stem.match(/_0*([0-6])$/);
  return named >= 0 ? named : number && Number(number[1]) - first < 6 ? Number(number[1]) - first : -1;
}

// Every file gets a place by its folder and its name; twelve in two folders without such names keep their order.
function arrange(files) {
  const found = { multi_views: Array(6).fill(null), depth_renders: Array(6).fill(null), cameras: null, extra: [] };
  const first = { multi_views: firstOf("multi_views", files), depth_renders: firstOf("depth_renders", files) };
  for (const { path, file } of files) {
    if (path.toLowerCase().endsWith("cameras.json")) { found.cameras = file; continue; }
    if (!path.toLowerCase().endsWith(".png") || /(^|\/)\./.test(path)) continue;
    const field = fieldOf(path), view = viewOf(path, first[field]);
    if (view >= 0 && !found[field][view]) found[field][view] = file;
    else found.extra.push(path);
  }
  return found;
}

function choose(files) {
  chosen = arrange(files);
  at("slots").replaceChildren(...Object.keys(FIELDS).flatMap((field) => chosen[field].map((file, i) => slot(field, i, file))));
  const missing = Object.keys(FIELDS).flatMap((f) => chosen[f].flatMap((file, i) => (file ? [] : [`${f}/${NAMES[i]}`])));
  const said = [];
  if (missing.length) said.push(`Missing: ${missing.join(", ")}.`);
  if (chosen.extra.length) said.push(`Not used: ${chosen.extra.join(", ")}.`);
  problem(said.join(" "));
  at("submit").disabled = missing.length > 0;
}

function slot(field, index, file) {
  const box = document.createElement("div");
  box.className = file ? "slot" : "slot missing";
  if (file) {
    const image = new Image();
    image.src = URL.createObjectURL(file);
    image.alt = file.name;
    image.onload = () => URL.revokeObjectURL(image.src);
    box.append(image);
  }
  box.append(`${field === "multi_views" ? "view" : "depth"} ${NAMES[index]}`);
  return box;
}

async function walk(entry, path = "") {
  if (entry.isFile) return [{ path: path + entry.name, file: await new Promise((ok, no) => entry.file(ok, no)) }];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((ok, no) => reader.readEntries(ok, no));
    if (!some.length) break;
    for (const each of some) found.push(...(await walk(each, `${path}${entry.name}/`)));
  }
  return found;
}

async function dropped(event) {
  event.preventDefault();
  at("drop").classList.remove("over");
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = entries.length
    ? (await Promise.all(entries.map((entry) => walk(entry)))).flat()
    : [...event.dataTransfer.files].map((file) => ({ path: file.name, file }));
  choose(files);
}

function problem(text) {
  at("problem").textContent = text;
  at("problem").hidden = !text;
}

// -- submitting -----------------------------------------------------------------------------------------------------------

function form() {
  const data = new FormData();
  data.append("model_type", at("model").value);
  for (const [field, name] of Object.entries(FIELDS)) chosen[field].forEach((file, i) => data.append(name, file, `${NAMES[i]}.png`));
  if (chosen.cameras) data.append("cameras", chosen.cameras, "cameras.json");
  return data;
}

// XMLHttpRequest, since fetch does not tell how far an upload is
function upload(data) {
  return new Promise((ok, no) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/jobs");
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => { at("upload").value = event.loaded / event.total; };
    request.onerror = () => no(new Error("The upload broke off. Submit again."));
    request.onload = () => {
      const body = request.response;
      if (request.status === 200) ok(body);
      else no(Object.assign(new Error(`The service answered ${request.status}.`), { record: body?.error }));
    };
    request.send(data);
  });
}

async function submit(event) {
  event.preventDefault();
  problem("");
  at("submit").disabled = true;
  at("upload").hidden = false;
  try {
    show((await upload(form())).job_id);
    await refresh();
  } catch (error) {
    problem(explain(error));
  }
  at("upload").hidden = true;
  at("submit").disabled = false;
}

// -- jobs -----------------------------------------------------------------------------------------------------------------

function row(job) {
  const line = document.createElement("tr");
  line.dataset.job = job.job_id;
  line.tabIndex = 0;
  line.className = job.job_id === shownJob ? "chosen" : "";
  const bar = Object.assign(document.createElement("progress"), { max: 100, value: job.progress });
  const cells = [job.job_id, job.model_type, job.status, bar, new Date(job.created_at).toLocaleString()];
  line.append(...cells.map((content, i) => {
    const cell = document.createElement("td");
    cell.append(content);
    if (i === 2) cell.className = job.status;
    return cell;
  }));
  line.onclick = () => show(job.job_id);
  line.onkeydown = (event) => event.key === "Enter" && show(job.job_id);
  return line;
}

async function refresh() {
  try {
    const jobs = await (await ask("/jobs?limit=50")).json();
    at("jobs").replaceChildren(...jobs.map(row));
    at("no-jobs").hidden = jobs.length > 0;
    at("no-jobs").textContent = "No jobs yet.";
    if (shownJob) await detail();
  } catch (error) {
    at("jobs").replaceChildren();
    at("no-jobs").hidden = false;
    at("no-jobs").textContent = explain(error);
  }
}

function show(job) {
  shownJob = job;
  shownState = "";
  history.replaceState(null, "", `#${job}`);
  for (const id of ["viewer", "report", "download", "show-report", "cancel", "failure"]) at(id).hidden = true;
  detail().then(() => at("detail").scrollIntoView({ block: "nearest" })).catch((error) => problem(explain(error)));
}

async function detail() {
  const asked = shownJob;
  const job = await (await ask(`/jobs/${asked}`)).json();
  if (asked !== shownJob) return;
  at("detail").hidden = false;
  at("detail-heading").textContent = `Job ${job.job_id}`;
  facts(job);
  at("failure").hidden = !job.error;
  if (job.error) at("failure").textContent = explain({ record: job.error });
  at("cancel").hidden = ENDED.includes(job.status);
  if (job.status !== shownState) {
    shownState = job.status;
    if (ENDED.includes(job.status)) await ended(job);
  }
}

function facts(job) {
  const model = [job.current_model ?? job.model_type, job.engine && `(${job.engine})`].filter(Boolean).join(" ");
  const told = {
    Status: job.status + (job.queue_position ? `, place ${job.queue_position} in the queue` : ""),
    Progress: `${job.progress} %`,
    Model: model,
    Stage: job.stage,
    GPU: job.gpu && `held ${Math.round(job.gpu.held_seconds)} s, computed ${Math.round(job.gpu.busy_seconds)} s`,
    Note: job.note,
    Warnings: job.warnings.join(" "),
  };
  at("facts").replaceChildren(...Object.entries(told).filter(([, value]) => value).flatMap(([name, value]) => {
    const term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
}

async function ended(job) {
  at("download").hidden = !job.links.download;
  at("show-report").hidden = !job.links.report;
  if (!job.links.mesh) return;
  const mesh = await (await ask(job.links.mesh)).blob();
  if (job.job_id !== shownJob) return;
  at("viewer").src = URL.createObjectURL(mesh);
  at("viewer").hidden = false;
}

async function download() {
  const blob = await (await ask(`/jobs/${shownJob}/download`)).blob();
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: `${shownJob}.zip` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

async function report() {
  at("report").srcdoc = await (await ask(`/jobs/${shownJob}/report`)).text();
  at("report").hidden = false;
}

async function cancel() {
  const order = (confirm) =>
    ask(`/jobs/${shownJob}/cancel`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ confirm }) });
  const answer = await (await order(false)).json();
  if (answer.status === "cancel_requested" && window.confirm(`Cancel the job ${shownJob}? What it has made is lost.`)) await order(true);
  await refresh();
}

// -- wiring ---------------------------------------------------------------------------------------------------------------

const guarded = (work) => (...given) => Promise.resolve(work(...given)).catch((error) => problem(explain(error)));

at("token").value = sessionStorage.getItem("token") ?? "";
at("token").onchange = () => { sessionStorage.setItem("token", at("token").value); refresh(); };
at("files").onchange = () => choose([...at("files").files].map((file) => ({ path: file.webkitRelativePath || file.name, file })));
at("drop").onclick = () => at("files").click();
at("drop").onkeydown = (event) => ["Enter", " "].includes(event.key) && at("files").click();
at("drop").ondragover = (event) => { event.preventDefault(); at("drop").classList.add("over"); };
at("drop").ondragleave = () => at("drop").classList.remove("over");
at("drop").ondrop = guarded(dropped);
at("form").onsubmit = guarded(submit);
at("download").onclick = guarded(download);
at("show-report").onclick = guarded(report);
at("cancel").onclick = guarded(cancel);

(async function loop() {
  await refresh();
  setTimeout(loop, POLL_MS);
})();
