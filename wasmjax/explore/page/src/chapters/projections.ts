/** From token to Q, K, V. */

import type { App, Chapter } from "../app";
import { button, dropdown } from "../controls";
import { effect } from "../describe";
import { Chart, fmt, h, matrix, num, vec } from "../dom";
import { type Entry, stem } from "../model";
import type { Heads } from "../run";
import { fieldChips, fieldsOf } from "./machine";

function mount(app: App, root: HTMLElement) {
  const layers = app.model.shape[0];
  const width = app.model.shape[2];
  let which = 0;
  let head = app.data.tokens[0]!.head;
  let heads: Heads | null = null;
  let chosen = 0;
  let stage = 0;

  const choices = ["memory bank 0[0]", "operand a[0]", "operand b[0]", "fetch[0]", "registers[0]"].map((n) => app.head(n));
  const fields = h("p", { class: "chips" });
  const about = h("p", { class: "readout", "aria-live": "polite" });
  const three = h("div", { class: "three" });
  const journey = h("div", { class: "journey" });
  const story = h("p", { class: "readout" });

  const scale = (w: number) => {
    const left = w < 560 ? 44 : 122;
    return { left, cell: (w - left - 4) / width, row: w < 560 ? 18 : 24 };
  };
  const strip = new Chart("The residual stream after the embedding and after every layer", (svg, w) => {
    if (!heads) return 40;
    const { left, cell, row } = scale(w);
    const top = 22;
    const names = ["embedding", ...Array.from({ length: layers }, (_, k) => `layer ${k}`)];
    const read = new Set([...app.model.heads[head]!.v.flat(), ...app.model.heads[head]!.k.flat(), ...app.model.heads[head]!.q.flat()].map(([c]) => c));
    for (let k = 0; k <= layers; k++) {
      svg.append("text").attr("class", "note").attr("x", left - 8).attr("y", top + row * k + row * 0.66).attr("text-anchor", "end").text(w < 560 ? (k ? `L${k - 1}` : "emb") : `after ${names[k]}`);
      svg.append("rect").attr("x", left).attr("y", top + row * k).attr("width", cell * width).attr("height", row - 3).attr("fill", "var(--sunk)");
      for (let c = 0; c < width; c++) {
        const x = heads.residual(k, c);
        if (!x) continue;
        const size = Math.min(1, 0.28 + Math.log10(1 + Math.abs(x)) / 5);
        svg.append("rect").attr("x", left + c * cell).attr("y", top + row * k).attr("width", Math.max(1, cell - 0.25)).attr("height", row - 3)
          .attr("fill", x > 0 ? "var(--q)" : "var(--k)").attr("opacity", size);
      }
    }
    for (const c of read) svg.append("path").attr("d", `M ${left + (c + 0.5) * cell} ${top - 3} l -4 -8 h 8 z`).attr("fill", "var(--hot)");
    svg.append("rect").attr("class", "pick").attr("x", left + chosen * cell - 1.5).attr("y", top + row * stage - 1.5).attr("width", Math.max(4, cell + 3)).attr("height", row);
    svg.style("cursor", "crosshair").on("pointerdown pointermove", (event: PointerEvent) => {
      if (event.type === "pointermove" && !event.buttons && event.pointerType !== "mouse") return;
      const box = (svg.node() as SVGSVGElement).getBoundingClientRect();
      const c = Math.floor((event.clientX - box.left - left) / cell);
      const k = Math.floor((event.clientY - box.top - top) / row);
      if (c >= 0 && c < width && k >= 0 && k <= layers) point(c, k);
    });
    return top + row * (layers + 1) + 2;
  }, { tabindex: 0, role: "group", "data-control": "stream", "data-keys": "arrows", "aria-label": "residual stream: arrow keys move between coordinates and layers" });
  strip.el.addEventListener("keydown", (event) => {
    const moves: Record<string, [number, number]> = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    const move = moves[event.key];
    if (!move || !heads) return;
    event.preventDefault();
    let c = chosen;
    // From one coordinate that holds something to the next.
    do c = Math.max(0, Math.min(width - 1, c + move[0]));
    while (move[0] && c > 0 && c < width - 1 && !heads.residual(stage, c));
    point(c, Math.max(0, Math.min(layers, stage + move[1])));
  });

  function point(c: number, k: number): void {
    if (!heads) return;
    chosen = c;
    stage = k;
    const pick = strip.el.querySelector(".pick");
    const w = strip.el.querySelector("svg")!.clientWidth;
    const { left, cell, row } = scale(w);
    pick?.setAttribute("x", String(left + c * cell - 1.5));
    pick?.setAttribute("y", String(22 + row * k - 1.5));
    about.replaceChildren(
      `Coordinate ${c} after ${k ? `layer ${k - 1}` : "the embedding"}: `, h("em", {}, app.coordinate(c, k)), " = ", num(heads.residual(k, c)),
    );
    about.dataset.coordinate = String(c);
  }

  const product = (title: string, kind: string, name: string, rows: [Entry[], Entry[]], meaning: string) => {
    const layer = app.model.heads[head]!.layer;
    const sums = rows.map((entries) => entries.reduce((sum, [c, w]) => sum + w * heads!.residual(layer, c), 0)) as [number, number];
    return h("section", { class: `panel projection ${kind}` },
      h("h3", {}, h("span", { class: kind }, title), " = ", matrix(name), " x"),
      h("p", {}, meaning),
      ...rows.map((entries, r) =>
        h("div", { class: "row" }, h("small", {}, `row ${r + 1}`),
          ...(entries.length ? entries.map(([c, w]) =>
            h("button", { type: "button", class: "entry", "data-control": "entry", title: `coordinate ${c}: show it in the residual stream`, onclick: () => point(c, layer) },
              h("span", { class: "num" }, fmt(w)), " × ", h("em", {}, app.coordinate(c, layer)), " ", num(heads!.residual(layer, c)))) : [h("small", {}, "all zero")]),
          h("p", { class: "sum" }, "= ", num(sums[r]!, kind)))),
      h("p", { class: "result", "data-result": kind, "data-value": sums.join(" ") }, `${title} = `, vec(sums, kind)));
  };

  const draw = () => {
    if (!heads) return;
    const info = app.model.heads[head]!;
    strip.redraw();
    three.replaceChildren(
      product("q", "q", "Q", info.q, "The question: which address this token asks for."),
      product("k", "k", "K", info.k, "The label: where this token can be found. q·k is one number, a score; nothing else of it is used."),
      product("v", "v", "V", info.v, "The content: what is handed over if this token wins. The score chooses, the value is read."),
    );
    drawJourney();
  };

  /** One coordinate from where it is made to the W_V that reads it, and to the token that gets it. */
  function drawJourney(): void {
    const info = app.model.heads[head]!;
    const entry = info.v[0][0] ?? info.v[1][0];
    if (!entry || !heads) {
      journey.replaceChildren(h("p", {}, "This head hands over nothing."));
      return;
    }
    const [c] = entry;
    const writers = new Map<number, string[]>();
    for (const [layer, neuron, , , output] of heads.neurons()) {
      if (app.model.writes[layer]![neuron]!.some(([to]) => to === c) && layer < info.layer) {
        writers.set(layer + 1, [...(writers.get(layer + 1) ?? []), `${app.model.neurons[layer]?.[neuron] ?? "a neuron"} = ${fmt(output)}`]);
      }
    }
    const boxes: HTMLElement[] = [];
    for (let k = 0; k <= info.layer; k++) {
      const value = heads.residual(k, c);
      boxes.push(
        h("button", { type: "button", class: `stop ${value ? "holds" : ""}`, "data-control": "stop", onclick: () => point(c, k) },
          h("small", {}, k ? `after layer ${k - 1}` : "embedding"), h("span", { class: "big" }, fmt(value)),
          h("small", {}, writers.get(k)?.join(", ") ?? (k && value ? "carried along" : " "))),
        h("span", { class: "to", "aria-hidden": "true" }, "→"));
    }
    boxes.push(h("div", { class: "stop final" }, h("small", {}, matrix("V"), `, layer ${info.layer}`), h("span", { class: "big v" }, fmt(entry[1] * heads.residual(info.layer, c))), h("small", {}, stem(info.name))));
    journey.replaceChildren(...boxes);
    void tell(c);
  }

  async function tell(c: number): Promise<void> {
    const choice = app.data.tokens[which]!;
    story.replaceChildren();
    if (head !== choice.head) return;
    const found = await app.tour.heads(choice.reader);
    if (!found) return;
    const next = await app.tour.token(choice.reader + 1);
    const code = await app.tour.code(next.ip);
    story.replaceChildren(
      "Later, in step ", h("strong", {}, app.tour.stepOf(next.index)), " (", h("code", {}, code.note), "), the head asks ", vec(found.query(head), "q"),
      "; token ", h("strong", { "data-answered": found.answered(head) }, `#${found.answered(head)}`), " answers with weight ", num(found.weight(head)), " and hands over ",
      h("strong", { class: "v" }, fmt(found.value(head)[0])), ` (${app.coordinate(c, app.model.heads[head]!.layer)}). The step emits `, h("code", {}, effect(app.model, next)), ".");
  }

  const choose = async (k: number) => {
    which = k;
    const { index } = app.data.tokens[k]!;
    const [found, token, fed] = [await app.tour.heads(index), await app.tour.token(index), await app.tour.fed(index)];
    if (which !== k || !found) return;
    heads = found;
    const list = fed ? app.model.fields.map((f, n) => [f.name, fed[n]!] as [string, number]).filter(([, v]) => v) : fieldsOf(app, token);
    fields.replaceChildren(h("b", {}, `token ${index}: `), ...fieldChips(list));
    draw();
    const first = app.model.heads[head]!.v[0][0];
    point(first ? first[0] : 0, app.model.heads[head]!.layer);
  };
  const pickHead = dropdown({
    name: "head", label: "head", value: choices.indexOf(head),
    options: choices.map((k) => `${stem(app.model.heads[k]!.name)}, layer ${app.model.heads[k]!.layer}`),
    change: (k) => {
      head = choices[k]!;
      draw();
      const first = app.model.heads[head]!.v[0][0];
      if (first) point(first[0], app.model.heads[head]!.layer);
    },
  });
  const pickToken = dropdown({
    name: "token", label: "token of the tour", options: app.data.tokens.map((x) => x.title), value: 0,
    change: (k) => {
      head = app.data.tokens[k]!.head;
      pickHead.set(choices.indexOf(head));
      void choose(k);
    },
  });
  root.append(
    h("p", {}, "A token is a handful of small integers. Each looks up a row of an embedding table, and their sum is a vector of ", num(width),
      " numbers: the residual stream. Layers read it and add to it. What people call a coordinate here is a label on a position; the machine has only the numbers."),
    h("figure", {},
      h("div", { class: "controls" }, pickToken.el, pickHead.el),
      fields, strip.el, about,
      h("figcaption", {}, "Blue is positive, orange negative, the deeper the larger. The marks above are what the head’s three matrices read. Point at a cell, or use the arrow keys.")),
    h("p", {}, "A head multiplies that vector with three matrices of two rows each. All their non-zero entries, times what the stream holds there:"),
    h("figure", {}, three),
    h("h2", {}, "A value on its way"),
    h("p", {}, "When 42 is stored, the embedding puts the byte into the stream and a neuron of layer 0 loads it into the coordinate of the memory bank that it belongs to. Two layers on the number is still there, untouched: the residual stream has carried it to the ", matrix("V"), " of layer 3, which reads it with weight 1. (Choose another token above, and the boxes follow the first number that it hands over.)"),
    h("figure", {}, journey, story,
      h("figcaption", {}, "In this machine ", matrix("V"), " reads only what the token itself says or its first layers make of it, so that what was written can be cached once and for all. What a head has loaded goes on through the same stream to later queries and neurons, and into the next token.")),
    h("div", { class: "controls" }, button("step-there", "Open that step in the whole machine", "open the step in the whole machine", () => {
      app.shown = "tour";
      app.go("whole-machine", app.tour.stepOf(app.data.tokens[which]!.reader + 1));
    })),
  );
  void choose(0);
  return {};
}

export const projections: Chapter = {
  id: "projections",
  title: "From token to Q, K, V",
  lead: "Three small matrices turn a token into a question, a label and a content. Here are their actual entries, on an actual token.",
  mount,
};
