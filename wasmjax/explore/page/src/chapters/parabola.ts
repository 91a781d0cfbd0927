import type { Chapter } from "../app";
export const parabola: Chapter = { id: "parabola", title: "The parabola", lead: "", mount: () => ({}) };
