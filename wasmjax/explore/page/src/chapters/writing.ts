import type { Chapter } from "../app";
export const writing: Chapter = { id: "writing", title: "Writing", lead: "", mount: () => ({}) };
