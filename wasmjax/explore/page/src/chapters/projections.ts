import type { Chapter } from "../app";
export const projections: Chapter = { id: "projections", title: "From token to Q, K, V", lead: "", mount: () => ({}) };
