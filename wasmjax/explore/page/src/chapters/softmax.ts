/** Softmax becomes a lookup. */

import { axisBottom, axisLeft } from "d3-axis";
import { scaleLinear } from "d3-scale";
import { line } from "d3-shape";
import type { App, Chapter } from "../app";
import { dropdown, slider } from "../controls";
import { effect } from "../describe";
import { Chart, exact, fmt, h, num, type Svg, vec } from "../dom";
import type { Lookup } from "../model";

const LEAST = -8;
const SURE = 0.9999;
const INKS = ["var(--q)", "var(--k)", "var(--v)", "var(--alt)", "var(--sky)"];
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "1 4"];

/** Softmax weights of scores at a scale. */
export function weights(scores: number[], scale: number): number[] {
  const most = Math.max(...scores);
  const e = scores.map((x) => Math.exp((x - most) * scale));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((x) => x / sum);
}

function mount(app: App, root: HTMLElement) {
  const machine = Math.log2(app.model.scale);
  let which = 0;
  let power = 0;
  let words: string[] = [];
  const lookup = (): Lookup => app.data.lookups[which]!;
  const scores = () => lookup().key.map(([k1, k2]) => lookup().query[0] * k1 + lookup().query[1] * k2);

  /** The power of two from which the winner has more than 99.99%. */
  const threshold = (): number => {
    let [lo, hi] = [-20, machine];
    for (let k = 0; k < 60; k++) {
      const middle = (lo + hi) / 2;
      if (Math.max(...weights(scores(), 2 ** middle)) > SURE) hi = middle;
      else lo = middle;
    }
    return hi;
  };

  const curves = new Chart("Softmax weights of the five keys against the scale", (svg, width) => {
    const height = 250;
    const [left, right, top, bottom] = [44, 16, 26, 42];
    const x = scaleLinear([LEAST, machine], [left, width - right]);
    const y = scaleLinear([0, 1], [height - bottom, top]);
    svg.append("g").attr("class", "axis").attr("transform", `translate(0 ${height - bottom})`)
      .call(axisBottom(x).ticks(width / 70).tickFormat((p) => `2${superscript(Number(p))}`));
    svg.append("g").attr("class", "axis").attr("transform", `translate(${left} 0)`).call(axisLeft(y).ticks(5, "%"));
    svg.append("text").attr("class", "note").attr("x", width - right).attr("y", height - 6).attr("text-anchor", "end").text("scale of the scores (1 / temperature)");
    const points = Array.from({ length: 241 }, (_, k) => LEAST + (k / 240) * (machine - LEAST));
    const found = points.map((p) => weights(scores(), 2 ** p));
    lookup().key.forEach((_, k) => {
      svg.append("path").attr("fill", "none").attr("stroke", winner() === k ? "var(--hot)" : INKS[k]!)
        .attr("stroke-width", winner() === k ? 3.2 : 1.8).attr("stroke-dasharray", winner() === k ? "" : DASHES[k]!)
        .attr("d", line<number>((_, i) => x(points[i]!), (_, i) => y(found[i]![k]!))(points));
    });
    const mark = (p: number, text: string, anchor: string, dy: number, kind: string) => {
      svg.append("line").attr("class", kind).attr("x1", x(p)).attr("x2", x(p)).attr("y1", top - 8).attr("y2", height - bottom);
      svg.append("text").attr("class", "note").attr("x", x(p) + (anchor === "end" ? -5 : 5)).attr("y", top + dy).attr("text-anchor", anchor).text(text);
    };
    const sure = threshold();
    mark(sure, "> 99.99%", sure > (LEAST + machine) / 2 ? "end" : "start", height - bottom - top - 10, "sure");
    if (width > 480) mark(machine, "the machine’s scale", "end", 26, "sure");
    svg.append("line").attr("class", "cursor").attr("x1", x(power)).attr("x2", x(power)).attr("y1", top - 12).attr("y2", height - bottom);
    lookup().key.forEach((_, k) => {
      svg.append("circle").attr("cx", x(power)).attr("cy", y(weights(scores(), 2 ** power)[k]!)).attr("r", 4.5)
        .attr("fill", winner() === k ? "var(--hot)" : INKS[k]!).attr("stroke", "var(--panel)").attr("stroke-width", 1.5);
    });
    return height;
  });

  const winner = (): number => lookup().token.indexOf(lookup().answered);

  const bars = new Chart("The five scores as weights", (svg, width) => drawBars(svg, width));
  function drawBars(svg: Svg, width: number): number {
    const height = 262;
    const found = weights(scores(), 2 ** power);
    const best = winner();
    const step = width / 5;
    const y = scaleLinear([0, 1], [0, 146]);
    found.forEach((w, k) => {
      const cx = step * (k + 0.5);
      const hot = k === best;
      const size = Math.min(74, step * 0.62);
      svg.append("rect").attr("x", cx - size / 2).attr("y", 30).attr("width", size).attr("height", 146).attr("rx", 5).attr("fill", "var(--sunk)");
      svg.append("rect").attr("class", "bar").attr("x", cx - size / 2).attr("y", 176 - y(w)).attr("width", size).attr("height", y(w)).attr("rx", 5)
        .attr("fill", hot ? "var(--hot)" : INKS[k]!);
      svg.append("text").attr("class", "number weight").attr("data-value", w).attr("x", cx).attr("y", 22).attr("text-anchor", "middle")
        .attr("font-weight", hot ? 700 : 400).text(w === 1 ? "100%" : w === 0 ? "0" : w > 0.99 ? `${(100 * w).toFixed(4)}%` : w < 1e-4 ? w.toExponential(1) : `${(100 * w).toFixed(2)}%`);
      svg.append("text").attr("x", cx).attr("y", 196).attr("text-anchor", "middle").attr("font-weight", 600).text(width > 520 ? `address ${fmt(lookup().address[k]!)}` : fmt(lookup().address[k]!));
      svg.append("text").attr("class", "note").attr("x", cx).attr("y", 213).attr("text-anchor", "middle").text(width > 520 ? `token ${fmt(lookup().token[k]!)}` : `#${lookup().token[k]}`);
      if (width > 620) svg.append("text").attr("class", "note").attr("x", cx).attr("y", 229).attr("text-anchor", "middle").text(words[k] ?? "");
      svg.append("text").attr("class", "number").attr("x", cx).attr("y", 250).attr("text-anchor", "middle").text(width > 520 ? `q·k ${fmt(scores()[k]!)}` : fmt(scores()[k]!));
    });
    return height;
  }

  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const products = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "table" });
  const draw = () => {
    const found = weights(scores(), 2 ** power);
    const best = winner();
    const sure = threshold();
    readout.replaceChildren(
      "At scale 2", h("sup", {}, power.toFixed(2).replace(/\.?0+$/, "")), " the key that matches has ",
      h("strong", { "data-winner": found[best] }, found[best]! > 0.99 ? `${(100 * found[best]!).toFixed(6)}%` : `${(100 * found[best]!).toFixed(2)}%`),
      found[best]! > SURE ? " of the attention: a lookup. " : " of the attention: a mixture. ",
      "From 2", h("sup", {}, sure.toFixed(2)), " on it has more than 99.99%.",
    );
    products.replaceChildren(
      h("table", {}, h("caption", {}, "query ", vec(lookup().query, "q"), " · key = score, all from the run"),
        h("thead", {}, h("tr", {}, ...["token", "what it says", "key", "q₁ k₁ + q₂ k₂", "weight"].map((x) => h("th", { scope: "col" }, x)))),
        h("tbody", {}, ...lookup().key.map((key, k) =>
          h("tr", { class: k === best ? "win" : "" },
            h("th", { scope: "row", class: "num" }, `#${lookup().token[k]}`), h("td", {}, words[k] ?? ""), h("td", {}, h("span", { class: "vec k" }, "(", num(key[0]), ", ", exact(key[1]), ")")),
            h("td", {}, exact(scores()[k]!)), h("td", {}, num(found[k]!)))))),
    );
    bars.redraw();
    curves.redraw();
  };
  const choose = async (k: number) => {
    which = k;
    const tokens = await Promise.all(lookup().token.map((t) => app.tour.token(t)));
    if (which !== k) return;
    words = await Promise.all(tokens.map(async (token) =>
      app.model.kinds[token.kind] === "code" ? (await app.tour.code(token.address)).note : effect(app.model, token)));
    if (which === k) draw();
  };

  const heat = slider({
    name: "temperature", label: "scale", min: LEAST, max: machine, step: 0.25, value: power,
    show: (p) => (Math.abs(p) < 14 ? fmt(Number((2 ** p).toPrecision(4))) : (2 ** p).toExponential(1).replace("e+", "e")),
    input: (p) => {
      power = p;
      draw();
    },
  });
  root.append(
    h("p", {}, "Attention scores every earlier token against a question, ", h("b", { class: "q" }, "q"), "·", h("b", { class: "k" }, "k"),
      ", and softmax turns the scores into weights that sum to one. At a low scale everybody has a say. Multiply the scores, which is the same as lowering the temperature, and the largest one takes all: what was an average becomes ",
      h("em", {}, "reading one cell of memory"), "."),
    h("figure", {},
      h("div", { class: "controls" },
        dropdown({ name: "lookup", label: "five keys of the run", options: app.data.lookups.map((x) => x.title), value: 0, change: (k) => void choose(k) }).el),
      bars.el, heat.el, readout,
      h("figcaption", {}, "Drag the scale. The scores are those of one head in one step of the tour; only the scale is yours.")),
    h("figure", {}, curves.el, h("figcaption", {}, "All scales at once. The machine’s own, 2", h("sup", {}, machine), ", is so large that what loses has a weight of exactly zero in floating point: nothing leaks, however long the program runs.")),
    h("p", {}, "The last choice in the list is the hardest: five writes to ", h("em", {}, "one"), " address. Their keys differ by ", num(app.model.spaces.find((x) => x.name === "operand a")!.eps),
      " for every token that passes, so the newest is ahead by a hair. The machine’s scale is chosen so that a hair is enough."),
    h("figure", {}, products),
  );
  void choose(0);
  return {};
}

function superscript(n: number): string {
  return String(n).replace(/[-\d]/g, (c) => ({ "-": "⁻", "0": "⁰", "1": "¹", "2": "²", "3": "³", "4": "⁴", "5": "⁵", "6": "⁶", "7": "⁷", "8": "⁸", "9": "⁹" })[c]!);
}

export const softmax: Chapter = {
  id: "softmax",
  title: "Softmax becomes a lookup",
  lead: "How can a machine that averages read one exact value? By asking so loudly that only one answer counts.",
  mount,
};
