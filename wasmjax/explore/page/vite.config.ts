import { defineConfig } from "vite";

// One classic script, one style sheet and one HTML file: module scripts do not load from file://.
export default defineConfig({
  build: {
    outDir: "../static",
    emptyOutDir: true,
    target: "es2022",
    lib: {
      entry: "src/main.ts",
      name: "wasmjaxExplore",
      formats: ["iife"],
      fileName: () => "explore.js",
      cssFileName: "explore",
    },
  },
});
