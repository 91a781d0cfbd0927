/** Elements, charts and numbers. Text is always set as text: programs may print anything. */

import { select, type Selection } from "d3-selection";

type Child = Node | string | number | null | undefined | false;
type Attributes = Record<string, unknown>;

const SVG = "http://www.w3.org/2000/svg";

function build(el: Element, attributes: Attributes, children: Child[]): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) el.addEventListener(name.slice(2), value as EventListener);
    else el.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) {
    if (child !== null && child !== undefined && child !== false) {
      el.append(typeof child === "number" ? String(child) : child);
    }
  }
}

export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const el = document.createElement(tag);
  build(el, attributes, children);
  return el;
}

export function s(tag: string, attributes: Attributes = {}, ...children: Child[]): SVGElement {
  const el = document.createElementNS(SVG, tag) as SVGElement;
  build(el, attributes, children);
  return el;
}

export type Svg = Selection<SVGSVGElement, unknown, null, undefined>;

/** A chart that is drawn for the width it has, and again when that changes. */
export class Chart {
  readonly el: HTMLDivElement;
  private width = 0;
  private readonly observer: ResizeObserver;

  constructor(
    readonly label: string,
    private readonly draw: (svg: Svg, width: number) => number,
    attributes: Attributes = {},
  ) {
    this.el = h("div", { class: "chart", ...attributes });
    this.observer = new ResizeObserver(([entry]) => {
      const width = Math.floor(entry!.contentRect.width);
      if (width && width !== this.width) {
        this.width = width;
        this.redraw();
      }
    });
    this.observer.observe(this.el);
  }

  redraw(): void {
    if (!this.width) return;
    const old = this.el.querySelector("svg");
    const svg = s("svg", { role: "img", "aria-label": this.label, width: this.width });
    const height = this.draw(select(svg as SVGSVGElement), this.width);
    svg.setAttribute("height", String(height));
    svg.setAttribute("viewBox", `0 0 ${this.width} ${height}`);
    if (old) old.replaceWith(svg);
    else this.el.append(svg);
  }
}

/** A number for people: whole ones with separators, others with six digits that matter. */
export function fmt(x: number | bigint): string {
  if (typeof x === "bigint") return x.toLocaleString("en-US");
  if (Number.isNaN(x)) return "–";
  if (Object.is(x, -0)) x = 0;
  if (Number.isInteger(x) && Math.abs(x) < 1e15) {
    return x.toLocaleString("en-US").replace("-", "−");
  }
  const size = Math.abs(x);
  if (size >= 1e9 || size < 1e-4) return x.toExponential(3).replace("-", "−").replace("e-", "e−");
  const text = x.toLocaleString("en-US", { maximumSignificantDigits: size >= 1000 ? 10 : 6 });
  return text.replace("-", "−");
}

/** A number as an element that keeps all its digits. */
export function num(x: number | bigint, kind = ""): HTMLSpanElement {
  return h("span", { class: `num ${kind}`, "data-value": String(x), title: String(x) }, fmt(x));
}

/** W with its index. */
export function matrix(name: string): HTMLSpanElement {
  return h("span", { class: "matrix-name" }, "W", h("sub", {}, name));
}

/** A number with all the digits that tell it from its neighbours. */
export function exact(x: number, kind = ""): HTMLSpanElement {
  const el = num(x, kind);
  el.textContent = Number.isInteger(x) ? fmt(x) : String(Number(x.toPrecision(12))).replace("-", "−");
  return el;
}

/** A vector of two numbers. */
export function vec(pair: readonly [number, number], kind = ""): HTMLSpanElement {
  return h("span", { class: `vec ${kind}` }, "(", num(pair[0]), ", ", num(pair[1]), ")");
}

/** Bits as an i32 reads them where they fit one, else as an i64. */
export function bits(value: bigint): string {
  if (value < 1n << 31n) return fmt(value);
  if (value < 1n << 32n) return `${fmt(value)} (${fmt(value - (1n << 32n)).replace("-", "−")})`;
  if (value < 1n << 63n) return fmt(value);
  return `${fmt(value - (1n << 64n)).replace("-", "−")}`;
}

export function character(byte: number): string {
  return byte >= 32 && byte < 127 ? String.fromCharCode(byte) : byte === 10 ? "⏎" : "·";
}

/** New children for an element; what had the focus keeps it, by its control and place. */
export function refill(el: HTMLElement, ...children: (Node | string)[]): void {
  const active = document.activeElement as HTMLElement | null;
  const control = active && el.contains(active) ? active.dataset.control : undefined;
  const same = () => [...el.querySelectorAll<HTMLElement>(`[data-control="${control}"]`)];
  const key = active?.dataset.key;
  const place = control ? same().indexOf(active!) : -1;
  el.replaceChildren(...children);
  if (place < 0) return;
  const now = same();
  (now.find((x) => key !== undefined && x.dataset.key === key) ?? now[Math.min(place, now.length - 1)])?.focus();
}

let count = 0;
export function id(stemOfIt: string): string {
  return `${stemOfIt}-${++count}`;
}

export function calm(): boolean {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
