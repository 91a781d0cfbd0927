/** Controls that everybody can operate: native inputs, labelled. */

import { h, id, s } from "./dom";

const ICONS = {
  first: "M17 4 10.5 10 17 16zM10 4 3.500 10 10 16z",
  back: "M15.5 4 7 10l8.5 6zM4 4h2v12H4z",
  play: "M5 3v14l12-7z",
  pause: "M5 4h3.5v12H5zM11.5 4H15v12h-3.5z",
  on: "M4.5 4 13 10l-8.5 6zM14 4h2v12h-2z",
  last: "M3 4l6.5 6L3 16zM10 4l6.5 6L10 16z",
};

function icon(name: keyof typeof ICONS): SVGElement {
  return s(
    "svg",
    { viewBox: "0 0 20 20", width: 18, height: 18, "aria-hidden": "true", class: "icon" },
    s("path", { d: ICONS[name] }),
  );
}

export interface Slider {
  el: HTMLElement;
  input: HTMLInputElement;
  set(value: number): void;
  limit(max: number): void;
}

export function slider(options: {
  name: string;
  label: string;
  min: number;
  max: number;
  step?: number | "any";
  value: number;
  show?: (value: number) => string;
  input: (value: number) => void;
}): Slider {
  const show = options.show ?? String;
  const key = id(options.name);
  const output = h("output", { for: key, class: "num" }, show(options.value));
  const input = h("input", {
    id: key,
    type: "range",
    min: options.min,
    max: options.max,
    step: options.step ?? 1,
    value: options.value,
    "data-control": options.name,
    "aria-valuetext": show(options.value),
  });
  input.value = String(options.value);
  const tell = (value: number) => {
    output.textContent = show(value);
    input.setAttribute("aria-valuetext", show(value));
  };
  input.addEventListener("input", () => {
    tell(Number(input.value));
    options.input(Number(input.value));
  });
  return {
    el: h("div", { class: "slider" }, h("label", { for: key }, options.label), input, output),
    input,
    set(value) {
      input.value = String(value);
      tell(value);
    },
    limit(max) {
      input.max = String(max);
    },
  };
}

/** One of several, as a row of radio buttons. */
export function choice(options: {
  name: string;
  label: string;
  options: string[];
  value: number;
  change: (value: number) => void;
}): { el: HTMLElement; set(value: number): void } {
  const group = id(options.name);
  const inputs: HTMLInputElement[] = [];
  const labels = options.options.map((text, k) => {
    const input = h("input", { type: "radio", name: group, value: k, "data-control": options.name });
    input.checked = k === options.value;
    input.addEventListener("change", () => options.change(k));
    inputs.push(input);
    return h("label", {}, input, h("span", {}, text));
  });
  return {
    el: h(
      "fieldset",
      { class: "choice" },
      h("legend", {}, options.label),
      h("div", { class: "segments" }, ...labels),
    ),
    set(value) {
      inputs[value]!.checked = true;
    },
  };
}

export function dropdown(options: {
  name: string;
  label: string;
  options: string[];
  value: number;
  change: (value: number) => void;
}): { el: HTMLElement; set(value: number): void } {
  const key = id(options.name);
  const box = h(
    "select",
    { id: key, "data-control": options.name },
    ...options.options.map((text, k) => h("option", { value: k }, text)),
  );
  box.value = String(options.value);
  box.addEventListener("change", () => options.change(Number(box.value)));
  return {
    el: h("div", { class: "dropdown" }, h("label", { for: key }, options.label), box),
    set(value) {
      box.value = String(value);
    },
  };
}

export function button(
  name: string,
  text: string | Node,
  label: string,
  press: () => void,
): HTMLButtonElement {
  return h(
    "button",
    {
      type: "button",
      "data-control": name,
      "aria-label": typeof text === "string" ? null : label,
      title: label,
      onclick: press,
    },
    text,
  );
}

export interface Stepper {
  el: HTMLElement;
  set(step: number): void;
  grown(last: number): void;
  stop(): void;
}

/** First, back, play, on, last; a slider and a number. */
export function stepper(options: {
  last: number;
  value: number;
  speeds?: boolean;
  label?: string;
  move: (step: number) => void;
}): Stepper {
  let { last, value } = options;
  let timer = 0;
  let pace = 2;
  const to = (step: number) => {
    const next = Math.max(0, Math.min(last, Math.round(step)));
    if (next !== value) options.move(next);
  };
  const stop = () => {
    window.clearInterval(timer);
    timer = 0;
    play.replaceChildren(icon("play"));
    play.setAttribute("aria-label", "play");
    play.title = "play";
    play.setAttribute("aria-pressed", "false");
  };
  const start = () => {
    window.clearInterval(timer);
    const beat = Math.max(33, 1000 / pace);
    const jump = Math.max(1, Math.round((pace * beat) / 1000));
    timer = window.setInterval(() => (value >= last ? stop() : to(value + jump)), beat);
    play.replaceChildren(icon("pause"));
    play.setAttribute("aria-label", "pause");
    play.title = "pause";
    play.setAttribute("aria-pressed", "true");
  };
  const play = button("play", icon("play"), "play", () => (timer ? stop() : start()));
  play.setAttribute("aria-pressed", "false");
  const key = id("step");
  const field = h("input", {
    id: key,
    type: "number",
    min: 0,
    max: last,
    value,
    "data-control": "step",
  });
  field.addEventListener("change", () => to(Number(field.value)));
  const total = h("span", { class: "num total" }, ` of ${last.toLocaleString("en-US")}`);
  const bar = h("input", {
    type: "range",
    min: 0,
    max: last,
    value,
    "data-control": "scrub",
    "aria-label": options.label ?? "step",
  });
  bar.value = String(value);
  bar.addEventListener("input", () => to(Number(bar.value)));
  const buttons = h(
    "div",
    { class: "buttons", role: "group", "aria-label": "stepping" },
    button("first", icon("first"), "first step", () => to(0)),
    button("back", icon("back"), "one step back", () => to(value - 1)),
    play,
    button("on", icon("on"), "one step on", () => to(value + 1)),
    button("last", icon("last"), "last step", () => to(last)),
  );
  if (options.speeds) {
    const box = h(
      "select",
      { "data-control": "speed", "aria-label": "steps a second" },
      ...[1, 2, 5, 20, 100, 1000].map((n) => h("option", { value: n }, `${n}/s`)),
    );
    box.value = "2";
    box.addEventListener("change", () => {
      pace = Number(box.value);
      if (timer) start();
    });
    buttons.append(box);
  }
  return {
    el: h(
      "div",
      { class: "stepper" },
      buttons,
      h("div", { class: "where" }, h("label", { for: key }, "step "), field, total),
      bar,
    ),
    set(step) {
      value = step;
      bar.value = String(step);
      field.value = String(step);
    },
    grown(now) {
      last = now;
      bar.max = field.max = String(now);
      bar.value = String(value);
      total.textContent = ` of ${now.toLocaleString("en-US")}`;
    },
    stop,
  };
}
