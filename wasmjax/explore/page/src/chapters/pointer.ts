import type { Chapter } from "../app";
export const pointer: Chapter = { id: "pointer", title: "ip", lead: "", mount: () => ({}) };
