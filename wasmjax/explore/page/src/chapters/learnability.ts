/** Learnability. */

import { axisBottom, axisLeft } from "d3-axis";
import { scaleLinear } from "d3-scale";
import { area, line } from "d3-shape";
import type { App, Chapter } from "../app";
import { dropdown } from "../controls";
import { Chart, h, num } from "../dom";
import type { Band } from "../model";

const INKS = ["var(--q)", "var(--hot)", "var(--v)", "var(--alt)", "var(--k)", "var(--sky)"];
const DASHES = ["", "7 4", "2 3", "10 3 2 3", "4 2", "1 3"];

const ABOUT: Record<string, string> = {
  T1: "Is a lookup learned from examples?",
  T3: "Does training find the parts of a step?",
  T7: "How much noise on the constructed weights does training recover from?",
};

type Task = NonNullable<NonNullable<App["results"]>["tasks"]>[string];

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
  return h("div", {}, chart.el,
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "table" }, h("table", {}, h("caption", {}, "median over seeds; the band is from lowest to highest"), h("thead", {}, h("tr", {}, ...["", "arm", "seeds", "recovered", "last value"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, ...arms.map((arm, k) => {
        const last = arm.curve?.[arm.curve.length - 1];
        const key = h("i", { class: "dot" });
        key.style.background = INKS[k % 6]!;
        return h("tr", { "data-arm": arm.name ?? k }, h("td", {}, key), h("th", { scope: "row" }, arm.name ?? `arm ${k + 1}`), h("td", {}, arm.seeds === undefined ? "–" : num(arm.seeds)),
          h("td", {}, arm.recovered === undefined ? "–" : num(arm.recovered)), h("td", {}, last ? num(last[1]) : "–"));
      })))));
}

function noise(task: Task): HTMLElement {
  const { sigma = [], recovered = [], wilson = [] } = task;
  return new Chart("Share of runs that recover, against the noise", (svg, width) => {
    const height = 280;
    const x = scaleLinear([0, Math.max(1e-9, ...sigma) * 1.05], [48, width - 16]);
    const y = scaleLinear([0, 1], [height - 40, 16]);
    svg.append("g").attr("class", "axis").attr("transform", `translate(0 ${height - 36})`).call(axisBottom(x).ticks(width / 90));
    svg.append("g").attr("class", "axis").attr("transform", "translate(44 0)").call(axisLeft(y).ticks(5, "%"));
    svg.append("text").attr("class", "note").attr("x", width - 16).attr("y", height - 4).attr("text-anchor", "end").text("σ of the noise");
    sigma.forEach((s, k) => {
      const share = recovered[k];
      if (share === undefined) return;
      const band = wilson[k];
      if (band) svg.append("line").attr("class", "wilson").attr("x1", x(s)).attr("x2", x(s)).attr("y1", y(band[0])).attr("y2", y(band[1]));
      svg.append("circle").attr("class", "key win").attr("cx", x(s)).attr("cy", y(share)).attr("r", 5).append("title").text(`σ ${s}: ${share}`);
    });
    return height;
  }).el;
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
    if (task.sigma?.length) body.append(noise(task));
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
