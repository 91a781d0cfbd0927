/** The page: chapters, where the reader is, colours. */

import "./style.css";
import { App, type Chapter, type View } from "./app";
import { chapters } from "./chapters";
import { loadJson, manifest } from "./data";
import { h } from "./dom";
import type { Model, Results, TourData } from "./model";
import { Run } from "./run";

const THEMES = ["auto", "light", "dark"] as const;

async function start(): Promise<void> {
  const root = document.getElementById("app")!;
  theme(remembered());
  try {
    const { runs } = manifest();
    const [model, data, results] = await Promise.all([
      loadJson<Model>("model.json"),
      loadJson<TourData>("tour.json"),
      loadJson<Results | null>("results.json"),
    ]);
    const layers = model.shape[0];
    const tour = await Run.open("tour", layers);
    const program = runs.includes("program") ? await Run.open("program", layers) : null;
    new Book(root, new App(model, tour, data, program, results)).open();
  } catch (error) {
    root.replaceChildren(
      h("p", { class: "failed", role: "alert" }, `The data cannot be read: ${String(error)}`),
    );
  }
}

class Book {
  private chapter: Chapter = chapters[0]!;
  private view: View = {};
  private readonly main = h("main", { id: "chapter", tabindex: -1 });
  private readonly links = new Map<string, HTMLAnchorElement>();

  constructor(
    root: HTMLElement,
    private readonly app: App,
  ) {
    const list = h("ol", {});
    chapters.forEach((chapter, k) => {
      const link = h("a", { href: `#chapter=${chapter.id}` }, chapter.title);
      this.links.set(chapter.id, link);
      list.append(h("li", { "data-number": k + 1 }, link));
    });
    const nav = h("nav", { "aria-label": "Chapters" }, h("details", {}, h("summary", {}, "Chapters"), list));
    const details = nav.querySelector("details")!;
    const wide = matchMedia("(min-width: 960px)");
    const fit = () => (details.open = wide.matches);
    wide.addEventListener("change", fit);
    fit();
    list.addEventListener("click", () => {
      if (!wide.matches) details.open = false;
    });
    root.replaceChildren(
      h("a", { class: "skip", href: "#chapter", onclick: (e: Event) => this.skip(e) }, "Skip to the chapter"),
      h(
        "header",
        {},
        h("div", { class: "brand" }, h("strong", {}, "wasmjax"), h("span", {}, "see matrix multiplications run a program")),
        themeButton(),
      ),
      nav,
      this.main,
      h(
        "footer",
        {},
        h("span", {}, `Every number is from the real weights (${app.model.parameters.toLocaleString("en-US")} parameters) and a real run.`),
      ),
    );
  }

  private skip(event: Event): void {
    event.preventDefault();
    this.main.focus();
  }

  open(): void {
    this.app.go = (id, step) => {
      const chapter = chapters.find((c) => c.id === id)!;
      if (step !== undefined) this.app.at[this.runOf(chapter)] = step;
      this.show(chapter);
      this.write(false);
    };
    this.app.moved = (replace) => {
      this.view.step?.(this.app.at[this.runOf(this.chapter)] ?? 0);
      this.write(replace);
    };
    window.addEventListener("hashchange", () => this.read());
    document.addEventListener("keydown", (event) => this.key(event));
    this.read();
    if (this.app.program && !this.app.program.info.done) void this.follow(this.app.program);
  }

  private async follow(run: Run): Promise<void> {
    while (!run.info.done) {
      await new Promise((resolve) => setTimeout(resolve, 700));
      try {
        await run.refresh();
      } catch {
        return;
      }
      this.view.grown?.();
    }
  }

  private runOf(chapter: Chapter): string {
    return chapter.steps === "any" ? this.app.shown : "tour";
  }

  private show(chapter: Chapter): void {
    this.view.leave?.();
    this.chapter = chapter;
    const number = chapters.indexOf(chapter);
    for (const [id, link] of this.links) {
      if (id === chapter.id) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    document.title = `${chapter.title} · wasmjax`;
    const body = h("div", { class: "body" });
    const turn = (k: number, text: string, kind: string) => {
      const other = chapters[k];
      return other
        ? h("a", { href: `#chapter=${other.id}`, class: kind }, h("small", {}, text), other.title)
        : h("span", {});
    };
    this.main.replaceChildren(
      h("p", { class: "kicker" }, `Chapter ${number + 1} of ${chapters.length}`),
      h("h1", {}, chapter.title),
      h("p", { class: "lead" }, chapter.lead),
      body,
      h("nav", { class: "turn", "aria-label": "Previous and next chapter" },
        turn(number - 1, "← before", "before"),
        turn(number + 1, "next →", "next"),
      ),
    );
    this.main.dataset.chapter = chapter.id;
    window.scrollTo(0, 0);
    this.view = chapter.mount(this.app, body);
    this.view.step?.(this.app.at[this.runOf(chapter)] ?? 0);
  }

  /** Where the address says the reader is. */
  private read(): void {
    const place = new URLSearchParams(location.hash.slice(1));
    const chapter = chapters.find((c) => c.id === place.get("chapter")) ?? this.chapter;
    const run = place.get("run");
    if (run === "tour" || (run === "program" && this.app.program)) this.app.shown = run;
    const step = Number(place.get("step"));
    if (place.has("step") && Number.isInteger(step) && step >= 0) {
      this.app.at[this.runOf(chapter)] = step;
    }
    const which = this.runOf(chapter) === "program" ? this.app.program! : this.app.tour;
    // A run that is still growing may reach it later.
    const last = which.info.done ? Math.max(0, which.steps - 1) : Number.MAX_SAFE_INTEGER;
    this.app.at[which.name] = Math.min(this.app.at[which.name] ?? 0, last);
    this.show(chapter);
    this.write(true);
  }

  private write(replace: boolean): void {
    const place = new URLSearchParams({ chapter: this.chapter.id });
    if (this.chapter.steps) place.set("step", String(this.app.at[this.runOf(this.chapter)] ?? 0));
    if (this.chapter.steps === "any" && this.app.program) place.set("run", this.app.shown);
    const hash = `#${place.toString()}`;
    if (hash === location.hash) return;
    if (replace) this.later(hash);
    else history.pushState(null, "", hash);
  }

  private waiting = "";
  /** Browsers slow down pages that change their address too often. */
  private later(hash: string): void {
    const idle = !this.waiting;
    this.waiting = hash;
    if (idle) {
      setTimeout(() => {
        history.replaceState(null, "", this.waiting);
        this.waiting = "";
      }, 120);
    }
  }

  private key(event: KeyboardEvent): void {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if ((event.target as HTMLElement).closest("input, select, textarea, summary, [data-keys]")) return;
    const number = chapters.indexOf(this.chapter);
    if (event.key === "PageDown" && event.shiftKey && chapters[number + 1]) this.app.go(chapters[number + 1]!.id);
    else if (event.key === "PageUp" && event.shiftKey && chapters[number - 1]) this.app.go(chapters[number - 1]!.id);
    else if (this.chapter.steps && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
      const name = this.runOf(this.chapter);
      const run = name === "program" ? this.app.program! : this.app.tour;
      const to = (this.app.at[name] ?? 0) + (event.key === "ArrowRight" ? 1 : -1);
      if (to < 0 || to >= run.steps) return;
      event.preventDefault();
      this.app.at[name] = to;
      this.app.moved(true);
    }
  }
}

function remembered(): string {
  try {
    return localStorage.getItem("wasmjax-theme") ?? "auto";
  } catch {
    return "auto"; // storage may be forbidden
  }
}

function theme(name: string): void {
  if (name === "light" || name === "dark") document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
}

function themeButton(): HTMLButtonElement {
  let now = Math.max(0, THEMES.indexOf(remembered() as (typeof THEMES)[number]));
  const signs = ["◐", "☀", "☾"];
  const el = h("button", { type: "button", class: "theme", "data-control": "theme" });
  const tell = () => {
    el.textContent = signs[now]!;
    el.setAttribute("aria-label", `colours: ${THEMES[now]}`);
    el.title = `colours: ${THEMES[now]}`;
  };
  el.addEventListener("click", () => {
    now = (now + 1) % THEMES.length;
    theme(THEMES[now]!);
    try {
      localStorage.setItem("wasmjax-theme", THEMES[now]!);
    } catch {
      // it lasts as long as the page then
    }
    tell();
  });
  tell();
  return el;
}

void start();
