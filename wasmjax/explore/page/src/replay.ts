/** The state of an exported run, found by going back through what its tokens wrote. */

import type { Table } from "./data";
import type { Cells, Output } from "./run";

const SLOT = 1;
const SIZES = [0, 0, 1, 2, 4, 8];
const OUT = 6;
const ERR = 7;

export class Replay {
  constructor(
    private readonly pages: Table[],
    private readonly page: number,
  ) {}

  /** Calls `visit` for tokens from `index` backwards until it returns true. */
  private back(index: number, visit: (page: Table, row: number, token: number) => boolean): void {
    for (let p = Math.floor(index / this.page); p >= 0; p--) {
      const table = this.pages[p]!;
      const last = Math.min(index - p * this.page, table.kind!.length - 1);
      for (let row = last; row >= 0; row--) {
        if (visit(table, row, p * this.page + row)) return;
      }
    }
  }

  slots(index: number, first: number, count: number): Cells {
    const value = new Array<bigint>(count).fill(0n);
    const writer = new Int32Array(count).fill(-1);
    let missing = count;
    this.back(index, (t, row, token) => {
      if (t.kind![row] !== SLOT) return false;
      const k = t.address![row]! - first;
      if (k < 0 || k >= count || writer[k]! >= 0) return false;
      value[k] = (BigInt(t.high![row]!) << 32n) | BigInt(t.low![row]!);
      writer[k] = token;
      return --missing === 0;
    });
    return { value, writer };
  }

  memory(index: number, first: number, count: number): Cells {
    const value = new Array<bigint>(count).fill(0n);
    const writer = new Int32Array(count).fill(-1);
    let missing = count;
    this.back(index, (t, row, token) => {
      const size = SIZES[t.kind![row]!] ?? 0;
      if (!size) return false;
      const start = t.address![row]! - first;
      if (start >= count || start + size <= 0) return false;
      for (let b = 0; b < size; b++) {
        const k = start + b;
        if (k < 0 || k >= count || writer[k]! >= 0) continue;
        const word = b < 4 ? t.low![row]! : t.high![row]!;
        value[k] = BigInt((word >>> (8 * (b % 4))) & 255);
        writer[k] = token;
        missing--;
      }
      return missing === 0;
    });
    return { value, writer };
  }

  output(index: number, most: number): Output {
    const stream: number[] = [];
    const byte: number[] = [];
    const tokens: number[] = [];
    let total = 0;
    this.back(index, (t, row, token) => {
      const kind = t.kind![row]!;
      if (kind !== OUT && kind !== ERR) return false;
      if (total++ < most) {
        stream.push(kind === OUT ? 1 : 2);
        byte.push(t.low![row]! & 255);
        tokens.push(token);
      }
      return false;
    });
    return {
      total,
      stream: Uint8Array.from(stream.reverse()),
      byte: Uint8Array.from(byte.reverse()),
      token: Uint32Array.from(tokens.reverse()),
    };
  }
}
