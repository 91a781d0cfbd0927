/** The instruction pointer as a cumulative sum. */

import { axisBottom, axisLeft } from "d3-axis";
import { scaleLinear } from "d3-scale";
import type { App, Chapter } from "../app";
import { choice, stepper } from "../controls";
import { Latest } from "../data";
import { Chart, fmt, h, num } from "../dom";
import type { Token } from "../run";

const NAMES = ["ip", "sp", "fp", "depth"] as const;
type Register = (typeof NAMES)[number];
const WORDS: Record<Register, string> = {
  ip: "instruction pointer",
  sp: "stack pointer",
  fp: "frame pointer",
  depth: "call depth",
};
/** Heads and components that hold the means, with the weight of each in the register. */
const PARTS: Record<Register, [head: string, component: 0 | 1, weight: number, name: string][]> = {
  ip: [["registers[0]", 0, 1, "ip0"], ["registers[0]", 1, 256, "ip1"], ["registers[1]", 0, 65536, "ip2"]],
  sp: [["registers[1]", 1, 1, "sp"]],
  fp: [["registers[2]", 0, 1, "fp"]],
  depth: [["registers[2]", 1, 1, "depth"]],
};

function delta(token: Token, register: Register): number {
  if (register !== "ip") return token.deltas[register];
  const [a, b, c] = token.deltas.ip;
  return a + 256 * b + 65536 * c;
}

function mount(app: App, root: HTMLElement) {
  let register: Register = "ip";
  let at = 0;
  let tokens: Token[] = [];
  const latest = new Latest();
  const bar = stepper({
    last: app.tour.steps - 1, value: 0, label: "step of the tour",
    move: (step) => {
      app.at.tour = step;
      app.moved(true);
    },
  });

  const chart = new Chart("Deltas of the tokens and their running sum", (svg, width) => {
    const height = 330;
    if (!tokens.length) return height;
    const [left, right] = [52, 14];
    const span = width < 560 ? 30 : 60;
    const first = Math.max(0, Math.min(at - (span >> 1), tokens.length - span));
    const shown = tokens.slice(first, first + span);
    const x = scaleLinear([first - 0.5, first + span - 0.5], [left, width - right]);
    const values = shown.map((t) => t[register]);
    const y = scaleLinear([Math.min(...values), Math.max(...values, Math.min(...values) + 1)], [176, 26]).nice();
    const deltas = shown.map((t) => delta(t, register));
    const reach = Math.max(1, ...deltas.map(Math.abs));
    const z = scaleLinear([-reach, reach], [292, 208]);
    svg.append("g").attr("class", "axis").attr("transform", `translate(${left - 4} 0)`).call(axisLeft(y).ticks(5));
    svg.append("g").attr("class", "axis").attr("transform", `translate(0 ${height - 24})`).call(axisBottom(x).ticks(width / 90));
    svg.append("text").attr("class", "note").attr("x", left).attr("y", 14).text(`${register} before each step: the sum of all deltas so far`);
    svg.append("text").attr("class", "note").attr("x", left).attr("y", 200).text("what each step’s token adds");
    svg.append("line").attr("class", "grid").attr("x1", left).attr("x2", width - right).attr("y1", z(0)).attr("y2", z(0));
    svg.append("rect").attr("class", "now").attr("x", x(at - 0.5)).attr("y", 20).attr("width", x(1) - x(0)).attr("height", 282);
    let path = "";
    shown.forEach((t, k) => {
      const step = first + k;
      path += `${k ? "L" : "M"} ${x(step - 0.5)} ${y(t[register])} L ${x(step + 0.5)} ${y(t[register])} `;
      const d = deltas[k]!;
      if (d) {
        svg.append("rect").attr("class", `delta ${d > 0 ? "up" : "down"} ${step === at ? "chosen" : ""}`).attr("x", x(step - 0.36)).attr("width", Math.max(1, (x(1) - x(0)) * 0.72))
          .attr("y", Math.min(z(0), z(d))).attr("height", Math.max(2, Math.abs(z(d) - z(0)))).append("title").text(`step ${step}: ${d > 0 ? "+" : ""}${d}`);
      }
    });
    svg.append("path").attr("class", "sum").attr("d", path);
    if (at >= first && at < first + span) svg.append("circle").attr("class", "key win").attr("cx", x(at)).attr("cy", y(tokens[at]![register])).attr("r", 6);
    svg.style("cursor", "pointer").on("pointerdown", (event: PointerEvent) => {
      const box = (svg.node() as SVGSVGElement).getBoundingClientRect();
      app.at.tour = Math.max(0, Math.min(tokens.length - 1, Math.round(x.invert(event.clientX - box.left))));
      app.moved(true);
    });
    return height;
  });

  const sum = h("div", { class: "equation", "aria-live": "polite" });
  const where = h("p", { class: "status" });
  const next = h("p", { class: "readout" });

  const draw = () => latest.run(async () => {
    if (!tokens.length) {
      const all: Token[] = [];
      for (let step = 0; step < app.tour.steps; step++) all.push(await app.tour.token(app.tour.indexOf(step)));
      tokens = all;
    }
    const token = tokens[at]!;
    const index = token.index - 1;
    const heads = await app.tour.heads(index);
    const code = await app.tour.code(token.ip);
    where.replaceChildren(`step ${at}: `, h("code", {}, code.note), `, ${WORDS[register]} ${token[register]}`);
    if (heads) {
      const count = index + 1;
      const parts = PARTS[register].map(([name, component, weight, label]) => {
        const mean = heads.output(app.head(name))[component];
        return { weight, label, mean, total: mean * count };
      });
      const result = parts.reduce((n, p) => n + p.weight * p.total, 0);
      sum.replaceChildren(
        ...parts.map((p) =>
          h("div", { class: "line" },
            h("span", {}, h("small", {}, `mean of ${p.label}`), num(p.mean, "v")), h("span", { class: "op" }, "×"),
            h("span", {}, h("small", {}, "count"), num(count)), h("span", { class: "op" }, "="),
            h("span", {}, h("small", {}, p.weight > 1 ? `× ${fmt(p.weight)}` : "sum"), num(Math.round(p.total * 1e6) / 1e6)))),
        h("div", { class: "line total" }, h("span", {}, h("small", {}, register), h("strong", { class: "num", "data-register": register, "data-value": Math.round(result) }, fmt(Math.round(result)))),
          h("small", {}, `by replaying the tokens: ${token[register]}`)),
      );
      const d = delta(token, register);
      const fetch = heads.query(app.head("fetch[0]"));
      next.replaceChildren(`The token of this step adds ${d < 0 ? "−" : "+"}${Math.abs(d)}: `, h("strong", {}, `${register} ${token[register]} → ${token[register] + d}`), ". ",
        register === "ip" ? "Layer 1 asks for the instruction at " : "", register === "ip" ? h("strong", { class: "q" }, fmt(fetch[0] / fetch[1])) : "", register === "ip" ? "." : "");
    }
    chart.redraw();
  });

  root.append(
    h("p", {}, "A transformer has no register to keep a program counter in. But each token can say how far it moves, +1 for most, more for a jump, less for a loop. Where the program is follows from all of them: their sum."),
    h("p", {}, "Attention cannot add, only average. A head whose W_Q is zero scores every token the same and returns the mean of the deltas. The number of tokens is known, from a coordinate that grows by one a token; a neuron multiplies the two. ", h("em", {}, "Mean times count is the sum.")),
    h("figure", {},
      h("div", { class: "controls" }, choice({
        name: "register", label: "register", options: [...NAMES], value: 0,
        change: (k) => {
          register = NAMES[k]!;
          draw();
        },
      }).el),
      bar.el, where, sum, next,
      h("figcaption", {}, "The means are the outputs of the uniform heads of layer 0 in that step. ip has three digits of base 256, so that every sum stays small enough to be exact.")),
    h("figure", {}, chart.el, h("figcaption", {}, "Loops are the teeth, calls the high plateaus. Choose a step in the chart or with the buttons.")),
    h("p", {}, "The same three heads carry the stack pointer, the frame pointer and the call depth. A return needs no special case: its token’s delta is read from the frame that the call wrote."),
  );
  return {
    step(step: number) {
      at = Math.min(step, app.tour.steps - 1);
      bar.set(at);
      draw();
    },
    leave: () => bar.stop(),
  };
}

export const pointer: Chapter = {
  id: "instruction-pointer",
  title: "The instruction pointer is a sum",
  lead: "Nothing is stored and updated. Where the program stands is the mean of all its steps, times their number.",
  steps: "tour",
  mount,
};
