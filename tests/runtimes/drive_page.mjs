// Drives examples/web in Chromium as a person would, and notes what the page shows.
//
// Usage: node drive_page.mjs PACKAGES CHROMIUM URL SCRIPT RESULTS
// SCRIPT is JSON: {"drawings": [strokes...], "keys": [key...], "steps": n, "screenshots": {name: path}, "width": px}.

import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";

const [packages, chromium, url, scriptFile, results] = process.argv.slice(2);
const { chromium: browserType } = createRequire(path.resolve(packages, "package.json"))("playwright-core");
const script = JSON.parse(await readFile(scriptFile, "utf8"));
const shots = script.screenshots ?? {};

const PATIENCE = 120_000; // milliseconds: a machine that runs other tests too is slow, not broken
const browser = await browserType.launch({ executablePath: chromium, args: ["--no-sandbox"], timeout: PATIENCE });

async function open(options = {}, block = null) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 1250 }, ...options });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  if (block) await page.route(block, (route) => route.abort());
  await page.addInitScript(() => {
    globalThis.runs = 0;
    document.addEventListener("classified", ({ detail }) => {
      globalThis.last = detail;
      globalThis.runs += 1;
    });
  });
  await page.goto(url);
  return { page, problems, context };
}

// What the page shows, once it has answered for all that was put in.
async function shown(page) {
  // Once a frame the network runs, if anything came in: after some frames without a run it has answered.
  await page.evaluate(async () => {
    let [before, quiet] = [-1, 0];
    while (quiet < 5) {
      await new Promise((resolve) => requestAnimationFrame(resolve));
      quiet = globalThis.runs === before ? quiet + 1 : 0;
      before = globalThis.runs;
    }
  });
  return page.evaluate(() => {
    const rasters = [...document.querySelectorAll("#rasters canvas")].map((canvas) => {
      const { width, height } = canvas;
      const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
      const probe = document.createElement("canvas").getContext("2d");
      probe.fillStyle = getComputedStyle(canvas).getPropertyValue("--spike");
      probe.fillRect(0, 0, 1, 1);
      const colour = probe.getImageData(0, 0, 1, 1).data.join();
      const spikes = [];
      for (let step = 0; step < width; step += 1) {
        for (let neuron = 0; neuron < height; neuron += 1) {
          const start = 4 * (neuron * width + step);
          spikes.push(data.slice(start, start + 4).join() === colour ? 1 : 0);
        }
      }
      return { steps: width, neurons: height, spikes };
    });
    return {
      answer: document.getElementById("answer").textContent,
      note: document.getElementById("answer-note").textContent,
      scores: [...document.querySelectorAll("#scores .count")].map((count) => Number(count.textContent)),
      pixels: globalThis.last.pixels,
      steps: globalThis.last.steps,
      rasters,
    };
  });
}

async function draw(page, strokes) {
  await page.click("#clear");
  const box = await page.locator("#pad").boundingBox();
  for (const stroke of strokes) {
    const points = stroke.map(([x, y]) => [box.x + x * box.width, box.y + y * box.height]);
    await page.mouse.move(...points[0]);
    await page.mouse.down();
    for (const point of points.slice(1)) await page.mouse.move(...point);
    await page.mouse.up();
  }
}

const slide = (page, id, value) =>
  page.locator(id).evaluate((input, to) => {
    input.value = to;
    input.dispatchEvent(new Event("input"));
  }, value);

const found = { drawn: [], scanned: [] };
try {
  const { page, problems } = await open();
  await page.waitForSelector("#app:not([inert])");
  found.empty = await shown(page);
  for (const [index, strokes] of (script.drawings ?? []).entries()) {
    await draw(page, strokes);
    found.drawn.push(await shown(page));
    if (shots[`drawn${index}`]) await page.screenshot({ path: shots[`drawn${index}`], fullPage: true });
  }
  for (const button of script.examples ? await page.locator("#examples button").all() : []) {
    await button.click();
    found.scanned.push(await shown(page));
  }
  if (script.keys) {
    await page.locator("#pad").focus();
    for (const key of script.keys) await page.keyboard.press(key);
    found.keyed = await shown(page);
    if (shots.keyed) await page.screenshot({ path: shots.keyed, fullPage: true });
  }
  if (script.steps) {
    await slide(page, "#steps", script.steps);
    found.longer = await shown(page);
    await slide(page, "#until", script.until);
    found.until = await shown(page);
    if (shots.until) await page.screenshot({ path: shots.until, fullPage: true });
  }
  found.problems = problems;
  if (shots.dark) {
    const dark = await open({ colorScheme: "dark" });
    await dark.page.waitForSelector("#app:not([inert])");
    await draw(dark.page, script.drawings.at(-1));
    await shown(dark.page);
    await dark.page.screenshot({ path: shots.dark, fullPage: true });
  }
  if (shots.phone) {
    const phone = await open({ viewport: { width: 390, height: 844 } });
    await phone.page.waitForSelector("#app:not([inert])");
    await draw(phone.page, script.drawings.at(-1));
    await shown(phone.page);
    await phone.page.screenshot({ path: shots.phone, fullPage: true });
  }
  found.blocked = {};
  for (const [name, block] of Object.entries(script.blocked ?? {})) {
    const { page: broken, context } = await open({}, block);
    await broken.waitForSelector("#status.error");
    found.blocked[name] = await broken.textContent("#status");
    if (shots[name]) await broken.screenshot({ path: shots[name] });
    await context.close();
  }
} finally {
  await browser.close();
}
await writeFile(results, JSON.stringify(found));
