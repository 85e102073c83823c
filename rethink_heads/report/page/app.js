// The shell: reads the data, names the screens that there is something for, and shows the one that the address names.
import { readCrops, readData } from "./data.js";
import { go, h, hashOf, readState } from "./dom.js";
import { shown } from "./format.js";
import { chip, onlyOf } from "./only.js";
import { SCREENS } from "./screens/all.js";

function colours(series) {
  const sheet = document.styleSheets[0];
  const rule = (which) => `:root { ${series.map((one, at) => `--head-${at}: ${one[which]};`).join(" ")} }`;
  sheet.insertRule(rule("colour"), sheet.cssRules.length);
  sheet.insertRule(`@media (prefers-color-scheme: dark) { ${rule("dark")} }`, sheet.cssRules.length);
  series.forEach((one, at) => Object.assign(one, { colour: `var(--head-${at})` }));
}

async function start() {
  const report = await readData(document.getElementById("data"));
  report.crop = readCrops(document.getElementById("crops"), report.crops ?? []);
  colours(report.series);
  document.getElementById("title").textContent = report.title;
  document.getElementById("subtitle").textContent = report.subtitle;
  const main = document.getElementById("main");
  const missing = ({ needs = [] }) => needs.length > 0 && needs.every((table) => !report.tables.has(table));
  report.missing = Object.entries(SCREENS).filter(([, screen]) => missing(screen)).map(([name, { title }]) => ({ title, why: report.absent?.[name] }));
  const links = new Map();
  for (const [name, screen] of Object.entries(SCREENS).filter(([, each]) => !missing(each))) {
    const link = h("a", { href: `#${name}` }, screen.title);
    links.set(name, link);
    document.getElementById("screens").append(h("li", {}, link));
  }
  document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });

  // Drawing anew keeps the place of the keyboard.
  const fields = () => [...main.querySelectorAll("a, button, input, select, [tabindex]")];
  const draw = () => {
    const focused = main.dataset.screen === readState().screen ? fields().indexOf(document.activeElement) : -1;
    const { screen, settings } = readState();
    const name = screen in SCREENS ? screen : Object.keys(SCREENS)[0];
    report.only = onlyOf(report, settings);
    for (const [other, link] of links) {
      link.setAttribute("href", hashOf(other, {}));
      if (other === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    shown.length = 0;
    const set = (changes, quiet = false) => go(name, { ...Object.fromEntries(readState().settings), ...changes }, quiet);
    const { title, about, content } = SCREENS[name];
    const isMissing = missing(SCREENS[name]);
    const body = isMissing ? h("p", { class: "about" }, report.absent?.[name] ?? "This was not measured.") : content(report, settings, set);
    main.replaceChildren(h("h2", {}, title), about && !isMissing ? h("p", { class: "about" }, about) : "", chip(report, name, set) ?? "", body);
    main.dataset.screen = name;
    document.title = `${title}: ${report.title}`;
    if (focused >= 0) fields()[focused]?.focus({ preventScroll: true });
  };
  let before = null;
  window.addEventListener("hashchange", () => {
    const { screen, settings } = readState();
    // A screen may move within itself, as from object to object, without being drawn anew.
    const moved = before === screen && SCREENS[screen]?.move?.(report, settings);
    if (!moved) draw();
    if (before !== screen) window.scrollTo(0, 0);
    before = screen;
  });
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    if (event.key >= "0" && event.key <= "9") {
      const name = Object.keys(SCREENS)[(Number(event.key) + 9) % 10];
      if (name) go(name);
    }
    SCREENS[main.dataset.screen]?.key?.(event);
  });
  before = readState().screen;
  draw();
  // For tests: what is shown, and that it is there.
  window.rethinkHeads = { report, shown };
  document.documentElement.dataset.ready = "";
}

start().catch((error) => {
  document.getElementById("main").replaceChildren(h("p", { class: "warning" }, `This report cannot be shown: ${error.message}`));
  throw error;
});
