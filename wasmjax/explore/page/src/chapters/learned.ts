import type { Chapter } from "../app";
export const learned: Chapter = { id: "learned", title: "Engineered and learned", lead: "", mount: () => ({}) };
