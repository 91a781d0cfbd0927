;; The memory: growing, copying, filling, and copying from the input space.
;;
;; Bytes move eight at a time, wherever they lie. What is left of a copy is no loop: it ends with
;; the last eight bytes, which may overlap those before, or for fewer than 16 bytes consists of the
;; first and the last few. Whatever might be overwritten is read before.
(module
  (import "wasmjax" "memory" (memory 0))
  (import "wasmjax" "input" (func $input (param i32) (result i32)))
  (import "wasmjax" "narrow" (func $narrow (param i64) (result i32)))
  (import "wasmjax" "trap_out_of_bounds" (func $trap_out_of_bounds))
  (import "wasmjax" "memory_pages" (global $pages (mut i32)))
  (import "wasmjax" "memory_max" (global $max (mut i32)))

  ;; Where the memory ends and may end is a pair of hidden globals, in pages of the machine's byte
  ;; space (several memories share it); its contents need no allocation.
  (func (export "memory.grow") (param $delta i32) (result i32)
    (local $old i32)
    ;; max - pages cannot wrap, pages + delta could
    (if (i32.gt_u (local.get $delta) (i32.sub (global.get $max) (global.get $pages)))
      (then (return (i32.const -1))))
    (local.tee $old (memory.size))
    (global.set $pages (i32.add (global.get $pages) (local.get $delta))))

  (func (export "memory.copy") (param $to i32) (param $from i32) (param $size i32)
    (local $end_to i32) (local $end_from i32) (local $kept i64)
    (if (i64.gt_u
          (i64.add
            (i64.extend_i32_u
              (select
                (local.get $to)
                (local.get $from)
                (i32.gt_u (local.get $to) (local.get $from))))
            (i64.extend_i32_u (local.get $size)))
          (i64.extend_i32_u (i32.shl (memory.size) (i32.const 16))))
      (then (call $trap_out_of_bounds)))
    (if (i32.le_u (local.get $size) (i32.const 16))
      (then
        (if (i32.ge_u (local.get $size) (i32.const 8))
          (then
            (local.get $to)
            (i64.load (local.get $from))
            (i32.sub (i32.add (local.get $to) (local.get $size)) (i32.const 8))
            (i64.load (i32.sub (i32.add (local.get $from) (local.get $size)) (i32.const 8)))
            (i64.store)
            (i64.store)
            (return)))
        (if (i32.and (local.get $size) (i32.const 4))
          (then
            (local.get $to)
            (i32.load (local.get $from))
            (i32.sub (i32.add (local.get $to) (local.get $size)) (i32.const 4))
            (i32.load (i32.sub (i32.add (local.get $from) (local.get $size)) (i32.const 4)))
            (i32.store)
            (i32.store)
            (return)))
        (if (i32.and (local.get $size) (i32.const 2))
          (then
            (local.get $to)
            (i32.load16_u (local.get $from))
            (i32.sub (i32.add (local.get $to) (local.get $size)) (i32.const 2))
            (i32.load16_u (i32.sub (i32.add (local.get $from) (local.get $size)) (i32.const 2)))
            (i32.store16)
            (i32.store16)
            (return)))
        (if (local.get $size)
          (then (i32.store8 (local.get $to) (i32.load8_u (local.get $from)))))
        (return)))
    (local.set $end_to (i32.add (local.get $to) (local.get $size)))
    (local.set $end_from (i32.add (local.get $from) (local.get $size)))
    (if (i32.lt_u (i32.sub (local.get $to) (local.get $from)) (local.get $size))
      (then
        (call $copy_down
          (local.get $to) (local.get $from) (local.get $end_to) (local.get $end_from))
        (return)))

    ;; upwards
    (local.set $end_to (i32.sub (local.get $end_to) (i32.const 8)))
    (local.set $kept (i64.load (i32.sub (local.get $end_from) (i32.const 8))))
    (if (i32.gt_u (local.get $size) (i32.const 64))
      (then
        (local.set $size (i32.sub (local.get $end_to) (i32.const 56)))
        (loop $more
          (i64.store (local.get $to) (i64.load (local.get $from)))
          (i64.store offset=8 (local.get $to) (i64.load offset=8 (local.get $from)))
          (i64.store offset=16 (local.get $to) (i64.load offset=16 (local.get $from)))
          (i64.store offset=24 (local.get $to) (i64.load offset=24 (local.get $from)))
          (i64.store offset=32 (local.get $to) (i64.load offset=32 (local.get $from)))
          (i64.store offset=40 (local.get $to) (i64.load offset=40 (local.get $from)))
          (i64.store offset=48 (local.get $to) (i64.load offset=48 (local.get $from)))
          (i64.store offset=56 (local.get $to) (i64.load offset=56 (local.get $from)))
          (local.set $from (i32.add (local.get $from) (i32.const 64)))
          (local.tee $to (i32.add (local.get $to) (i32.const 64)))
          (br_if $more (i32.lt_u (local.get $size))))))
    ;; bits 3, 4 and 5 of one less than what is left
    (local.set $size
      (i32.sub (i32.add (local.get $end_to) (i32.const 7)) (local.get $to)))
    (if (i32.and (local.get $size) (i32.const 32))
      (then
        (i64.store (local.get $to) (i64.load (local.get $from)))
        (i64.store offset=8 (local.get $to) (i64.load offset=8 (local.get $from)))
        (i64.store offset=16 (local.get $to) (i64.load offset=16 (local.get $from)))
        (i64.store offset=24 (local.get $to) (i64.load offset=24 (local.get $from)))
        (local.set $from (i32.add (local.get $from) (i32.const 32)))
        (local.set $to (i32.add (local.get $to) (i32.const 32)))))
    (if (i32.and (local.get $size) (i32.const 16))
      (then
        (i64.store (local.get $to) (i64.load (local.get $from)))
        (i64.store offset=8 (local.get $to) (i64.load offset=8 (local.get $from)))
        (local.set $from (i32.add (local.get $from) (i32.const 16)))
        (local.set $to (i32.add (local.get $to) (i32.const 16)))))
    (if (i32.and (local.get $size) (i32.const 8))
      (then
        (i64.store (local.get $to) (i64.load (local.get $from)))))
    (i64.store (local.get $end_to) (local.get $kept)))

  ;; 17 bytes or more, the last ones first. The ends are those of the two ranges.
  (func $copy_down
    (param $start i32) (param $first i32) (param $to i32) (param $from i32)
    (local $left i32) (local $kept i64)
    (local.set $kept (i64.load (local.get $first)))
    (if (i32.gt_u
          (i32.sub (local.get $to) (local.get $start))
          (i32.const 64))
      (then
        (local.set $left (i32.add (local.get $start) (i32.const 64)))
        (loop $more
          (local.set $from (i32.sub (local.get $from) (i32.const 64)))
          (local.set $to (i32.sub (local.get $to) (i32.const 64)))
          (i64.store offset=56 (local.get $to) (i64.load offset=56 (local.get $from)))
          (i64.store offset=48 (local.get $to) (i64.load offset=48 (local.get $from)))
          (i64.store offset=40 (local.get $to) (i64.load offset=40 (local.get $from)))
          (i64.store offset=32 (local.get $to) (i64.load offset=32 (local.get $from)))
          (i64.store offset=24 (local.get $to) (i64.load offset=24 (local.get $from)))
          (i64.store offset=16 (local.get $to) (i64.load offset=16 (local.get $from)))
          (i64.store offset=8 (local.get $to) (i64.load offset=8 (local.get $from)))
          (i64.store (local.get $to) (i64.load (local.get $from)))
          (br_if $more (i32.gt_u (local.get $to) (local.get $left))))))
    (local.set $left
      (i32.sub (i32.sub (local.get $to) (i32.const 1)) (local.get $start)))
    (if (i32.and (local.get $left) (i32.const 32))
      (then
        (local.set $from (i32.sub (local.get $from) (i32.const 32)))
        (local.set $to (i32.sub (local.get $to) (i32.const 32)))
        (i64.store offset=24 (local.get $to) (i64.load offset=24 (local.get $from)))
        (i64.store offset=16 (local.get $to) (i64.load offset=16 (local.get $from)))
        (i64.store offset=8 (local.get $to) (i64.load offset=8 (local.get $from)))
        (i64.store (local.get $to) (i64.load (local.get $from)))))
    (if (i32.and (local.get $left) (i32.const 16))
      (then
        (local.set $from (i32.sub (local.get $from) (i32.const 16)))
        (local.set $to (i32.sub (local.get $to) (i32.const 16)))
        (i64.store offset=8 (local.get $to) (i64.load offset=8 (local.get $from)))
        (i64.store (local.get $to) (i64.load (local.get $from)))))
    (if (i32.and (local.get $left) (i32.const 8))
      (then
        (i64.store
          (i32.sub (local.get $to) (i32.const 8))
          (i64.load (i32.sub (local.get $from) (i32.const 8))))))
    (i64.store (local.get $start) (local.get $kept)))

  (func (export "memory.fill") (param $to i32) (param $value i32) (param $size i32)
    (local $end i64) (local $pattern i64)
    (i64.add (i64.extend_i32_u (local.get $to)) (i64.extend_i32_u (local.get $size)))
    (local.tee $end)
    (if (i64.gt_u (i64.extend_i32_u (i32.shl (memory.size) (i32.const 16))))
      (then (call $trap_out_of_bounds)))
    (local.set $pattern
      (i64.mul
        (i64.extend_i32_u (i32.and (local.get $value) (i32.const 255)))
        (i64.const 0x0101010101010101)))
    (if (i32.lt_u (local.get $size) (i32.const 8))
      (then
        (if (i32.and (local.get $size) (i32.const 4))
          (then
            (i64.store32 (local.get $to) (local.get $pattern))
            (i64.store32
              (i32.sub (call $narrow (local.get $end)) (i32.const 4)) (local.get $pattern))
            (return)))
        (if (local.get $size)
          (then
            (i64.store8 (local.get $to) (local.get $pattern))
            (if (i32.and (local.get $size) (i32.const 2))
              (then
                (i64.store16
                  (i32.sub (call $narrow (local.get $end)) (i32.const 2))
                  (local.get $pattern))))))
        (return)))
    (i64.store (i32.sub (call $narrow (local.get $end)) (i32.const 8)) (local.get $pattern))
    (if (i32.gt_u (local.get $size) (i32.const 64))
      (then
        (local.set $size (i32.sub (call $narrow (local.get $end)) (i32.const 64)))
        (loop $more
          (i64.store (local.get $to) (local.get $pattern))
          (i64.store offset=8 (local.get $to) (local.get $pattern))
          (i64.store offset=16 (local.get $to) (local.get $pattern))
          (i64.store offset=24 (local.get $to) (local.get $pattern))
          (i64.store offset=32 (local.get $to) (local.get $pattern))
          (i64.store offset=40 (local.get $to) (local.get $pattern))
          (i64.store offset=48 (local.get $to) (local.get $pattern))
          (i64.store offset=56 (local.get $to) (local.get $pattern))
          (local.tee $to (i32.add (local.get $to) (i32.const 64)))
          (br_if $more (i32.lt_u (local.get $size))))))
    (local.set $size
      (i32.sub
        (i32.sub (call $narrow (local.get $end)) (i32.const 1))
        (local.get $to)))
    (if (i32.and (local.get $size) (i32.const 32))
      (then
        (i64.store (local.get $to) (local.get $pattern))
        (i64.store offset=8 (local.get $to) (local.get $pattern))
        (i64.store offset=16 (local.get $to) (local.get $pattern))
        (i64.store offset=24 (local.get $to) (local.get $pattern))
        (local.set $to (i32.add (local.get $to) (i32.const 32)))))
    (if (i32.and (local.get $size) (i32.const 16))
      (then
        (i64.store (local.get $to) (local.get $pattern))
        (i64.store offset=8 (local.get $to) (local.get $pattern))
        (local.set $to (i32.add (local.get $to) (i32.const 16)))))
    (if (i32.and (local.get $size) (i32.const 8))
      (then
        (i64.store (local.get $to) (local.get $pattern)))))

  ;; $segment: where the segment begins in the input space in the upper half, its size in the lower.
  (func (export "memory.init")
    (param $to i32) (param $from i32) (param $size i32) (param $segment i64)
    (if (i64.gt_u
          (i64.add (i64.extend_i32_u (local.get $from)) (i64.extend_i32_u (local.get $size)))
          (i64.extend_i32_u (i32.wrap_i64 (local.get $segment))))
      (then (call $trap_out_of_bounds)))
    (if (i64.gt_u
          (i64.add (i64.extend_i32_u (local.get $to)) (i64.extend_i32_u (local.get $size)))
          (i64.extend_i32_u (i32.shl (memory.size) (i32.const 16))))
      (then (call $trap_out_of_bounds)))
    (call $copy_input
      (i32.add
        (call $narrow (i64.shr_u (local.get $segment) (i64.const 32))) (local.get $from))
      (local.get $to)
      (local.get $size)))

  ;; Input bytes $from .. $from + $size into memory: four a round, then one by one.
  (func $copy_input (export "copy_input") (param $from i32) (param $to i32) (param $size i32)
    (block $rest
      (br_if $rest (i32.lt_u (local.get $size) (i32.const 4)))
      (loop $four
        (i32.store8 (local.get $to) (call $input (local.get $from)))
        (i32.store8 offset=1
          (local.get $to) (call $input (i32.add (local.get $from) (i32.const 1))))
        (i32.store8 offset=2
          (local.get $to) (call $input (i32.add (local.get $from) (i32.const 2))))
        (i32.store8 offset=3
          (local.get $to) (call $input (i32.add (local.get $from) (i32.const 3))))
        (local.set $from (i32.add (local.get $from) (i32.const 4)))
        (local.set $to (i32.add (local.get $to) (i32.const 4)))
        (local.tee $size (i32.sub (local.get $size) (i32.const 4)))
        (br_if $four (i32.ge_u (i32.const 4)))))
    (block $done
      (br_if $done (i32.eqz (local.get $size)))
      (loop $one
        (i32.store8 (local.get $to) (call $input (local.get $from)))
        (local.set $from (i32.add (local.get $from) (i32.const 1)))
        (local.set $to (i32.add (local.get $to) (i32.const 1)))
        (br_if $one (local.tee $size (i32.sub (local.get $size) (i32.const 1)))))))
)
