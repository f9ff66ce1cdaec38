/**
 * Opens pages in a headless Chromium and prints what each one saw, as one JSON array.
 *
 *     node drive.js < {"chromium": path, "profile": empty directory, "visits": [{"page": url, "arguments": {…}}]}
 */
import { text } from "node:stream/consumers";

import { chromium } from "playwright-core";

const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const { chromium: executablePath, profile, visits } = JSON.parse(await text(process.stdin));
const browser = await chromium.launchPersistentContext(profile, { executablePath, args: FLAGS });
try {
  const seen = [];
  for (const visit of visits) {
    const page = await browser.newPage();
    await page.goto(visit.page);
    await page.waitForFunction(() => "visit" in window);
    seen.push(await page.evaluate((given) => window.visit(given), visit.arguments));
    await page.close();
  }
  console.log(JSON.stringify(seen));
} finally {
  await browser.close();
}
