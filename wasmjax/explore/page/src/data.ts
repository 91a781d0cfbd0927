/** Where data comes from: a server on this machine, or scripts beside the page. */

export interface Manifest {
  format: number;
  runs: string[];
  page: number;
  served: boolean;
  /** Per run of an exported site: files with head data, and which tokens they hold. */
  windows?: Record<string, [string, [number, number][]][]>;
}

declare global {
  interface Window {
    wasmjaxManifest?: Manifest;
    wasmjaxData?: (name: string, text: string) => void;
  }
}

export function manifest(): Manifest {
  const found = window.wasmjaxManifest;
  if (!found) throw new Error("data/manifest.js is missing");
  if (found.format !== 1) throw new Error(`data of format ${found.format}, this page reads 1`);
  return found;
}

const handed = new Map<string, string>();
window.wasmjaxData = (name, text) => void handed.set(name, text);

/** The bytes of a piece of data. */
export async function load(name: string): Promise<ArrayBuffer> {
  return manifest().served ? fetched(name) : scripted(name);
}

export async function loadJson<T>(name: string): Promise<T> {
  return JSON.parse(new TextDecoder().decode(await load(name))) as T;
}

async function fetched(name: string): Promise<ArrayBuffer> {
  const answer = await fetch(`data/${name}`);
  if (!answer.ok) throw new Error(`data/${name}: ${answer.status}`);
  return answer.arrayBuffer();
}

async function scripted(name: string): Promise<ArrayBuffer> {
  await new Promise<void>((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `data/${name}.js`;
    script.onload = () => resolve();
    script.onerror = () => reject(new Error(`data/${name}.js is missing`));
    document.head.append(script);
    void script;
  });
  const text = handed.get(name);
  handed.delete(name);
  if (text === undefined) throw new Error(`data/${name}.js holds something else`);
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(plain).arrayBuffer();
}

export type Column =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array;

const TYPES = {
  u1: Uint8Array,
  i1: Int8Array,
  u2: Uint16Array,
  i2: Int16Array,
  u4: Uint32Array,
  i4: Int32Array,
  f4: Float32Array,
  f8: Float64Array,
};

export interface Table {
  [name: string]: Column;
}

/** Named arrays from one block of bytes (columns.py). */
export function unpack(buffer: ArrayBuffer): { arrays: Table; shapes: Record<string, number[]> } {
  const length = new DataView(buffer).getUint32(0, true);
  const text = new TextDecoder().decode(new Uint8Array(buffer, 4, length));
  const header = JSON.parse(text) as Record<string, [keyof typeof TYPES, number[], number]>;
  const arrays: Table = {};
  const shapes: Record<string, number[]> = {};
  for (const [name, [type, shape, offset]] of Object.entries(header)) {
    const count = shape.reduce((a, b) => a * b, 1);
    arrays[name] = new TYPES[type](buffer, 4 + length + offset, count);
    shapes[name] = shape;
  }
  return { arrays, shapes };
}

/** Runs one task at a time; of those that wait only the last one is kept. */
export class Latest {
  private busy = false;
  private next: (() => Promise<void>) | null = null;

  run(task: () => Promise<void>): void {
    this.next = task;
    if (!this.busy) void this.drain();
  }

  private async drain(): Promise<void> {
    this.busy = true;
    while (this.next) {
      const task = this.next;
      this.next = null;
      try {
        await task();
      } catch (error) {
        console.warn(error);
      }
    }
    this.busy = false;
  }
}
