/** The parabola. */

import { axisBottom } from "d3-axis";
import { scaleLinear } from "d3-scale";
import { line } from "d3-shape";
import type { App, Chapter } from "../app";
import { dropdown, slider, type Slider } from "../controls";
import { Chart, fmt, h, num, type Svg } from "../dom";
import type { Scene } from "../model";

function mount(app: App, root: HTMLElement) {
  let which = 0;
  let target = 0;
  const scene = (): Scene => app.data.scenes[which]!;
  const low = () => scene().low;
  const high = () => low() + (scene().visits.length - 1) / scene().unit;
  const score = (k: number, x: number) => x * scene().key[k]![0] + scene().key[k]![1];
  /** The key that wins at a target: the highest score, the newest among equals. */
  const winner = (x: number): number => {
    let best = 0;
    scene().key.forEach((_, k) => {
      if (score(k, x) >= score(best, x)) best = k;
    });
    return best;
  };
  const visited = (): Set<number> => new Set(scene().visits[Math.round((target - low()) * scene().unit)] ?? []);
  const asked = () => scene().query[0] / scene().query[1];
  /** What is drawn: all of a space, if there is room, or the neighbourhood of the query. */
  const view = (width: number): [number, number] => {
    const most = Math.max(48, width / 3);
    if (high() - low() <= most) return [low(), high()];
    const middle = Math.max(low() + most / 2, Math.min(high() - most / 2, target));
    return [middle - most / 2, middle + most / 2];
  };

  const drag = (svg: Svg, x: { invert(v: number): number }) => {
    svg.style("cursor", "ew-resize").style("touch-action", "pan-y").on("pointerdown pointermove", (event: PointerEvent) => {
      if (event.type === "pointermove" && !event.buttons) return;
      const box = (svg.node() as SVGSVGElement).getBoundingClientRect();
      aim(x.invert(event.clientX - box.left));
    });
  };

  const curve = new Chart("Keys on the parabola and the line of equal scores that touches it at the winner", (svg, width) => {
    const height = Math.min(340, Math.max(240, width * 0.5));
    const [left, right, top, bottom] = [16, 16, 34, 40];
    const [from, to] = view(width);
    const x = scaleLinear([2 * from, 2 * to], [left, width - right]);
    const deepest = Math.max(from * from, to * to, 4);
    const y = scaleLinear([-deepest * 1.04, deepest * 0.14], [height - bottom, top]);
    svg.append("g").attr("class", "axis").attr("transform", `translate(0 ${height - bottom})`).call(axisBottom(x).ticks(width / 80));
    svg.append("text").attr("class", "note").attr("x", width - right).attr("y", height - 4).attr("text-anchor", "end").text("k₁ = 2j");
    svg.append("text").attr("class", "note").attr("x", left).attr("y", top - 14).text("k₂ = −j²");
    const js = Array.from({ length: 160 }, (_, k) => from + (k / 159) * (to - from));
    svg.append("path").attr("class", "curve").attr("d", line<number>((j) => x(2 * j), (j) => y(-j * j))(js));
    const best = winner(target);
    const s = score(best, target);
    // All points with the winner's score: k2 = s - i k1. Everything else lies below it.
    const edge = (k1: number) => s - target * k1;
    svg.append("clipPath").attr("id", "inside").append("rect").attr("x", left).attr("y", top - 8).attr("width", width - left - right).attr("height", height - bottom - top + 8);
    svg.append("line").attr("class", "level").attr("clip-path", "url(#inside)").attr("x1", x(2 * from)).attr("x2", x(2 * to)).attr("y1", y(edge(2 * from))).attr("y2", y(edge(2 * to)));
    const seen = visited();
    scene().address.forEach((j, k) => {
      if (j < from || j > to) return;
      const [k1, k2] = scene().key[k]!;
      svg.append("circle").attr("class", `key ${k === best ? "win" : seen.has(k) ? "seen" : ""}`).attr("cx", x(k1)).attr("cy", y(k2)).attr("r", k === best ? 7.5 : to - from > 100 ? 2.6 : 4.2);
    });
    const [wx, wy] = [x(2 * scene().address[best]!), y(-(scene().address[best]! ** 2))];
    svg.append("text").attr("class", "label").attr("x", Math.max(60, Math.min(width - 70, wx))).attr("y", Math.min(height - bottom - 6, wy + 24)).attr("text-anchor", "middle").text(`address ${fmt(scene().address[best]!)}`);
    drag(svg, { invert: (v) => x.invert(v) / 2 });
    return height;
  });

  const scores = new Chart("Scores of all keys for the target", (svg, width) => {
    const height = 250;
    const [left, right, top, bottom] = [16, 16, 34, 40];
    const [from, to] = view(width);
    const x = scaleLinear([from, to], [left, width - right]);
    const best = winner(target);
    const most = score(best, target);
    const worst = Math.min(...[from, to].map((j) => 2 * target * j - j * j));
    const y = scaleLinear([worst, most + (most - worst || 1) * 0.08], [height - bottom, top]);
    svg.append("g").attr("class", "axis").attr("transform", `translate(0 ${height - bottom})`).call(axisBottom(x).ticks(width / 70));
    svg.append("text").attr("class", "note").attr("x", width - right).attr("y", height - 4).attr("text-anchor", "end").text("address j");
    svg.append("text").attr("class", "note").attr("x", left).attr("y", top - 14).text("score 2ij − j²");
    const js = Array.from({ length: 160 }, (_, k) => from + (k / 159) * (to - from));
    svg.append("path").attr("class", "curve q").attr("d", line<number>((j) => x(j), (j) => y(2 * target * j - j * j))(js));
    svg.append("line").attr("class", "target").attr("x1", x(target)).attr("x2", x(target)).attr("y1", top - 8).attr("y2", height - bottom);
    const seen = visited();
    scene().address.forEach((j, k) => {
      if (j < from || j > to) return;
      svg.append("circle").attr("class", `key ${k === best ? "win" : seen.has(k) ? "seen" : ""}`).attr("cx", x(j)).attr("cy", y(score(k, target))).attr("r", k === best ? 7.5 : to - from > 100 ? 2.6 : 4.2);
    });
    const real = asked();
    if (real >= from && real <= to) svg.append("path").attr("class", "asked").attr("d", `M ${x(real)} ${height - bottom} l -6 10 h 12 z`);
    drag(svg, x);
    return height;
  });

  const search = new Chart("Which keys a search in the hull compares", (svg, width) => {
    const n = scene().address.length;
    const columns = Math.max(8, Math.floor(width / (n > 160 ? 15 : 22)));
    const cell = width / columns;
    const seen = visited();
    const order = scene().visits[Math.round((target - low()) * scene().unit)] ?? [];
    const best = winner(target);
    for (let k = 0; k < n; k++) {
      const [cx, cy] = [(k % columns) * cell, Math.floor(k / columns) * cell];
      svg.append("rect").attr("class", `probe ${seen.has(k) ? "seen" : ""} ${k === best ? "win" : ""}`).attr("x", cx + 1.5).attr("y", cy + 1.5).attr("width", cell - 3).attr("height", cell - 3).attr("rx", 3)
        .append("title").text(`key ${k}, address ${scene().address[k]}${seen.has(k) ? `, compared as number ${order.indexOf(k) + 1}` : ""}`);
      if (seen.has(k) && cell > 17) svg.append("text").attr("class", "probe").attr("x", cx + cell / 2).attr("y", cy + cell / 2 + 3.5).attr("text-anchor", "middle").text(order.indexOf(k) + 1);
    }
    return Math.ceil(n / columns) * cell + 2;
  });

  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const counts = h("p", { class: "readout" });
  const formula = h("p", { class: "formula" });
  let aimSlider: Slider;
  const draw = () => {
    const best = winner(target);
    const second = Math.max(...scene().key.map((_, k) => (scene().address[k] === scene().address[best] ? -Infinity : score(k, target))));
    readout.replaceChildren(
      "target ", num(target, "q"), ": address ", h("strong", { "data-winner": scene().address[best] }, fmt(scene().address[best]!)), ", token ", h("strong", {}, `#${scene().token[best]}`),
      " wins with ", num(score(best, target)), "; the next address has ", num(second), ".",
      Number.isInteger(target) ? "" : " Half-way between two keys both score the same: the machine’s queries are proved to stay clear of that.",
    );
    const n = scene().address.length;
    const seen = visited().size;
    counts.replaceChildren("A linear scan scores ", h("strong", {}, fmt(n)), " keys. The hull’s tree compares ", h("strong", { "data-visited": seen }, fmt(seen)), n > 2 * seen ? ", numbered in the order it meets them." : n >= seen ? ": with so few keys there is little to save." : ".");
    formula.replaceChildren(h("span", { class: "q" }, `(${fmt(target)}, 1)`), " · ", h("span", { class: "k" }, "(2j, −j²)"), ` = ${fmt(2 * target)}j − j² = ${fmt(target * target)} − (j − ${fmt(target)})²`);
    curve.redraw();
    scores.redraw();
    search.redraw();
  };
  function aim(x: number): void {
    const unit = scene().unit;
    target = Math.max(low(), Math.min(high(), Math.round(x * unit) / unit));
    aimSlider.set(target);
    draw();
  }
  const holder = h("div", {});
  const pick = (k: number) => {
    which = k;
    target = Math.max(low(), Math.min(high(), Math.round(asked())));
    aimSlider = slider({
      name: "target", label: "target i", min: low(), max: high(), step: 1 / scene().unit, value: target, show: fmt,
      input: (x) => {
        target = x;
        draw();
      },
    });
    holder.replaceChildren(aimSlider.el);
    draw();
  };
  pick(0);
  root.append(
    h("p", {}, "A key must be a point such that the query for an address is furthest out in exactly one direction. Put the addresses on a parabola: address j at (2j, −j²). Completing the square shows why it works, and that the runner-up is always behind by at least 1."),
    formula,
    h("figure", {},
      h("div", { class: "controls" }, dropdown({ name: "scene", label: "keys of the tour", options: app.data.scenes.map((x) => x.title), value: 0, change: pick }).el),
      curve.el,
      h("figcaption", {}, "The keys, and the line of all points that score as high as the winner. Every other key is below it. All keys are corners of their convex hull, and the line rolls around it as the target moves.")),
    h("figure", {}, scores.el, holder, readout,
      h("figcaption", {}, "Drag in a chart, or use the slider. For a given target the scores are a parabola upside down, with its top at the target. The small mark on the axis is what the head really asked in that step.")),
    h("h2", {}, "Logarithmic instead of linear"),
    h("p", {}, "Finding the furthest point in a direction needs no look at every key: each key is a straight line over the target, and a tree keeps, for each stretch of targets, the line that is highest in its middle. A query walks down one path. This is the hull cache’s own tree, filled with the keys of the run; its depth is the logarithm of the addresses that the machine can have, not of the few that are in use."),
    h("figure", {}, search.el, counts, h("figcaption", {}, "One square is one key in the order of writing. Coloured: compared for this target. Bold: the winner.")),
  );
  return {};
}

export const parabola: Chapter = {
  id: "parabola",
  title: "The parabola",
  lead: "Why two numbers are enough to address millions of tokens exactly.",
  mount,
};
