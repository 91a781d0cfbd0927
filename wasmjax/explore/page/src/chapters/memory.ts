import type { Chapter } from "../app";
export const memory: Chapter = { id: "memory", title: "Reading memory", lead: "", mount: () => ({}) };
