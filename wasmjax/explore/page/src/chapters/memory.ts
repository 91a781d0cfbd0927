/** Reading memory. */

import type { App, Chapter } from "../app";
import { button, choice, stepper } from "../controls";
import { Latest, type Table } from "../data";
import { effect } from "../describe";
import { bits, fmt, h, num, refill, vec } from "../dom";
import { stem } from "../model";
import { spaceClass, spaceName } from "./machine";

interface Member {
  token: number;
  address: number;
  key: [number, number];
  value: [number, number];
}

function mount(app: App, root: HTMLElement) {
  const stack = app.model.spaces.findIndex((x) => x.name === "operand a");
  const bank0 = app.model.spaces.findIndex((x) => x.name === "memory bank 0");
  let space = stack;
  let asked = 0;
  let own = true; // the address that the step itself asks for
  let at = 0;
  const latest = new Latest();
  const tables = new Map<number, Promise<Table>>();
  const members = async (which: number, index: number): Promise<Member[]> => {
    let asks = tables.get(which);
    if (!asks) tables.set(which, (asks = app.tour.members(which)));
    const t = await asks;
    const out: Member[] = [];
    for (let k = 0; k < t.token!.length && t.token![k]! <= index; k++) {
      out.push({ token: t.token![k]!, address: t.address![k]!, key: [t.key![2 * k]!, t.key![2 * k + 1]!], value: [t.value![2 * k]!, t.value![2 * k + 1]!] });
    }
    return out;
  };

  const arrays = h("div", { class: "arrays", role: "group", "aria-label": "arrays" });
  const cells = h("div", { class: "cells", role: "group", "aria-label": "addresses" });
  const query = h("p", { class: "readout query", "aria-live": "polite" });
  const table = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "table" });
  const where = h("p", { class: "status" });

  const bar = stepper({
    last: app.tour.steps - 1, value: 0, label: "step of the tour",
    move: (step) => {
      app.at.tour = step;
      app.moved(true);
    },
  });

  /** A head that reads the array. */
  const reader = (which: number) => app.model.heads.findIndex((head) => app.model.groups[head.group]!.space === which);

  /** What a cell shows: a slot's whole value, which its heads read byte by byte, or what is read. */
  const content = (m: Member): string => {
    const token = space === stack ? app.tour.peek(m.token) : null;
    return token ? bits(token.value) : fmt(m.value[0]);
  };

  const draw = () => latest.run(async () => {
    const index = app.tour.indexOf(at) - 1;
    const all = await members(space, index);
    const token = await app.tour.token(index + 1);
    const code = await app.tour.code(token.ip);
    const heads = await app.tour.heads(index);
    const questions = app.model.groups.flatMap((group, g) => {
      if (group.space !== space || !heads) return [];
      const head = app.model.heads.findIndex((x) => x.group === g);
      const [q1, q2] = heads.query(head);
      return [{ g, head, name: stem(app.model.heads[head]!.name), asks: q1 / q2, answered: heads.answered(head) }];
    });
    if (own && questions.length) asked = questions[0]!.asks;
    const newest = new Map<number, Member>();
    for (const m of all) newest.set(m.address, m);
    const shown = [...newest.values()].sort((a, b) => a.address - b.address);
    where.replaceChildren(`step ${at}: `, h("code", {}, code.note), ` → ${effect(app.model, token)}`);

    refill(arrays, ...app.model.spaces.map((x, k) => {
      const readers = app.model.heads.filter((head) => app.model.groups[head.group]!.space === k).length;
      return h("button", { type: "button", "data-control": "array", "aria-pressed": String(k === space), title: `${readers} heads read it`, onclick: () => {
        space = k;
        own = true;
        draw();
      } }, h("i", { class: `dot ${spaceClass(app, k)}` }), spaceName(app, k) || x.name, h("small", {}, ` ${readers} head${readers > 1 ? "s" : ""}`));
    }));

    const scored = shown.map((m) => ({ ...m, score: asked * m.key[0] + m.key[1] }));
    const best = scored.reduce((a, b) => (b.score > a.score ? b : a), scored[0] ?? { score: NaN, token: -1, address: 0, key: [0, 0], value: [0, 0] } as never);
    // Long arrays: the neighbourhood of what is asked.
    const centre = Math.max(0, scored.findIndex((m) => m.token === best.token));
    const first = Math.max(0, Math.min(centre - 14, scored.length - 30));
    const window = scored.slice(first, first + 30);
    refill(cells, 
      first > 0 ? h("span", { class: "more" }, `${first} before`) : "",
      ...window.map((m) => h("button", {
        type: "button", "data-control": "cell", "data-key": m.address, "data-address": m.address, class: m.token === best.token ? "win" : "", "aria-pressed": String(m.address === asked),
        onclick: () => {
          own = false;
          asked = m.address;
          draw();
        },
      }, h("small", {}, m.address < 0 ? "bos" : fmt(m.address)), h("span", {}, content(m)), h("small", { class: "score" }, fmt(m.score)))),
      first + 30 < scored.length ? h("span", { class: "more" }, `${scored.length - first - 30} more`) : "",
    );
    const chips = questions.slice(0, 6).map((x) =>
      h("button", { type: "button", "data-control": "question", "aria-pressed": String(x.asks === asked), onclick: () => {
        own = false;
        asked = x.asks;
        draw();
      } }, `${x.name} asks ${fmt(x.asks)}`));
    const winner = await app.tour.token(Math.max(0, best.token));
    query.replaceChildren(
      "query ", vec([asked, 1], "q"), " → token ", h("strong", { "data-answered": best.token }, `#${best.token}`), " wins with ", num(best.score), "; read: ",
      h("strong", { class: "v" }, fmt(best.value[0])),
      ` (${app.reads(reader(space), 0)}${app.model.kinds[winner.kind] === "code" ? "" : `; the token says: ${effect(app.model, winner)}`}). `,
      best.address !== asked ? h("span", { class: "ink-hot" }, `Nobody is at ${fmt(asked)}: the nearest address answers. `) : "",
    );
    const near = window.filter((m) => Math.abs(m.address - best.address) <= 4 || m.token === best.token).slice(0, 9);
    const [low, high] = [Math.min(...near.map((m) => m.score)), Math.max(...near.map((m) => m.score))];
    refill(table, 
      h("table", {}, h("caption", {}, `every key is scored; here are those near address ${fmt(best.address)} (${fmt(all.length)} keys so far, ${fmt(shown.length)} addresses)`),
        h("thead", {}, h("tr", {}, ...["token", "address", "key", "q·k", "", "value"].map((x) => h("th", { scope: "col" }, x)))),
        h("tbody", {}, ...near.map((m) => h("tr", { class: m.token === best.token ? "win" : "", "data-token": m.token },
          h("th", { scope: "row", class: "num" }, `#${m.token}`), h("td", { class: "num" }, fmt(m.address)), h("td", {}, vec(m.key, "k")),
          h("td", { class: "num" }, num(m.score)), h("td", { class: "meter" }, meter((m.score - low) / (high - low || 1), m.token === best.token)), h("td", {}, num(m.value[0], "v")))))),
      h("div", { class: "controls asks" }, h("small", {}, "in this step:"), ...(chips.length ? chips : [h("small", {}, "no head")])),
    );
  });

  const tabs = choice({
    name: "kind", label: "which memory", options: ["stack[i]", "mem[addr]"], value: 0,
    change: (k) => {
      space = k ? bank0 : stack;
      own = true;
      if (k) {
        app.at.tour = app.data.moments.load42!;
        app.moved(true);
      } else draw();
    },
  });
  root.append(
    h("p", {}, "Every token that wrote something is still in the sequence; its key says where. To read address i the query is (i, 1). The key of address j is (2j, −j²), so the score is 2ij − j²: largest, for whole numbers, exactly where j = i."),
    h("figure", {},
      h("div", { class: "controls" }, tabs.el), bar.el, where, cells, query, table,
      h("figcaption", {}, "Choose a cell to ask for its address: above is the address, below the score of its key. All are keys and values of the tour at that step; the scores are their products with the query.")),
    h("h2", {}, "More heads, more arrays"),
    h("p", {}, "A head sees only the tokens that its keys make members of its array; all others are far below the parabola. So each group of heads is an array of its own: instructions, stack slots, eight banks of memory (byte b of every 8-byte word is in bank b, so that an unaligned load is eight reads at once), a table of arithmetic."),
    h("figure", {}, arrays, h("figcaption", {}, `${app.model.heads.length} heads read ${app.model.spaces.length} arrays, or take a mean.`)),
    h("div", { class: "controls" },
      button("to-store", "Go to: 42 is stored", "go to the step that stores 42", () => jump("store42", bank0)),
      button("to-load", "Go to: 42 is loaded", "go to the step that loads 42", () => jump("load42", bank0)),
      button("to-add", "Go to: 3 + 5", "go to the step that adds 3 and 5", () => jump("add", stack))),
  );
  function jump(moment: string, which: number): void {
    space = which;
    own = true;
    tabs.set(which === stack ? 0 : 1);
    app.at.tour = app.data.moments[moment]!;
    app.moved(true);
    root.scrollIntoView({ block: "start" });
  }
  return {
    step(step: number) {
      at = Math.min(step, app.tour.steps - 1);
      own = true;
      bar.set(at);
      draw();
    },
    leave: () => bar.stop(),
  };
}

function meter(share: number, hot: boolean): HTMLElement {
  const el = h("span", { class: hot ? "meter-bar hot" : "meter-bar" });
  el.style.width = `${Math.max(1, 100 * share)}%`;
  return el;
}

export const memory: Chapter = {
  id: "reading-memory",
  title: "Reading memory",
  lead: "stack[3], mem[16], the instruction at ip: one mechanism. A token is a memory cell, its key is its address, and a dot product finds it.",
  steps: "tour",
  mount,
};
