;; Tables in bytes, four to an element: copying, and copying from a passive segment. The memory here
;; is the table; `size` is its number of elements, a segment is as in memory.init.
(module
  (import "wasmjax" "memory" (memory 0))
  (import "wasmjax" "memory.copy" (func $copy (param i32 i32 i32)))
  (import "wasmjax" "memory.init" (func $init (param i32 i32 i32 i64)))
  (import "wasmjax" "trap_table_out_of_bounds" (func $trap_table_out_of_bounds))

  (func $check (param $first i32) (param $count i32) (param $size i32)
    (if (i64.gt_u
          (i64.add (i64.extend_i32_u (local.get $first)) (i64.extend_i32_u (local.get $count)))
          (i64.extend_i32_u (local.get $size)))
      (then (call $trap_table_out_of_bounds))))

  (func (export "table.copy")
    (param $to i32) (param $from i32) (param $count i32) (param $size i32)
    (call $check (local.get $to) (local.get $count) (local.get $size))
    (call $check (local.get $from) (local.get $count) (local.get $size))
    (call $copy
      (i32.shl (local.get $to) (i32.const 2))
      (i32.shl (local.get $from) (i32.const 2))
      (i32.shl (local.get $count) (i32.const 2))))

  (func (export "table.init")
    (param $to i32) (param $from i32) (param $count i32) (param $segment i64) (param $size i32)
    (call $check (local.get $to) (local.get $count) (local.get $size))
    ;; the segment's bytes are the lower half of the number that describes it
    (call $check
      (local.get $from)
      (local.get $count)
      (i32.shr_u (i32.wrap_i64 (local.get $segment)) (i32.const 2)))
    (call $init
      (i32.shl (local.get $to) (i32.const 2))
      (i32.shl (local.get $from) (i32.const 2))
      (i32.shl (local.get $count) (i32.const 2))
      (local.get $segment))))
