/** Learnability. */

import { axisBottom, axisLeft } from "d3-axis";
import { scaleLinear, scaleLog } from "d3-scale";
import { area, line } from "d3-shape";
import type { App, Chapter } from "../app";
import { dropdown } from "../controls";
import { Chart, h, num } from "../dom";
import type { Band, Basin } from "../model";

const INKS = ["var(--q)", "var(--hot)", "var(--v)", "var(--alt)", "var(--k)", "var(--sky)"];
const DASHES = ["", "7 4", "2 3", "10 3 2 3", "4 2", "1 3"];

const ABOUT: Record<string, string> = {
  T1: "Is a lookup learned from examples?",
  T2: "Is the latest of several writes read?",
  T3: "Is the instruction pointer found in programs that jump?",
  T4: "Are the arithmetic units learned, on all inputs?",
  T5: "Is one step of a small machine learned from traces?",
  T6: "Can one part be learned again, the rest being constructed, and the reverse?",
  T7: "How much noise on the constructed weights does training recover from?",
};

function curves(name: string, arms: Band[]): HTMLElement {
  const chart = new Chart(`Task ${name}: curves of ${arms.length} arms`, (svg, width) => {
    const height = 300;
    const drawn = arms.filter((a) => a.curve?.length);
    const points = drawn.flatMap((a) => a.curve!);
    if (!points.length) return 10;
    const x = scaleLinear([0, Math.max(...points.map((p) => p[0]))], [48, width - 16]);
    const [low, high] = [Math.min(0, ...points.map((p) => p[2] ?? p[1])), Math.max(1e-9, ...points.map((p) => p[3] ?? p[1]))];
    const y = scaleLinear([low, high], [height - 40, 16]).nice();
    svg.append("g").attr("class", "axis").attr("transform", `translate(0 ${height - 36})`).call(axisBottom(x).ticks(width / 90));
    svg.append("g").attr("class", "axis").attr("transform", "translate(44 0)").call(axisLeft(y).ticks(5));
    svg.append("text").attr("class", "note").attr("x", width - 16).attr("y", height - 4).attr("text-anchor", "end").text("training steps");
    drawn.forEach((arm, k) => {
      const c = arm.curve!;
      svg.append("path").attr("fill", INKS[k % 6]!).attr("opacity", 0.16).attr("d", area<(typeof c)[0]>((p) => x(p[0]), (p) => y(p[2] ?? p[1]), (p) => y(p[3] ?? p[1]))(c));
      svg.append("path").attr("class", "arm").attr("fill", "none").attr("stroke", INKS[k % 6]!).attr("stroke-width", 2.2).attr("stroke-dasharray", DASHES[k % 6]!).attr("d", line<(typeof c)[0]>((p) => x(p[0]), (p) => y(p[1]))(c));
    });
    return height;
  });
  const rows = arms.map((arm, k) => {
    const key = h("i", { class: "dot" });
    key.style.background = INKS[k % 6]!;
    const found = arm.held_out;
    const cells = [
      arm.recovered === undefined ? "–" : `${arm.recovered} of ${arm.seeds}`,
      ...["1", "4"].map((scale) => (arm.accuracy_by_length?.[scale] === undefined ? "–" : percent(arm.accuracy_by_length[scale]))),
      found ? `${percent(found.error_interval[0])} to ${percent(found.error_interval[1])}` : "–",
    ];
    return h("tr", { "data-arm": arm.name ?? k }, h("td", {}, key), h("th", { scope: "row" }, arm.name ?? `arm ${k + 1}`), ...cells.map((text) => h("td", {}, text)));
  });
  const columns = ["", "arm", "recover", "right at 1x", "at 4x", "errors at 4x (95%)"];
  return h("div", {}, chart.el, table("median over seeds; the band is from lowest to highest", columns, rows));
}

function chart(basin: Basin): HTMLElement {
  return new Chart(`${basin.name}: seeds that recover, against the noise`, (svg, width) => {
    const height = 280;
    const x = scaleLog([Math.min(...basin.sigma) / 1.5, Math.max(...basin.sigma) * 1.5], [48, width - 16]);
    const y = scaleLinear([0, 1], [height - 40, 16]);
    svg.append("g").attr("class", "axis").attr("transform", `translate(0 ${height - 36})`).call(axisBottom(x).ticks(Math.min(6, width / 90), "~g"));
    svg.append("g").attr("class", "axis").attr("transform", "translate(44 0)").call(axisLeft(y).ticks(5, "%"));
    svg.append("text").attr("class", "note").attr("x", width - 16).attr("y", height - 4).attr("text-anchor", "end").text("σ of the noise");
    const points = basin.sigma.map((s, k) => [x(s), y(basin.recovered[k]! / basin.seeds[k]!)] as [number, number]);
    const untrained = basin.sigma.map((s, k) => [x(s), y(basin.exact_before[k]! / basin.seeds[k]!)] as [number, number]);
    for (const [drawn, dashes] of [[points, ""], [untrained, "2 4"]] as const)
      svg.append("path").attr("class", "basin").attr("fill", "none").attr("stroke", "var(--q)").attr("stroke-width", 2).attr("stroke-dasharray", dashes).attr("d", line()(drawn));
    points.forEach(([cx, cy], k) => {
      const [low, high] = basin.wilson[k]!;
      svg.append("line").attr("class", "wilson").attr("x1", cx).attr("x2", cx).attr("y1", y(low)).attr("y2", y(high));
      svg.append("circle").attr("class", "key win").attr("cx", cx).attr("cy", cy).attr("r", 5).append("title").text(`σ ${basin.sigma[k]}: ${basin.recovered[k]} of ${basin.seeds[k]}`);
    });
    return height;
  }).el;
}

function basins(curves: Basin[]): HTMLElement {
  const body = h("div", {});
  const show = (k: number) => {
    const basin = curves[k]!;
    const rows = basin.sigma.map((s, n) => {
      const [low, high] = basin.wilson[n]!;
      return h("tr", {}, h("th", { scope: "row" }, num(s)), h("td", {}, percent(basin.before[n]!)), h("td", {}, `${basin.exact_before[n]} of ${basin.seeds[n]}`),
        h("td", {}, `${basin.recovered[n]} of ${basin.seeds[n]}`), h("td", {}, `${percent(low)} to ${percent(high)}`));
    });
    body.replaceChildren(chart(basin), table("line: after training, bars: 95%; dotted: without training", ["σ", "right before", "no error before", "recover", "95%"], rows));
  };
  show(0);
  return h("div", {}, h("div", { class: "controls" }, dropdown({ name: "basin", label: "what is disturbed", options: curves.map((c) => c.name), value: 0, change: show }).el), body);
}

function table(caption: string, columns: string[], rows: HTMLElement[]): HTMLElement {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "table" },
    h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, ...columns.map((t) => h("th", { scope: "col" }, t)))), h("tbody", {}, ...rows)));
}

function percent(x: number): string {
  return `${(100 * x).toPrecision(3).replace(/\.0+$|(\.\d*?)0+$/, "$1")}%`;
}

function mount(app: App, root: HTMLElement) {
  const tasks = app.results?.tasks ?? {};
  const names = Object.keys(tasks);
  root.append(
    h("p", {}, "A machine whose weights are known exactly is a rare thing to train against. The suite asks, task by task and with several seeds each, whether gradient descent finds a lookup, whether it finds what a step is made of, and how far constructed weights can be disturbed before training no longer finds the way back."),
  );
  if (!names.length) {
    root.append(
      h("section", { class: "panel pending" }, h("p", { class: "not-run" }, "not run yet"),
        h("p", {}, "There are no results of the learnability suite on this machine. They are read from ", h("code", {}, "docs/learnability/results.json"), ", or from the file that ", h("code", {}, "wasmjax explore --results FILE"), " names.")),
    );
    return {};
  }
  const about = h("p", { class: "lead" });
  const body = h("div", {});
  const show = (k: number) => {
    const name = names[k]!;
    const task = tasks[name]!;
    about.textContent = ABOUT[name] ?? "";
    body.replaceChildren();
    if (task.arms?.length) body.append(curves(name, task.arms));
    if (task.curves?.length) body.append(basins(task.curves));
    if (!body.childElementCount) body.append(h("p", { class: "not-run" }, "not run yet"));
  };
  root.append(
    h("figure", {}, h("div", { class: "controls" }, dropdown({ name: "task", label: "task", options: names, value: 0, change: show }).el), about, body,
      h("figcaption", {}, app.results?.revision ? `Results of revision ${app.results.revision}.` : "")));
  show(0);
  return {};
}

export const learnability: Chapter = {
  id: "learnability",
  title: "Learnability",
  lead: "Can training find what was constructed here? What the experiments say so far.",
  mount,
};
