/** Engineered and learned side by side. */

import { axisBottom, axisLeft } from "d3-axis";
import { scaleLinear } from "d3-scale";
import type { App, Chapter } from "../app";
import { dropdown } from "../controls";
import { Chart, fmt, h, matrix, num } from "../dom";
import { type HeadMatrices, stem } from "../model";

interface Side {
  /** Names of the columns, where they have any. */
  columns: string[];
  w_q: number[][];
  queries: [number, number][];
  keys: [number, number][];
}

const HEADS = ["fetch[0]", "operand a[0]", "memory bank 0[0]"];

/** W_Q of a head as far as it is not zero, and the queries of the tour. */
function engineered(app: App, name: string): Side {
  const k = app.head(name);
  const head = app.model.heads[k]!;
  const used = [...new Set(head.q.flat().map(([c]) => c))].sort((a, b) => a - b);
  const row = (entries: [number, number][]) => used.map((c) => entries.find(([x]) => x === c)?.[1] ?? 0);
  const fan = app.data.fans[name] ?? { queries: [], keys: [] };
  return { columns: used.map((c) => app.coordinate(c, head.layer).replace("registers.", "")), w_q: head.q.map(row), ...fan };
}

function fromResults(m: HeadMatrices | undefined): Side | null {
  if (!m?.w_q) return null;
  return { columns: [], w_q: m.w_q, queries: m.queries ?? [], keys: m.keys ?? [] };
}

function panel(title: string, side: Side | null, missing: string): HTMLElement {
  if (!side) {
    return h("section", { class: "panel pending" }, h("h3", {}, title), h("p", { class: "not-run" }, "not run yet"), h("p", {}, missing));
  }
  const vectors = new Chart(`${title}: query vectors`, (svg, width) => {
    const height = Math.min(300, Math.max(220, width * 0.62));
    const q = side.queries;
    if (!q.length) return 24;
    const xs = q.map((p) => p[0]);
    const ys = q.map((p) => p[1]);
    const x = scaleLinear([Math.min(0, ...xs), Math.max(1, ...xs)], [46, width - 14]).nice();
    const y = scaleLinear([Math.min(0, ...ys), Math.max(1.5, ...ys)], [height - 34, 16]).nice();
    svg.append("g").attr("class", "axis").attr("transform", `translate(0 ${height - 30})`).call(axisBottom(x).ticks(width / 80));
    svg.append("g").attr("class", "axis").attr("transform", "translate(42 0)").call(axisLeft(y).ticks(4));
    svg.append("text").attr("class", "note").attr("x", width - 14).attr("y", height - 4).attr("text-anchor", "end").text("q₁");
    svg.append("text").attr("class", "note").attr("x", 46).attr("y", 12).text("q₂");
    const distinct = [...new Map(q.map((p) => [p.join(), p])).values()];
    for (const p of distinct) svg.append("line").attr("class", "ray").attr("x1", x(0)).attr("y1", y(0)).attr("x2", x(p[0])).attr("y2", y(p[1]));
    for (const p of distinct) svg.append("circle").attr("class", "query-point").attr("cx", x(p[0])).attr("cy", y(p[1])).attr("r", distinct.length > 60 ? 2.4 : 4);
    return height;
  });
  const many = (side.w_q[0]?.length ?? 0) > 12;
  const most = Math.max(1e-12, ...side.w_q.flat().map(Math.abs));
  const cell = (w: number) => {
    const el = h("td", { class: "num weight", "data-value": w }, many ? "" : fmt(w));
    const share = Math.min(1, 0.12 + 0.88 * (Math.log1p(Math.abs(w)) / Math.log1p(most)));
    if (w) el.style.background = `color-mix(in srgb, var(${w > 0 ? "--q" : "--k"}) ${Math.round(share * (many ? 100 : 38))}%, transparent)`;
    el.title = String(w);
    return el;
  };
  return h("section", { class: "panel" }, h("h3", {}, title),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "table" }, h("table", { class: "matrix" }, h("caption", {}, matrix("Q")),
      side.columns.length ? h("thead", {}, h("tr", {}, h("th", {}, ""), ...side.columns.map((c) => h("th", { scope: "col" }, c)))) : null,
      h("tbody", {}, ...side.w_q.map((row, k) => h("tr", {}, h("th", { scope: "row" }, `q${k ? "₂" : "₁"}`), ...row.map(cell)))))),
    vectors.el,
    h("p", { class: "status" }, side.queries.length ? `${fmt(side.queries.length)} queries, ${fmt(new Set(side.queries.map((p) => p.join())).size)} different ones` : "no queries were recorded"));
}

function mount(app: App, root: HTMLElement) {
  const tasks = Object.keys(app.results?.heads ?? {});
  const options = [...tasks.map((t) => `task ${t} of the learnability suite`), ...HEADS.map((n) => `${stem(n)} of the machine`)];
  const two = h("div", { class: "two" });
  const angle = h("p", { class: "readout", "aria-live": "polite" });
  const show = (k: number) => {
    const task = tasks[k];
    const given = task ? app.results?.heads?.[task] : undefined;
    const built = fromResults(given?.constructed) ?? engineered(app, HEADS[Math.max(0, k - tasks.length)]!);
    const learned = fromResults(given?.learned);
    two.replaceChildren(
      panel("as constructed", built, ""),
      panel("as training found it", learned, "The learnability suite trains the same architecture on the same traces and leaves its weights in results.json. This page shows them here as soon as they exist (wasmjax explore --results FILE)."));
    const second = built.queries.map((q) => q[1]);
    const constant = second.every((x) => x === second[0]);
    angle.replaceChildren(
      built.queries.length && constant ? "Constructed: the second component is always " : "",
      built.queries.length && constant ? num(second[0]!, "q") : "",
      built.queries.length && constant ? "; the first one is the address. A query is a direction, and its slope says which address." : "");
  };
  root.append(
    h("p", {}, "The weights of this machine were written down, not trained. That makes them a yardstick: would gradient descent find them? What matters of a query is its direction alone, so a trained head may differ by a scale, and by any change of basis that its keys share, and still read the same tokens."),
    h("div", { class: "controls" }, dropdown({ name: "head", label: "head", options, value: 0, change: show }).el),
    two, angle,
    h("p", {}, "On the left, all queries of the tour’s steps: points on the line q₂ = 1, one for each address that was asked for. A learned head that has understood addressing shows the same fan of rays."),
  );
  show(0);
  return {};
}

export const learned: Chapter = {
  id: "learned",
  title: "Engineered and learned",
  lead: "The same head twice: as it was constructed, and as training found it.",
  mount,
};
