import type { Chapter } from "../app";
import { softmax } from "./softmax";
import { projections } from "./projections";
import { memory } from "./memory";
import { parabola } from "./parabola";
import { learned } from "./learned";
import { pointer } from "./pointer";
import { writing } from "./writing";
import { machine } from "./machine";
import { learnability } from "./learnability";

export const chapters: Chapter[] = [
  softmax,
  projections,
  memory,
  parabola,
  learned,
  pointer,
  writing,
  machine,
  learnability,
];
