;; memory.grow: the size of the memory is a hidden global, its contents need no allocation.
(module
  (import "wasmjax" "memory_pages" (global $pages (mut i32)))
  (import "wasmjax" "memory_max" (global $max (mut i32)))

  (func (export "memory.grow") (param $delta i32) (result i32)
    (local $old i32)
    ;; max - pages cannot wrap, pages + delta could
    (if (i32.gt_u (local.get $delta) (i32.sub (global.get $max) (global.get $pages)))
      (then (return (i32.const -1))))
    (local.tee $old (global.get $pages))
    (global.set $pages (i32.add (local.get $old) (local.get $delta)))))
