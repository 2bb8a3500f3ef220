// Runs a folder of cases on onnxruntime-node, or on onnxruntime-web (WASM) in node or in Chromium.
//
// Usage: node run_cases.mjs node|wasm|chromium FOLDER RESULTS [PACKAGES [CHROMIUM]]
// PACKAGES is the folder that has node_modules, CHROMIUM the browser's program.

import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

import { runCase } from "./page.mjs";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const [runtime, folder, results, packages, chromium] = process.argv.slice(2);
const require = createRequire(path.join(packages, "package.json"));
const version = (name) => require(path.join(packages, "node_modules", name, "package.json")).version;
const cases = JSON.parse(await readFile(path.join(folder, "cases.json"), "utf8"));

async function inNode(name, ort, provider) {
  const found = [];
  for (const { file, inputs } of cases) {
    const bytes = new Uint8Array(await readFile(path.join(folder, file)));
    found.push(await runCase(ort, { executionProviders: [provider], logSeverityLevel: 3 }, bytes, inputs));
  }
  return { runtime: `${name} ${version(name)}, node ${process.versions.node}`, results: found };
}

const MIME = { ".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm" };
const SITE = "http://localhost:8000";

// Answers the page's requests from disk, without a server: what it asks for is a file of ours or of the packages.
async function fromDisk(route) {
  const { pathname } = new URL(route.request().url());
  if (pathname === "/") {
    return route.fulfill({ contentType: "text/html", body: "<!doctype html><title>cases</title>" });
  }
  const file = path.join(pathname.startsWith("/node_modules/") ? packages : HERE, pathname);
  return route.fulfill({ contentType: MIME[path.extname(file)], body: await readFile(file) });
}

async function inChromium() {
  const { chromium: browserType } = require("playwright-core");
  const timeout = 120_000; // milliseconds: a machine that runs other tests too is slow, not broken
  const browser = await browserType.launch({ executablePath: chromium, args: ["--no-sandbox"], timeout });
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(timeout);
    await page.route(`${SITE}/**`, fromDisk);
    await page.goto(`${SITE}/`);
    await page.evaluate(async () => {
      globalThis.ort = await import("/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs");
      globalThis.ort.env.wasm.numThreads = 1;
      globalThis.cases = await import("/page.mjs");
    });
    const found = [];
    for (const { file, inputs } of cases) {
      const model = (await readFile(path.join(folder, file))).toString("base64");
      found.push(
        await page.evaluate(
          ([bytes, feeds]) => {
            const { bytesOf, runCase } = globalThis.cases;
            return runCase(globalThis.ort, { executionProviders: ["wasm"], logSeverityLevel: 3 }, bytesOf(bytes), feeds);
          },
          [model, inputs],
        ),
      );
    }
    const name = `onnxruntime-web ${version("onnxruntime-web")}, WASM, Chromium ${browser.version().split(".")[0]}`;
    return { runtime: name, results: found };
  } finally {
    await browser.close();
  }
}

async function inWasm() {
  const entry = path.join(packages, "node_modules/onnxruntime-web/dist/ort.node.min.mjs");
  const ort = await import(pathToFileURL(entry));
  ort.env.wasm.numThreads = 1;
  const found = await inNode("onnxruntime-web", ort, "wasm");
  return { ...found, runtime: found.runtime.replace(", ", ", WASM, ") };
}

const RUNTIMES = {
  node: () => inNode("onnxruntime-node", require("onnxruntime-node"), "cpu"),
  wasm: inWasm,
  chromium: inChromium,
};

await writeFile(results, JSON.stringify(await RUNTIMES[runtime]()));
process.exit(0); // a worker of onnxruntime may still be waiting
