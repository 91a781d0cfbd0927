import type { Chapter } from "../app";
export const learnability: Chapter = { id: "learnability", title: "Learnability", lead: "", mount: () => ({}) };
