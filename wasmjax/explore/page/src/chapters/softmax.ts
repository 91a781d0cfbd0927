import type { Chapter } from "../app";
export const softmax: Chapter = { id: "softmax", title: "Softmax becomes a lookup", lead: "", mount: () => ({}) };
