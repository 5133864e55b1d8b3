// What was just done, as a program: curl, Python (httpx) and JavaScript. Pure: facts in, text out.

/**
 * what: {base: address without a slash at its end, filename, wishes: {seed, category, offset_ms, gain_db, events}, saveAs}.
 * The clip is sent anew: a program has no part in this browser's jobs.
 */
export const codeFor = (language, what) => ({ curl, python, javascript })[language](what);

const quote = JSON.stringify; // of JSON's escapes every one means the same in Python and JavaScript
const shell = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** Wishes -> [[name, text], ...] of a form; what was left to the server is left out. */
export function fields(wishes) {
  return Object.entries(wishes).filter(([name, wish]) => wish || name === "seed")
    .map(([name, wish]) => [name, typeof wish === "object" ? quote(wish) : String(wish)]);
}

function curl({ base, filename, wishes, saveAs }) {
  const file = `file=@"${filename.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`; // curl's own quotes: names may hold ; or ,
  return [
    `URL=${shell(base)}`,
    "# s2s.cookies tells a server that is open to all whose job it is",
    `curl -sS --fail-with-body -c s2s.cookies ${fields(wishes).map(([name, text]) => `--form-string ${shell(`${name}=${text}`)}`).join(" ")} \\`,
    `  -F ${shell(file)} "$URL/v1/jobs" > job.json`,
    "JOB=$(grep -o '\"id\": *\"[^\"]*\"' job.json | head -n 1 | cut -d '\"' -f 4)",
    'curl -sSN -b s2s.cookies "$URL/v1/jobs/$JOB/events"   # follows the work until it is done',
    `curl -sS --fail-with-body -b s2s.cookies -o ${shell(saveAs)} "$URL/v1/jobs/$JOB/result"`,
  ].join("\n");
}

function python({ base, filename, wishes, saveAs }) {
  return [
    "from pathlib import Path",
    "",
    "import httpx",
    "",
    `with httpx.Client(base_url=${quote(base)}, timeout=60) as client:`,
    `    with open(${quote(filename)}, "rb") as clip:`,
    `        wishes = {${fields(wishes).map(([name, text]) => `${quote(name)}: ${quote(text)}`).join(", ")}}`,
    '        answer = client.post("/v1/jobs", data=wishes, files={"file": clip})',
    '    job = f"/v1/jobs/{answer.raise_for_status().json()[\'id\']}"',
    '    with client.stream("GET", f"{job}/events", timeout=None) as events:',
    "        for line in events.iter_lines():  # until it is done",
    "            print(line)",
    '    result = client.get(f"{job}/result").raise_for_status()',
    `    Path(${quote(saveAs)}).write_bytes(result.content)`,
  ].join("\n");
}

function javascript({ base, filename, wishes, saveAs }) {
  return [
    "// Node 20 or newer, saved as a file that ends in .mjs",
    'import { readFile, writeFile } from "node:fs/promises";',
    "",
    `const url = ${quote(base)};`,
    "const form = new FormData();",
    ...fields(wishes).map(([name, text]) => `form.append(${quote(name)}, ${quote(text)});`),
    `form.append("file", new Blob([await readFile(${quote(filename)})]), ${quote(filename)});`,
    'const answer = await fetch(`${url}/v1/jobs`, { method: "POST", body: form });',
    "if (!answer.ok) throw new Error(await answer.text());",
    "// Tells a server that is open to all whose job it is",
    'const headers = { cookie: answer.headers.getSetCookie().map((cookie) => cookie.split(";")[0]).join("; ") };',
    "let job = await answer.json();",
    'while (["queued", "running", "canceling"].includes(job.state)) {',
    "  await new Promise((later) => setTimeout(later, 500));",
    "  job = await (await fetch(`${url}/v1/jobs/${job.id}`, { headers })).json();",
    "  console.log(job.state, job.progress?.fraction ?? \"\");",
    "}",
    "const result = await fetch(`${url}/v1/jobs/${job.id}/result`, { headers });",
    "if (!result.ok) throw new Error(await result.text());",
    `await writeFile(${quote(saveAs)}, Buffer.from(await result.arrayBuffer()));`,
  ].join("\n");
}
