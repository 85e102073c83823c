// Definitions, versions, what it was made of, and every table as a file.
import { download, h } from "../dom.js";
import { plural } from "../format.js";

const LONG = 200;

/** What is long, such as a model's configuration, behind its beginning. */
const folded = (text) => (text.length > LONG ? h("details", {}, h("summary", {}, `${text.slice(0, 60)} …`), text) : text);

export const methods = {
  title: "Methods",
  content: (report) => h("div", {},
    h("h3", {}, "Definitions"), h("dl", {}, report.definitions.map(([term, text]) => [h("dt", {}, term), h("dd", {}, text)])),
    h("h3", {}, "Made by"), h("dl", {}, report.provenance.map(([term, text]) => [h("dt", {}, term), h("dd", {}, folded(text))])),
    h("h3", {}, "Tables"),
    h("p", { class: "about" }, "Each as the CSV file that rethink-heads writes, all digits of every number."),
    h("ul", {}, [...report.tables.values()].map((table) => h("li", {},
      h("button", { onclick: () => download(`${table.name}.csv`, table.csv()) }, `${table.name}.csv`), ` ${plural(table.rows, "row")}`)))),
};
