/** What the weights and the tour are, as Python describes them (exploration.py, tour.py). */

export type Entry = [coordinate: number, weight: number];

export interface HeadInfo {
  layer: number;
  head: number;
  name: string;
  group: number;
  q: [Entry[], Entry[]];
  k: [Entry[], Entry[]];
  v: [Entry[], Entry[]];
  o: [Entry[], Entry[]];
}

export interface Model {
  shape: [layers: number, heads: number, width: number, neurons: number];
  parameters: number;
  nonzero: number;
  scale: number;
  horizon: number;
  fields: { name: string; lo: number; size: number; emitted: number }[];
  kinds: string[];
  instructions: string[];
  traps: Record<string, string>;
  unsupportedBase: number;
  /** Per coordinate what it holds when each layer reads it, and at the end. */
  coordinates: string[][];
  position: Entry[];
  spaces: { name: string; scale: number; eps: number }[];
  groups: { layer: number; space: number }[];
  heads: HeadInfo[];
  neurons: string[][];
  writes: Entry[][][];
}

export interface Lookup {
  title: string;
  moment: string;
  index: number;
  head: number;
  query: [number, number];
  answered: number;
  address: number[];
  token: number[];
  key: [number, number][];
}

export interface Scene extends Lookup {
  space: number;
  low: number;
  unit: number;
  visits: number[][];
}

export interface TourData {
  source: string;
  moments: Record<string, number>;
  lookups: Lookup[];
  scenes: Scene[];
  /** Per head its queries in all steps, and the keys that answered. */
  fans: Record<string, { queries: [number, number][]; keys: [number, number][] }>;
  tokens: { title: string; index: number; head: number; reader: number }[];
}

export interface Band {
  name?: string;
  seeds?: number;
  recovered?: number;
  curve?: [number, number, number, number][];
  accuracy_by_length?: Record<string, number>;
  held_out?: { tokens: number; error_rate: number; error_interval: [number, number] };
}

/** T7: of how many seeds training recovers, by the noise on the construction; one per sigma. */
export interface Basin {
  name: string;
  sigma: number[];
  seeds: number[];
  recovered: number[];
  wilson: [number, number][];
  /** Median accuracy before training; seeds without an error then. */
  before: number[];
  exact_before: number[];
}

export interface HeadMatrices {
  w_q?: number[][];
  w_k?: number[][];
  queries?: [number, number][];
  keys?: [number, number][];
}

export interface Results {
  revision?: string;
  tasks?: Record<string, { arms?: Band[]; curves?: Basin[] }>;
  heads?: Record<string, { constructed?: HeadMatrices; learned?: HeadMatrices }>;
}

/** The short name of a group of heads: "fetch[0]" and its like are "fetch". */
export function stem(name: string): string {
  return name.replace(/\[\d+\]$/, "");
}
