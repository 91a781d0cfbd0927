/** Writing = emitting a token. */

import type { App, Chapter } from "../app";
import { stepper } from "../controls";
import { Latest } from "../data";
import { effect } from "../describe";
import { bits, exact, fmt, h, refill } from "../dom";
import type { Token } from "../run";

interface Place {
  id: string;
  what: string;
  address: number;
  writes: Token[];
}

function mount(app: App, root: HTMLElement) {
  let at = 0;
  let chosen = "";
  let everything: Token[] = [];
  const latest = new Latest();
  const ribbon = h("ol", { class: "ribbon", tabindex: 0, "aria-label": "the last tokens of the sequence" });
  const count = h("p", { class: "readout", "aria-live": "polite" });
  const board = h("div", { class: "board" });
  const history = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "table" });
  const bar = stepper({
    last: app.tour.steps - 1, value: 0, label: "step of the tour",
    move: (step) => {
      app.at.tour = step;
      app.moved(true);
    },
  });
  const space = app.model.spaces.findIndex((x) => x.name === "operand a");

  const place = (token: Token): [string, string, number] | null => {
    const kind = app.model.kinds[token.kind]!;
    if (kind === "slot") return [`slot-${token.address}`, "slot", token.address];
    if (kind.startsWith("mem")) return [`mem-${token.address}`, "mem", token.address];
    return null;
  };

  const draw = () => latest.run(async () => {
    if (!everything.length) {
      const all: Token[] = [];
      for (let k = 0; k < app.tour.info.tokens; k++) all.push(await app.tour.token(k));
      everything = all;
    }
    const index = app.tour.indexOf(at);
    const newest = everything[index]!;
    const code = await app.tour.code(newest.ip);
    const places = new Map<string, Place>();
    const base = app.tour.info.stackBase;
    for (const token of everything.slice(0, index + 1)) {
      const where = place(token);
      if (!where || (where[1] === "slot" && where[2] < base)) continue;
      const known = places.get(where[0]) ?? { id: where[0], what: where[1], address: where[2], writes: [] };
      known.writes.push(token);
      places.set(where[0], known);
    }
    const now = place(newest)?.[0] ?? "";
    if (!chosen || !places.has(chosen)) chosen = now && places.has(now) ? now : [...places.keys()][0] ?? "";

    const span = 9;
    const notes = await Promise.all(everything.slice(Math.max(0, index - span + 1), index + 1).map(async (token) =>
      app.tour.stepOf(token.index) >= 0 ? (await app.tour.code(token.ip)).note : "prompt"));
    ribbon.replaceChildren(...everything.slice(Math.max(0, index - span + 1), index + 1).map((token, k) =>
      h("li", { class: token === newest ? "newest" : "", "data-token": token.index },
        h("small", { class: "num" }, `#${token.index}`), h("code", {}, notes[k]!), h("span", { class: "effect" }, effect(app.model, token)))));
    ribbon.scrollLeft = ribbon.scrollWidth;
    count.replaceChildren(
      "The sequence has ", h("strong", { "data-tokens": index + 1 }, fmt(index + 1)), " tokens. Step ", h("strong", {}, at), ", ", h("code", {}, code.note), ", appended one: ",
      h("strong", { class: "ink-hot" }, effect(app.model, newest)), ". None of the others has changed.");

    const group = (what: string, title: string) => {
      const mine = [...places.values()].filter((p) => p.what === what).sort((a, b) => a.address - b.address);
      return h("section", {}, h("h3", {}, title), h("div", { class: "places" }, ...mine.map((p) => {
        const last = p.writes[p.writes.length - 1]!;
        const older = p.writes.slice(-4, -1).map((t) => h("s", {}, value(app, t)));
        return h("button", { type: "button", "data-control": "place", "data-key": p.id, "data-place": p.id, class: p.id === now ? "hot" : "", "aria-pressed": String(p.id === chosen),
          onclick: () => {
            chosen = p.id;
            draw();
          } },
          h("small", {}, `${p.what === "slot" ? "slot " : "mem "}${p.address}`), h("span", { class: "older" }, ...older), h("b", { "data-value": String(last.value) }, value(app, last)),
          p.writes.length > 1 ? h("small", { class: "times" }, `×${p.writes.length}`) : null);
      })));
    };
    refill(board, group("slot", "Stack slots"), group("mem", "Memory"));
    await drawHistory(places.get(chosen), index);
  });

  async function drawHistory(p: Place | undefined, index: number): Promise<void> {
    if (!p) {
      history.replaceChildren();
      return;
    }
    const keys = new Map<number, [number, number]>();
    if (p.what === "slot") {
      const t = await app.tour.members(space);
      t.token!.forEach((token, k) => keys.set(token, [t.key![2 * k]!, t.key![2 * k + 1]!]));
    }
    const shown = p.writes.slice(-8);
    const rows = shown.map((token, k) => {
      const key = keys.get(token.index);
      const hot = k === shown.length - 1;
      return h("tr", { class: hot ? "win" : "", "data-token": token.index },
        h("th", { scope: "row", class: "num" }, `#${token.index}`), h("td", { class: "num" }, hot ? h("b", {}, value(app, token)) : h("s", {}, value(app, token))),
        h("td", {}, key ? h("span", { class: "vec k" }, "(", fmt(key[0]), ", ", exact(key[1]), ")") : "–"), h("td", { class: "num" }, key ? exact(p.address * key[0] + key[1]) : "–"), h("td", {}, hot ? "wins" : "overwritten"));
    });
    history.replaceChildren(
      h("table", {}, h("caption", {}, `${p.what === "slot" ? "slot" : "memory address"} ${p.address} up to token ${index}: ${p.writes.length} write${p.writes.length > 1 ? "s" : ""}`),
        h("thead", {}, h("tr", {}, ...["token", "value", "key", `score when ${p.address} is asked`, ""].map((x) => h("th", { scope: "col" }, x)))), h("tbody", {}, ...rows)),
      p.what === "mem" ? h("p", { class: "status" }, "A store is a member of the banks of its bytes, in each at its own word; the keys of a bank are in chapter 3.") : "");
  }

  root.append(
    h("p", {}, "The model has no memory but its own past. To write is to emit a token that names an address and a value; to read is to attend to it. The sequence is a log: it only grows, and whoever wrote an address last answers for it."),
    h("figure", {}, bar.el, count, ribbon, h("figcaption", {}, "The newest tokens, one per step. Play, or step with the buttons or the arrow keys.")),
    h("figure", {}, board, history,
      h("figcaption", {}, "Every address that the program has written, with its last values. Choose one: the keys of its writes differ in the last digits only, eps for each token between them, so the latest has the highest score.")),
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

/** What a write says, as wide as it writes. */
function value(app: App, token: Token): string {
  const kind = app.model.kinds[token.kind]!;
  return bits(kind.startsWith("mem") ? BigInt.asUintN(8 * Number(kind.slice(3)), token.value) : token.value);
}

export const writing: Chapter = {
  id: "writing",
  title: "Writing is emitting a token",
  lead: "Nothing in the sequence is ever edited. It is the memory, the register file and the trace at once.",
  steps: "tour",
  mount,
};
