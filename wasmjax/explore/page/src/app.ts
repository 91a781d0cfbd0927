/** What chapters share: the runs, the weights, and where the reader is. */

import type { Model, Results, TourData } from "./model";
import type { Run } from "./run";

export interface View {
  /** The reader moved to another step of the run that the chapter shows. */
  step?(step: number): void;
  /** The run has grown. */
  grown?(): void;
  leave?(): void;
}

export interface Chapter {
  id: string;
  title: string;
  lead: string;
  /** Which run its steps are of; undefined: it has none. */
  steps?: "tour" | "any";
  mount(app: App, root: HTMLElement): View;
}

export class App {
  /** Which run chapters of "any" show. */
  shown: string;
  readonly at: Record<string, number> = {};
  /** Called after `go` and `move`, to put the place into the address. */
  moved: (replace: boolean) => void = () => {};
  go: (chapter: string, step?: number) => void = () => {};

  constructor(
    readonly model: Model,
    readonly tour: Run,
    readonly data: TourData,
    readonly program: Run | null,
    readonly results: Results | null,
  ) {
    this.shown = program ? "program" : "tour";
    this.at.tour = data.moments.add ?? 0;
    this.at.program = 0;
  }

  get run(): Run {
    return this.shown === "program" && this.program ? this.program : this.tour;
  }

  /** Number of a head in `model.heads`. */
  head(name: string): number {
    return this.model.heads.findIndex((head) => head.name === name);
  }

  /** What a coordinate holds when a layer reads it; `stage` is the number of layers at the end. */
  coordinate(c: number, stage: number): string {
    return this.model.coordinates[c]?.[stage] || `coordinate ${c}`;
  }

  /** What a head's value is made of: the names of the coordinates that W_V reads. */
  reads(head: number, component: 0 | 1): string {
    const { v, layer } = this.model.heads[head]!;
    return v[component].map(([c]) => this.coordinate(c, layer)).join(" + ");
  }

  /** The values that a group of heads read, those that are not zero: [name, value]. */
  readings(group: number, value: (head: number) => [number, number]): [string, number][] {
    return this.model.heads.flatMap((head, k) => {
      if (head.group !== group) return [];
      const pair = value(k);
      return ([0, 1] as const).flatMap((c): [string, number][] =>
        head.v[c].length && pair[c] ? [[this.reads(k, c), pair[c]]] : [],
      );
    });
  }
}
