/** A recorded run: tokens, code, what heads did, and the state at any point of it. */

import { load, loadJson, manifest, unpack, type Column, type Table } from "./data";
import { Replay } from "./replay";

export interface Info {
  title: string;
  args: string[];
  tokens: number;
  steps: number;
  done: boolean;
  ended: string;
  parts: [begin: number, step: number, count: number, generated: number][];
  instructions: number;
  stackBase: number;
  memoryBase: number;
  halt: number;
  horizon: number;
  unsupported: string[];
  functions: FunctionInfo[];
}

export interface FunctionInfo {
  name: string;
  entry: number;
  header: number;
  frame: number;
  params: number;
  results: number;
}

export interface Code {
  note: string;
  op: string;
  slots: number[];
  imm: string;
  target: number;
}

interface CodePage {
  note: string[];
  op: string[];
  slots: number[][];
  imm: string[];
  target: number[];
}

/** A token, with the registers before it. */
export interface Token {
  index: number;
  kind: number;
  code: number;
  value: bigint;
  address: number;
  ip: number;
  sp: number;
  fp: number;
  depth: number;
  deltas: { ip: [number, number, number]; sp: number; fp: number; depth: number };
}

export interface Cells {
  value: bigint[];
  writer: Int32Array;
}

export interface Output {
  total: number;
  stream: Uint8Array;
  byte: Uint8Array;
  token: Uint32Array;
}

/** What the heads do after one token. */
export class Heads {
  readonly index: number;

  constructor(
    private readonly a: Table,
    private readonly steps: number,
    private readonly at: number,
    private readonly layers: number,
  ) {
    this.index = a.index![at]!;
  }

  private pair(name: string, head: number): [number, number] {
    const column = this.a[name]!;
    return [
      column[2 * head * this.steps + this.at]!,
      column[(2 * head + 1) * this.steps + this.at]!,
    ];
  }

  query = (head: number) => this.pair("query", head);
  key = (head: number) => this.pair("key", head);
  value = (head: number) => this.pair("value", head);
  output = (head: number) => this.pair("output", head);
  answered = (head: number): number => this.a.answered![head * this.steps + this.at]!;
  weight = (head: number): number => this.a.weight![head * this.steps + this.at]!;
  emitted = (field: number): number => this.a.emitted![field * this.steps + this.at]!;

  /** Coordinate of the residual stream after the embedding (0) or a layer (from 1 on). */
  residual(stage: number, coordinate: number): number {
    const width = this.a.residual!.length / this.steps / (this.layers + 1);
    return this.a.residual![(stage * width + coordinate) * this.steps + this.at]!;
  }

  /** Neurons with an output: layer, neuron, gate, value, output. */
  neurons(): [number, number, number, number, number][] {
    const { first, neuron, active } = this.a as Record<string, Column>;
    const n = neuron!.length / 2;
    const out: [number, number, number, number, number][] = [];
    for (let k = first![this.at]!; k < first![this.at + 1]!; k++) {
      out.push([neuron![k]!, neuron![n + k]!, active![k]!, active![n + k]!, active![2 * n + k]!]);
    }
    return out;
  }
}

export class Run {
  private readonly pages = new Map<number, Promise<Table>>();
  private readonly ready = new Map<number, Table>();
  private readonly codes = new Map<number, Promise<CodePage>>();
  private readonly feds = new Map<number, Promise<Map<number, Int16Array>>>();
  private readonly chunks = new Map<string, Promise<Table>>();
  private readonly page = manifest().page;
  private replay: Replay | null = null;

  private constructor(
    readonly name: string,
    public info: Info,
    private readonly layers: number,
  ) {}

  static async open(name: string, layers: number): Promise<Run> {
    return new Run(name, await loadJson<Info>(`${name}/info.json`), layers);
  }

  /** Asks how far the run is. */
  async refresh(): Promise<void> {
    this.info = await loadJson<Info>(`${this.name}/info.json`);
  }

  get steps(): number {
    return this.info.steps;
  }

  /** The token that a step generates; the one past the last step ends the sequence. */
  indexOf(step: number): number {
    let found = 0;
    for (const [begin, first, , generated] of this.info.parts) {
      if (generated && first <= step) found = begin + step - first;
    }
    return found;
  }

  /** The step that generated a token; -1 for one of a prompt. */
  stepOf(index: number): number {
    for (const [begin, first, count, generated] of this.info.parts) {
      if (index >= begin && index < begin + count) return generated ? first + index - begin : -1;
    }
    return -1;
  }

  /** A page of tokens: fetched once, again while the run still fills it. */
  async tokens(page: number): Promise<Table> {
    const known = this.ready.get(page);
    const complete = Math.min(this.page, this.info.tokens - page * this.page);
    if (known && known.kind!.length >= complete) return known;
    let asked = this.pages.get(page);
    if (!asked || known) {
      asked = load(`${this.name}/tokens-${page}.bin`).then((buffer) => unpack(buffer).arrays);
      this.pages.set(page, asked);
      this.ready.delete(page);
    }
    const table = await asked;
    this.ready.set(page, table);
    if (manifest().served && this.ready.size > 96) this.forget(page);
    return table;
  }

  private forget(near: number): void {
    const far = [...this.ready.keys()].sort((a, b) => Math.abs(b - near) - Math.abs(a - near));
    for (const page of far.slice(0, 32)) {
      this.ready.delete(page);
      this.pages.delete(page);
    }
  }

  /** A token if its page is here already. */
  peek(index: number): Token | null {
    const table = this.ready.get(Math.floor(index / this.page));
    const row = index % this.page;
    return table && row < table.kind!.length ? tokenAt(table, row, index) : null;
  }

  async token(index: number): Promise<Token> {
    const table = await this.tokens(Math.floor(index / this.page));
    return tokenAt(table, index % this.page, index);
  }

  /** Where a token up to this one last wrote to memory, as far as its page tells; else 0. */
  lastStore(index: number): number {
    const page = Math.floor(index / this.page);
    const table = this.ready.get(page);
    for (let row = index % this.page; table && row >= 0; row--) {
      const kind = table.kind![row]!;
      if (kind >= 2 && kind <= 5 && this.stepOf(page * this.page + row) >= 0) return table.address![row]!;
    }
    return 0;
  }

  /** Every field of a token that was fed; null for a generated one. */
  async fed(index: number): Promise<Int16Array | null> {
    if (this.stepOf(index) >= 0) return null;
    const page = Math.floor(index / this.page);
    let asked = this.feds.get(page);
    if (!asked) {
      asked = load(`${this.name}/fed-${page}.bin`).then((buffer) => {
        const { arrays, shapes } = unpack(buffer);
        const [count, width] = shapes.rows as [number, number];
        const rows = arrays.rows as Int16Array;
        const out = new Map<number, Int16Array>();
        for (let k = 0; k < count; k++) {
          out.set(arrays.index![k]!, rows.subarray(k * width, (k + 1) * width));
        }
        return out;
      });
      this.feds.set(page, asked);
    }
    return (await asked).get(index) ?? null;
  }

  async code(ip: number): Promise<Code> {
    const page = Math.floor(ip / this.page);
    let asked = this.codes.get(page);
    if (!asked) {
      asked = loadJson<CodePage>(`${this.name}/code-${page}.json`);
      this.codes.set(page, asked);
    }
    const found = await asked;
    const row = ip % this.page;
    return {
      note: found.note[row] ?? "?",
      op: found.op[row] ?? "?",
      slots: found.slots[row] ?? [],
      imm: found.imm[row] ?? "0",
      target: found.target[row] ?? -1,
    };
  }

  /** The function whose code holds an instruction. */
  functionAt(ip: number): FunctionInfo | null {
    if (ip === this.info.halt) return null;
    let found: FunctionInfo | null = null;
    for (const f of this.info.functions) if (f.entry <= ip) found = f;
    return found;
  }

  /** What the heads do after a token; null where an exported site holds nothing. */
  async heads(index: number): Promise<Heads | null> {
    const { served, windows } = manifest();
    let name = `heads-${index}.bin`;
    if (!served) {
      const found = windows?.[this.name]?.find(([, spans]) =>
        spans.some(([first, last]) => first <= index && index <= last),
      );
      if (!found) return null;
      name = found[0].slice(this.name.length + 1);
    }
    let asked = this.chunks.get(name);
    if (!asked) {
      asked = load(`${this.name}/${name}`).then((buffer) => unpack(buffer).arrays);
      this.chunks.set(name, asked);
      if (this.chunks.size > 64) this.chunks.delete(this.chunks.keys().next().value!);
    }
    const table = await asked;
    const at = (table.index as Uint32Array).indexOf(index);
    return at < 0 ? null : new Heads(table, table.index!.length, at, this.layers);
  }

  /** Slots after a token. */
  async slots(index: number, first: number, count: number): Promise<Cells> {
    if (!manifest().served) return (await this.replayed()).slots(index, first, count);
    const { arrays } = unpack(await load(`${this.name}/slots-${index}-${first}-${count}.bin`));
    const value = Array.from(arrays.low!, (low, k) => join(arrays.high![k]!, low));
    return { value, writer: arrays.writer as Int32Array };
  }

  /** Bytes of the byte space after a token. */
  async memory(index: number, first: number, count: number): Promise<Cells> {
    if (!manifest().served) return (await this.replayed()).memory(index, first, count);
    const { arrays } = unpack(await load(`${this.name}/memory-${index}-${first}-${count}.bin`));
    return { value: Array.from(arrays.byte!, BigInt), writer: arrays.writer as Int32Array };
  }

  async output(index: number, most: number): Promise<Output> {
    if (!manifest().served) return (await this.replayed()).output(index, most);
    const { arrays } = unpack(await load(`${this.name}/output-${index}-${most}.bin`));
    return {
      total: arrays.total![0]!,
      stream: arrays.stream as Uint8Array,
      byte: arrays.byte as Uint8Array,
      token: arrays.token as Uint32Array,
    };
  }

  async overview(): Promise<Table> {
    return unpack(await load(`${this.name}/overview.bin`)).arrays;
  }

  async members(space: number): Promise<Table> {
    return unpack(await load(`${this.name}/members-${space}.bin`)).arrays;
  }

  private async replayed(): Promise<Replay> {
    if (!this.replay) {
      const pages: Table[] = [];
      for (let page = 0; page * this.page < this.info.tokens; page++) {
        pages.push(await this.tokens(page));
      }
      this.replay = new Replay(pages, this.page);
    }
    return this.replay;
  }
}

export function join(high: number, low: number): bigint {
  return (BigInt(high) << 32n) | BigInt(low);
}

function tokenAt(t: Table, row: number, index: number): Token {
  return {
    index,
    kind: t.kind![row]!,
    code: t.code![row]!,
    value: join(t.high![row]!, t.low![row]!),
    address: t.address![row]!,
    ip: t.ip![row]!,
    sp: t.sp![row]!,
    fp: t.fp![row]!,
    depth: t.depth![row]!,
    deltas: {
      ip: [t.d_ip0![row]!, t.d_ip1![row]!, t.d_ip2![row]!],
      sp: t.d_sp![row]!,
      fp: t.d_fp![row]!,
      depth: t.d_depth![row]!,
    },
  };
}
