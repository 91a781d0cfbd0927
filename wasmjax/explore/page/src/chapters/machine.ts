/** The whole machine: any run, step by step, with what every head did. */

import { scaleLog } from "d3-scale";
import type { App, Chapter, View } from "../app";
import { choice, dropdown, stepper } from "../controls";
import { Latest, type Table } from "../data";
import { effect, moves } from "../describe";
import { bits, character, Chart, fmt, h, matrix, num, refill, type Svg, vec } from "../dom";
import { stem } from "../model";
import type { Code, Heads, Run, Token } from "../run";

const LINES = 13;
const SHOWN_MEMORY = 64;

interface Segment {
  kind: number;
  first: number;
  last: number;
}

interface Scene {
  step: number;
  /** The token whose successor the step generates, and that successor. */
  index: number;
  token: Token;
  code: Code;
  heads: Heads | null;
  segments: Segment[];
}

/** The class that colours a key space. */
export function spaceClass(app: App, space: number): string {
  const name = app.model.spaces[space]?.name ?? "";
  if (name === "fetch") return "code";
  if (name.startsWith("operand")) return "slots";
  if (name.startsWith("memory")) return "memory";
  return space < 0 ? "sums" : name.startsWith("destination") ? "table" : "other";
}

export function spaceName(app: App, space: number): string {
  const name = app.model.spaces[space]?.name ?? "";
  if (name === "fetch") return "instructions";
  if (name.startsWith("operand")) return "stack slots";
  if (name.startsWith("destination")) return "arithmetic table";
  return name;
}

class Machine implements View {
  private run: Run;
  private at = 0;
  private selected = -1;
  private inspected = -1;
  private scene: Scene | null = null;
  private filter = 0;
  private overview: Table | null = null;
  private segments: Segment[] = [];
  private segmented = -1;
  private followMemory = true;
  private memoryAt = 0;
  private readonly now = new Latest();
  private readonly slow = new Latest();
  private readonly bar: ReturnType<typeof stepper>;

  private readonly status = h("p", { class: "status", role: "status" });
  private readonly strip: Chart;
  private readonly band: Chart;
  private readonly headline = h("div", { class: "headline", "aria-live": "polite" });
  private readonly listing = h("ol", { class: "listing", "aria-label": "instructions around ip" });
  private readonly frame = h("div", { class: "frame" });
  private readonly registers = h("div", { class: "registers" });
  private readonly memory = h("div", { class: "bytes" });
  private readonly output = h("pre", { class: "output", tabindex: 0, "aria-label": "output so far" });
  private readonly table = h("div", { class: "heads", tabindex: 0, role: "region", "aria-label": "heads" });
  private readonly detail = h("div", { class: "detail" });
  private readonly emitted = h("div", { class: "emitted" });
  private readonly inspector = h("div", { class: "inspector" });
  private readonly address = h("input", {
    type: "number", min: 0, value: 0, "data-control": "address", "aria-label": "memory address",
  });

  constructor(
    private readonly app: App,
    root: HTMLElement,
  ) {
    this.run = app.run;
    this.selected = app.model.groups.findIndex((x) => spaceClass(app, x.space) === "code");
    this.at = app.at[app.shown] ?? 0;
    this.bar = this.makeBar();
    this.strip = new Chart("Depth of calls over the whole run", (svg, width) => this.drawStrip(svg, width));
    this.band = new Chart("Arcs from the current token to the tokens that answered", (svg, width) =>
      this.drawBand(svg, width),
    );
    const runs = app.program
      ? choice({
          name: "run",
          label: "run",
          options: [app.program.info.title, "the tour"],
          value: app.shown === "program" ? 0 : 1,
          change: (k) => {
            app.shown = k ? "tour" : "program";
            app.go("whole-machine");
          },
        }).el
      : null;
    const follow = h("input", { type: "checkbox", "data-control": "follow" });
    follow.checked = true;
    follow.addEventListener("change", () => {
      this.followMemory = follow.checked;
      this.refresh();
    });
    this.address.addEventListener("change", () => {
      follow.checked = this.followMemory = false;
      this.memoryAt = Math.max(0, Number(this.address.value) || 0);
      this.refresh();
    });
    const filter = dropdown({
      name: "filter",
      label: "heads",
      options: ["sums, instructions, slots, memory", "all", ...[0, 1, 2, 3, 4].map((k) => `layer ${k}`)],
      value: 0,
      change: (value) => {
        this.filter = value;
        this.drawHeads();
      },
    });
    root.append(
      h("div", { class: "wide transport" }, runs, this.strip.el, this.bar.el, this.status),
      h(
        "div",
        { class: "wide machine" },
        this.headline,
        h("figure", { class: "sequence" }, this.band.el, legend()),
        h(
          "div",
          { class: "panels" },
          h(
            "div",
            {},
            h("section", { class: "panel code" }, h("h2", {}, "Program"), this.listing),
            h("section", { class: "panel" }, h("h2", {}, "Output so far"), this.output),
          ),
          h(
            "div",
            {},
            h("section", { class: "panel state" }, h("h2", {}, "Stack and locals"), this.registers, this.frame),
            h(
              "section",
              { class: "panel" },
              h("h2", {}, "Memory"),
              h("div", { class: "memory-bar" }, h("label", {}, "at ", this.address), h("label", {}, follow, " follow")),
              this.memory,
            ),
          ),
        ),
        h("section", { class: "panel" }, h("h2", {}, "The token that this step emits"), this.emitted, this.inspector),
        h(
          "section",
          { class: "panel" },
          h("h2", {}, "What the heads asked, and who answered"),
          filter.el,
          h("div", { class: "split" }, this.table, this.detail),
        ),
      ),
      toolCall(app),
    );
    void this.loadOverview();
  }

  private makeBar(): ReturnType<typeof stepper> {
    return stepper({
      last: Math.max(0, this.run.steps - 1),
      value: this.at,
      speeds: true,
      label: "step of the run",
      move: (step) => {
        this.app.at[this.app.shown] = step;
        this.app.moved(true);
      },
    });
  }

  private async loadOverview(): Promise<void> {
    this.overview = await this.run.overview();
    this.strip.redraw();
  }

  step(step: number): void {
    this.at = step;
    this.bar.set(step);
    this.strip.redraw();
    this.refresh();
  }

  grown(): void {
    this.bar.grown(Math.max(0, this.run.steps - 1));
    this.tell();
    this.slow.run(() => this.loadOverview());
    if (!this.scene || this.scene.step !== this.at) this.refresh();
  }

  leave(): void {
    this.bar.stop();
  }

  private tell(): void {
    const { info } = this.run;
    const args = info.args.length ? ` ${info.args.join(" ")}` : "";
    this.status.textContent = info.done
      ? `${info.title}${args}: ${fmt(info.steps)} steps, prompt of ${fmt(info.tokens - info.steps)} tokens, ${info.ended}`
      : `${info.title}${args}: running, ${fmt(info.steps)} steps so far`;
  }

  private refresh(): void {
    this.tell();
    const step = Math.min(this.at, this.run.steps - 1);
    if (step < 0) return;
    // What the pages at hand say appears at once; state and heads follow when they are there.
    this.now.run(() => this.show(step));
  }

  private async show(step: number): Promise<void> {
    const { run } = this;
    const index = run.indexOf(step) - 1;
    const token = await run.token(index + 1);
    const code = await run.code(token.ip);
    await this.findSegments();
    this.scene = { step, index, token, code, heads: null, segments: this.segments };
    this.drawHeadline();
    await Promise.all([this.drawListing(), this.drawEmitted()]);
    this.band.redraw();
    const heads = await run.heads(index);
    if (this.scene.index !== index) return;
    this.scene.heads = heads;
    this.band.redraw();
    this.drawHeads();
    await this.drawState();
  }

  /** Runs of tokens of one kind in what was fed. */
  private async findSegments(): Promise<void> {
    const { run } = this;
    if (this.segmented === run.info.parts.length) return;
    const found: Segment[] = [];
    for (const [begin, , count, generated] of run.info.parts) {
      if (generated || found.length > 64) continue;
      for (let index = begin; index < Math.min(begin + count, begin + (1 << 18)); ) {
        const page = await run.tokens(Math.floor(index / 4096));
        const end = Math.min(begin + count, (Math.floor(index / 4096) + 1) * 4096);
        for (; index < end; index++) {
          const kind = page.kind![index % 4096]!;
          const last = found[found.length - 1];
          if (last && last.kind === kind && last.last === index - 1) last.last = index;
          else found.push({ kind, first: index, last: index });
        }
      }
    }
    this.segments = found;
    this.segmented = run.info.parts.length;
  }

  private drawHeadline(): void {
    const { token, code, step } = this.scene!;
    const inside = this.run.functionAt(token.ip);
    const where = moves(token);
    this.headline.replaceChildren(
      h("span", { class: "at" }, `step ${fmt(step)}`),
      h("code", { class: "instruction" }, code.note),
      h("span", { class: "arrow", "aria-hidden": "true" }, "→"),
      h("span", { class: "effect" }, effect(this.app.model, token, this.run.info.unsupported)),
      ...(where ? [h("span", { class: "moves" }, where)] : []),
      h("span", { class: "where" }, `instruction ${fmt(token.ip)}${inside ? ` in ${inside.name}` : ""}`),
    );
    this.headline.dataset.step = String(step);
  }

  private async drawListing(): Promise<void> {
    const { token, index } = this.scene!;
    const total = this.run.info.instructions;
    const first = Math.max(0, Math.min(token.ip - (LINES >> 1), total - LINES));
    const lines: HTMLLIElement[] = [];
    const entries = new Map(this.run.info.functions.map((f) => [f.entry, f.name]));
    const code = this.segments.find((x) => this.app.model.kinds[x.kind] === "code");
    for (let ip = first; ip < Math.min(total, first + LINES); ip++) {
      const { note } = await this.run.code(ip);
      if (entries.has(ip)) lines.push(h("li", { class: "entry" }, `${entries.get(ip)}:`));
      const of = code ? code.first + ip : -1;
      lines.push(
        h(
          "li",
          { class: ip === token.ip ? "now" : "", "aria-current": ip === token.ip ? "step" : null },
          h("span", { class: "num" }, ip),
          h(
            "button",
            { type: "button", "data-control": "instruction", "data-key": ip, title: "its token", onclick: () => this.inspect(of) },
            note,
          ),
        ),
      );
    }
    if (this.scene!.index === index) refill(this.listing, ...lines);
  }

  private async drawState(): Promise<void> {
    const { run, app } = this;
    const { token, index, heads, code } = this.scene!;
    const inside = run.functionAt(token.ip);
    const asked = new Map<number, string[]>();
    const note = (address: number, who: string) => asked.set(address, [...(asked.get(address) ?? []), who]);
    if (heads) {
      for (const name of ["operand a", "operand b", "operand c"]) {
        const head = app.head(`${name}[0]`);
        const [q1, q2] = heads.query(head);
        const address = Math.round(q1 / q2);
        if (address >= 0) note(address, name.slice(-1).toUpperCase());
      }
    }
    const kind = app.model.kinds[token.kind];
    const written = kind === "slot" ? token.address : -1;
    const first = token.fp;
    const last = Math.min(first + 47, Math.max(token.sp, token.sp + token.deltas.sp, written, first + (inside?.frame ?? 1) - 1));
    const elsewhere = [...asked.keys(), written].filter((a) => a >= 0 && (a < first || a > last));
    const [cells, ...others] = await Promise.all([
      run.slots(index, first, last - first + 1),
      ...elsewhere.map((a) => run.slots(index, a, 1)),
    ]);
    const rows: HTMLTableRowElement[] = [];
    const row = (address: number, value: bigint, writer: number) => {
      const reads = asked.get(address) ?? [];
      const hot = address === written;
      const role = this.role(address, token);
      rows.push(
        h(
          "tr",
          { class: `${reads.length ? "read" : ""} ${hot ? "written" : ""} ${address >= token.sp ? "above" : ""}`, "data-slot": address },
          h("th", { scope: "row" }, role),
          h("td", { class: "num" }, address),
          h("td", { class: "num value", "data-value": String(value) }, role === "return to" ? header(value) : bits(value), hot ? h("b", {}, ` → ${bits(token.value)}`) : null),
          h("td", {}, writer < 0 ? "" : this.link(writer)),
          h("td", { class: "who" }, ...reads.map((r) => h("span", { class: "tag" }, r)), hot ? h("span", { class: "tag hot" }, "D") : null),
        ),
      );
    };
    elsewhere.forEach((a, k) => row(a, others[k]!.value[0]!, others[k]!.writer[0]!));
    cells!.value.forEach((value, k) => row(first + k, value, cells!.writer[k]!));
    if (this.scene!.index !== index) return;
    this.registers.replaceChildren(
      ...(["ip", "sp", "fp", "depth"] as const).map((name) =>
        h("span", {}, h("abbr", { title: REGISTERS[name] }, name), " ", h("b", { class: "num", "data-register": name }, token[name])),
      ),
    );
    this.frame.replaceChildren(
      h("table", {}, h("caption", {}, inside ? `frame of ${inside.name}` : "no frame"),
        h("thead", {}, h("tr", {}, ...["", "slot", "value", "written by", "read"].map((x) => h("th", { scope: "col" }, x)))),
        h("tbody", {}, ...rows)),
    );
    const size = kind?.startsWith("mem") ? Number(kind.slice(3)) : 0;
    const load = /load(\d*)/.exec(code.op);
    let from = -1;
    let width = 0;
    if (size) [from, width] = [token.address, size];
    else if (load && heads) {
      from = this.loads(heads);
      width = load[1] ? Number(load[1]) / 8 : code.op.startsWith("i64") || code.op.startsWith("f64") ? 8 : 4;
    }
    if (this.followMemory) this.memoryAt = from >= 0 ? from : run.lastStore(index);
    await this.drawMemory(index, from, width, size ? token : null);
    await this.drawOutput(index, token);
  }

  /** The address that a load asks the banks for: those before its first byte look one word on. */
  private loads(heads: Heads): number {
    const words = Array.from({ length: 8 }, (_, b) => {
      const [q1, q2] = heads.query(this.app.head(`memory bank ${b}[0]`));
      return Math.round(q1 / q2);
    });
    const word = Math.min(...words);
    return 8 * word + words.filter((w) => w > word).length;
  }

  private role(address: number, token: Token): string {
    const { info } = this.run;
    const f = this.run.functionAt(token.ip);
    if (address < info.stackBase) return "global";
    const k = address - token.fp;
    if (!f || k < 0) return "caller";
    if (k < f.params) return `param ${k}`;
    if (k === f.header) return "return to";
    if (k < f.frame && k > f.header) return `local ${k - f.header - 1 + f.params}`;
    return k < f.frame ? "result" : `stack[${k - f.frame}]`;
  }

  private async drawMemory(index: number, from: number, width: number, store: Token | null): Promise<void> {
    const base = Math.max(0, (Math.floor(this.memoryAt / 8) - 2) * 8);
    if (document.activeElement !== this.address) this.address.value = String(this.memoryAt);
    const cells = await this.run.memory(index, base, SHOWN_MEMORY);
    if (this.scene!.index !== index) return;
    const rows: HTMLTableRowElement[] = [];
    for (let line = 0; line < SHOWN_MEMORY / 8; line++) {
      const row = h("tr", {}, h("th", { scope: "row", class: "num" }, base + 8 * line));
      let text = "";
      for (let b = 0; b < 8; b++) {
        const k = 8 * line + b;
        const address = base + k;
        const inside = address >= from && address < from + width && from >= 0;
        const value = Number(cells.value[k]);
        const next = store && inside ? Number((store.value >> BigInt(8 * (address - from))) & 255n) : value;
        text += character(value);
        row.append(
          h(
            "td",
            {
              class: `num ${inside ? (store ? "written" : "read") : ""} ${cells.writer[k]! < 0 ? "never" : ""}`,
              "data-address": address,
              "data-value": value,
              title: cells.writer[k]! < 0 ? "never written" : `written by token ${cells.writer[k]}`,
            },
            next.toString(16).padStart(2, "0"),
          ),
        );
      }
      row.append(h("td", { class: "text" }, text));
      rows.push(row);
    }
    this.memory.replaceChildren(h("table", {}, h("caption", { class: "visually-hidden" }, "bytes of memory"), h("tbody", {}, ...rows)));
  }

  private async drawOutput(index: number, token: Token): Promise<void> {
    const found = await this.run.output(index, 1500);
    if (this.scene!.index !== index) return;
    const decoder = new TextDecoder();
    const pieces: (Node | string)[] = [];
    if (found.total > found.byte.length) pieces.push(`… ${fmt(found.total - found.byte.length)} bytes before\n`);
    for (let k = 0; k < found.byte.length; ) {
      let end = k;
      while (end < found.byte.length && found.stream[end] === found.stream[k]) end++;
      const text = decoder.decode(found.byte.subarray(k, end));
      pieces.push(found.stream[k] === 2 ? h("span", { class: "stderr" }, text) : text);
      k = end;
    }
    const kind = this.app.model.kinds[token.kind];
    if (kind === "out" || kind === "err") pieces.push(h("mark", {}, character(Number(token.value & 255n))));
    if (!pieces.length) pieces.push(h("span", { class: "nothing" }, "nothing yet"));
    this.output.replaceChildren(...pieces);
    this.output.dataset.total = String(found.total);
    this.output.dataset.step = String(this.scene!.step);
    this.output.scrollTop = this.output.scrollHeight;
  }

  private async drawEmitted(): Promise<void> {
    const { token } = this.scene!;
    this.emitted.replaceChildren(
      h("p", {}, `token ${fmt(token.index)}: `, ...fieldChips(fieldsOf(this.app, token))),
    );
    if (this.inspected >= 0) await this.inspect(this.inspected);
  }

  /** Shows every field of a token. */
  private async inspect(index: number): Promise<void> {
    if (index < 0) return;
    this.inspected = index;
    const { run, app } = this;
    const token = await run.token(index);
    const fed = await run.fed(index);
    const fields = fed
      ? app.model.fields.map((f, k) => [f.name, fed[k]!] as [string, number]).filter(([, v]) => v)
      : fieldsOf(app, token);
    const step = run.stepOf(index);
    const close = () => {
      this.inspected = -1;
      this.inspector.replaceChildren();
    };
    this.inspector.replaceChildren(
      h(
        "p",
        { class: "inspected" },
        h("b", {}, `token ${fmt(index)}`),
        ` (${step < 0 ? "of the prompt" : `step ${fmt(step)}`}): ${await this.words(token)} `,
        ...fieldChips(fields),
        " ",
        step >= 0
          ? h("button", { type: "button", "data-control": "jump", onclick: () => this.app.go("whole-machine", step) }, "go there")
          : null,
        h("button", { type: "button", "data-control": "close", "aria-label": "close", onclick: close }, "×"),
      ),
    );
  }

  private async words(token: Token): Promise<string> {
    if (this.app.model.kinds[token.kind] === "code") return (await this.run.code(token.address)).note;
    return effect(this.app.model, token, this.run.info.unsupported);
  }

  private link(index: number): HTMLElement {
    return h(
      "button",
      { type: "button", class: "token-link num", "data-control": "token", onclick: () => void this.inspect(index) },
      `#${fmt(index)}`,
    );
  }

  // -- heads --------------------------------------------------------------------------------

  private drawHeads(): void {
    const { app } = this;
    const { heads } = this.scene!;
    if (!heads) {
      this.table.replaceChildren(
        h("p", { class: "outside" }, "This export holds no head data for this step: it has the first 2,000 steps, and those around calls, output and traps. ",
          h("code", {}, "wasmjax explore"), " without ", h("code", {}, "--export"), " shows every step."),
      );
      this.detail.replaceChildren();
      return;
    }
    const parts: HTMLElement[] = [];
    let layer = -1;
    let body: HTMLTableSectionElement | null = null;
    app.model.groups.forEach((group, g) => {
      const named = spaceClass(app, group.space) !== "table";
      if (this.filter === 0 ? !named : this.filter > 1 && group.layer !== this.filter - 2) return;
      if (group.layer !== layer) {
        layer = group.layer;
        body = h("tbody", {}, h("tr", { class: "layer" }, h("th", { scope: "rowgroup", colspan: 5 }, `layer ${layer}`)));
        parts.push(body);
      }
      body!.append(this.groupRow(g, heads));
    });
    refill(
      this.table,
      h("table", {}, h("caption", { class: "visually-hidden" }, "heads of this step"),
        h("thead", {}, h("tr", {}, ...["head", "asks", "answer", "weight", "reads"].map((x) => h("th", { scope: "col" }, x)))), ...parts),
    );
    this.drawDetail();
  }

  private groupRow(g: number, heads: Heads): HTMLTableRowElement {
    const { app } = this;
    const group = app.model.groups[g]!;
    const mine = app.model.heads.flatMap((head, k) => (head.group === g ? [k] : []));
    const first = mine[0]!;
    const name = stem(app.model.heads[first]!.name) + (mine.length > 1 ? ` ×${mine.length}` : "");
    const pick = h(
      "button",
      { type: "button", "data-control": "head", "data-key": g, "aria-pressed": String(g === this.selected), onclick: () => this.select(g) },
      h("i", { class: `dot ${spaceClass(app, group.space)}` }),
      name,
    );
    const row = h("tr", { "data-group": g, class: g === this.selected ? "chosen" : "" }, h("th", { scope: "row" }, pick));
    if (group.space < 0) {
      row.append(h("td", { class: "num" }, "all alike"), h("td", {}, "every token"), h("td", { class: "num" }, `1/${fmt(heads.index + 1)}`), h("td", {}, "mean ", vec(heads.output(first))));
      return row;
    }
    const [q1, q2] = heads.query(first);
    const weight = heads.weight(first);
    row.append(
      h("td", {}, num(q1 / q2, "q")),
      h("td", { "data-answered": heads.answered(first) }, this.link(heads.answered(first))),
      h("td", {}, Number.isNaN(weight) ? h("abbr", { title: `beyond ${fmt(app.model.horizon)} tokens softmax in float64 is not exact; the caches read by address` }, "hard max") : num(weight)),
      h("td", {}, ...readingChips(app.readings(g, heads.value), 3)),
    );
    return row;
  }

  private select(g: number): void {
    this.selected = g;
    this.drawHeads();
    this.band.redraw();
  }

  private drawDetail(): void {
    const { app } = this;
    const { heads, index } = this.scene!;
    if (!heads || this.selected < 0) return;
    const group = app.model.groups[this.selected]!;
    const mine = app.model.heads.flatMap((head, k) => (head.group === this.selected ? [k] : []));
    const first = app.model.heads[mine[0]!]!;
    const product = (entries: [number, number][], what: string) =>
      h("tr", {}, h("th", { scope: "row" }, what),
        h("td", {}, ...entries.flatMap(([c, w], k) => [
          k ? " + " : "",
          h("span", { class: "term", title: `coordinate ${c}` }, `${fmt(w)} × `, h("em", {}, app.coordinate(c, group.layer)), " ", num(heads.residual(group.layer, c))),
        ])));
    const parts: HTMLElement[] = [h("h3", {}, `${stem(first.name)}: layer ${group.layer}, ${mine.length} head${mine.length > 1 ? "s" : ""}`)];
    if (group.space >= 0) {
      parts.push(
        h("p", {}, "reads ", h("b", {}, spaceName(app, group.space)), ". Its query is ", matrix("Q"), " times the residual stream:"),
        h("table", { class: "products" }, h("tbody", {}, product(first.q[0], "q₁ ="), product(first.q[1], "q₂ ="))),
        h("p", {}, "q = ", vec(heads.query(mine[0]!), "q"), ", the key that answered k = ", vec(heads.key(mine[0]!), "k"), "."),
      );
      const answered = heads.answered(mine[0]!);
      const line = h("p", {}, "Token ", this.link(answered), " answers");
      void this.run.token(answered).then(async (token) => {
        line.append(`: ${await this.words(token)}`, answered <= index ? `, ${fmt(index - answered)} tokens ago.` : ".");
      });
      parts.push(line);
    } else {
      parts.push(h("p", {}, matrix("Q"), " is zero: every token weighs the same, so the head returns a mean. The feed-forward block multiplies it with the count of tokens: a sum."));
    }
    const read = app.readings(this.selected, group.space < 0 ? heads.output : heads.value);
    const all = mine.reduce((n, k) => n + app.model.heads[k]!.v.filter((row) => row.length).length, 0);
    parts.push(
      h("p", {}, ...(group.space < 0 ? ["Means:"] : [matrix("V"), ` of that token, not zero: ${read.length} of ${all} numbers`])),
      h("div", { class: "values" }, ...readingChips(read, Infinity)),
    );
    this.detail.replaceChildren(...parts);
    this.detail.dataset.group = String(this.selected);
  }

  // -- drawings -----------------------------------------------------------------------------

  private drawStrip(svg: Svg, width: number): number {
    const height = 54;
    const steps = Math.max(1, this.run.steps);
    const x = (step: number) => (step / Math.max(1, steps - 1)) * (width - 2) + 1;
    if (this.overview) {
      const { depth, out } = this.overview;
      const bucket = this.overview.width![0]!;
      const deepest = Math.max(1, ...Array.from(depth!));
      let path = `M 1 ${height - 8}`;
      depth!.forEach((d, k) => {
        const y = height - 8 - (d / deepest) * (height - 22);
        path += ` L ${x(Math.min(k * bucket, steps - 1))} ${y} L ${x(Math.min((k + 1) * bucket, steps - 1))} ${y}`;
      });
      svg.append("path").attr("class", "depth").attr("d", `${path} L ${width - 1} ${height - 8} Z`);
      out!.forEach((n, k) => {
        if (n) svg.append("rect").attr("class", "out").attr("x", x(k * bucket)).attr("y", 2).attr("width", Math.max(2, (bucket / steps) * width)).attr("height", 5);
      });
      svg.append("text").attr("class", "note").attr("x", 4).attr("y", 20).text(`call depth, up to ${deepest}`);
    }
    svg.append("line").attr("class", "cursor").attr("x1", x(this.at)).attr("x2", x(this.at)).attr("y1", 0).attr("y2", height);
    svg.style("cursor", "pointer").on("pointerdown pointermove", (event: PointerEvent) => {
      if (event.type === "pointermove" && !event.buttons) return;
      const box = (svg.node() as SVGSVGElement).getBoundingClientRect();
      const step = Math.round(((event.clientX - box.left) / box.width) * (steps - 1));
      this.app.at[this.app.shown] = Math.max(0, Math.min(steps - 1, step));
      this.app.moved(true);
    });
    return height;
  }

  private drawBand(svg: Svg, width: number): number {
    const narrow = width < 560;
    const height = narrow ? 200 : 250;
    const y = height - 46;
    if (!this.scene) return height;
    const { index, heads, segments } = this.scene;
    const { app } = this;
    const split = width * 0.44;
    // The prompt's segments by the logarithm of their size, then the trace by age.
    const sizes = segments.map((x) => Math.log2(2 + x.last - x.first));
    const total = sizes.reduce((a, b) => a + b, 0);
    const left: number[] = [];
    let edge = 4;
    segments.forEach((segment, k) => {
      left.push(edge);
      const w = (sizes[k]! / total) * (split - 12);
      const group = svg.append("g").attr("class", "segment");
      group.append("rect").attr("x", edge).attr("y", y - 7).attr("width", Math.max(1, w - 2)).attr("height", 14).attr("rx", 3);
      const kind = app.model.kinds[segment.kind]!;
      if (w > 7 * kind.length) group.append("text").attr("x", edge + w / 2).attr("y", y + 24).attr("text-anchor", "middle").text(SEGMENTS[kind] ?? kind);
      edge += w;
    });
    const begin = (this.run.info.parts.find((p) => p[3]) ?? [0])[0];
    const oldest = Math.max(9, index - begin + 1);
    const age = scaleLog().domain([1, oldest + 1]).range([width - 22, split + 14]);
    const place = (token: number): number => {
      const k = segments.findIndex((x) => token >= x.first && token <= x.last);
      if (k >= 0) {
        const { first, last } = segments[k]!;
        const w = (sizes[k]! / total) * (split - 12) - 2;
        return left[k]! + ((token - first + 0.5) / (last - first + 1)) * w;
      }
      return age(Math.max(1, index - token + 1));
    };
    svg.append("line").attr("class", "trace").attr("x1", split).attr("x2", width - 6).attr("y1", y).attr("y2", y);
    for (let n = 1; n <= oldest; n *= 10) {
      svg.append("line").attr("class", "tick").attr("x1", age(n)).attr("x2", age(n)).attr("y1", y + 5).attr("y2", y + 10);
      const label = n === 1 ? "now" : n < 1000 ? `−${n}` : n < 1e6 ? `−${n / 1000}k` : `−${n / 1e6}M`;
      svg.append("text").attr("class", "tick").attr("x", age(n)).attr("y", y + 24).attr("text-anchor", n === 1 ? "end" : "middle").text(label);
    }
    for (let token = index; token > index - 14 && token >= begin; token--) {
      svg.append("circle").attr("class", "token").attr("cx", place(token)).attr("cy", y).attr("r", token === index ? 6 : 3.2);
    }
    svg.append("text").attr("class", "note").attr("x", 4).attr("y", y + 42).text("prompt: the program as tokens");
    svg.append("text").attr("class", "note").attr("x", width - 6).attr("y", y + 42).attr("text-anchor", "end").text(narrow ? "trace, by age" : "trace so far, by age in tokens");
    if (!heads) {
      svg.append("text").attr("class", "note").attr("x", width / 2).attr("y", 40).attr("text-anchor", "middle").text("no head data here");
      return height;
    }
    const from = place(index);
    const drawn = new Map<number, number[]>();
    app.model.groups.forEach((group, g) => {
      if (group.space < 0) return;
      const head = app.model.heads.findIndex((x) => x.group === g);
      const answered = heads.answered(head);
      drawn.set(answered, [...(drawn.get(answered) ?? []), g]);
    });
    const arc = (token: number): string => {
      const to = place(token);
      const lift = Math.min(y - 26, 26 + Math.abs(from - to) * 0.42);
      return `M ${from} ${y} C ${from} ${y - lift * 1.25}, ${to} ${y - lift * 1.25}, ${to} ${y}`;
    };
    const arcs = [...drawn].sort((a, b) => Number(a[1].includes(this.selected)) - Number(b[1].includes(this.selected)));
    for (const [token, groups] of arcs) {
      const best = groups.includes(this.selected) ? this.selected : groups[0]!;
      const kind = spaceClass(app, app.model.groups[best]!.space);
      const chosen = groups.includes(this.selected);
      const idle = token === 0 ? "idle" : "";
      svg
        .append("path")
        .attr("class", `arc ${kind} ${chosen ? "chosen" : ""} ${idle}`)
        .attr("d", arc(token))
        .attr("data-answered", token)
        .on("click", () => this.select(best))
        .append("title")
        .text(groups.map((g) => stem(app.model.heads.find((x) => x.group === g)!.name)).join(", "));
      svg.append("circle").attr("class", `end ${kind} ${chosen ? "chosen" : ""} ${idle}`).attr("cx", place(token)).attr("cy", y).attr("r", chosen ? 5.5 : 3.5);
    }
    const head = app.model.heads.findIndex((x) => x.group === this.selected);
    if (head >= 0 && app.model.groups[this.selected]!.space >= 0) {
      const token = heads.answered(head);
      const x = (place(token) + from) / 2;
      const label = svg.append("text").attr("class", "arc-label").attr("x", Math.max(70, Math.min(width - 90, x))).attr("y", 16).attr("text-anchor", "middle");
      const [q1, q2] = heads.query(head);
      label.text(`${stem(app.model.heads[head]!.name)} asks ${fmt(q1 / q2)}: token ${fmt(token)} answers`);
    }
    return height;
  }
}

const REGISTERS = {
  ip: "instruction pointer",
  sp: "stack pointer",
  fp: "frame pointer",
  depth: "call depth",
};

const SEGMENTS: Record<string, string> = {
  bos: "bos",
  arith: "arithmetic table",
  code: "code",
  slot: "slots",
  mem8: "data",
  input: "input",
  table: "table",
};

function legend(): HTMLElement {
  const items: [string, string][] = [
    ["code", "instruction"],
    ["slots", "stack slot"],
    ["memory", "memory"],
    ["table", "arithmetic table"],
    ["other", "input, tables"],
  ];
  return h("figcaption", { class: "legend" }, ...items.map(([kind, text]) => h("span", {}, h("i", { class: `dot ${kind}` }), text)));
}

/** A frame header: where the call returns to, and how far the frame pointer goes back. */
function header(value: bigint): HTMLElement {
  const ip = Number(value & 0xffffffn);
  const fp = Number((value >> 24n) & 0xffffn);
  return h("span", { title: String(value) }, `ip ${fmt(ip)}, fp −${fmt(fp)}`);
}

/** The fields of a generated token that are not zero. */
export function fieldsOf(app: App, token: Token): [string, number][] {
  const out: [string, number][] = [["kind", token.kind]];
  for (let k = 0; k < 8; k++) out.push([`v${k}`, Number((token.value >> BigInt(8 * k)) & 255n)]);
  for (let k = 0; k < 4; k++) out.push([`a${k}`, (token.address >>> (8 * k)) & 255]);
  out.push(["code", token.code]);
  token.deltas.ip.forEach((v, k) => out.push([`ip${k}`, v]));
  out.push(["sp", token.deltas.sp], ["fp", token.deltas.fp], ["depth", token.deltas.depth]);
  void app;
  return out.filter(([, value]) => value);
}

export function fieldChips(fields: [string, number][]): HTMLElement[] {
  return fields.map(([name, value]) => h("span", { class: "chip", "data-field": name, "data-value": value }, h("b", {}, name), ` ${fmt(value)}`));
}

/** What heads read, as chips; of many only the first ones. */
function readingChips(readings: [string, number][], most: number): HTMLElement[] {
  const out = readings
    .slice(0, most)
    .map(([name, value]) => h("span", { class: "chip" }, h("b", {}, name), " ", num(value, "v")));
  if (readings.length > most) out.push(h("small", {}, `and ${readings.length - most} more`));
  if (!readings.length) out.push(h("span", { class: "num" }, "0"));
  return out;
}

/** print(3 + 5), asked of a tool and executed inside. */
function toolCall(app: App): HTMLElement {
  const inside = h("ol", { class: "inside" });
  const names: [string, string][] = [
    ["three", "3 is pushed"],
    ["five", "5 is pushed"],
    ["call", "the function is called: a frame"],
    ["add", "the sum: two reads, the carries, one token"],
    ["return", "it returns"],
    ["digit", "48 is added: the code of a digit"],
    ["store8", "the digit goes to memory"],
    ["print", "and out"],
  ];
  const fill = async () => {
    const rows: HTMLElement[] = [];
    for (const [name, words] of names) {
      const step = app.data.moments[name]!;
      const token = await app.tour.token(app.tour.indexOf(step));
      const { note } = await app.tour.code(token.ip);
      rows.push(
        h("li", {},
          h("button", {
            type: "button", "data-control": "moment",
            onclick: () => {
              app.shown = "tour";
              app.go("whole-machine", step);
            },
          }, `step ${step}`),
          h("code", {}, note), h("span", { class: "effect" }, effect(app.model, token)), h("small", {}, words)),
      );
    }
    inside.replaceChildren(...rows);
  };
  void fill();
  return h("section", { class: "wide tool" },
    h("h2", {}, "print(3 + 5), twice"),
    h("div", { class: "two" },
      h("div", { class: "panel" },
        h("h3", {}, "as a tool call"),
        h("div", { class: "chat" },
          h("p", { class: "turn-user" }, "What is 3 + 5?"),
          h("p", { class: "turn-model" }, "call tool: ", h("code", {}, "print(3 + 5)")),
          h("p", { class: "turn-tool" }, "the interpreter, elsewhere … ", h("code", {}, "8")),
          h("p", { class: "turn-model" }, "It is 8.")),
        h("p", {}, "The model stops and waits. What happens in between is no part of it: no weight takes part, and nothing of it can be looked at, or differentiated.")),
      h("div", { class: "panel" },
        h("h3", {}, "inside the model"),
        inside,
        h("p", {}, "Here the model goes on generating. Every line is one of its tokens, from its own weights, and can be opened above."))));
}

export const machine: Chapter = {
  id: "whole-machine",
  title: "The whole machine",
  lead: "A real run. Each step is one forward pass: the heads look up the instruction, its operands, the memory, and the next token says what is written and where to go on.",
  steps: "any",
  mount: (app, root) => new Machine(app, root),
};
