/** Tokens in words, as machine/describe.py has them. */

import { bits, character } from "./dom";
import type { Model } from "./model";
import type { Token } from "./run";

export function trapMessage(model: Model, code: number, unsupported: string[]): string {
  const extra = code - model.unsupportedBase;
  if (extra >= 0) return `not yet supported: ${unsupported[extra] ?? `code ${code}`}`;
  return model.traps[code] ?? `unknown code ${code}`;
}

/** What a token writes. */
export function effect(model: Model, token: Token, unsupported: string[] = []): string {
  const kind = model.kinds[token.kind] ?? "?";
  switch (kind) {
    case "none":
      return "writes nothing";
    case "slot":
      return `slot ${token.address} = ${bits(token.value)}`;
    case "mem1":
    case "mem2":
    case "mem4":
    case "mem8": {
      const size = Number(kind.slice(3));
      return `mem[${token.address}] = ${bits(BigInt.asUintN(8 * size, token.value))}`;
    }
    case "out":
    case "err": {
      const byte = Number(token.value & 255n);
      return `${kind === "out" ? "stdout" : "stderr"} ${byte} “${character(byte)}”`;
    }
    case "trap":
      return `trap: ${trapMessage(model, token.code, unsupported)}`;
    case "halt":
      return `halt ${bits(token.value)}`;
    case "code":
      return `instruction ${token.address}`;
    case "table":
    case "input":
      return `${kind} ${token.address} = ${bits(token.value)}`;
    case "arith":
      return "row of the arithmetic table";
    case "bos":
      return "begin of sequence";
    default:
      return kind;
  }
}

export function moves(token: Token): string {
  const parts: string[] = [];
  if (token.deltas.depth) parts.push(token.deltas.depth > 0 ? "call" : "return");
  const [a, b, c] = token.deltas.ip;
  const move = a + 256 * b + 65536 * c;
  if (move !== 0 && move !== 1) parts.push(`ip ${move > 0 ? "+" : "−"}${Math.abs(move)}`);
  return parts.join(", ");
}
